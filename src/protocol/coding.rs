//! Content codings: which one an answer gets, and how its entity tag says so (RFC 9110, sections 8.8.3
//! and 12.5.3).

use super::list::elements;
use crate::types::Coding;
use http::{HeaderMap, header};

/// What a client accepts: a weight in thousandths for each coding, 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    weights: [u16; Coding::ALL.len()],
    /// The weight of what is not compressed, if the client names it.
    identity: u16,
}

impl Accepted {
    /// What a request accepts. Without `Accept-Encoding` that is nothing, and what cannot be read is
    /// passed over.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut accepted = Self::default();
        let mut others = 0;
        let mut named = [false; Coding::ALL.len()];
        for entry in elements(headers, &header::ACCEPT_ENCODING) {
            let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
            let Some(weight) = weight(parameters) else {
                continue;
            };
            let name = name.trim();
            if name == "*" {
                others = weight;
            } else if name.eq_ignore_ascii_case("identity") {
                accepted.identity = weight;
            } else if let Some(coding) = Coding::named(name) {
                accepted.weights[coding as usize] = weight;
                named[coding as usize] = true;
            }
        }
        for (weight, named) in accepted.weights.iter_mut().zip(named) {
            if !named {
                *weight = others;
            }
        }
        accepted
    }

    /// The coding that the client likes best; of those it likes equally, the first of `offered`.
    /// `None`: it is not to be compressed.
    pub fn choose(&self, offered: &[Coding]) -> Option<Coding> {
        let weight = |coding: &Coding| self.weights[*coding as usize];
        let best = offered.iter().map(weight).max()?;
        let wanted = best > 0 && best >= self.identity;
        let mut offered = offered.iter().filter(|_| wanted);
        offered.find(|coding| weight(coding) == best).copied()
    }
}

/// The weight that the parameters of an entry give it; `None` if they cannot be read.
fn weight(parameters: &str) -> Option<u16> {
    let Some((name, value)) = parameters.split_once('=') else {
        return parameters.trim().is_empty().then_some(1000);
    };
    let weight: f32 = value.trim().parse().ok()?;
    let known = name.trim().eq_ignore_ascii_case("q") && (0.0..=1.0).contains(&weight);
    known.then(|| (weight * 1000.0).round() as u16)
}

/// The entity tag of an answer that is compressed, from that of the same answer as it is.
pub fn coded_etag(etag: &str, coding: Coding) -> String {
    let open = etag.strip_suffix('"').unwrap_or(etag);
    format!("{open}:{}\"", coding.as_str())
}

/// The entity tag of those that `If-None-Match` names which is one of this answer's, in whatever
/// coding: what the client has is the same answer. `*` names the tag that the answer would get.
pub fn matched_etag(if_none_match: &str, etag: &str, coding: Option<Coding>) -> Option<String> {
    let candidates = if_none_match.split(',').map(str::trim);
    let of = |coding: Option<Coding>| match coding {
        None => etag.to_owned(),
        Some(coding) => coded_etag(etag, coding),
    };
    candidates
        .map(|candidate| candidate.strip_prefix("W/").unwrap_or(candidate))
        .find_map(|candidate| {
            if candidate == "*" {
                return Some(of(coding));
            }
            // Most of what is not equal to the tag does not begin like it either.
            candidate
                .starts_with(etag.strip_suffix('"')?)
                .then_some(())?;
            let codings = Coding::ALL.into_iter().map(Some);
            codings.chain([None]).map(of).find(|tag| tag == candidate)
        })
}

/// Whether content of this type is text, or written as text: so it becomes much smaller.
pub fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("text", _)) => true,
        Some(("application", subtype)) => {
            matches!(subtype, "json" | "x-ndjson" | "xml" | "javascript" | "yaml")
                || subtype.ends_with("+json")
                || subtype.ends_with("+xml")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn chosen(accept_encoding: &str) -> Option<Coding> {
        let mut headers = HeaderMap::new();
        for line in accept_encoding.split('|') {
            let value = HeaderValue::from_str(line).unwrap();
            headers.append(header::ACCEPT_ENCODING, value);
        }
        Accepted::of(&headers).choose(&Coding::ALL)
    }

    #[test]
    fn the_client_chooses_and_then_the_server() {
        let (zstd, brotli, gzip) = (Some(Coding::Zstd), Some(Coding::Brotli), Some(Coding::Gzip));
        assert_eq!(Accepted::of(&HeaderMap::new()).choose(&Coding::ALL), None);
        for (accept_encoding, expected) in [
            ("", None),
            ("identity", None),
            ("deflate", None),
            ("gzip", gzip),
            ("x-gzip", gzip),
            ("GZIP;Q=0.1", gzip),
            ("gzip, deflate, br, zstd", zstd),
            ("gzip, deflate, br", brotli),
            ("gzip|br", brotli),
            ("zstd;q=0.5, br;q=0.9, gzip;q=0.8", brotli),
            ("zstd;q=0, br;q=0, gzip;q=0", None),
            ("*", zstd),
            ("zstd;q=0, *;q=0.3", brotli),
            ("*;q=0", None),
            ("br;q=0.5, identity", None),
            ("br, identity;q=0.5", brotli),
            ("br;q=2, gzip;q=nonsense, zstd;level=3", None),
        ] {
            assert_eq!(chosen(accept_encoding), expected, "{accept_encoding}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("gzip, br"),
        );
        let accepted = Accepted::of(&headers);
        assert_eq!(accepted.choose(&[Coding::Gzip, Coding::Brotli]), gzip);
        assert_eq!(accepted.choose(&[Coding::Zstd]), None);
        assert_eq!(accepted.choose(&[]), None);
    }

    #[test]
    fn each_coding_has_a_tag_and_all_are_known() {
        let etag = "\"0a:1:0:9:c\"";
        assert_eq!(coded_etag(etag, Coding::Brotli), "\"0a:1:0:9:c:br\"");
        let matched = |given: &str| matched_etag(given, etag, Some(Coding::Zstd));
        for given in [etag, "\"0a:1:0:9:c:br\"", "\"0a:1:0:9:c:gzip\""] {
            assert_eq!(matched(given).as_deref(), Some(given));
            assert_eq!(
                matched(&format!("\"x\", W/{given}")).as_deref(),
                Some(given)
            );
        }
        assert_eq!(matched("*").as_deref(), Some("\"0a:1:0:9:c:zstd\""));
        assert_eq!(matched_etag("*", etag, None).as_deref(), Some(etag));
        for given in [
            "",
            "\"0a:1:0:9\"",
            "\"0a:1:0:9:c:\"",
            "\"0a:1:0:9:c:lzma\"",
            "br",
        ] {
            assert_eq!(matched(given), None, "{given}");
        }
    }

    #[test]
    fn what_is_text() {
        for yes in [
            "text/plain",
            "Text/HTML; charset=utf-8",
            "application/json",
            "application/ld+json;x=y",
            "application/x-ndjson",
        ] {
            assert!(is_text(yes), "{yes}");
        }
        for no in [
            "application/octet-stream",
            "image/png",
            "video/mp4",
            "application/gzip",
            "",
        ] {
            assert!(!is_text(no), "{no}");
        }
    }
}
