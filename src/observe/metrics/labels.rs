//! The label values that are known in advance, each with its place in an array of counters.

/// How many [`Method`]s there are.
pub(super) const METHODS: usize = 7;
/// How many [`Mode`]s there are.
pub(super) const MODES: usize = 4;

/// A request's method, as the label `method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Head,
    Put,
    Post,
    Delete,
    Options,
    /// Any other, so that a client cannot make series by inventing methods.
    Other,
}

impl Method {
    /// All of them, in the order of their places.
    pub const ALL: [Self; METHODS] = [
        Self::Get,
        Self::Head,
        Self::Put,
        Self::Post,
        Self::Delete,
        Self::Options,
        Self::Other,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "other",
        }
    }
}

impl From<&http::Method> for Method {
    fn from(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self::Get,
            http::Method::HEAD => Self::Head,
            http::Method::PUT => Self::Put,
            http::Method::POST => Self::Post,
            http::Method::DELETE => Self::Delete,
            http::Method::OPTIONS => Self::Options,
            _ => Self::Other,
        }
    }
}

/// How a request reads, as the label `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A read that answers with what is there.
    CatchUp,
    /// A read that waits for the next append.
    LongPoll,
    /// A read that stays open and is sent each append.
    Sse,
    /// Not a read of a stream: writes, HEAD, OPTIONS, refused and unrouted requests.
    None,
}

impl Mode {
    /// All of them, in the order of their places.
    pub const ALL: [Self; MODES] = [Self::CatchUp, Self::LongPoll, Self::Sse, Self::None];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CatchUp => "catch_up",
            Self::LongPoll => "long_poll",
            Self::Sse => "sse",
            Self::None => "none",
        }
    }
}

/// The modes in which a reader waits at a stream's tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    LongPoll,
    Sse,
}

impl Live {
    /// Both, in the order of their places.
    pub const ALL: [Self; 2] = [Self::LongPoll, Self::Sse];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        Mode::from(self).as_str()
    }
}

impl From<Live> for Mode {
    fn from(live: Live) -> Self {
        match live {
            Live::LongPoll => Self::LongPoll,
            Live::Sse => Self::Sse,
        }
    }
}

/// Which limit refused a connection or a request, as the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The limit of open connections.
    Connections,
    /// The limit of open connections from one address.
    ConnectionsPerAddress,
    /// The limit of a request body's size.
    Body,
    /// The memory for all request bodies that are being received, or the turns at framing long ones.
    BodyMemory,
    /// The committer's queue was full.
    Queue,
    /// The limit of live readers.
    Readers,
    /// The limit of idempotent producers of one stream.
    Producers,
    /// The limit of streams that a fork inherits from.
    ForkDepth,
    /// The limit of recordings, in all or of one caller.
    Recordings,
    /// The limit of answers that are fetched at one time, from the store or from origins.
    Fetches,
    /// The limit of streams that are followed.
    FollowedStreams,
}

impl Refusal {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 11] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::Body,
        Self::BodyMemory,
        Self::Queue,
        Self::Readers,
        Self::Producers,
        Self::ForkDepth,
        Self::Recordings,
        Self::Fetches,
        Self::FollowedStreams,
    ];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Body => "body",
            Self::BodyMemory => "body_memory",
            Self::Queue => "queue",
            Self::Readers => "readers",
            Self::Producers => "producers",
            Self::ForkDepth => "fork_depth",
            Self::Recordings => "recordings",
            Self::Fetches => "fetches",
            Self::FollowedStreams => "followed_streams",
        }
    }
}

/// The statuses that have a series of their own: those the server answers with, and those an
/// upstream commonly does. The rest is counted by class.
const STATUSES: [(u16, &str); 36] = [
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (204, "204"),
    (206, "206"),
    (301, "301"),
    (302, "302"),
    (303, "303"),
    (304, "304"),
    (307, "307"),
    (308, "308"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (409, "409"),
    (410, "410"),
    (411, "411"),
    (412, "412"),
    (413, "413"),
    (414, "414"),
    (415, "415"),
    (422, "422"),
    (429, "429"),
    (431, "431"),
    (499, "499"),
    (500, "500"),
    (501, "501"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    (508, "508"),
];

/// The labels of statuses without a series of their own, by their first digit.
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// How many places [`status_slot`] can answer with.
pub(super) const STATUS_SLOTS: usize = STATUSES.len() + CLASSES.len();

/// The place of each status below 600. A table, because a request should cost one load here and not
/// a search.
static SLOT_OF_STATUS: [u8; 600] = slots();

const fn slots() -> [u8; 600] {
    let mut table = [0_u8; 600];
    let mut status = 0;
    while status < table.len() {
        table[status] = (STATUSES.len() + status / 100) as u8;
        status += 1;
    }
    let mut known = 0;
    while known < STATUSES.len() {
        table[STATUSES[known].0 as usize] = known as u8;
        known += 1;
    }
    table
}

/// The place of `status` among the [`STATUS_SLOTS`] counters of a method and mode.
pub(super) fn status_slot(status: u16) -> usize {
    SLOT_OF_STATUS
        .get(usize::from(status))
        .map_or(STATUSES.len(), |slot| usize::from(*slot))
}

/// The label's value for a place that [`status_slot`] gave.
pub(super) fn status_label(slot: usize) -> &'static str {
    match STATUSES.get(slot) {
        Some((_, label)) => label,
        None => CLASSES[slot - STATUSES.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_own_label_or_that_of_its_class() {
        let known: Vec<u16> = STATUSES.iter().map(|(status, _)| *status).collect();
        for status in 0..=u16::MAX {
            let label = status_label(status_slot(status));
            let expected = match status {
                _ if known.contains(&status) => status.to_string(),
                100..=599 => format!("{}xx", status / 100),
                _ => "other".to_owned(),
            };
            assert_eq!(label, expected, "for {status}");
        }
    }

    #[test]
    fn places_follow_the_order_of_all() {
        for (place, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, place);
        }
        for (place, mode) in Mode::ALL.into_iter().enumerate() {
            assert_eq!(mode as usize, place);
        }
        for (place, live) in Live::ALL.into_iter().enumerate() {
            assert_eq!(live as usize, place);
        }
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, place);
        }
    }

    #[test]
    fn an_invented_method_is_other() {
        let invented = http::Method::from_bytes(b"BREW").unwrap();
        assert_eq!(Method::from(&invented), Method::Other);
        for method in Method::ALL {
            if method != Method::Other {
                let parsed = http::Method::from_bytes(method.as_str().as_bytes()).unwrap();
                assert_eq!(Method::from(&parsed), method);
            }
        }
    }
}
