//! The one place where errors become statuses.

use super::{Body, Reply};
use crate::log::keys::Corrupt;
use crate::log::state::{AppendRefusal, Unavailable};
use crate::log::{AppendError, CommitError, CreateError, DeleteError, ReadError};
use crate::observe::metrics::{Refusal, UpstreamFailure};
use crate::protocol::json::JsonError;
use crate::protocol::names;
use crate::protocol::reply::Head;
use crate::protocol::request::RequestError;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use thiserror::Error;

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("what came is not a request of HTTP")]
    Malformed,
    #[error("the path is not one of a stream: {0}")]
    Path(&'static str),
    #[error("nothing is served here")]
    NoRoute,
    #[error("the request names no host")]
    NoHost,
    #[error("the Host header names no host")]
    InvalidHost,
    #[error("the path is longer than {bytes_max} bytes")]
    PathTooLong { bytes_max: usize },
    #[error("the headers are longer than {bytes_max} bytes")]
    HeadersTooLarge { bytes_max: usize },
    #[error("the body is larger than {bytes_max} bytes")]
    BodyTooLarge { bytes_max: u64 },
    #[error("no more of the body came for {seconds} s")]
    BodyTimeout { seconds: u64 },
    #[error("the body broke off")]
    BodyBroken,
    #[error("the body came slowly while others waited for its room; try again later")]
    BodyTooSlow,
    #[error("an append needs a body, or Stream-Closed: true")]
    EmptyBody,
    #[error("an append needs a Content-Type")]
    NoContentType,
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error(transparent)]
    Refused(#[from] AppendRefusal),
    #[error(transparent)]
    Create(CreateError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("too many bodies are on their way; try again later")]
    TooManyBodies,
    #[error("too many live readers are connected; try again later")]
    TooManyReaders,
    #[error("subscriptions are not served yet")]
    Subscriptions,
    #[error("this URL only reads")]
    ReadOnly,
    #[error("a feed that others read too is not one reader's to end")]
    SharedFeed,
    #[error("the only action is abort")]
    InvalidAction,
    #[error("the URL is not signed")]
    NotSigned,
    #[error("the signature is not one for this URL")]
    SignatureInvalid,
    #[error("the URL has expired")]
    SignatureExpired,
    #[error("tunnels are not served")]
    Tunnel,
    #[error("{}", upstream_words(*.0))]
    Upstream(UpstreamFailure),
    #[error("the service is not authenticated")]
    NoSecret,
    #[error("the service's secret is not the right one")]
    InvalidSecret,
    #[error("the header Upstream-URL is missing")]
    NoUpstreamUrl,
    #[error("the header Upstream-Method is missing")]
    NoUpstreamMethod,
    #[error("Upstream-Method must be GET, POST, PUT, PATCH or DELETE")]
    InvalidUpstreamMethod,
    #[error("the upstream is not one that may be asked")]
    UpstreamNotAllowed,
    #[error("the upstream redirected, which is not followed")]
    Redirect,
    #[error("too many recordings are running; try again later")]
    TooManyRecordings,
    #[error("this caller has too many recordings running; try again later")]
    CallerBusy,
    #[error("the key was used for another request")]
    KeyReused,
    #[error("something that is no recording of this caller has the recording's name")]
    NameTaken,
    #[error("the recording was ended before its upstream answered")]
    Aborted,
    #[error("the stream's origin is away; try again later")]
    OriginAway,
    #[error("too many answers are being fetched; try again later")]
    TooManyFetches,
    #[error("too many streams are followed; try again later")]
    TooManyFollowed,
    #[error("the request has been here before")]
    Loop,
}

impl From<AppendError> for ServeError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Unavailable(error) => error.into(),
            AppendError::Refused(error) => error.into(),
            AppendError::Commit(error) => error.into(),
            AppendError::Read(error) => error.into(),
        }
    }
}

impl From<CreateError> for ServeError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Commit(error) => error.into(),
            CreateError::Read(error) => error.into(),
            error => Self::Create(error),
        }
    }
}

impl From<DeleteError> for ServeError {
    fn from(error: DeleteError) -> Self {
        match error {
            DeleteError::Unavailable(error) => error.into(),
            DeleteError::Commit(error) => error.into(),
            DeleteError::Read(error) => error.into(),
        }
    }
}

/// Seconds after which a refused request may be tried again.
const RETRY_AFTER_SECONDS: u64 = 1;

