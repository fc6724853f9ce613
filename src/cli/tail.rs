//! `headwater tail`.

use std::io::{BufWriter, StdoutLock};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{ArgAction, Args, ValueEnum};
use reqwest::Response;
use serde::Deserialize;

use super::client::{Server, StreamHeaders};
use super::failure::{Failure, Kind};
use super::output::{self, Writer};
use super::read::{Mode, Reader};
use crate::protocol::event_stream::{Event, Parser};

/// An event connection that brought nothing and ended sooner is a failure, and not worth hurry.
const CONNECTION_MIN: Duration = Duration::from_secs(1);

/// Follow a stream as it grows, until it is closed
///
/// What is appended from now on, or from an offset on, is written. A lost connection is taken up
/// again where it was lost: no message is missed, and none is written twice. Of a JSON stream, each
/// message is a line.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// Where to begin; -1 is the beginning, `now` the end
    #[arg(short, long, default_value = "now", allow_hyphen_values = true)]
    offset: String,

    /// How to wait for what comes. `auto` is `sse`, except for text, whose line breaks only
    /// `long-poll` keeps as they are
    #[arg(long, value_enum, default_value_t = Live::Auto)]
    live: Live,

    /// Tell the offset behind what was read, on standard error, at the end
    #[arg(long, action = ArgAction::SetTrue)]
    show_offset: bool,

    #[command(flatten)]
    server: Server,
}

/// How to wait for what comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Live {
    /// As fits the content type
    Auto,
    /// One connection for many messages
    Sse,
    /// One request for each message or few
    LongPoll,
}

impl Live {
    fn mode(self, headers: &StreamHeaders) -> Mode {
        let is_text = |content_type: &str| {
            content_type
                .get(..5)
                .is_some_and(|start| start.eq_ignore_ascii_case("text/"))
        };
        let text = headers.content_type.as_deref().is_some_and(is_text);
        match self {
            Self::LongPoll => Mode::LongPoll,
            Self::Auto if text => Mode::LongPoll,
            Self::Auto | Self::Sse => Mode::Sse,
        }
    }
}

type Out = Writer<BufWriter<StdoutLock<'static>>>;

impl Tail {
    pub(super) async fn run(self) -> Result<(), Failure> {
        // A stream may be silent for long after whoever reads the output has left.
        tokio::select! {
            done = self.follow() => done,
            () = output::closed() => Err(Failure::output_closed()),
        }
    }

    async fn follow(self) -> Result<(), Failure> {
        let mut reader = Reader::new(&self.server, &self.stream, &self.offset)?;
        // What there is comes first. From `now` that is nothing, but it tells the offset, without
        // which a connection lost at once could not be taken up again.
        let first = reader.open(Mode::CatchUp).await?;
        let headers = StreamHeaders::of(first.headers());
        let mut writer: Out =
            Writer::new(BufWriter::new(std::io::stdout().lock()), headers.is_json());
        // It is there: from now on it is waited for as long as it takes.
        reader.patience.without_end();
        let closed = reader.catch_up(first, &mut writer).await?;
        if !closed {
            let mut follower = Follower { reader, writer };
            match self.live.mode(&headers) {
                Mode::Sse => follower.events().await?,
                _ => follower.long_polls().await?,
            }
            reader = follower.reader;
        }
        if self.show_offset {
            eprintln!("next offset: {}", reader.offset);
        }
        Ok(())
    }
}

/// Reads what comes.
struct Follower {
    reader: Reader,
    writer: Out,
}

/// How an event connection ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The stream is closed, and read to its end.
    Closed,
    /// The server ended it, as it does from time to time.
    Ended,
    /// It was lost.
    Lost(Failure),
}

impl Follower {
    async fn long_polls(&mut self) -> Result<(), Failure> {
        loop {
            let response = self.reader.open(Mode::LongPoll).await?;
            if let Some(reached) = self.reader.take(response, &mut self.writer).await?
                && reached.closed
            {
                return Ok(());
            }
        }
    }

