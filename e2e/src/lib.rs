//! The harness of the end-to-end tests: it starts real servers on loopback,
//! each on its own free port and in its own folder, drives the real `holdfast`
//! binary and the stock tools, and stops exactly what it started.
//!
//! Where the programs come from: run `e2e/setup` once.

pub mod command;
mod janitor;
pub mod mongod;
pub mod ports;
pub mod process;
pub mod s3;
pub mod shared;
pub mod ssh_agent;
pub mod sshd;
pub mod workdir;

pub use command::Output;
pub use workdir::Workdir;
