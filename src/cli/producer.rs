//! An idempotent producer: sends batches, several at a time, and each takes effect exactly once
//! however often it had to be sent.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use reqwest::{Body, Response, Url};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::batch::Batch;
use super::client::{self, Client, Request, StreamHeaders};
use super::failure::{Failure, Kind};
use super::patience::Patience;
use super::progress::{Progress, Sent};

/// Who appends to which stream.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) content_type: String,
    pub(super) producer_id: String,
    pub(super) epoch: u64,
    /// The patience for each batch.
    pub(super) patience: Patience,
    pub(super) progress: Progress,
}

/// What has become of one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) seq: u64,
    pub(super) next_offset: String,
    pub(super) closed: bool,
    /// Whether the server had it already.
    pub(super) duplicate: bool,
}

/// Sends batches in order, with so many of them under way at a time.
#[derive(Debug)]
pub(super) struct Producer {
    target: Arc<Target>,
    in_flight_max: usize,
    next_seq: u64,
    under_way: JoinSet<Result<Accepted, Failure>>,
    /// How many batches, from the first one on, the server is known to have.
    known: watch::Sender<u64>,
}

impl Producer {
    pub(super) fn new(target: Target, in_flight_max: usize) -> Self {
        Self {
            target: Arc::new(target),
            in_flight_max,
            next_seq: 0,
            under_way: JoinSet::new(),
            known: watch::Sender::new(0),
        }
    }

    /// Whether another batch can be sent without waiting for one. The first one goes alone: it
    /// opens the epoch, and one that overtook it would be refused for good.
    pub(super) fn has_room(&self) -> bool {
        let most = match self.next_seq {
            0 | 1 => 1,
            _ => self.in_flight_max,
        };
        self.under_way.len() < most
    }

    /// How much is sent.
    pub(super) fn progress(&self) -> &Progress {
        &self.target.progress
    }

    /// Whether no batch is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Sends the next batch; `close` closes the stream with it.
    pub(super) fn send(&mut self, batch: Batch, close: bool) {
        let sending = Sending {
            target: self.target.clone(),
            known: self.known.clone(),
            seq: self.next_seq,
            batch,
            close,
        };
        self.next_seq += 1;
        self.under_way.spawn(sending.run());
    }

    /// Waits for one of the batches under way; `None` when there is none. Giving up the wait loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Accepted>, Failure> {
        match self.under_way.join_next().await {
            None => Ok(None),
            Some(Ok(accepted)) => accepted.map(Some),
            Some(Err(error)) => Err(Failure::new(
                Kind::Other,
                format!("a batch was lost: {error}"),
            )),
        }
    }
}

/// One batch on its way.
struct Sending {
    target: Arc<Target>,
    known: watch::Sender<u64>,
    seq: u64,
    batch: Batch,
    close: bool,
}

impl Sending {
    async fn run(self) -> Result<Accepted, Failure> {
        let request = self.request()?;
        let mut patience = self.target.patience.clone();
        loop {
            // What was known before it was sent: only then does a gap mean that a batch is missing,
            // and not that this one has overtaken it.
            let before = *self.known.borrow();
            let body = self.target.progress.body(&self.batch.body);
            let sent = body.sent();
            let answer = self.target.client.send(&request, Body::wrap(body)).await;
            let failure = match answer {
                Ok(response) if response.status().is_success() => {
                    patience.renew();
                    return self.accepted(&response, &sent);
                }
                Ok(response) if is_gap(&response) && before < self.seq => {
                    self.target.progress.withdraw(&sent);
                    self.predecessors().await;
                    continue;
                }
                Ok(response) => refusal(response, &self.target).await,
                Err(failure) => failure,
            };
            self.target.progress.withdraw(&sent);
            patience.wait(failure).await?;
        }
    }

    fn request(&self) -> Result<Request, Failure> {
        let target = &self.target;
        let content_type = (!self.batch.body.is_empty()).then_some(target.content_type.as_str());
        Request::new(Method::POST, &target.url)
            .header("producer-id", &target.producer_id)?
            .header("producer-epoch", &target.epoch.to_string())?
            .header("producer-seq", &self.seq.to_string())?
            .header_if("content-type", content_type)?
            .header_if("stream-closed", self.close.then_some("true"))
    }

    fn accepted(&self, response: &Response, sent: &Sent) -> Result<Accepted, Failure> {
        self.target.progress.settle(sent, self.batch.input_bytes);
        // The server takes batches in order, so it has all before this one too.
        self.known
            .send_modify(|known| *known = (*known).max(self.seq + 1));
        let headers = StreamHeaders::of(response.headers());
        Ok(Accepted {
            seq: self.seq,
            next_offset: headers.next_offset()?.to_owned(),
            closed: headers.closed,
            // Closing without data is answered so too, and is no duplicate.
            duplicate: response.status() == StatusCode::NO_CONTENT && !self.batch.body.is_empty(),
        })
    }

    /// Waits until the server has all batches before this one. Should one of them fail, this task
    /// is ended with the others.
    async fn predecessors(&self) {
        let mut known = self.known.subscribe();
        // Its sender is `self.known`, so it cannot have ended.
        let _ = known.wait_for(|known| *known >= self.seq).await;
    }
}

/// Whether the server lacks a batch before this one.
fn is_gap(response: &Response) -> bool {
    response.status() == StatusCode::CONFLICT
        && response.headers().contains_key("producer-expected-seq")
        && !StreamHeaders::of(response.headers()).closed
}

async fn refusal(response: Response, target: &Target) -> Failure {
    let headers = response.headers();
    let fenced = headers
        .get("producer-epoch")
        .and_then(|epoch| epoch.to_str().ok());
    if let (StatusCode::FORBIDDEN, Some(epoch)) = (response.status(), fenced) {
        return Failure::new(
            Kind::Conflict,
            format!(
                "the producer `{}` is at epoch {epoch} already, this is epoch {}: use a higher --epoch to take over",
                target.producer_id, target.epoch,
            ),
        );
    }
    if StreamHeaders::of(headers).closed {
        return Failure::new(
            Kind::Conflict,
            format!("the stream is closed ({})", response.status()),
        );
    }
    let gap = is_gap(&response);
    let mut failure = client::failure(response).await;
    if gap {
        failure.message = format!(
            "the server lacks earlier batches of this producer: {}",
            failure.message
        );
    }
    failure
}

/// An identity that nobody else has.
pub(super) fn unique_id() -> String {
    format!("headwater-{:032x}", rand::random::<u128>())
}

/// The batch that only closes the stream.
pub(super) fn nothing() -> Batch {
    Batch {
        body: Bytes::new(),
        input_bytes: 0,
    }
}
