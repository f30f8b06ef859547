//! Free loopback ports that nobody else takes between the asking and the use.
//!
//! They come from below the kernel's ephemeral range, so that no outgoing
//! connection lands on one, and each is held by a file lock for as long as
//! this process lives, so that two test binaries never choose the same.

use std::collections::HashMap;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

use anyhow::{Result, bail};

const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

static TAKEN: Mutex<Option<HashMap<u16, Option<File>>>> = Mutex::new(None);

/// A free TCP port on 127.0.0.1, this process's own until it ends.
pub fn free() -> Result<u16> {
    let mut taken = TAKEN
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let taken = taken.get_or_insert_with(HashMap::new);
    let span = u32::from(LAST - FIRST);
    let start = std::process::id().wrapping_mul(7919) % span;
    let locks = std::env::temp_dir().join("holdfast-e2e-ports");
    let _ = std::fs::create_dir_all(&locks);
    for step in 0..span {
        let port = FIRST + u16::try_from((start + step) % span)?;
        if taken.contains_key(&port) {
            continue;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(locks.join(port.to_string()))
            .ok();
        if lock.as_ref().is_some_and(|file| file.try_lock().is_err()) {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port, lock);
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {LAST} on 127.0.0.1")
}
