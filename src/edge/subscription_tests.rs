//! What readers see of a stream that is followed.

use super::*;
use crate::edge::identities::identity;
use http::{HeaderMap, header};

fn subscription(content_type: &str, at: &str) -> Arc<Subscription> {
    let subject = Subject::of_test("/s", "");
    let hot = HotBytes::new(1 << 20);
    Arc::new(Subscription::new(
        subject,
        None,
        content_type.into(),
        at.into(),
        hot,
    ))
}

fn news(body: Option<&'static str>, next: &str) -> News {
    News {
        body: body.map(Bytes::from),
        next: next.into(),
        up_to_date: true,
        closed: None,
    }
}

fn data(look: Look) -> Data {
    match look {
        Look::Data(data) => data,
        _ => panic!("there is no data"),
    }
}

fn is_fresh(look: &Look) -> bool {
    matches!(look, Look::Nothing { fresh: true })
}

#[test]
fn readers_get_what_is_behind_them() {
    let subscription = subscription("application/json", "0");
    assert!(matches!(
        subscription.look("0"),
        Look::Nothing { fresh: false }
    ));
    subscription.push(news(None, "0")).unwrap();
    assert!(is_fresh(&subscription.look("0")));
    subscription.push(news(Some("1,2"), "3")).unwrap();
    subscription.push(news(Some("3"), "4")).unwrap();
    let both = data(subscription.look("0"));
    assert_eq!(
        (&both.body(Kind::Json)[..], &*both.next),
        (&b"[1,2,3]"[..], "4")
    );
    assert!(both.up_to_date && both.closed.is_none());
    assert_eq!(&data(subscription.look("3")).body(Kind::Json)[..], b"[3]");
    assert!(matches!(subscription.look("1"), Look::Behind));
    assert!(matches!(
        subscription.look("9"),
        Look::Nothing { fresh: false }
    ));
    let closing = News {
        closed: Some(Closing { end: None }),
        ..news(None, "4")
    };
    subscription.push(closing).unwrap();
    assert!(matches!(subscription.look("4"), Look::Closed(_)));
    assert!(data(subscription.look("3")).closed.is_some());
}

#[test]
fn what_was_written_here_is_waited_for() {
    let subscription = subscription("text/plain", "0");
    subscription.push(news(None, "0")).unwrap();
    subscription.set_written("5", false);
    assert!(subscription.awaits_written());
    assert!(!is_fresh(&subscription.look("0")));
    subscription.push(news(Some("abc"), "3")).unwrap();
    assert!(!data(subscription.look("0")).up_to_date);
    subscription.push(news(Some("de"), "5")).unwrap();
    assert!(data(subscription.look("0")).up_to_date);
    assert!(is_fresh(&subscription.look("5")));
    subscription.set_written("5", true);
    assert!(!is_fresh(&subscription.look("5")));
}

#[test]
fn an_origin_that_counts_late_sends_nobody_back() {
    let subscription = subscription("text/plain", "0");
    subscription.push(news(Some("abc"), "3")).unwrap();
    subscription.push(news(None, "1")).unwrap();
    assert_eq!(&*subscription.tail(), "3");
    assert!(subscription.has_come_to("3"));
    // Other data is another stream.
    assert!(subscription.push(news(Some("x"), "2")).is_err());
}

#[test]
fn events_are_encoded_once_for_several_readers() {
    let subscription = subscription("text/plain", "0");
    subscription.push(news(Some("abc"), "3")).unwrap();
    let control = Control {
        cursor: Some(7),
        up_to_date: true,
        closed: false,
    };
    let readers = (subscription.enter(), subscription.enter());
    let events = |encoding| {
        let data = data(subscription.look("0"));
        subscription.events(&data, encoding, control)
    };
    let (one, other) = (events(Encoding::Text), events(Encoding::Text));
    assert_eq!(one.as_ptr(), other.as_ptr());
    assert!(one.starts_with(b"event: data\ndata:abc\n\nevent: control\n"));
    assert_ne!(events(Encoding::Base64), one);
    drop(readers);
    assert!(subscription.encoded.lock().is_none());
}

#[tokio::test]
async fn who_waits_is_woken() {
    let subscription = subscription("text/plain", "0");
    subscription.push(news(None, "0")).unwrap();
    let waiting = tokio::spawn({
        let subscription = subscription.clone();
        async move { subscription.wait("0").await }
    });
    tokio::task::yield_now().await;
    subscription.push(news(Some("a"), "1")).unwrap();
    waiting.await.unwrap();
    subscription.set_gone();
    subscription.wait("1").await;
    subscription.gone().await;
    assert!(matches!(subscription.look("1"), Look::Gone));
}

#[test]
fn what_is_gone_stays_gone() {
    let subscription = subscription("text/plain", "0");
    subscription.push(news(Some("a"), "1")).unwrap();
    assert!(subscription.has_come_to("1"));
    subscription.set_gone();
    // The origin was just saying something else.
    subscription.push(news(Some("b"), "2")).unwrap();
    for at in ["0", "1", "2"] {
        assert!(matches!(subscription.look(at), Look::Gone), "{at}");
        assert!(!subscription.has_come_to(at), "{at}");
    }
}

#[test]
fn what_begins_at_a_place_that_is_not_known_is_no_piece() {
    let subscription = subscription("text/plain", "4");
    subscription.push(news(None, "4")).unwrap();
    // The origin is behind for a moment, and what it then says begins where it was.
    subscription.push(news(None, "2")).unwrap();
    subscription.push(news(Some("cdef"), "6")).unwrap();
    assert!(matches!(subscription.look("4"), Look::Behind));
    subscription.push(news(Some("g"), "7")).unwrap();
    assert_eq!(&data(subscription.look("6")).body(Kind::Text)[..], b"g");
}

#[test]
fn tags_say_of_which_stream_they_are() {
    let tag = |subscription: &Subscription| {
        subscription.push(news(Some("x"), "1")).unwrap();
        subscription.etag("0", &data(subscription.look("0")))
    };
    let (one, other) = (
        subscription("text/plain", "0"),
        subscription("text/plain", "0"),
    );
    assert!(one.identify("0a1b2c3d:7") && other.identify("0a1b2c3d:8"));
    assert_eq!(
        (&*tag(&one), &*tag(&other)),
        ("\"0a1b2c3d:7:0:1:t\"", "\"0a1b2c3d:8:0:1:t\"")
    );
    assert!(one.identify("0a1b2c3d:7") && !one.identify("0a1b2c3d:8"));
    let unnamed = [
        subscription("text/plain", "0"),
        subscription("text/plain", "0"),
    ];
    let [one, other] = unnamed.map(|one| tag(&one));
    assert_ne!(one, other);
    let headers = HeaderMap::from_iter([(header::ETAG, one.parse().unwrap())]);
    assert_eq!(identity(&headers), None);
}
