//! Listening sockets, bound before anything else starts.
//!
//! Pingora would bind them itself, but it tries a taken address for half a minute and then panics;
//! bound here, a failure is an error at once, and port 0 becomes the port that was given.

use crate::config::Listen;
use parking_lot::Mutex;
use pingora::server::{Fds, ListenFds};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::net::TcpSocket;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 65_535;

/// An address that cannot be listened at.
#[derive(Debug, Error)]
#[error("cannot listen at {address}: {source}")]
pub struct BindError {
    address: Listen,
    source: io::Error,
}

/// The sockets of all listeners, to be handed to their services.
pub struct Sockets {
    fds: Fds,
    /// Each address as configured and as bound.
    pub bound: Vec<(Listen, Listen)>,
}

impl Sockets {
    /// Binds all addresses. It must run inside a Tokio runtime. `unsent_bytes_max` is what waits to
    /// be sent at most on each of their connections.
    pub fn bind<'a>(
        addresses: impl Iterator<Item = &'a Listen>,
        unsent_bytes_max: u64,
    ) -> Result<Self, BindError> {
        let mut sockets = Self {
            fds: Fds::new(),
            bound: Vec::new(),
        };
        for address in addresses {
            let bound = sockets
                .bind_one(address, unsent_bytes_max)
                .map_err(|source| BindError {
                    address: address.clone(),
                    source,
                })?;
            sockets.bound.push((address.clone(), bound));
        }
        Ok(sockets)
    }

    fn bind_one(&mut self, address: &Listen, unsent_bytes_max: u64) -> io::Result<Listen> {
        match address {
            Listen::Tcp(tcp) => {
                let listener = bind_tcp(*tcp)?;
                limit_unsent(&listener, unsent_bytes_max)?;
                let bound = listener.local_addr()?;
                self.fds.add(tcp.to_string(), listener.into_raw_fd());
                Ok(Listen::Tcp(bound))
            }
            // Pingora binds these, and replaces what an earlier process left behind.
            Listen::Unix(path) => check_unix(path).map(|()| address.clone()),
        }
    }

    /// The sockets in the form that services take.
    pub fn into_fds(self) -> ListenFds {
        Arc::new(Mutex::new(self.fds))
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Connections inherit the limit from the listener that accepts them.
#[cfg(target_os = "linux")]
fn limit_unsent(listener: &std::net::TcpListener, bytes_max: u64) -> io::Result<()> {
    SockRef::from(listener).set_tcp_notsent_lowat(bytes_max as u32)
}

/// Elsewhere the system has limits of its own.
#[cfg(not(target_os = "linux"))]
fn limit_unsent(_: &std::net::TcpListener, _: u64) -> io::Result<()> {
    Ok(())
}

fn check_unix(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("something that is not a socket is there"))
        }
        // What nobody listens on was left behind, and is replaced.
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(_) => Ok(()),
        },
        Err(_) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => std::fs::metadata(parent).map(drop),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSENT_BYTES: u64 = 128 << 10;

    #[tokio::test]
    async fn a_taken_address_is_an_error_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Listen::Tcp(taken.local_addr().unwrap());
        let error = Sockets::bind([&address].into_iter(), UNSENT_BYTES)
            .err()
            .unwrap();
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[tokio::test]
    async fn a_socket_is_taken_as_long_as_somebody_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let taken = check_unix(&path).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        assert!(path.exists());
        check_unix(&path).unwrap();
    }

    #[tokio::test]
    async fn port_0_becomes_a_port() {
        let address: Listen = "127.0.0.1:0".parse().unwrap();
        let sockets = Sockets::bind([&address].into_iter(), UNSENT_BYTES).unwrap();
        assert_ne!(sockets.bound[0].1, address);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_waits_to_be_sent_is_limited_on_each_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        limit_unsent(&listener, 54_321).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let limit = SockRef::from(&connection).tcp_notsent_lowat().unwrap();
        assert_eq!(limit, 54_321);
    }

    #[tokio::test]
    async fn a_file_is_not_replaced_by_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(Sockets::bind([&Listen::Unix(path)].into_iter(), UNSENT_BYTES).is_err());
    }
}
