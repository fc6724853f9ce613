//! Taking a session apart of which only the head was read, for another to begin at its connection.

use bytes::BytesMut;
use http::header;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;

/// A session that is as if its request had not been read: `HttpProxy` reads requests itself.
pub(super) async fn unread(session: ServerSession) -> Option<ServerSession> {
    let mut prefix = BytesMut::from(&session.as_http1()?.get_headers_raw_bytes()[..]);
    let (stream, rest) = take_apart(session).await?;
    prefix.extend_from_slice(&rest);
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(prefix);
    Some(session)
}

/// The connection of a session of which only the head was read and nothing was answered, and what
/// came after the head.
pub(super) async fn take_apart(mut session: ServerSession) -> Option<(Stream, BytesMut)> {
    // A session gives back what it read beyond its request. To one that has no body, that is all
    // that came after the head.
    let request = session.req_header_mut();
    request.remove_header(&header::CONTENT_LENGTH);
    request.remove_header(&header::TRANSFER_ENCODING);
    // It is the next session that closes the connection, if the client asked for it.
    request.remove_header(&header::CONNECTION);
    session.set_keepalive(Some(0));
    session.set_pipelining_enabled(true);
    let (stream, rest) = session.finish().await.ok()??.into_parts();
    Some((stream, rest.unwrap_or_default()))
}
