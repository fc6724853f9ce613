//! How a command can fail, and the exit code that tells so.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use rustls::{CertificateError, OtherError};

/// The exit codes, as the help shows them.
pub(super) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  another failure, such as a file that cannot be read
  2  the command line, its input or the configuration is wrong
  3  there is no such stream (404, 410)
  4  the stream's state forbids it: it is closed, exists already, or is written by another (409)
  5  the server refuses the request (other 4xx)
  6  the server cannot be reached, or is overloaded or broken (429, 5xx)
  7  not authorized (401, 403)";

/// What sort of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing of what follows.
    Other,
    /// The command line or the configuration is wrong.
    Usage,
    /// There is no such stream.
    NotFound,
    /// The state of the stream forbids it.
    Conflict,
    /// The server refuses the request.
    Rejected,
    /// The server cannot be reached or cannot answer.
    Unavailable,
    /// The server asks for other credentials.
    Unauthorized,
    /// Nobody reads the output any more: the end, but no failure.
    OutputClosed,
}

impl Kind {
    /// The exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Rejected => 5,
            Self::Unavailable => 6,
            Self::Unauthorized => 7,
        }
    }

    fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 => Self::Unauthorized,
            404 | 410 => Self::NotFound,
            409 | 412 => Self::Conflict,
            429 | 500 | 502..=504 | 506..=599 => Self::Unavailable,
            400..=499 | 501 | 505 => Self::Rejected,
            _ => Self::Other,
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: Kind,
    /// What happened, for people.
    pub message: String,
    /// Whether the same request may well succeed later.
    pub passing: bool,
    /// The least time to wait before that, if the server said so.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that trying again does not mend.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            passing: false,
            retry_after: None,
        }
    }

    /// The command line is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The server did something that the protocol does not know.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    /// The connection failed, or broke, or stood still for too long.
    pub(super) fn network(error: &reqwest::Error) -> Self {
        // What went wrong is told by the innermost error; the outer ones say when.
        let mut message = if error.is_connect() {
            "cannot connect".to_owned()
        } else if error.is_timeout() {
            "the server is silent".to_owned()
        } else {
            "the connection failed".to_owned()
        };
        if let Some(url) = error.url() {
            let _ = write!(message, " to {}", url.origin().ascii_serialization());
        }
        let mut cause: &dyn Error = error;
        let mut certificate = certificate_error(cause);
        while let Some(inner) = cause.source() {
            cause = inner;
            certificate = certificate.or(certificate_error(cause));
        }
        let _ = write!(message, ": {cause}");
        if let Some(advice) = certificate.and_then(advice) {
            let _ = write!(message, "; {advice}");
        }
        Self {
            kind: Kind::Unavailable,
            message,
            passing: certificate.is_none(),
            retry_after: None,
        }
    }

    /// The server answered with this status, which is not what was hoped for.
    pub(super) fn answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let kind = Kind::of(status);
        let what = match kind {
            Kind::NotFound => "there is no such stream",
            Kind::Conflict => "the state of the stream forbids it",
            Kind::Rejected => "the server refuses the request",
            Kind::Unavailable if status.as_u16() == 429 => "the server asks for patience",
            Kind::Unavailable => "the server cannot answer",
            Kind::Unauthorized => "not authorized",
            _ if status.is_redirection() => "the stream has another URL",
            _ => "unexpected answer",
        };
        let mut message = format!("{what} ({status})");
        let location = headers.get(header::LOCATION);
        if status.is_redirection()
            && let Some(Ok(location)) = location.map(|location| location.to_str())
        {
            let _ = write!(message, ": {location}");
        } else if let Some(explained) = explanation(body) {
            let _ = write!(message, ": {explained}");
        }
        Self {
            kind,
            message,
            passing: kind == Kind::Unavailable,
            retry_after: retry_after(headers),
        }
    }

    /// `path` could not be read or written.
    pub(super) fn file(what: &str, error: &io::Error) -> Self {
        Self::new(Kind::Other, format!("{what}: {error}"))
    }

    /// Nobody reads standard output any more.
    pub(super) fn output_closed() -> Self {
        Self::new(Kind::OutputClosed, "nobody reads the output")
    }

    /// Standard output could not be written.
    pub(super) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::output_closed(),
            _ => Self::file("standard output", error),
        }
    }
}

