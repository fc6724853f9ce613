//! What the client commands share: where the stream is, how requests are made and answers judged.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::redirect::Policy;
use reqwest::{Body, Certificate, Response, Url};

use super::failure::{Failure, Kind};
use super::patience::Patience;
use crate::units::parse_duration;

/// What a path segment may hold as it is: the unreserved characters of RFC 3986 and the slash.
const NAME: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A connection that gives nothing for so long is taken for dead. Servers end live answers sooner.
const SILENCE_MAX: Duration = Duration::from_secs(90);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As much of an error's body as is worth reading.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Where the server is and how to speak to it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Server")]
pub(super) struct Server {
    /// The URL below which the streams are
    #[arg(
        long,
        env = "HEADWATER_URL",
        default_value = "http://127.0.0.1:4437/v1/stream"
    )]
    url: String,

    /// A header to send with each request, such as 'Authorization: Bearer …' (repeatable)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// A PEM file of certificates to trust besides those of the system
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,

    /// How long to go on trying while the server cannot be reached or is overloaded
    #[arg(long, env = "HEADWATER_RETRY_FOR", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    retry_for: Duration,
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("`{text}` has no colon: write 'Name: value'"))?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("`{name}` is not a header's name"))?;
    let mut value = HeaderValue::from_str(value.trim())
        .map_err(|_| format!("the value of `{name}` has characters that a header cannot have"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

impl Server {
    /// The URL of the stream that `name` means: a name below the base, or a URL itself.
    pub(super) fn stream(&self, name: &str) -> Result<Url, Failure> {
        if name.contains("://") {
            return parse_url(name);
        }
        let path = name.trim_start_matches('/');
        // These would be resolved away, and another stream than the one named would be meant.
        if path.is_empty() || path.split('/').any(|part| part == "." || part == "..") {
            return Err(Failure::usage(format!(
                "`{name}` is not the name of a stream"
            )));
        }
        let base = self.url.trim_end_matches('/');
        parse_url(&format!("{base}/{}", utf8_percent_encode(path, NAME)))
    }

    pub(super) fn patience(&self) -> Patience {
        Patience::new(Some(self.retry_for))
    }

    pub(super) fn connect(&self) -> Result<Client, Failure> {
        // Fails only when there is a provider already, which will do as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("headwater/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE_MAX)
            // An append that is sent on as a GET would look as if it had succeeded.
            .redirect(Policy::none())
            .tcp_nodelay(true);
        if let Some(file) = &self.cacert {
            let name = file.display().to_string();
            let pem = std::fs::read(file).map_err(|error| Failure::file(&name, &error))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| Failure::usage(format!("{name} has no certificates in PEM form")))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|error| Failure::new(Kind::Other, format!("no HTTP client: {error}")))?;
        Ok(Client {
            http,
            headers: self.headers.iter().cloned().collect(),
        })
    }
}

fn parse_url(text: &str) -> Result<Url, Failure> {
    let url = Url::parse(text)
        .map_err(|error| Failure::usage(format!("`{text}` is not a URL: {error}")))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err(Failure::usage(format!(
            "`{text}` is not a URL of HTTP: its scheme is {other}"
        ))),
    }
}

/// Speaks HTTP to the server.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    headers: HeaderMap,
}

/// One request, which can be sent more than once.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
}

impl Request {
    pub(super) fn new(method: Method, url: &Url) -> Self {
        Self {
            method,
            url: url.clone(),
            headers: HeaderMap::new(),
        }
    }

    /// Sets a header. `value` comes from the command line or from the server.
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Result<Self, Failure> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Failure::usage(format!("`{value}` cannot be sent as {name}")))?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn header_if(
        self,
        name: &'static str,
        value: Option<&str>,
    ) -> Result<Self, Failure> {
        match value {
            Some(value) => self.header(name, value),
            None => Ok(self),
        }
    }
}

impl Client {
    /// Sends the request once. Any status is an answer.
    pub(super) async fn send(
        &self,
        request: &Request,
        body: impl Into<Body>,
    ) -> Result<Response, Failure> {
        let mut headers = self.headers.clone();
        for (name, value) in &request.headers {
            headers.insert(name.clone(), value.clone());
        }
        self.http
            .request(request.method.clone(), request.url.clone())
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(|error| Failure::network(&error))
    }

