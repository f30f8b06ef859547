//! The MongoDB source: a native reader and restorer, without mongodump and mongorestore, whose
//! files those two accept all the same.
//!
//! | module | owns |
//! |---|---|
//! | `archive` | the archive format of mongodump |
//! | [`config`] | what to read and from where, as plain types |
//! | [`connect`] | a client from a secret URI; what kind of deployment answers |
//! | [`namespace`] | namespaces, include and exclude patterns, file names of a dump |
//! | [`digest`] | content digests that do not depend on order |
//! | [`restore`] | putting back: plan, conflicts, parallel load, comparison |
//! | [`error`] | what can go wrong, and what to do then |

pub(crate) mod archive;
pub mod config;
pub mod connect;
pub mod digest;
pub mod error;
pub mod namespace;
pub mod restore;

pub use config::MongodbConfig;
pub use error::MongodbError;