/// What is wrong with the server's certificate, if this error says so. I/O errors do not give what
/// they wrap as their source.
fn certificate_error<'a>(mut error: &'a (dyn Error + 'static)) -> Option<&'a CertificateError> {
    while let Some(wrapped) = error.downcast_ref().and_then(io::Error::get_ref) {
        error = wrapped;
    }
    match error.downcast_ref() {
        Some(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

/// What can be done about a certificate that is not accepted.
fn advice(error: &CertificateError) -> Option<&'static str> {
    match error {
        CertificateError::UnknownIssuer => {
            Some("to trust who issued its certificate, give --cacert the issuer's certificate")
        }
        CertificateError::Other(OtherError(error))
            if error.to_string().contains("CaUsedAsEndEntity") =>
        {
            Some(
                "its certificate is one to issue others with (CA:TRUE), which a server cannot have: make it another, issued by this one or with CA:FALSE",
            )
        }
        _ => None,
    }
}

/// What the body of an error says, be it problem+json, another JSON object, or a line of text.
fn explanation(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
        let error = &json["error"];
        let found = [
            &json["detail"],
            &error["message"],
            error,
            &json["message"],
            &json["title"],
        ];
        let said = found.into_iter().find_map(serde_json::Value::as_str);
        let code = [&json["code"], &error["code"]];
        let code = code.into_iter().find_map(serde_json::Value::as_str);
        return match (said, code) {
            (Some(said), Some(code)) => Some(format!("{said} [{code}]")),
            (said, code) => said.or(code).map(str::to_owned),
        };
    }
    let line = text.lines().next()?;
    (!line.starts_with('<')).then(|| line.chars().take(200).collect())
}

/// The wait that `Retry-After` asks for, in seconds or until a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    // A date that has passed asks for no wait.
    Some(
        date.signed_duration_since(chrono::Utc::now())
            .to_std()
            .unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn failure(status: u16) -> Failure {
        Failure::answer(
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            b"",
        )
    }

    #[test]
    fn statuses_have_exit_codes() {
        for (status, code) in [
            (400, 5),
            (401, 7),
            (403, 7),
            (404, 3),
            (409, 4),
            (410, 3),
            (413, 5),
            (429, 6),
            (500, 6),
            (501, 5),
            (503, 6),
            (304, 1),
        ] {
            assert_eq!(failure(status).kind.exit_code(), code, "{status}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let passing: Vec<u16> = [400, 404, 409, 429, 500, 501, 502, 503]
            .into_iter()
            .filter(|status| failure(*status).passing)
            .collect();
        assert_eq!(passing, [429, 500, 502, 503]);
    }

    #[test]
    fn a_redirection_says_where_to() {
        let there = HeaderValue::from_static("https://a.example/s");
        let headers = HeaderMap::from_iter([(header::LOCATION, there)]);
        let failure = Failure::answer(StatusCode::FOUND, &headers, b"moved");
        assert!(failure.message.ends_with(": https://a.example/s"));
        assert!(!failure.passing);
    }

    #[test]
    fn errors_are_explained_as_servers_do() {
        for (body, explained) in [
            (
                r#"{"type":"about:blank","title":"Conflict","detail":"it is closed","code":"STREAM_CLOSED"}"#,
                "it is closed [STREAM_CLOSED]",
            ),
            (
                r#"{"error":{"code":"FENCED","message":"stale"}}"#,
                "stale [FENCED]",
            ),
            (r#"{"error":"no"}"#, "no"),
            ("Stream not found\nmore", "Stream not found"),
        ] {
            assert_eq!(explanation(body.as_bytes()).as_deref(), Some(explained));
        }
        for body in ["", "<html>", "{}", "\u{0}"] {
            assert!(
                explanation(body.as_bytes()).is_none_or(|text| text == "\u{0}"),
                "{body}"
            );
        }
    }

    #[test]
    fn waits_are_read() {
        let wait = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            retry_after(&HeaderMap::from_iter([(http::header::RETRY_AFTER, value)]))
        };
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(wait("Wed, 21 Oct 2065 07:28:00 GMT").unwrap() > Duration::from_hours(24));
        assert_eq!(wait("soon"), None);
    }
}
