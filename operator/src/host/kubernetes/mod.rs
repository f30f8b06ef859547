//! The host of a cluster: resources come from the API server, and work is done by Jobs.

pub mod job;
