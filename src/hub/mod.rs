//! Who waits for what: the durable tails of streams, their recent appends, and their readers.
//!
//! The log publishes here what has become durable; readers subscribe before they read.

mod fanout;
mod follower;
mod ring;
mod tail;

pub use fanout::EncodedKey;
pub use follower::{Follower, Handover};
pub use ring::{HotBytes, Run};
pub use tail::{CROWD, Tail, View};
