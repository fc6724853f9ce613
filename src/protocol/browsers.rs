//! What answers tell browsers, whatever else they say (protocol, section 12.7).

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// What an answer tells browsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Browsers {
    /// Nothing more than its headers: they are those of another server.
    Unsaid,
    /// To take its content type for what it is. Others may embed it.
    Guarded,
    /// The same, and that pages of any origin may read all of it: nothing here is read with
    /// credentials.
    Open,
}

/// What [`Browsers::Open`] says; what [`Browsers::Guarded`] says comes first.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("cross-origin"),
    ),
    (
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    ),
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("*"),
    ),
];
const GUARDED: usize = 2;
/// The same as it is in the head of an answer over HTTP/1.1.
const LINES: &str = "x-content-type-options: nosniff\r\n\
    cross-origin-resource-policy: cross-origin\r\n\
    access-control-allow-origin: *\r\n\
    access-control-expose-headers: *\r\n";
const GUARDED_BYTES: usize =
    "x-content-type-options: nosniff\r\ncross-origin-resource-policy: cross-origin\r\n".len();

impl Browsers {
    /// `Open` where pages of any origin may read.
    pub fn new(cors: bool) -> Self {
        if cors { Self::Open } else { Self::Guarded }
    }

    /// The lines in the head of an answer over HTTP/1.1.
    pub fn lines(self) -> &'static str {
        match self {
            Self::Unsaid => "",
            Self::Guarded => &LINES[..GUARDED_BYTES],
            Self::Open => LINES,
        }
    }

    /// Adds the same headers to those of an answer, but for what these say otherwise.
    pub fn add_to(self, headers: &mut HeaderMap) {
        let said = match self {
            Self::Unsaid => 0,
            Self::Guarded => GUARDED,
            Self::Open => HEADERS.len(),
        };
        for (name, value) in HEADERS.into_iter().take(said) {
            headers.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(browsers: Browsers) -> Vec<String> {
        let mut headers = HeaderMap::new();
        browsers.add_to(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn pages_of_other_origins_read_where_they_may() {
        assert_eq!(told(Browsers::new(true)).len(), 4);
        assert_eq!(
            told(Browsers::new(false)),
            ["x-content-type-options", "cross-origin-resource-policy"]
        );
        assert!(told(Browsers::Unsaid).is_empty());
    }

    #[test]
    fn lines_say_the_same() {
        for browsers in [Browsers::Unsaid, Browsers::Guarded, Browsers::Open] {
            let mut headers = HeaderMap::new();
            browsers.add_to(&mut headers);
            let lines = headers
                .iter()
                .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
            assert_eq!(lines.collect::<String>(), browsers.lines());
        }
    }

    #[test]
    fn what_an_answer_says_itself_stays() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "access-control-expose-headers",
            HeaderValue::from_static("a"),
        );
        Browsers::Open.add_to(&mut headers);
        assert_eq!(headers["access-control-expose-headers"], "a");
        assert_eq!(headers.len(), 4);
    }
}
