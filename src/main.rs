//! The `headwater` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    headwater::cli::main(|config, hangup| {
        headwater::server::run(config, hangup).map_err(Into::into)
    })
}
