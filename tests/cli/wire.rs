//! Requests and answers of the faulty server, as bytes.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, Write as _};
use std::net::TcpStream;

/// A request, as the server has read it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// How many requests were read before.
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Whether it asks for what comes, in this way.
    pub(crate) fn asks_live(&self, way: &str) -> bool {
        self.query.get("live").is_some_and(|live| live == way)
    }

    pub(crate) fn seq(&self) -> Option<u64> {
        self.header("producer-seq")?.parse().ok()
    }
}

/// An answer, before it is sent.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut first = lines[0].split(' ');
    let method = first.next().unwrap().to_owned();
    let (path, query) = first
        .next()
        .unwrap()
        .split_once('?')
        .unwrap_or((lines[0].split(' ').nth(1).unwrap(), ""));
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    assert!(
        !headers.contains_key("transfer-encoding"),
        "the client knows the length of its bodies"
    );
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method,
        path: path.to_owned(),
        query: query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        headers,
        body,
        number: 0,
    }))
}

/// Writes the answer, and says whether the connection goes on.
pub(crate) fn write_answer(
    mut out: &TcpStream,
    request: &Request,
    answer: &Answer,
    limit: usize,
) -> std::io::Result<bool> {
    let mut text = format!("HTTP/1.1 {} Status\r\n", answer.status);
    for (name, value) in &answer.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    if answer.status != 204 {
        let _ = write!(text, "content-length: {}\r\n", answer.body.len());
    }
    text.push_str("\r\n");
    let body = if request.method == "HEAD" {
        &[]
    } else {
        answer.body.as_slice()
    };
    let part = &body[..body.len().min(limit)];
    out.write_all(&[text.as_bytes(), part].concat())?;
    Ok(part.len() == body.len())
}

pub(crate) fn refuse(status: u16, headers: &[(&str, &str)]) -> Answer {
    let headers = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Answer {
        status,
        headers: headers.collect(),
        body: Vec::new(),
    }
}

pub(crate) fn with(mut answer: Answer, name: &str, value: &str) -> Answer {
    answer.headers.push((name.to_owned(), value.to_owned()));
    answer
}

pub(crate) fn offset(position: usize) -> String {
    format!("{:016}_{position:016}", 0)
}