    /// Sends the request until it succeeds, fails for good, or patience ends. For requests that do
    /// the same when they are sent twice.
    pub(super) async fn send_patiently(
        &self,
        request: &Request,
        body: &bytes::Bytes,
        patience: &mut Patience,
    ) -> Result<Response, Failure> {
        loop {
            let sent = match self.send(request, body.clone()).await {
                Ok(response) => success(response).await,
                Err(failure) => Err(failure),
            };
            match sent {
                Ok(response) => return Ok(response),
                Err(failure) => patience.wait(failure).await?,
            }
        }
    }
}

/// The answer, if it is a success, or the failure that it tells of.
pub(super) async fn success(response: Response) -> Result<Response, Failure> {
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(failure(response).await)
    }
}

/// The failure that the answer tells of.
pub(super) async fn failure(mut response: Response) -> Failure {
    let mut body = Vec::new();
    // The status is what counts; of the body, whatever arrives is good enough.
    while body.len() < ERROR_BYTES_MAX
        && let Ok(Some(piece)) = response.chunk().await
    {
        body.extend_from_slice(&piece);
    }
    Failure::answer(response.status(), response.headers(), &body)
}

/// What an answer's headers say about the stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamHeaders {
    pub(super) content_type: Option<String>,
    pub(super) next_offset: Option<String>,
    pub(super) cursor: Option<String>,
    pub(super) up_to_date: bool,
    pub(super) closed: bool,
    pub(super) ttl_s: Option<u64>,
    pub(super) expires_at: Option<String>,
}

impl StreamHeaders {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let flag = |name: &str| text(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        Self {
            content_type: text("content-type"),
            next_offset: text("stream-next-offset"),
            cursor: text("stream-cursor"),
            up_to_date: flag("stream-up-to-date"),
            closed: flag("stream-closed"),
            ttl_s: text("stream-ttl").and_then(|value| value.parse().ok()),
            expires_at: text("stream-expires-at"),
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.content_type.as_deref().is_some_and(is_json)
    }

    /// The offset at which to go on. Every success has one.
    pub(super) fn next_offset(&self) -> Result<&str, Failure> {
        self.next_offset.as_deref().ok_or_else(|| {
            Failure::protocol("the answer has no Stream-Next-Offset: is this a server of the Durable Streams protocol?")
        })
    }
}

/// Whether streams of this content type consist of JSON messages.
pub(super) fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Asks what the stream is.
pub(super) async fn head(
    client: &Client,
    url: &Url,
    patience: &mut Patience,
) -> Result<StreamHeaders, Failure> {
    let request = Request::new(Method::HEAD, url);
    let response = client
        .send_patiently(&request, &bytes::Bytes::new(), patience)
        .await?;
    Ok(StreamHeaders::of(response.headers()))
}

/// Whether the answer is that there is nothing to answer with.
pub(super) fn is_empty(response: &Response) -> bool {
    response.status() == StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Server {
        Server {
            url: url.to_owned(),
            headers: Vec::new(),
            cacert: None,
            retry_for: Duration::ZERO,
        }
    }

    #[test]
    fn names_become_urls() {
        let server = server("http://h:1/v1/stream/");
        for (name, url) in [
            ("a", "http://h:1/v1/stream/a"),
            ("/a/b", "http://h:1/v1/stream/a/b"),
            ("a b?c#d%e", "http://h:1/v1/stream/a%20b%3Fc%23d%25e"),
            ("ü", "http://h:1/v1/stream/%C3%BC"),
            ("...", "http://h:1/v1/stream/..."),
            ("https://other/s/a%20b", "https://other/s/a%20b"),
        ] {
            assert_eq!(server.stream(name).unwrap().as_str(), url);
        }
        for name in ["", "/", "..", "a/../b", "a/.", "ftp://h/a", "http://"] {
            assert_eq!(server.stream(name).unwrap_err().kind, Kind::Usage, "{name}");
        }
        assert!(self::server("nowhere").stream("a").is_err());
    }

    #[test]
    fn headers_are_parsed() {
        let (name, value) = parse_header("Authorization: Bearer a:b").unwrap();
        assert_eq!(
            (name.as_str(), value.to_str().unwrap()),
            ("authorization", "Bearer a:b")
        );
        assert!(value.is_sensitive());
        for text in ["", "no colon", ": x", "a b: c", "a: b\u{1}"] {
            assert!(parse_header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn json_is_recognised() {
        for (content_type, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/ndjson", false),
            ("application/json-patch+json", false),
            ("", false),
        ] {
            assert_eq!(is_json(content_type), json, "{content_type}");
        }
    }
}
