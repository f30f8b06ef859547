//! A TCP proxy on loopback that can misbehave as networks do: cut connections
//! after so many bytes, stand still, refuse, be slow.
//!
//! Put it before an S3 or SSH server. A MongoDB driver leaves it again for the
//! addresses that the replica set names, unless `directConnection=true`.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports;

/// What the proxy does to its connections, those that are open too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Passes everything on.
    Fine,
    /// Passes nothing on and says nothing.
    Stalled,
    /// Cuts every connection, and new ones at once.
    Cut,
    /// Waits this long before each piece it passes on.
    Slow(Duration),
}

/// A running proxy. Dropping it cuts its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mood: watch::Sender<Mood>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes passed on, both ways.
    passed: AtomicU64,
    /// At so many bytes the mood becomes `Cut`, once.
    cut_at: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    /// Starts one before a port on 127.0.0.1. It lives in the current runtime.
    pub async fn start(target: u16) -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listening on port {port}"))?;
        let (mood, moods) = watch::channel(Mood::Fine);
        let shared = Arc::new(Shared {
            passed: AtomicU64::new(0),
            cut_at: AtomicU64::new(u64::MAX),
            connections: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(
            listener,
            target,
            mood.clone(),
            moods,
            shared.clone(),
        ));
        Ok(Self {
            port,
            mood,
            shared,
            task,
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does from here on.
    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Cuts everything, once, when so many more bytes have passed; new
    /// connections are refused until [`Proxy::set`] says otherwise.
    pub fn cut_after(&self, bytes: u64) {
        self.shared
            .cut_at
            .store(self.passed() + bytes, Ordering::Relaxed);
    }

    /// Bytes passed on so far, both ways together.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mood.send_replace(Mood::Cut);
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    target: u16,
    mood: watch::Sender<Mood>,
    moods: watch::Receiver<Mood>,
    shared: Arc<Shared>,
) {
    while let Ok((client, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::Relaxed);
        if *moods.borrow() == Mood::Cut {
            continue;
        }
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
            continue;
        };
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        for (from, to) in [(from_client, to_server), (from_server, to_client)] {
            tokio::spawn(pass(from, to, mood.clone(), moods.clone(), shared.clone()));
        }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mood: watch::Sender<Mood>,
    mut moods: watch::Receiver<Mood>,
    shared: Arc<Shared>,
) {
    let mut cut = moods.clone();
    let pump = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            let now = moods
                .wait_for(|mood| *mood != Mood::Stalled)
                .await
                .map(|mood| *mood);
            if let Ok(Mood::Slow(wait)) = now {
                tokio::time::sleep(wait).await;
            }
            let passed = shared.passed.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
            if passed >= shared.cut_at.load(Ordering::Relaxed) {
                shared.cut_at.store(u64::MAX, Ordering::Relaxed);
                mood.send_replace(Mood::Cut);
                return;
            }
            if now.is_err() || to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::select! {
        () = pump => {}
        _ = cut.wait_for(|mood| *mood == Mood::Cut) => {}
    }
}
