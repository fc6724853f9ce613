//! Who waits for what: the durable tails of streams, their recent appends, and their readers.
//!
//! The log publishes here what has become durable; readers subscribe before they read.

mod fanout;
mod ring;
mod tail;

pub use fanout::EncodedKey;
pub use ring::{HotBytes, Run};
pub use tail::{CROWD, Tail, View};
