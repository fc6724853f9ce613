//! `headwater read`, and how a stream is read from an offset on.

use std::io::Write;

use clap::{ArgAction, Args};
use http::Method;
use reqwest::{Response, Url};

use super::client::{self, Client, Request, Server, StreamHeaders};
use super::failure::Failure;
use super::output::Writer;
use super::patience::Patience;

/// Read what is in a stream now
///
/// Of a JSON stream, each message is a line; of any other, the bytes are as they were appended.
#[derive(Debug, Args)]
pub(super) struct Read {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// Where to begin; -1 is the beginning
    #[arg(short, long, default_value = "-1", allow_hyphen_values = true)]
    offset: String,

    /// Write answers as they come: those of a JSON stream are arrays
    #[arg(long)]
    raw: bool,

    /// Tell the offset behind what was read, on standard error
    #[arg(long, action = ArgAction::SetTrue)]
    show_offset: bool,

    #[command(flatten)]
    server: Server,
}

impl Read {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut reader = Reader::new(&self.server, &self.stream, &self.offset)?;
        let first = reader.open(Mode::CatchUp).await?;
        let json = StreamHeaders::of(first.headers()).is_json();
        let out = std::io::stdout().lock();
        let mut writer = Writer::new(std::io::BufWriter::new(out), json && !self.raw);
        reader.catch_up(first, &mut writer).await?;
        if self.show_offset {
            eprintln!("next offset: {}", reader.offset);
        }
        Ok(())
    }
}

/// How to ask for what comes after an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// What there is.
    CatchUp,
    /// What there is, or, once there is some, what comes.
    LongPoll,
    /// What there is and what comes, as events.
    Sse,
}

/// Reads a stream piece by piece, and knows how far it has come.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) offset: String,
    pub(super) cursor: Option<String>,
    pub(super) patience: Patience,
}

impl Reader {
    /// A reader of a stream of a server, from an offset on.
    pub(super) fn new(server: &Server, stream: &str, offset: &str) -> Result<Self, Failure> {
        Ok(Self {
            client: server.connect()?,
            url: server.stream(stream)?,
            offset: offset.to_owned(),
            cursor: None,
            patience: server.patience(),
        })
    }

    /// Asks for what comes after the offset, until the server answers.
    pub(super) async fn open(&mut self, mode: Mode) -> Result<Response, Failure> {
        let request = self.request(mode);
        let nothing = bytes::Bytes::new();
        self.client
            .send_patiently(&request, &nothing, &mut self.patience)
            .await
    }

    /// The parameters are in the order of the alphabet, so that all readers ask caches for the same.
    fn request(&self, mode: Mode) -> Request {
        let mut url = self.url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let (Some(cursor), Mode::LongPoll | Mode::Sse) = (&self.cursor, mode) {
                query.append_pair("cursor", cursor);
            }
            match mode {
                Mode::CatchUp => {}
                Mode::LongPoll => drop(query.append_pair("live", "long-poll")),
                Mode::Sse => drop(query.append_pair("live", "sse")),
            }
            query.append_pair("offset", &self.offset);
        }
        Request::new(Method::GET, &url)
    }

    /// Reads to the end that the stream has now, beginning with an answer that is already there;
    /// gives whether the stream is closed.
    pub(super) async fn catch_up<W: Write>(
        &mut self,
        first: Response,
        writer: &mut Writer<W>,
    ) -> Result<bool, Failure> {
        let mut answer = Some(first);
        loop {
            let response = match answer.take() {
                Some(response) => response,
                None => self.open(Mode::CatchUp).await?,
            };
            if let Some(reached) = self.take(response, writer).await?
                && (reached.closed || reached.up_to_date)
            {
                return Ok(reached.closed);
            }
        }
    }

    /// Writes an answer and goes on to its end. `None`: it broke off, and is to be asked for again
    /// from the same offset; what was written of it will be skipped.
    pub(super) async fn take<W: Write>(
        &mut self,
        mut response: Response,
        writer: &mut Writer<W>,
    ) -> Result<Option<StreamHeaders>, Failure> {
        let headers = StreamHeaders::of(response.headers());
        let next_offset = headers.next_offset()?.to_owned();
        writer.begin();
        loop {
            match response.chunk().await {
                Ok(Some(piece)) => writer.write(&piece)?,
                Ok(None) => break,
                Err(error) => {
                    writer.flush()?;
                    self.patience.wait(Failure::network(&error)).await?;
                    return Ok(None);
                }
            }
        }
        writer.end()?;
        if next_offset == self.offset
            && !headers.up_to_date
            && !headers.closed
            && !client::is_empty(&response)
        {
            return Err(Failure::protocol(format!(
                "the server stays at offset {next_offset} without having reached the end"
            )));
        }
        self.patience.renew();
        self.offset = next_offset;
        self.cursor = headers.cursor.clone().or(self.cursor.take());
        Ok(Some(headers))
    }
}
