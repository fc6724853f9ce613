//! The `headwater` binary.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    headwater::cli::main(|config| headwater::server::run(config).map_err(Into::into))
}
