//! Servers that all tests of one binary share: started by the first that asks,
//! killed (by the janitor) when the binary ends. A test keeps to databases,
//! buckets and folders with names of its own; see [`unique`].

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tokio::sync::OnceCell;

use crate::Workdir;
use crate::cluster::{Cluster, Level};
use crate::mongod::{ReplicaSet, Standalone};
use crate::s3::S3;
use crate::skips::skip;
use crate::sshd::Sshd;

static REPLICA_SET: OnceCell<(Workdir, ReplicaSet)> = OnceCell::const_new();
static TARGET: OnceCell<(Workdir, ReplicaSet)> = OnceCell::const_new();
static STANDALONE: OnceCell<(Workdir, Standalone)> = OnceCell::const_new();
static OBJECTS: OnceCell<(Workdir, S3)> = OnceCell::const_new();
static API: OnceCell<Cluster> = OnceCell::const_new();
static CLUSTER: OnceCell<Option<Cluster>> = OnceCell::const_new();
static SSHD: OnceCell<(Workdir, Sshd)> = OnceCell::const_new();

/// A replica set of one node, without passwords: what is backed up.
pub async fn replica_set() -> Result<&'static ReplicaSet> {
    let (_, server) = REPLICA_SET
        .get_or_try_init(|| async {
            let dir = Workdir::new()?;
            let server = ReplicaSet::start(&dir).await?;
            anyhow::Ok((dir, server))
        })
        .await?;
    Ok(server)
}

/// Another one: what is restored to.
pub async fn target() -> Result<&'static ReplicaSet> {
    let (_, server) = TARGET
        .get_or_try_init(|| async {
            let dir = Workdir::new()?;
            let server = ReplicaSet::start(&dir).await?;
            anyhow::Ok((dir, server))
        })
        .await?;
    Ok(server)
}

/// A standalone server without passwords.
pub async fn standalone() -> Result<&'static Standalone> {
    let (_, server) = STANDALONE
        .get_or_try_init(|| async {
            let dir = Workdir::new()?;
            let server = Standalone::start(&dir).await?;
            anyhow::Ok((dir, server))
        })
        .await?;
    Ok(server)
}

/// An S3 server.
pub async fn s3() -> Result<&'static S3> {
    let (_, server) = OBJECTS
        .get_or_try_init(|| async {
            let dir = Workdir::new()?;
            let server = S3::start(&dir).await?;
            anyhow::Ok((dir, server))
        })
        .await?;
    Ok(server)
}

/// An SSH server that takes keys.
pub async fn sshd() -> Result<&'static Sshd> {
    let (_, server) = SSHD
        .get_or_try_init(|| async {
            let dir = Workdir::new()?;
            let server = Sshd::start(&dir).await?;
            anyhow::Ok((dir, server))
        })
        .await?;
    Ok(server)
}

/// A Kubernetes API with its controllers, but no node. A test keeps to
/// [namespaces of its own](Cluster::namespace).
pub async fn api() -> Result<&'static Cluster> {
    API.get_or_try_init(|| Cluster::start(Level::Api)).await
}

/// A Kubernetes cluster with a node; `None`, and [a word](skip) of which test is
/// skipped and why, where this machine cannot run one.
pub async fn cluster(test: &str) -> Result<Option<&'static Cluster>> {
    let cluster = CLUSTER
        .get_or_try_init(|| async {
            match Cluster::refusal().await? {
                Some(_) => anyhow::Ok(None),
                None => Cluster::start(Level::Node).await.map(Some),
            }
        })
        .await?;
    if cluster.is_none()
        && let Some(reason) = Cluster::refusal().await?
    {
        skip(test, &reason);
    }
    Ok(cluster.as_ref())
}

/// `stem` with a number that no other caller in this process gets; good as the
/// name of a database, a bucket or a folder.
pub fn unique(stem: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(1);
    format!("{stem}-{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}
