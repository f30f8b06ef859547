//! The host of a cluster: resources come from the API server, and work is done by Jobs.

mod asked;
pub mod catalogue;
pub mod controllers;
pub mod events;
pub mod fence;
pub mod finalizer;
pub mod harvest;
pub mod history;
pub mod host;
pub mod job;
pub mod lease;
pub mod looks;
pub mod metrics;
pub mod objects;
pub mod operator;
pub mod pods;
pub mod record;
pub mod secrets;
pub mod start;
pub mod status;
pub mod wakes;
pub mod watch;

pub use host::KubernetesHost;
