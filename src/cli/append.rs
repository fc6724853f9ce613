//! `headwater append`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, value_parser};
use tokio::time::{Instant, sleep_until};

use super::batch::{self, Batch, Cut, Cutter};
use super::client::{self, Server};
use super::failure::Failure;
use super::input::Input;
use super::output;
use super::producer::{self, Accepted, Producer, Target};
use super::progress::Progress;
use crate::units::{parse_duration, parse_size};

/// How long lines may wait for others to go with, where no producer id asks for fixed batches.
const LINGER: Duration = Duration::from_millis(5);

/// Append to a stream, each message exactly once
///
/// The messages are the arguments, or a file, or standard input. On success the offset behind the
/// last one is printed. Whatever had to be sent again, each message is appended once.
#[derive(Debug, Args)]
pub(super) struct Append {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// The messages; without them and a file, standard input is read
    #[arg(conflicts_with_all = ["file", "lines", "jsonl", "pieces"], allow_negative_numbers = true)]
    message: Vec<String>,

    /// Read this file instead; `-` is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,

    /// Append each line: with its line break, or, to a JSON stream, as a string
    #[arg(short, long, conflicts_with_all = ["jsonl", "pieces"])]
    lines: bool,

    /// Append each line, which is a JSON value, to a JSON stream
    #[arg(short, long, conflicts_with = "pieces")]
    jsonl: bool,

    /// Append pieces of this size, not all at once
    #[arg(long, value_name = "SIZE", value_parser = parse_piece)]
    pieces: Option<usize>,

    /// Close the stream with the last message
    #[arg(long)]
    close: bool,

    /// Who appends. The same input sent again under the same id, because the first attempt was cut
    /// off, is not appended twice; without it each run is another producer
    #[arg(long, value_name = "ID")]
    producer_id: Option<String>,

    /// The producer's epoch: a higher one shuts out runs with a lower one, and starts anew
    #[arg(long, value_name = "NUMBER", requires = "producer_id", default_value_t = 0,
          value_parser = value_parser!(u64).range(..1 << 53))]
    epoch: u64,

    /// How long a line waits for others to go with it [default: 5ms; with --producer-id, until the
    /// batch is full]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    linger: Option<Duration>,

    /// How large the request for several lines gets
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = parse_piece)]
    batch_bytes: usize,

    /// How many requests are under way at a time
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = value_parser!(u8).range(1..=64))]
    in_flight: u8,

    /// The content type of the stream; it is asked for if it is not given
    #[arg(short = 't', long, value_name = "TYPE")]
    content_type: Option<String>,

    /// Print the outcome as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

fn parse_piece(text: &str) -> Result<usize, String> {
    let bytes = parse_size(text).map_err(|error| error.to_string())?;
    match usize::try_from(bytes) {
        Ok(0) | Err(_) => Err("the size must be at least 1 and fit the memory".to_owned()),
        Ok(bytes) => Ok(bytes),
    }
}

