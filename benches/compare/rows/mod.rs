//! What is measured. Each case starts a server of its own, measures it, and checks what it measured.

mod append;
mod batch;
mod catchup;
mod fill;
mod get;
mod growth;
mod h2load;
mod long_poll;
mod mixed;
mod sessions;
mod sizes;
mod sse;
mod streams;
mod sustained;
mod tls;
mod tls_live;
mod tls_sessions;
mod tls_sse;

pub(crate) use sizes::Sizes;

use crate::live::{JSON, TEXT};
use crate::servers::{Kind, Setup};
use crate::stats::{Figure, Target};
use std::io;
use std::time::Duration;

/// A row of the table; some have several cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// GET of a stream of 1 KiB by 32 connections.
    Get,
    /// The same by 512 connections.
    #[value(name = "get-512")]
    Get512,
    /// Durable appends of 256 bytes by 64 connections to one stream.
    #[value(name = "append-1")]
    Append1,
    /// The same to 100 streams.
    #[value(name = "append-100")]
    Append100,
    /// The same to 2,000 streams.
    #[value(name = "append-2000")]
    Append2000,
    /// The same to 100,000 streams.
    #[value(name = "append-100k")]
    Append100k,
    /// Appends at a given rate, the same for all servers.
    AppendRate,
    /// Appends of JSON arrays of 100 messages.
    AppendBatch,
    /// Idempotent producers with 5 requests on their way.
    Producers,
    /// Streams created, appended to 200 times, closed, and read whole.
    Sessions,
    /// Streams created, and nothing else.
    Create,
    /// Many small streams under a low limit of open files: creating, memory, restart.
    Streams,
    /// Many small streams: restart after a crash.
    Restart,
    /// 64 clients read a stream of 2 MiB.
    #[value(name = "catchup-2mb")]
    Catchup2mb,
    /// 64 clients read a stream of 200 MiB.
    #[value(name = "catchup-200mb")]
    Catchup200mb,
    /// 64 clients read a stream of 100,000 tiny appends.
    CatchupTiny,
    /// 64 clients read a stream of 100,000 JSON messages.
    CatchupJson,
    /// SSE readers: memory of each, and delivery to all.
    Sse,
    /// Long-polling readers of 10 and of 1,000 streams.
    LongPoll,
    /// Writers beside readers of history and of what is new.
    Mixed,
    /// Appends at a part of the peak for a long time.
    Sustained,
    /// Costs as streams become many, and one becomes long.
    Growth,
    /// GET over TLS and HTTP/2.
    TlsGet,
    /// Appends over TLS and HTTP/2.
    TlsAppend,
    /// Readers of 2 MiB over TLS and HTTP/2.
    TlsCatchup,
    /// Appends of JSON arrays of 100 messages over TLS and HTTP/2.
    TlsBatch,
    /// Sessions over TLS and HTTP/2.
    TlsSessions,
    /// Long-polling readers over TLS and HTTP/2.
    TlsLongPoll,
    /// SSE readers over TLS: memory of each, and delivery.
    TlsSse,
}

/// Measures one server once.
type Measure = Box<dyn Fn(&Setup, Kind, &Sizes) -> io::Result<Vec<Figure>>>;

/// One table of the report.
pub(crate) struct Case {
    pub(crate) title: String,
    /// The servers to measure; Headwater first, then the one it is compared with.
    pub(crate) servers: &'static [Kind],
    pub(crate) targets: Vec<Target>,
    pub(crate) measure: Measure,
}

const TWO: &[Kind] = &[Kind::Headwater, Kind::DurableStreams];
/// Where the slower servers are measured too.
const FOUR: &[Kind] = &[
    Kind::Headwater,
    Kind::DurableStreams,
    Kind::Axum,
    Kind::Node,
];
const TLS: &[Kind] = &[Kind::Headwater, Kind::Nginx];

impl Case {
    fn new(
        title: impl Into<String>,
        servers: &'static [Kind],
        targets: &[Target],
        measure: impl Fn(&Setup, Kind, &Sizes) -> io::Result<Vec<Figure>> + 'static,
    ) -> Self {
        Self {
            title: title.into(),
            servers,
            targets: targets.to_vec(),
            measure: Box::new(measure),
        }
    }
}

/// So many times the rate of the other, and no more processor time for each.
fn rate(ratio: f64) -> Vec<Target> {
    vec![
        Target::at_least("per second", ratio),
        Target::at_most("server CPU µs each", 1.0),
    ]
}

