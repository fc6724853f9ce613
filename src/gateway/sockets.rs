//! Listening sockets, bound before anything else starts.
//!
//! Pingora would bind them itself, but it tries a taken address for half a minute and then panics;
//! bound here, a failure is an error at once, and port 0 becomes the port that was given.

use crate::config::Listen;
use parking_lot::Mutex;
use pingora::server::{Fds, ListenFds};
use std::io;
use std::net::SocketAddr;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileTypeExt;
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
    /// Binds all addresses. It must run inside a Tokio runtime.
    pub fn bind<'a>(addresses: impl Iterator<Item = &'a Listen>) -> Result<Self, BindError> {
        let mut sockets = Self {
            fds: Fds::new(),
            bound: Vec::new(),
        };
        for address in addresses {
            let bound = sockets.bind_one(address).map_err(|source| BindError {
                address: address.clone(),
                source,
            })?;
            sockets.bound.push((address.clone(), bound));
        }
        Ok(sockets)
    }

    fn bind_one(&mut self, address: &Listen) -> io::Result<Listen> {
        match address {
            Listen::Tcp(tcp) => {
                let listener = bind_tcp(*tcp)?;
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

fn check_unix(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(io::Error::other("something that is not a socket is there"))
        }
        Ok(_) => Ok(()),
        Err(_) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => std::fs::metadata(parent).map(drop),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_an_error_at_once() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Listen::Tcp(taken.local_addr().unwrap());
        let error = Sockets::bind([&address].into_iter()).err().unwrap();
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[tokio::test]
    async fn port_0_becomes_a_port() {
        let address: Listen = "127.0.0.1:0".parse().unwrap();
        let sockets = Sockets::bind([&address].into_iter()).unwrap();
        assert_ne!(sockets.bound[0].1, address);
    }

    #[tokio::test]
    async fn a_file_is_not_replaced_by_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(Sockets::bind([&Listen::Unix(path)].into_iter()).is_err());
    }
}