impl Append {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let client = self.server.connect()?;
        let url = self.server.stream(&self.stream)?;
        let patience = self.server.patience();
        let content_type = if let Some(content_type) = &self.content_type {
            content_type.clone()
        } else {
            let headers = client::head(&client, &url, &mut patience.clone()).await?;
            headers.content_type.unwrap_or_default()
        };
        let json = client::is_json(&content_type);
        let target = Target {
            client,
            url,
            content_type,
            producer_id: self.producer_id.clone().unwrap_or_else(producer::unique_id),
            epoch: self.epoch,
            patience,
            progress: Progress::new(),
        };
        let mut appending = Appending {
            producer: Producer::new(target, self.in_flight.into()),
            last: None,
            batches: 0,
            duplicates: 0,
        };
        let done = self.feed(&mut appending, json).await;
        appending.producer.progress().clear();
        done?;
        self.report(appending)
    }

    /// Appends the messages, the file or standard input.
    async fn feed(&self, appending: &mut Appending, json: bool) -> Result<(), Failure> {
        if !self.message.is_empty() {
            let batches = batch::of_messages(&self.message, json, self.batch_bytes)?;
            return appending.last_batches(batches, self.close).await;
        }
        let cutter = self.cutter(json)?;
        let input = Input::open(self.file.as_deref())?;
        appending.producer.progress().expect(input.bytes);
        appending
            .input(input, cutter, self.linger(), self.close)
            .await
    }

    fn cutter(&self, json: bool) -> Result<Cutter, Failure> {
        let cut = match (self.lines, self.jsonl, self.pieces) {
            (true, ..) if json => Cut::LinesAsJson,
            (true, ..) => Cut::Lines,
            (_, true, _) if json => Cut::JsonLines,
            (_, true, _) => {
                return Err(Failure::usage(
                    "--jsonl is for streams of application/json, and this is none; --lines appends lines as they are",
                ));
            }
            (.., Some(_)) if json => {
                return Err(Failure::usage(
                    "a stream of application/json takes whole values, not pieces; --jsonl appends one for each line",
                ));
            }
            (.., Some(bytes)) => Cut::Pieces(bytes),
            _ => Cut::Whole,
        };
        Ok(Cutter::new(cut, self.batch_bytes))
    }

    /// Fixed batches, by which the server knows a second run again, cannot depend on time.
    fn linger(&self) -> Option<Duration> {
        self.linger.or(self.producer_id.is_none().then_some(LINGER))
    }

    fn report(&self, appending: Appending) -> Result<(), Failure> {
        let Some(last) = appending.last else {
            return Err(Failure::usage("there is nothing to append"));
        };
        if self.producer_id.is_some() && appending.duplicates > 0 {
            eprintln!(
                "headwater: {} of {} batches had been appended before, under the same numbers; if the input has changed since, take another --producer-id or a higher --epoch",
                appending.duplicates, appending.batches
            );
        }
        if !self.json {
            return output::line(&last.next_offset);
        }
        output::line(
            &serde_json::json!({
                "next_offset": last.next_offset,
                "closed": last.closed,
                "batches": appending.batches,
                "duplicate_batches": appending.duplicates,
            })
            .to_string(),
        )
    }
}

/// An append under way.
struct Appending {
    producer: Producer,
    /// The outcome of the latest batch.
    last: Option<Accepted>,
    batches: u64,
    duplicates: u64,
}

impl Appending {
    /// Appends the input as it comes. While requests are under way, more of it is read, but never
    /// more than the next batch.
    async fn input(
        &mut self,
        mut input: Input,
        mut cutter: Cutter,
        linger: Option<Duration>,
        close: bool,
    ) -> Result<(), Failure> {
        // When what has gathered is to go, full or not.
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                accepted = self.producer.next(), if !self.producer.is_idle() => self.note(accepted?),
                piece = input.next() => {
                    let Some(piece) = piece? else { break };
                    for batch in cutter.push(&piece) {
                        self.send(batch, false).await?;
                    }
                    if cutter.is_refused() {
                        break;
                    }
                    due = due.or(linger.map(|linger| Instant::now() + linger));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    if let Some(batch) = cutter.flush() {
                        self.send(batch, false).await?;
                    }
                }
            }
        }
        let (batches, refused) = cutter.finish(linger.is_none());
        let close = close && refused.is_none();
        self.last_batches(batches, close).await?;
        refused.map_or(Ok(()), Err)
    }

    /// Appends the batches that are left, and waits for all that are under way.
    async fn last_batches(&mut self, batches: Vec<Batch>, close: bool) -> Result<(), Failure> {
        let count = batches.len();
        for (n, batch) in batches.into_iter().enumerate() {
            self.send(batch, close && n + 1 == count).await?;
        }
        if close && count == 0 {
            self.send(producer::nothing(), true).await?;
        }
        while !self.producer.is_idle() {
            let accepted = self.producer.next().await?;
            self.note(accepted);
        }
        Ok(())
    }

    async fn send(&mut self, batch: Batch, close: bool) -> Result<(), Failure> {
        while !self.producer.has_room() {
            let accepted = self.producer.next().await?;
            self.note(accepted);
        }
        self.producer.send(batch, close);
        Ok(())
    }

    fn note(&mut self, accepted: Option<Accepted>) {
        let Some(accepted) = accepted else { return };
        self.batches += 1;
        self.duplicates += u64::from(accepted.duplicate);
        if self
            .last
            .as_ref()
            .is_none_or(|last| last.seq < accepted.seq)
        {
            self.last = Some(accepted);
        }
    }
}
