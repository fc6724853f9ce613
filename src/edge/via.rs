//! The name of this edge in `Via` (RFC 9110, section 7.6.3), by which it notices loops.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::protocol::list::elements;

/// This edge, as others see it on the way of a message.
pub(super) struct Via {
    name: String,
    entry: HeaderValue,
}

impl Via {
    /// Without a name, with a random one.
    pub(super) fn new(name: Option<&str>) -> Self {
        let name = match name {
            Some(name) => name.to_owned(),
            None => format!("headwater-{:016x}", rand::random::<u64>()),
        };
        let entry = HeaderValue::try_from(format!("1.1 {name}"));
        Self {
            entry: entry.unwrap_or(HeaderValue::from_static("1.1 headwater")),
            name,
        }
    }

    /// Whether a request has been here before.
    pub(super) fn has_passed(&self, request: &HeaderMap) -> bool {
        elements(request, &header::VIA)
            .any(|entry| entry.split_ascii_whitespace().nth(1) == Some(&self.name))
    }

    /// What is appended to the header of a message that passes.
    pub(super) fn entry(&self) -> (HeaderName, HeaderValue) {
        (header::VIA, self.entry.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_back_is_noticed() {
        let via = Via::new(Some("edge-1"));
        let passed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::VIA, HeaderValue::from_static(value));
            }
            via.has_passed(&headers)
        };
        assert!(!passed(&[]));
        assert!(!passed(&["1.1 edge-2, 1.1 edge-11", "2 other (edge-1)"]));
        assert!(passed(&["1.1 edge-2", "1.0 cdn, 1.1 edge-1 (x)"]));
        assert_ne!(Via::new(None).name, Via::new(None).name);
    }
}
