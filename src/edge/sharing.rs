//! Who may be given what an edge says of a stream that it follows.

use http::{HeaderMap, HeaderValue, header};
use pingora::cache::cache_control::CacheControl;

use super::cache;
use crate::protocol::caching::SHARED_BY_THOSE_WHO_WAITED;
use crate::protocol::names;
use crate::protocol::reply::Head;

/// What an origin says of who may be given answers of a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharing {
    /// Whether they are for everybody.
    public: bool,
    /// The tags by which caches find them.
    tags: Vec<HeaderValue>,
}

impl Sharing {
    /// What the head of a live answer says.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let name = header::CACHE_CONTROL.as_str();
        let control = CacheControl::from_headers_named(name, headers);
        let public =
            |control: CacheControl| control.public() && !control.private() && !control.no_store();
        Self {
            public: control.is_some_and(public),
            tags: headers
                .get_all(names::CACHE_TAG)
                .into_iter()
                .cloned()
                .collect(),
        }
    }

    pub(super) fn has_tag(&self, tag: &str) -> bool {
        cache::tags(&self.tags).any(|found| found == tag)
    }

    /// Lets an answer be shared by those who waited for it behind a cache, if it is for everybody.
    pub(super) fn mark(&self, head: &mut Head) {
        if !self.public {
            head.set_no_store();
            return;
        }
        head.set(header::CACHE_CONTROL, SHARED_BY_THOSE_WHO_WAITED);
        self.tag(head);
    }

    /// Passes on what an origin says of events.
    pub(super) fn mark_events(&self, head: &mut Head) {
        if self.public {
            let control = HeaderValue::from_static("public, no-cache");
            head.set(header::CACHE_CONTROL, control);
        }
        self.tag(head);
    }

    fn tag(&self, head: &mut Head) {
        for tag in &self.tags {
            head.headers.append(names::CACHE_TAG, tag.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn sharing(control: &'static str) -> Sharing {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::CACHE_CONTROL, control),
            (names::CACHE_TAG, "stream:a/b"),
            (names::CACHE_TAG, "c, d"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        Sharing::of(&headers)
    }

    fn control(sharing: &Sharing) -> String {
        let mut head = Head::lean(StatusCode::OK, false);
        sharing.mark(&mut head);
        let control = &head.headers[header::CACHE_CONTROL];
        control.to_str().unwrap().to_owned()
    }

    #[test]
    fn only_what_is_called_public_is_shared() {
        for said in [
            "public, no-cache",
            "public, max-age=60",
            "max-age=0, public",
        ] {
            assert_eq!(control(&sharing(said)), "public, max-age=0, s-maxage=1");
        }
        for said in [
            "no-cache",
            "private, no-cache",
            "public, no-store",
            "max-age=60",
            "",
        ] {
            assert_eq!(control(&sharing(said)), "no-store", "{said}");
        }
        assert_eq!(control(&Sharing::default()), "no-store");
    }

    #[test]
    fn tags_are_known_however_they_are_written() {
        let sharing = sharing("no-cache");
        for tag in ["stream:a/b", "c", "d"] {
            assert!(sharing.has_tag(tag), "{tag}");
        }
        assert!(!sharing.has_tag("c, d") && !sharing.has_tag(""));
    }
}
