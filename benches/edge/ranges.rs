//! The same immutable bytes from the edge's memory and from nginx's proxy cache.

use crate::decode::Head;
use crate::http::{self, Client};
use crate::load::{Load, Workload};
use crate::median;
use crate::net::World;
use crate::served::Served;
use std::io;
use std::time::{Duration, Instant};

const STREAM: &str = "range";
const CONNECTIONS: usize = 32;
const SIZES: [usize; 2] = [1 << 10, 1 << 20];
const WARM_UP: Duration = Duration::from_millis(500);

/// Asks for one range again and again, and looks at every byte.
struct Get<'a> {
    body: &'a [u8],
    request: Vec<u8>,
    /// How much of the present answer each connection has.
    read: Vec<usize>,
}

impl Workload for Get<'_> {
    fn next(&mut self, _: usize, _: Instant, request: &mut Vec<u8>) -> bool {
        request.extend_from_slice(&self.request);
        true
    }

    fn body(&mut self, connection: usize, piece: &[u8]) -> Result<(), String> {
        let read = &mut self.read[connection];
        let expected = self.body.get(*read..*read + piece.len());
        *read += piece.len();
        match expected {
            Some(expected) if expected == piece => Ok(()),
            _ => Err("a range was answered with other content".to_owned()),
        }
    }

    fn answered(&mut self, connection: usize, head: Head<'_>) -> Result<(), String> {
        let read = std::mem::take(&mut self.read[connection]);
        if head.status == 200 && read == self.body.len() {
            return Ok(());
        }
        let status = head.status;
        Err(format!("a range was answered with {status}, {read} bytes"))
    }
}

/// Requests a second, and processor time for each.
struct Measured {
    per_second: f64,
    cpu_us: f64,
}

pub(crate) fn measure(world: &World, time: Duration, rounds: usize) -> io::Result<()> {
    println!("Immutable ranges, {CONNECTIONS} connections (medians of {rounds} runs, in turns)\n");
    println!(
        "| size | edge per second | nginx per second | ratio | edge CPU µs each | nginx CPU µs each |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for size in SIZES {
        let origin = world.origin()?;
        let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let mut client = Client::connect(origin.address)?;
        client.create(STREAM, "application/octet-stream", &body)?;
        client.request("POST", STREAM, "Stream-Closed: true\r\n", b"")?;
        let (edge, nginx) = (world.edge(&origin)?, world.nginx(&origin)?);
        let mut runs = Vec::new();
        for _ in 0..rounds {
            runs.push((run(&edge, &body, time)?, run(&nginx, &body, time)?));
        }
        let of = |pick: fn(&(Measured, Measured)) -> f64| median(runs.iter().map(pick).collect());
        println!(
            "| {} KiB | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} |",
            size >> 10,
            of(|run| run.0.per_second),
            of(|run| run.1.per_second),
            of(|run| run.0.per_second / run.1.per_second),
            of(|run| run.0.cpu_us),
            of(|run| run.1.cpu_us),
        );
    }
    println!();
    Ok(())
}

fn run(server: &Served, body: &[u8], time: Duration) -> io::Result<Measured> {
    let mut get = Get {
        body,
        request: Vec::new(),
        read: vec![0; CONNECTIONS],
    };
    http::put_head(&mut get.request, "GET", &format!("{STREAM}?offset=-1"), "");
    let load = |time| Load::closed(server.address, CONNECTIONS, time);
    load(WARM_UP).run(&mut get)?.complete()?;
    let before = server.usage()?.cpu;
    let outcome = load(time).run(&mut get)?.complete()?;
    let cpu = server.usage()?.cpu.saturating_sub(before).as_secs_f64();
    Ok(Measured {
        per_second: outcome.rate(),
        cpu_us: cpu * 1e6 / outcome.operations as f64,
    })
}