impl ServeError {
    /// The status and the stable code of this error.
    pub fn status(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Request(error) => request_status(error),
            Self::Malformed => (S::BAD_REQUEST, "MALFORMED_REQUEST"),
            Self::Path(_) => (S::BAD_REQUEST, "INVALID_PATH"),
            Self::NoRoute => (S::NOT_FOUND, "NO_ROUTE"),
            Self::NoHost => (S::BAD_REQUEST, "NO_HOST"),
            Self::InvalidHost => (S::BAD_REQUEST, "INVALID_HOST"),
            Self::PathTooLong { .. } => (S::URI_TOO_LONG, "PATH_TOO_LONG"),
            Self::HeadersTooLarge { .. } => {
                (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE")
            }
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE"),
            Self::BodyTimeout { .. } => (S::REQUEST_TIMEOUT, "BODY_TIMEOUT"),
            Self::BodyBroken => (S::BAD_REQUEST, "BODY_BROKEN"),
            Self::EmptyBody => (S::BAD_REQUEST, "EMPTY_BODY"),
            Self::NoContentType => (S::BAD_REQUEST, "NO_CONTENT_TYPE"),
            Self::Json(JsonError::Invalid(_)) => (S::BAD_REQUEST, "INVALID_JSON"),
            Self::Json(JsonError::EmptyArray) => (S::BAD_REQUEST, "EMPTY_ARRAY"),
            Self::Unavailable(Unavailable::NotFound) | Self::Read(ReadError::Gone) => {
                (S::NOT_FOUND, "NOT_FOUND")
            }
            Self::Read(ReadError::Trimmed { .. }) => (S::GONE, "OFFSET_TRIMMED"),
            Self::Unavailable(Unavailable::Gone) => (S::GONE, "GONE"),
            Self::Refused(refusal) => refusal_status(refusal),
            Self::Create(error) => create_status(error),
            Self::Commit(CommitError::Overloaded) => (S::SERVICE_UNAVAILABLE, "OVERLOADED"),
            Self::Commit(CommitError::Failed) => (S::SERVICE_UNAVAILABLE, "STORAGE_FAILED"),
            Self::Commit(CommitError::Stopped) => (S::SERVICE_UNAVAILABLE, "STOPPING"),
            Self::Read(ReadError::Store(_)) => (S::INTERNAL_SERVER_ERROR, "STORAGE_ERROR"),
            Self::Read(ReadError::Corrupt(Corrupt(_))) => {
                (S::INTERNAL_SERVER_ERROR, "STORAGE_CORRUPT")
            }
            Self::TooManyBodies | Self::BodyTooSlow => (S::SERVICE_UNAVAILABLE, "TOO_MANY_BODIES"),
            Self::TooManyReaders => (S::SERVICE_UNAVAILABLE, "TOO_MANY_READERS"),
            Self::Subscriptions => (S::NOT_IMPLEMENTED, "SUBSCRIPTIONS_NOT_IMPLEMENTED"),
            Self::ReadOnly | Self::Tunnel => (S::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::SharedFeed => (S::CONFLICT, "FEED_SHARED"),
            Self::InvalidAction => (S::BAD_REQUEST, "INVALID_ACTION"),
            Self::NotSigned => (S::UNAUTHORIZED, "MISSING_SIGNATURE"),
            Self::SignatureInvalid => (S::UNAUTHORIZED, "SIGNATURE_INVALID"),
            Self::SignatureExpired => (S::UNAUTHORIZED, "SIGNATURE_EXPIRED"),
            Self::Upstream(failure) => upstream_status(*failure),
            Self::NoSecret => (S::UNAUTHORIZED, "MISSING_SECRET"),
            Self::InvalidSecret => (S::UNAUTHORIZED, "INVALID_SECRET"),
            Self::NoUpstreamUrl => (S::BAD_REQUEST, "MISSING_UPSTREAM_URL"),
            Self::NoUpstreamMethod => (S::BAD_REQUEST, "MISSING_UPSTREAM_METHOD"),
            Self::InvalidUpstreamMethod => (S::BAD_REQUEST, "INVALID_UPSTREAM_METHOD"),
            Self::UpstreamNotAllowed => (S::FORBIDDEN, "UPSTREAM_NOT_ALLOWED"),
            Self::Redirect => (S::BAD_REQUEST, "REDIRECT_NOT_ALLOWED"),
            Self::TooManyRecordings => (S::SERVICE_UNAVAILABLE, "TOO_MANY_RECORDINGS"),
            Self::CallerBusy => (S::TOO_MANY_REQUESTS, "CALLER_BUSY"),
            Self::KeyReused => (S::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"),
            Self::NameTaken => (S::CONFLICT, "RECORDING_NAME_TAKEN"),
            Self::Aborted => (S::CONFLICT, "RECORDING_ABORTED"),
            Self::OriginAway => (S::SERVICE_UNAVAILABLE, "ORIGIN_AWAY"),
            Self::TooManyFetches | Self::Read(ReadError::NoRoom) => {
                (S::SERVICE_UNAVAILABLE, "TOO_MANY_FETCHES")
            }
            Self::TooManyFollowed => (S::SERVICE_UNAVAILABLE, "TOO_MANY_FOLLOWED_STREAMS"),
            Self::Loop => (S::LOOP_DETECTED, "LOOP"),
        }
    }

    /// Whether the rest of the request's body is not read before the answer, so that no other request
    /// can follow it on its connection.
    pub fn ends_connection(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout { .. } | Self::BodyBroken | Self::BodyTooSlow
        )
    }

    /// The limit that refused the request, if one did.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::BodyTooLarge { .. } => Some(Refusal::Body),
            Self::TooManyBodies | Self::BodyTooSlow => Some(Refusal::BodyMemory),
            Self::TooManyReaders => Some(Refusal::Readers),
            Self::TooManyRecordings | Self::CallerBusy => Some(Refusal::Recordings),
            Self::Commit(CommitError::Overloaded) => Some(Refusal::Queue),
            Self::TooManyFetches | Self::Read(ReadError::NoRoom) => Some(Refusal::Fetches),
            Self::TooManyFollowed => Some(Refusal::FollowedStreams),
            Self::Refused(AppendRefusal::TooManyProducers(_)) => Some(Refusal::Producers),
            Self::Create(CreateError::ForkTooDeep(_)) => Some(Refusal::ForkDepth),
            _ => None,
        }
    }

    /// The reply that tells the client.
    pub fn into_reply(self, cors: bool) -> Reply {
        let (status, code) = self.status();
        let mut head = self.head(status, code, cors);
        let problem = HeaderValue::from_static("application/problem+json");
        head.set(header::CONTENT_TYPE, problem);
        Reply {
            body: Body::Full(problem_json(status, code, &self.to_string())),
            head,
        }
    }

    /// The reply as the proxy protocol has it (its section 11): other codes where it names them.
    pub fn into_proxy_reply(self, cors: bool) -> Reply {
        let (status, code) = self.proxy_status();
        let mut head = self.head(status, code, cors);
        head.set(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if status == StatusCode::BAD_GATEWAY {
            // Clients rely on it, also where no upstream answered.
            head.set_number(names::UPSTREAM_STATUS, u64::from(status.as_u16()));
        }
        let error = serde_json::json!({ "error": { "code": code, "message": self.to_string() } });
        Reply {
            body: Body::Full(error.to_string().into()),
            head,
        }
    }

    fn proxy_status(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NoRoute | Self::ReadOnly => (S::NOT_FOUND, "NOT_FOUND"),
            Self::Unavailable(_) | Self::Read(ReadError::Gone) => {
                (S::NOT_FOUND, "STREAM_NOT_FOUND")
            }
            Self::Upstream(failure) if *failure != UpstreamFailure::Timeout => {
                (S::BAD_GATEWAY, "UPSTREAM_ERROR")
            }
            Self::Commit(CommitError::Failed) | Self::Read(_) | Self::Create(_) => {
                (S::BAD_GATEWAY, "STORAGE_ERROR")
            }
            _ => self.status(),
        }
    }

    /// The head of the reply, but for its content type.
    fn head(&self, status: StatusCode, code: &str, cors: bool) -> Head {
        if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
            tracing::warn!(code, error = %self, "a request failed");
        }
        let mut head = Head::new(status, cors);
        head.set_no_store();
        let busy = [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        if busy.contains(&status) {
            head.set_number(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        self.set_headers(&mut head);
        head
    }

    /// The headers that the protocol asks for beside the status (sections 5.2 and 5.2.1).
    fn set_headers(&self, head: &mut Head) {
        match self {
            Self::Refused(AppendRefusal::Closed {
                tail,
                end,
                received_seq,
            }) => {
                head.set_closed(true, end.as_deref());
                head.set_next_offset(*tail);
                if let Some(seq) = received_seq {
                    // A producer that expects to be told what to send next would wait for ever.
                    head.set_number(names::PRODUCER_EXPECTED_SEQ, *seq);
                    head.set_number(names::PRODUCER_RECEIVED_SEQ, *seq);
                }
            }
            Self::Refused(AppendRefusal::StaleEpoch { current }) => {
                head.set_number(names::PRODUCER_EPOCH, *current);
            }
            Self::Refused(AppendRefusal::SeqGap { expected, received }) => {
                head.set_number(names::PRODUCER_EXPECTED_SEQ, *expected);
                head.set_number(names::PRODUCER_RECEIVED_SEQ, *received);
            }
            Self::ReadOnly => {
                let allowed = HeaderValue::from_static("GET, HEAD, PATCH, OPTIONS");
                head.set(header::ALLOW, allowed);
            }
            Self::Read(ReadError::Trimmed { earliest })
            | Self::Create(CreateError::ForkTrimmed { earliest }) => {
                head.set_earliest_offset(*earliest);
            }
            Self::Request(RequestError::Method(_)) | Self::Tunnel => {
                let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");
                head.set(header::ALLOW, allowed);
            }
            _ => {}
        }
    }
}

fn request_status(error: &RequestError) -> (StatusCode, &'static str) {
    let code = match error {
        RequestError::Method(_) => return (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
        RequestError::HeaderText(_) => "INVALID_HEADER",
        RequestError::QueryText => "INVALID_QUERY",
        RequestError::OffsetTwice | RequestError::Offset(_) => "INVALID_OFFSET",
        RequestError::Mode(_) => "INVALID_LIVE_MODE",
        RequestError::LiveWithoutOffset => "OFFSET_REQUIRED",
        RequestError::Ttl => "INVALID_TTL",
        RequestError::ExpiresAt => "INVALID_EXPIRES_AT",
        RequestError::Retention => "INVALID_RETENTION",
        RequestError::TwoLifetimes => "TTL_AND_EXPIRES_AT",
        RequestError::ForkWithoutSource | RequestError::ForkSource => "FORK_SOURCE_REQUIRED",
        RequestError::ForkOffset => "INVALID_FORK_OFFSET",
        RequestError::ForkSubOffset => "INVALID_FORK_SUB_OFFSET",
        RequestError::ProducerIncomplete => "PRODUCER_HEADERS_INCOMPLETE",
        RequestError::ProducerId => "INVALID_PRODUCER_ID",
        RequestError::ProducerNumber(_) => "INVALID_PRODUCER_NUMBER",
        RequestError::TooLong(..) => "HEADER_TOO_LONG",
    };
    (StatusCode::BAD_REQUEST, code)
}

fn refusal_status(refusal: &AppendRefusal) -> (StatusCode, &'static str) {
    match refusal {
        AppendRefusal::Closed { .. } => (StatusCode::CONFLICT, "STREAM_CLOSED"),
        AppendRefusal::ContentType { .. } => (StatusCode::CONFLICT, "CONTENT_TYPE_MISMATCH"),
        AppendRefusal::StreamSeq { .. } => (StatusCode::CONFLICT, "STREAM_SEQ_REGRESSION"),
        AppendRefusal::StaleEpoch { .. } => (StatusCode::FORBIDDEN, "PRODUCER_STALE_EPOCH"),
        AppendRefusal::EpochStart => (StatusCode::BAD_REQUEST, "PRODUCER_EPOCH_START"),
        AppendRefusal::SeqGap { .. } => (StatusCode::CONFLICT, "PRODUCER_SEQ_GAP"),
        AppendRefusal::TooManyProducers(_) => (StatusCode::BAD_REQUEST, "TOO_MANY_PRODUCERS"),
    }
}

fn create_status(error: &CreateError) -> (StatusCode, &'static str) {
    match error {
        CreateError::Conflict => (StatusCode::CONFLICT, "CONFLICT_EXISTS"),
        CreateError::PathHeld => (StatusCode::CONFLICT, "PATH_HELD_BY_FORKS"),
        CreateError::SourceNotFound => (StatusCode::NOT_FOUND, "FORK_SOURCE_NOT_FOUND"),
        CreateError::SourceGone => (StatusCode::CONFLICT, "FORK_SOURCE_GONE"),
        CreateError::SourceContentType(_) => (StatusCode::CONFLICT, "CONTENT_TYPE_MISMATCH"),
        CreateError::ForkOffset => (StatusCode::BAD_REQUEST, "FORK_OFFSET_NOT_IN_SOURCE"),
        CreateError::ForkSubOffset => (StatusCode::BAD_REQUEST, "FORK_SUB_OFFSET_NOT_IN_SOURCE"),
        CreateError::ForkTrimmed { .. } => (StatusCode::CONFLICT, "FORK_OFFSET_TRIMMED"),
        CreateError::ForkTooDeep(_) => (StatusCode::CONFLICT, "FORK_TOO_DEEP"),
        CreateError::NoteTooLong | CreateError::Commit(_) | CreateError::Read(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL")
        }
    }
}

fn upstream_status(failure: UpstreamFailure) -> (StatusCode, &'static str) {
    match failure {
        UpstreamFailure::Connect => (StatusCode::BAD_GATEWAY, "UPSTREAM_UNREACHABLE"),
        UpstreamFailure::Tls => (StatusCode::BAD_GATEWAY, "UPSTREAM_TLS_FAILED"),
        UpstreamFailure::Timeout => (StatusCode::GATEWAY_TIMEOUT, "UPSTREAM_TIMEOUT"),
        UpstreamFailure::Broken => (StatusCode::BAD_GATEWAY, "UPSTREAM_BROKE"),
        UpstreamFailure::Protocol => (StatusCode::BAD_GATEWAY, "UPSTREAM_INVALID"),
        UpstreamFailure::NoUpstream => (StatusCode::SERVICE_UNAVAILABLE, "NO_UPSTREAM"),
    }
}

/// What a client is told; addresses and causes are for the log.
fn upstream_words(failure: UpstreamFailure) -> &'static str {
    match failure {
        UpstreamFailure::Connect => "the upstream cannot be reached",
        UpstreamFailure::Tls => "no secure connection to the upstream came about",
        UpstreamFailure::Timeout => "the upstream did not answer in time",
        UpstreamFailure::Broken => "the upstream broke off before it answered",
        UpstreamFailure::Protocol => "the upstream did not answer in HTTP",
        UpstreamFailure::NoUpstream => "no upstream is there to take the request; try again later",
    }
}

/// A problem document (RFC 9457).
fn problem_json(status: StatusCode, code: &str, detail: &str) -> Bytes {
    let problem = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "code": code,
        "detail": detail,
    });
    problem.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Section 11 of the proxy protocol; and a status of 502 has `Upstream-Status`, whoever failed.
    #[test]
    fn the_proxy_protocol_has_its_own_codes() {
        use ServeError as E;
        for (error, status, code) in [
            (E::NoUpstreamUrl, 400, "MISSING_UPSTREAM_URL"),
            (E::NoUpstreamMethod, 400, "MISSING_UPSTREAM_METHOD"),
            (E::InvalidUpstreamMethod, 400, "INVALID_UPSTREAM_METHOD"),
            (E::Redirect, 400, "REDIRECT_NOT_ALLOWED"),
            (E::InvalidAction, 400, "INVALID_ACTION"),
            (E::NoSecret, 401, "MISSING_SECRET"),
            (E::InvalidSecret, 401, "INVALID_SECRET"),
            (E::SignatureExpired, 401, "SIGNATURE_EXPIRED"),
            (E::SignatureInvalid, 401, "SIGNATURE_INVALID"),
            (E::NotSigned, 401, "MISSING_SIGNATURE"),
            (E::UpstreamNotAllowed, 403, "UPSTREAM_NOT_ALLOWED"),
            (E::NoRoute, 404, "NOT_FOUND"),
            (E::Read(ReadError::Gone), 404, "STREAM_NOT_FOUND"),
            (E::Upstream(UpstreamFailure::Tls), 502, "UPSTREAM_ERROR"),
            (E::Upstream(UpstreamFailure::Broken), 502, "UPSTREAM_ERROR"),
            (E::Commit(CommitError::Failed), 502, "STORAGE_ERROR"),
            (E::Create(CreateError::NoteTooLong), 502, "STORAGE_ERROR"),
            (
                E::Upstream(UpstreamFailure::Timeout),
                504,
                "UPSTREAM_TIMEOUT",
            ),
        ] {
            let message = error.to_string();
            let Reply { head, body } = error.into_proxy_reply(true);
            let Body::Full(body) = body else {
                panic!("{code} has no body");
            };
            let expected = serde_json::json!({ "error": { "code": code, "message": message } });
            assert_eq!(
                serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
                expected
            );
            assert_eq!(head.status, status, "{code}");
            let told = head.headers.contains_key(names::UPSTREAM_STATUS);
            assert_eq!(told, status == 502, "{code}");
        }
    }

    /// The manual names every code, and no code that is not there.
    #[test]
    fn the_manual_has_all_codes() {
        let codes = |text: &str, quote: char| -> std::collections::BTreeSet<String> {
            text.split(quote)
                .filter(|word| word.len() > 3 && word.contains(|c: char| c.is_ascii_uppercase()))
                .filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
                .map(str::to_owned)
                .collect()
        };
        let source = include_str!("error.rs").split("mod tests").next().unwrap();
        let manual = include_str!("../../docs/protocol.md");
        let errors = manual.split("## Errors").nth(1).unwrap();
        let unreachable = "INTERNAL".to_owned();
        let mut expected = codes(source, '"');
        expected.remove(&unreachable);
        assert_eq!(codes(errors, '`'), expected);
    }
}