impl Row {
    pub(crate) fn cases(self, sizes: &Sizes) -> Vec<Case> {
        match self {
            Self::Get | Self::Get512 => vec![self.get()],
            Self::Append1 | Self::Append100 | Self::Append2000 | Self::Append100k => {
                vec![self.append()]
            }
            Self::AppendRate | Self::AppendBatch | Self::Producers => {
                vec![self.append_other(sizes)]
            }
            Self::Sessions => sessions_cases(sizes),
            Self::Create | Self::Streams | Self::Restart => self.create(sizes),
            Self::Catchup2mb | Self::Catchup200mb | Self::CatchupTiny | Self::CatchupJson => {
                self.catchup()
            }
            Self::Sse => sse_cases(sizes),
            Self::LongPoll => long_poll_cases(sizes),
            Self::Mixed | Self::Sustained | Self::Growth => self.long(sizes),
            Self::TlsGet
            | Self::TlsAppend
            | Self::TlsCatchup
            | Self::TlsBatch
            | Self::TlsSessions
            | Self::TlsLongPoll
            | Self::TlsSse => tls::cases(self),
        }
    }

    fn get(self) -> Case {
        let connections = if self == Self::Get { 32 } else { 512 };
        let title = format!("GET 1 KiB, {connections} connections");
        Case::new(title, FOUR, &rate(1.7), move |setup, kind, sizes| {
            get::measure(setup, kind, sizes, connections)
        })
    }

    fn append(self) -> Case {
        let (streams, servers, ratio) = match self {
            Self::Append1 => (1, FOUR, 1.2),
            Self::Append100 => (100, FOUR, 1.2),
            Self::Append2000 => (2000, TWO, 2.0),
            _ => (100_000, TWO, 2.0),
        };
        let mut targets = rate(ratio);
        if streams <= 100 {
            targets.push(Target::at_most("p99 ms", 1.0));
        }
        let title = format!("append 256 B, 64 connections, {}", many(streams, "stream"));
        Case::new(title, servers, &targets, move |setup, kind, sizes| {
            append::measure(setup, kind, sizes, streams)
        })
    }

    fn append_other(self, sizes: &Sizes) -> Case {
        match self {
            Self::AppendRate => {
                let rate = sizes.append_rate;
                let title = format!("append 256 B, {rate} a second given, 100 streams");
                let targets = [
                    Target::at_most("p99 ms", 1.0),
                    Target::at_most("server CPU µs each", 1.0),
                ];
                Case::new(title, TWO, &targets, append::measure_rate)
            }
            Self::AppendBatch => {
                let title = "append JSON arrays of 100 messages, 64 connections, 1 stream";
                Case::new(title, TWO, &rate(1.2), batch::measure)
            }
            _ => {
                let title = "append 256 B, 64 idempotent producers, 5 in flight, 64 streams";
                Case::new(title, TWO, &rate(1.2), append::measure_producers)
            }
        }
    }

    fn create(self, sizes: &Sizes) -> Vec<Case> {
        match self {
            Self::Create => {
                let title = format!("create {} streams, 64 connections", sizes.creates);
                vec![Case::new(title, FOUR, &rate(1.5), streams::measure_create)]
            }
            Self::Streams => {
                let title = format!("{} closed streams, 1,024 open files", sizes.streams);
                vec![Case::new(title, TWO, &[], streams::measure)]
            }
            _ => sizes
                .restart
                .iter()
                .map(|count| restart_case(*count))
                .collect(),
        }
    }

    fn catchup(self) -> Vec<Case> {
        let by_bytes = |mib: u64, ratio| {
            let title = format!("catch-up of {mib} MiB, 64 clients");
            let targets = [Target::at_least("MiB per second", ratio)];
            Case::new(title, TWO, &targets, move |setup, kind, sizes| {
                catchup::measure(setup, kind, sizes, mib << 20)
            })
        };
        let tiny = |closed| {
            let state = if closed { "closed" } else { "open" };
            let title = format!("catch-up of 100,000 tiny appends, {state}, 64 clients");
            Case::new(title, TWO, &[], move |setup, kind, sizes| {
                catchup::measure_tiny(setup, kind, sizes, closed)
            })
        };
        match self {
            Self::Catchup2mb => vec![by_bytes(2, 1.0)],
            Self::Catchup200mb => vec![by_bytes(200, 0.9)],
            Self::CatchupTiny => vec![tiny(false), tiny(true)],
            _ => {
                let title = "catch-up of 100,000 JSON messages, 64 clients";
                vec![Case::new(title, TWO, &[], catchup::measure_json)]
            }
        }
    }