    async fn events(&mut self) -> Result<(), Failure> {
        loop {
            let response = self.reader.open(Mode::Sse).await?;
            let since = Instant::now();
            let before = self.reader.offset.clone();
            let end = self.connection(response).await?;
            let moved = self.reader.offset != before;
            let failure = match end {
                End::Closed => return Ok(()),
                End::Ended if moved || since.elapsed() >= CONNECTION_MIN => {
                    self.reader.patience.renew();
                    continue;
                }
                End::Ended => Failure {
                    passing: true,
                    ..Failure::new(Kind::Unavailable, "the server ends connections at once")
                },
                End::Lost(failure) => failure,
            };
            if moved {
                self.reader.patience.renew();
            }
            self.reader.patience.wait(failure).await?;
        }
    }

    /// Reads the events of one connection.
    async fn connection(&mut self, mut response: Response) -> Result<End, Failure> {
        let headers = response.headers();
        let content_type = headers
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(|value| value.starts_with("text/event-stream")) {
            return Err(Failure::protocol(
                "the server does not answer with events; try --live long-poll",
            ));
        }
        let base64 = headers
            .get("stream-sse-data-encoding")
            .is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"base64"));
        let mut parser = Parser::default();
        // Data is written when the event behind it has told where it ends: if that is lost, the
        // data will come again.
        let mut waiting = Vec::new();
        loop {
            let piece = match response.chunk().await {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(End::Ended),
                Err(error) => return Ok(End::Lost(Failure::network(&error))),
            };
            for event in parser.push(&piece) {
                match event.name.as_str() {
                    "data" => waiting.push(decode(event, base64)?),
                    "control" if self.control(&event, &mut waiting)? => return Ok(End::Closed),
                    _ => {}
                }
            }
        }
    }

    /// Writes the data that has waited and goes on to where it ends; gives whether the stream is
    /// closed there.
    fn control(&mut self, event: &Event, waiting: &mut Vec<Vec<u8>>) -> Result<bool, Failure> {
        let control: Control = serde_json::from_slice(&event.data).map_err(|error| {
            Failure::protocol(format!("a control event is not understood: {error}"))
        })?;
        for data in waiting.drain(..) {
            self.writer.begin();
            self.writer.write(&data)?;
            self.writer.end()?;
        }
        self.reader.offset = control.next_offset;
        self.reader.cursor = control.cursor.or(self.reader.cursor.take());
        Ok(control.closed)
    }
}

/// What a control event says.
#[derive(Debug, Deserialize)]
struct Control {
    #[serde(rename = "streamNextOffset")]
    next_offset: String,
    #[serde(rename = "streamCursor")]
    cursor: Option<String>,
    #[serde(rename = "streamClosed", default)]
    closed: bool,
}

fn decode(event: Event, base64: bool) -> Result<Vec<u8>, Failure> {
    if !base64 {
        return Ok(event.data);
    }
    let text: Vec<u8> = event
        .data
        .into_iter()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    STANDARD
        .decode(text)
        .map_err(|error| Failure::protocol(format!("a data event is not base64: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_followed_without_events() {
        let mode = |live: Live, content_type: &str| {
            live.mode(&StreamHeaders {
                content_type: Some(content_type.to_owned()),
                ..StreamHeaders::default()
            })
        };
        assert_eq!(mode(Live::Auto, "application/json"), Mode::Sse);
        assert_eq!(mode(Live::Auto, "Text/Plain"), Mode::LongPoll);
        assert_eq!(mode(Live::Auto, "t"), Mode::Sse);
        assert_eq!(mode(Live::Sse, "text/plain"), Mode::Sse);
        assert_eq!(mode(Live::LongPoll, "application/json"), Mode::LongPoll);
    }

    #[test]
    fn base64_may_be_broken_into_lines() {
        let event = Event {
            name: "data".to_owned(),
            data: b"AQID\nBAUG\r\n".to_vec(),
            is_cut: false,
        };
        assert_eq!(decode(event.clone(), true).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(decode(event.clone(), false).unwrap(), event.data);
        let damaged = Event {
            data: b"A".to_vec(),
            ..event
        };
        assert!(decode(damaged, true).is_err());
    }
}
