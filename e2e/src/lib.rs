//! The harness of the end-to-end tests: it starts real servers on loopback,
//! each on its own free port and in its own folder, drives the real `holdfast`
//! binary and the stock tools, and stops exactly what it started.
//!
//! Where the programs come from: run `e2e/setup` once.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use holdfast_e2e::{Workdir, Workspace, mongod::ReplicaSet};
//!
//! let dir = Workdir::new()?;
//! let server = ReplicaSet::start(&dir).await?;
//! let workspace = Workspace::new()?;
//! workspace.local_destination("disk")?;
//! workspace.mongodb_policy("shop", &server.uri(), &["disk"])?;
//! workspace.holdfast(["run", "--once", "policies"]).await?.ok()?;
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod bank;
pub mod bson_bytes;
pub mod cluster;
pub mod command;
pub mod compare;
pub mod dataset;
pub mod helm;
pub mod holdfast;
pub mod image;
mod janitor;
pub mod mongod;
pub mod operator;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod random;
pub mod s3;
pub mod scale;
pub mod shared;
pub mod skips;
pub mod snapshots;
pub mod ssh_agent;
pub mod sshd;
pub mod tools;
pub mod workdir;

pub use cluster::Cluster;
pub use command::Output;
pub use holdfast::Workspace;
pub use workdir::Workdir;
