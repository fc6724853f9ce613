//! `headwater create`.

use std::path::PathBuf;

use bytes::Bytes;
use clap::{ArgAction, Args};
use http::{Method, StatusCode};
use reqwest::Url;

use super::client::{Client, Request, Server, StreamHeaders};
use super::failure::Failure;
use super::input::Input;
use super::output;
use super::patience::Patience;
use crate::units::parse_duration;

/// Create a stream
///
/// Its URL is printed. It is no failure if the stream is there already and is the same.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The stream: its name below the URL of the server, or its whole URL
    stream: String,

    /// What the stream begins with
    #[arg(conflicts_with = "file")]
    body: Option<String>,

    /// Let the stream begin with this file; `-` is standard input
    #[arg(short, long)]
    file: Option<PathBuf>,

    /// What the stream holds, such as application/json or text/plain [default: as the server has
    /// it, mostly application/octet-stream]
    #[arg(short = 't', long, value_name = "TYPE")]
    content_type: Option<String>,

    #[command(flatten)]
    expiry: Expiry,

    /// Close it at once: what it begins with is all there is
    #[arg(long)]
    closed: bool,

    /// Print the outcome as JSON
    #[arg(long, action = ArgAction::SetTrue)]
    json: bool,

    #[command(flatten)]
    server: Server,
}

/// When a stream ends.
#[derive(Debug, Args)]
pub(super) struct Expiry {
    /// Delete the stream when it was neither read nor appended to for so long, such as 30m, or a
    /// number of seconds
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl_s)]
    ttl: Option<u64>,

    /// Delete the stream at this time, such as 2030-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "ttl", value_parser = parse_time)]
    expires_at: Option<String>,
}

fn parse_ttl_s(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let ttl = parse_duration(text).map_err(|error| error.to_string())?;
    match ttl.subsec_nanos() {
        0 => Ok(ttl.as_secs()),
        _ => Err("it must be whole seconds".to_owned()),
    }
}

fn parse_time(text: &str) -> Result<String, String> {
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("write it as in RFC 3339, such as 2030-01-31T12:00:00Z: {error}"))
}

impl Expiry {
    /// Adds it to a request that creates a stream.
    pub(super) fn add_to(&self, request: Request) -> Result<Request, Failure> {
        let ttl = self.ttl.map(|seconds| seconds.to_string());
        request
            .header_if("stream-ttl", ttl.as_deref())?
            .header_if("stream-expires-at", self.expires_at.as_deref())
    }
}

impl Create {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let url = self.server.stream(&self.stream)?;
        let client = self.server.connect()?;
        let body = match (&self.body, &self.file) {
            (Some(body), _) => Bytes::from(body.clone()),
            (None, Some(file)) => Input::open(Some(file))?.whole().await?,
            (None, None) => Bytes::new(),
        };
        let request = Request::new(Method::PUT, &url)
            .header_if("content-type", self.content_type.as_deref())?
            .header_if("stream-closed", self.closed.then_some("true"))?;
        let request = self.expiry.add_to(request)?;
        create(
            &client,
            &url,
            &request,
            &body,
            self.server.patience(),
            self.json,
        )
        .await
    }
}

/// Sends a request that creates a stream, and says what came of it.
pub(super) async fn create(
    client: &Client,
    url: &Url,
    request: &Request,
    body: &Bytes,
    mut patience: Patience,
    json: bool,
) -> Result<(), Failure> {
    // Creating the same stream again succeeds, so this can be tried again.
    let response = client.send_patiently(request, body, &mut patience).await?;
    let created = response.status() == StatusCode::CREATED;
    // After a lost answer, the stream may be there because this request has made it.
    if !created && !body.is_empty() && !patience.is_tried() {
        eprintln!(
            "headwater: the stream is there already, and what was to be in it is not appended"
        );
    }
    if !json {
        return output::line(url.as_str());
    }
    let headers = StreamHeaders::of(response.headers());
    output::line(
        &serde_json::json!({
            "url": url.as_str(),
            "created": created,
            "content_type": headers.content_type,
            "next_offset": headers.next_offset,
            "closed": headers.closed,
        })
        .to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(parse_ttl_s("90"), Ok(90));
        assert_eq!(parse_ttl_s("0"), Ok(0));
        assert_eq!(parse_ttl_s("1h30m"), Ok(5400));
        assert!(parse_ttl_s("500ms").is_err());
        assert!(parse_ttl_s("-1").is_err());
        assert!(parse_time("2030-01-31T12:00:00+01:00").is_ok());
        assert!(parse_time("tomorrow").is_err());
    }
}
