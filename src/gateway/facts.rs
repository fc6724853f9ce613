//! What a request and its connection say: who asks, for which host, by which URL.

use crate::observe::access::Access;
use crate::serve::{self, ServeError};
use crate::upstream::ClientFacts;
use http::request::Parts;
use http::{HeaderValue, Method, Version, header, uri::Authority};
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::socket::SocketAddr;
use std::borrow::Cow;

/// What the access log says of a request.
pub(super) fn access<'a>(
    session: &'a ServerSession,
    method: &'a Method,
    route: &'a str,
) -> Access<'a> {
    let request = session.req_header();
    access_of(request, session.client_addr(), method, route)
}

/// The same of a request that has no session.
pub(super) fn access_of<'a>(
    request: &'a Parts,
    client: Option<&'a SocketAddr>,
    method: &'a Method,
    route: &'a str,
) -> Access<'a> {
    Access {
        method: method.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        route,
        client: client.map(|address| address as _),
        version: request.version,
    }
}

/// The host that the client asks for, without its port, in lower case.
pub(super) fn host(request: &Parts) -> Result<Cow<'_, str>, ServeError> {
    let lower = |authority: &Authority| Cow::from(authority.host().to_ascii_lowercase());
    let Some(value) = request.headers.get(header::HOST) else {
        return match request.uri.authority() {
            Some(authority) => Ok(lower(authority)),
            None if request.version == Version::HTTP_11 => Err(ServeError::NoHost),
            None => Ok("".into()),
        };
    };
    if let Some(name) = plain_host(value) {
        return Ok(name.into());
    }
    let authority = Authority::try_from(value.as_bytes()).ok();
    authority
        .filter(|_| !value.as_bytes().contains(&b'@'))
        .map(|authority| lower(&authority))
        .ok_or(ServeError::InvalidHost)
}

/// The host in a `Host` header that is a name or an IPv4 address in lower case, if it is one: such
/// a header is right as it is.
fn plain_host(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let in_name = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    let end = text.bytes().position(|byte| !in_name(&byte));
    let (name, port) = text.split_at(end.unwrap_or(text.len()));
    let plain = match port.as_bytes() {
        [] => true,
        [b':', port @ ..] => {
            !name.is_empty() && !port.is_empty() && port.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    };
    plain.then_some(name)
}

/// The host that the client asks for, with its port.
fn authority(session: &ServerSession) -> Option<Authority> {
    let request = session.req_header();
    let host = session.get_header(header::HOST);
    let host = host.and_then(|value| Authority::try_from(value.as_bytes()).ok());
    host.or_else(|| request.uri.authority().cloned())
}

/// The stream's URL as the client sees it.
pub(super) fn location(session: &ServerSession, route: &serve::Route) -> String {
    let path = session.req_header().uri.path();
    let base = base_url(session, route.config.base_url.as_deref());
    format!("{base}{path}")
}

/// The scheme and host by which the client came, unless a setting says them; empty, if the client
/// named no host.
pub(super) fn base_url(session: &ServerSession, setting: Option<&str>) -> String {
    if let Some(base) = setting {
        return base.trim_end_matches('/').to_owned();
    }
    let scheme = if is_encrypted(session) {
        "https"
    } else {
        "http"
    };
    match authority(session) {
        Some(authority) => format!("{scheme}://{authority}"),
        None => String::new(),
    }
}

/// Whether the connection of a session is one of TLS.
pub(super) fn is_encrypted(session: &ServerSession) -> bool {
    let digest = session.digest();
    digest.is_some_and(|digest| digest.ssl_digest.is_some())
}

/// What an upstream is told of the client.
pub(super) fn client_facts(session: &ServerSession) -> ClientFacts {
    let address = session.client_addr().and_then(SocketAddr::as_inet);
    ClientFacts {
        address: address.map(std::net::SocketAddr::ip),
        encrypted: is_encrypted(session),
    }
}
