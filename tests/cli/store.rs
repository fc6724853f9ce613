//! The streams of the faulty server, by the rules of the protocol.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::wire::{Answer, Request, offset, refuse, with};

/// One answer to a catch-up or long-poll carries at most so many messages.
const MESSAGES_MAX: usize = 3;

/// All streams, by the paths of their URLs.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) streams: HashMap<String, Stream>,
    /// How many appends were refused because one before them was missing.
    pub(crate) gaps: usize,
}

#[derive(Default)]
pub(crate) struct Stream {
    pub(crate) content_type: String,
    pub(crate) messages: Vec<Vec<u8>>,
    pub(crate) closed: bool,
    /// Epoch and last sequence number by producer.
    pub(crate) producers: HashMap<String, (u64, u64)>,
}

impl Store {
    /// Does what the request asks for; what it waits for has come.
    pub(crate) fn answer(&mut self, request: &Request) -> Answer {
        match request.method.as_str() {
            "PUT" => self.put(request),
            "POST" => self.post(request),
            "DELETE" => match self.streams.remove(&request.path) {
                Some(_) => refuse(204, &[]),
                None => refuse(404, &[]),
            },
            _ => self.get(request),
        }
    }

    fn put(&mut self, request: &Request) -> Answer {
        let content_type = request
            .header("content-type")
            .unwrap_or("application/octet-stream");
        let mut stream = Stream {
            content_type: content_type.to_owned(),
            ..Stream::default()
        };
        if let Some(source) = request.header("stream-forked-from") {
            let Some(source) = self.streams.get(source) else {
                return refuse(404, &[]);
            };
            stream.content_type.clone_from(&source.content_type);
            stream.messages.clone_from(&source.messages);
        }
        if let Some(there) = self.streams.get(&request.path) {
            let status = if there.content_type == stream.content_type {
                200
            } else {
                409
            };
            return there.reply(status, there.messages.len());
        }
        stream.append(&request.body);
        stream.closed = request.header("stream-closed").is_some();
        let answer = stream.reply(201, stream.messages.len());
        self.streams.insert(request.path.clone(), stream);
        answer
    }

    fn post(&mut self, request: &Request) -> Answer {
        let Some(stream) = self.streams.get_mut(&request.path) else {
            return refuse(404, &[]);
        };
        let mut status = 204;
        if let (Some(id), Some(seq)) = (request.header("producer-id"), request.seq()) {
            let epoch = request.header("producer-epoch").unwrap().parse().unwrap();
            match stream.producers.get(id) {
                Some((theirs, _)) if *theirs > epoch => {
                    return with(refuse(403, &[]), "producer-epoch", &theirs.to_string());
                }
                Some((theirs, last)) if *theirs == epoch && seq <= *last => {
                    return stream.reply(204, stream.messages.len());
                }
                Some((theirs, last)) if *theirs == epoch && seq > last + 1 => {
                    self.gaps += 1;
                    let answer = with(
                        refuse(409, &[]),
                        "producer-expected-seq",
                        &(last + 1).to_string(),
                    );
                    return with(answer, "producer-received-seq", &seq.to_string());
                }
                Some((theirs, _)) if *theirs == epoch => {}
                _ if seq > 0 => return refuse(400, &[]),
                _ => {}
            }
            if stream.closed {
                return stream.reply(409, stream.messages.len());
            }
            stream.producers.insert(id.to_owned(), (epoch, seq));
            status = if request.body.is_empty() { 204 } else { 200 };
        }
        if !request.body.is_empty() && request.header("content-type") != Some(&stream.content_type)
        {
            return refuse(409, &[]);
        }
        stream.append(&request.body);
        stream.closed |= request.header("stream-closed").is_some();
        stream.reply(status, stream.messages.len())
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(stream) = self.streams.get(&request.path) else {
            return refuse(404, &[]);
        };
        if request.method == "HEAD" {
            return stream.reply(200, stream.messages.len());
        }
        let from = stream.position(request);
        let end = stream.messages.len().min(from + MESSAGES_MAX);
        let waited = from == end && request.asks_live("long-poll");
        let mut answer = stream.reply(if waited { 204 } else { 200 }, end);
        if request.query.contains_key("live") {
            answer = with(answer, "stream-cursor", "7");
        }
        let messages = &stream.messages[from..end];
        answer.body = match stream.is_json() {
            _ if waited => Vec::new(),
            true => [b"[".as_slice(), &messages.join(&b","[..]), b"]"].concat(),
            false => messages.concat(),
        };
        answer
    }
}

impl Stream {
    fn is_json(&self) -> bool {
        self.content_type == "application/json"
    }

    /// Whether nothing more can be said to a reader who has come so far.
    pub(crate) fn waits_at(&self, position: usize) -> bool {
        position >= self.messages.len() && !self.closed
    }

    fn is_text(&self) -> bool {
        self.content_type.starts_with("text/")
    }

    /// The header of event streams that says how their data is encoded, if it is.
    pub(crate) fn encoding_header(&self) -> &'static str {
        if self.is_json() || self.is_text() {
            return "";
        }
        "stream-sse-data-encoding: base64\r\n"
    }

    pub(crate) fn data_event(&self, message: &[u8]) -> String {
        let text = String::from_utf8_lossy(message);
        if self.is_json() {
            return format!("event: data\ndata:[\ndata:{text}\ndata:]\n\n");
        }
        if self.is_text() {
            let lines = text.replace('\n', "\ndata: ");
            return format!("event: data\ndata: {lines}\n\n");
        }
        let text = STANDARD.encode(message);
        let (first, second) = text.split_at(text.len() / 2);
        format!("event: data\ndata:{first}\ndata:{second}\n\n")
    }

    fn append(&mut self, body: &[u8]) {
        match serde_json::from_slice(body) {
            Ok(serde_json::Value::Array(values)) if self.is_json() => {
                self.messages
                    .extend(values.iter().map(|value| value.to_string().into_bytes()));
            }
            _ if body.is_empty() => {}
            _ => self.messages.push(body.to_vec()),
        }
    }

    pub(crate) fn position(&self, request: &Request) -> usize {
        match request.query.get("offset").map(String::as_str) {
            None | Some("-1") => 0,
            Some("now") => self.messages.len(),
            Some(offset) => offset.split_once('_').unwrap().1.parse().unwrap(),
        }
    }

    /// An answer without a body about this stream up to the message `end`.
    fn reply(&self, status: u16, end: usize) -> Answer {
        let mut answer = refuse(status, &[]);
        answer = with(answer, "content-type", &self.content_type);
        answer = with(answer, "stream-next-offset", &offset(end));
        if end == self.messages.len() {
            answer = with(answer, "stream-up-to-date", "true");
            if self.closed {
                answer = with(answer, "stream-closed", "true");
            }
        }
        answer
    }
}