    fn long(self, sizes: &Sizes) -> Vec<Case> {
        match self {
            Self::Mixed => {
                let mib = sizes.history_mib;
                let title = format!("appends beside readers of {mib} MiB and 100 SSE readers");
                vec![Case::new(title, TWO, &[], mixed::measure)]
            }
            Self::Sustained => {
                let seconds = sizes.sustained_seconds;
                let percent = sizes.sustained_percent;
                let title = format!("append 256 B at {percent} % of the peak for {seconds} s");
                vec![Case::new(title, TWO, &[], sustained::measure)]
            }
            _ => {
                let many = format!("growth to {} streams", sizes.growth_streams);
                let long = format!("growth of one stream to {} MiB", sizes.growth_mib);
                vec![
                    Case::new(many, TWO, &[], growth::measure_streams),
                    Case::new(long, TWO, &[], growth::measure_length),
                ]
            }
        }
    }
}

fn restart_case(count: usize) -> Case {
    let mut targets = vec![Target::at_most("restart ms", 1.0 / 1.5)];
    if count >= 1_000_000 {
        targets = vec![Target::below("restart ms", 1000.0)];
    }
    let title = format!("{count} closed streams, restart");
    Case::new(title, TWO, &targets, move |setup, kind, _| {
        streams::measure_restart(setup, kind, count)
    })
}

fn sessions_cases(sizes: &Sizes) -> Vec<Case> {
    let case = |count: &usize| {
        let count = *count;
        let title = format!("sessions of 200 appends, {count} at once");
        let servers = if count == 64 { FOUR } else { TWO };
        let targets = [Target::at_least("sessions per second", 2.0)];
        Case::new(title, servers, &targets, move |setup, kind, sizes| {
            sessions::measure(setup, kind, sizes, count)
        })
    };
    sizes.sessions.iter().map(case).collect()
}

/// What both servers can deliver to their readers in a second, on two cores.
const DELIVERIES_PER_SECOND: f64 = 30_000.0;
const EVENTS_PER_SECOND: f64 = 50.0;
const READERS_OF_JSON: usize = 100;

fn sse_cases(sizes: &Sizes) -> Vec<Case> {
    let case = |count: usize, content_type| {
        let per_second = (DELIVERIES_PER_SECOND / count as f64).clamp(1.0, EVENTS_PER_SECOND);
        let readers = many(count, "SSE reader");
        let json = if content_type == JSON { " of JSON" } else { "" };
        let title = format!("{readers}{json}, {per_second} events a second");
        let mut targets = vec![Target::at_most("server CPU µs per delivery", 1.0)];
        if count >= 1000 {
            targets.push(Target::at_most("delivery p99 ms", 1.0));
            targets.push(Target::below("KiB per reader, idle", 8.0));
        }
        let servers = if count == 100 && content_type == TEXT {
            FOUR
        } else {
            TWO
        };
        Case::new(title, servers, &targets, move |setup, kind, sizes| {
            sse::measure(setup, kind, sizes, (count, content_type), per_second)
        })
    };
    let text = sizes.readers.iter().map(|count| case(*count, TEXT));
    let json = sizes.readers.contains(&READERS_OF_JSON);
    text.chain(json.then(|| case(READERS_OF_JSON, JSON)))
        .collect()
}

fn long_poll_cases(sizes: &Sizes) -> Vec<Case> {
    let case = |(streams, connections): (usize, usize)| {
        let title = format!("long-poll, {streams} streams, {connections} connections");
        let targets = [
            Target::at_most("delivery p99 ms", 1.0),
            Target::at_most("server CPU µs per delivery", 1.0),
        ];
        Case::new(title, TWO, &targets, move |setup, kind, sizes| {
            long_poll::measure(setup, kind, sizes, streams, connections)
        })
    };
    let polls = sizes.polls.iter();
    polls
        .flat_map(|connections| [(10, *connections), (1000, (*connections).max(1000))])
        .map(case)
        .collect()
}

/// A number of things.
fn many(count: usize, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{plural}")
}

/// Connections of a load, where nothing else is said.
const CONNECTIONS: usize = 64;
/// Files that a server may open where that is not what is measured.
const FILES_MAX: u32 = 4096;
/// For how long a server is used before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// For a load that ends by itself.
const TIME_MAX: Duration = Duration::from_mins(10);

fn failed(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
