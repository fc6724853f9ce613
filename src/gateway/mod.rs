//! The gateway: listeners, TLS, routing, and the way between Pingora's sessions and `serve`.

mod admission;
mod bare;
mod body;
mod connection;
mod crowd;
mod edge;
mod events;
mod facts;
mod following;
mod forward;
mod head;
mod http10;
mod keeping;
mod listen;
mod plain;
mod playing;
mod proxy_protocol;
mod receiving;
mod record;
mod recordings;
mod respond;
mod routes;
mod session;
mod slowest;
mod sockets;
mod tls;
mod unread;
mod upgrade;
mod wire;

pub use listen::{Connections, ListenError, Listeners, listeners};
pub use routes::Routes;
pub use session::Gateway;
pub use sockets::{BindError, Sockets};
pub use tls::{Certificates, TlsError};
