//! Answers of the admin listener.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

/// A status with a body, which HEAD leaves out.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: String,
    header: Option<(HeaderName, &'static str)>,
}

/// An error as `application/problem+json` tells it. The code is stable: scripts may compare it.
pub(super) struct Problem<'a> {
    pub(super) status: StatusCode,
    pub(super) title: &'static str,
    pub(super) code: &'static str,
    pub(super) detail: &'a str,
}

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: String) -> Self {
        Self {
            status,
            content_type,
            body,
            header: None,
        }
    }

    pub(super) fn text(body: &str) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", body.to_owned())
    }

    pub(super) fn problem(problem: &Problem<'_>) -> Self {
        let body = json!({
            "type": "about:blank",
            "title": problem.title,
            "status": problem.status.as_u16(),
            "code": problem.code,
            "detail": problem.detail,
        });
        Self::new(
            problem.status,
            "application/problem+json",
            format!("{body}\n"),
        )
    }

    /// Adds one header.
    pub(super) fn with_header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The response to a request with this method.
    pub(super) fn into_response(self, method: &Method) -> Response<Vec<u8>> {
        let length = self.body.len();
        let body = if *method == Method::HEAD {
            Vec::new()
        } else {
            self.body.into_bytes()
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some((name, value)) = self.header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
