//! Listening sockets, bound before anything else starts.
//!
//! Pingora would bind them itself, but it tries a taken address for half a minute and then panics;
//! bound here, a failure is an error at once, and port 0 becomes the port that was given.

use crate::config::Listen;
use parking_lot::Mutex;
use pingora::server::{Fds, ListenFds};
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
    pub fn bind(addresses: &[&Listen], unsent_bytes_max: u64) -> Result<Self, BindError> {
        let mut sockets = Self {
            fds: Fds::new(),
            bound: Vec::new(),
        };
        for &address in addresses {
            let only_v6 = addresses.iter().any(|other| is_v4_beside(other, address));
            let bound = sockets
                .bind_one(address, only_v6, unsent_bytes_max)
                .map_err(|source| BindError {
                    address: address.clone(),
                    source,
                })?;
            sockets.bound.push((address.clone(), bound));
        }
        Ok(sockets)
    }

    fn bind_one(
        &mut self,
        address: &Listen,
        only_v6: bool,
        unsent_bytes_max: u64,
    ) -> io::Result<Listen> {
        match address {
            Listen::Tcp(tcp) => {
                let listener = bind_tcp(*tcp, only_v6)?;
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

/// Whether `other` takes the connections by IPv4 that `address`, at the same port, would take too.
fn is_v4_beside(other: &Listen, address: &Listen) -> bool {
    match (other, address) {
        (Listen::Tcp(SocketAddr::V4(other)), Listen::Tcp(SocketAddr::V6(address))) => {
            other.port() == address.port() && address.port() != 0
        }
        _ => false,
    }
}

/// `[::]` is every address of IPv4 too, whatever the system's default, but for `only_v6`.
fn bind_tcp(address: SocketAddr, only_v6: bool) -> io::Result<std::net::TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() {
        SockRef::from(&socket).set_only_v6(only_v6)?;
    }
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
        let error = Sockets::bind(&[&address], UNSENT_BYTES).err().unwrap();
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
    async fn every_address_is_both_families_where_the_other_is_not_listened_at() {
        let Ok(both) = bind_tcp("[::]:0".parse().unwrap(), false) else {
            return; // No IPv6 here.
        };
        let v6 = both.local_addr().unwrap();
        let v4 = SocketAddr::from(([127, 0, 0, 1], v6.port()));
        std::net::TcpStream::connect(v4).unwrap();
        drop(both);
        let (v4, v6) = (Listen::Tcp(v4), Listen::Tcp(v6));
        Sockets::bind(&[&v6, &v4], UNSENT_BYTES).unwrap();
    }

    #[tokio::test]
    async fn port_0_becomes_a_port() {
        let address: Listen = "127.0.0.1:0".parse().unwrap();
        let sockets = Sockets::bind(&[&address], UNSENT_BYTES).unwrap();
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
        assert!(Sockets::bind(&[&Listen::Unix(path)], UNSENT_BYTES).is_err());
    }
}
