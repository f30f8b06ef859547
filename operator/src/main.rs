//! The `holdfast` binary.

use std::process::ExitCode;

/// A run passes blobs of some MiB between threads. glibc keeps what one thread frees for that
/// thread's arena, and the process grows with the number of threads; see BENCHMARKS.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    holdfast::cli::main()
}
