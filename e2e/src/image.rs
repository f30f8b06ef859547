//! The root filesystem of the image, as the Dockerfile assembles it, and the binary run inside it. There is
//! no container engine where the tests run, and none is needed: a changed root is what the image is about.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::UdpSocket;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::command::{self, Output};
use crate::helm::project;
use crate::{Workdir, holdfast};

/// The account of the image.
pub const USER: u32 = 65532;

const LIMIT: Duration = Duration::from_secs(300);

/// An assembled root filesystem.
#[derive(Debug)]
pub struct Image {
    dir: Workdir,
}

impl Image {
    /// Assembles it from the binary under test and this machine's libraries.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn assemble() -> Result<Self> {
        let image = Self {
            dir: Workdir::new()?,
        };
        let mut script = Command::new(project().join("e2e/cluster/rootfs"));
        script
            .arg("--binary")
            .arg(holdfast::binary()?)
            .arg("--out")
            .arg(image.root());
        command::run(script, None, LIMIT).await?.ok()?;
        Ok(image)
    }

    /// The root.
    pub fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// A path of the image as this machine sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.root().join(inside.trim_start_matches('/'))
    }

    /// Writes a file into it, for the image's account to read and write.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, inside: &str, text: &str) -> Result<()> {
        let path = self.path(inside);
        let folder = path.parent().context("a file of the root")?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(&path, text).with_context(|| format!("writing {inside} of the image"))
    }

    /// Gives a folder and all in it to the image's account.
    ///
    /// # Errors
    /// When this is not root.
    pub fn give(&self, inside: &str) -> Result<()> {
        fn give(path: &Path) -> Result<()> {
            std::os::unix::fs::lchown(path, Some(USER), Some(USER))?;
            if path.is_dir() {
                for entry in std::fs::read_dir(path)? {
                    give(&entry?.path())?;
                }
            }
            Ok(())
        }
        give(&self.path(inside)).with_context(|| format!("giving {inside} away"))
    }

    /// Runs a program of the image in it, as its account, with the environment that the Dockerfile sets, and
    /// with `/proc`, as every container has it.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub async fn run<I, S>(&self, args: I) -> Result<Output>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut proc = std::ffi::OsString::from("--mount-proc=");
        proc.push(self.path("proc"));
        let mut inside = Command::new(command::find("unshare")?);
        inside
            .args(["--mount", "--pid", "--fork", "--kill-child"])
            .arg(proc)
            .arg(command::find("chroot")?)
            .arg(format!("--userspec={USER}:{USER}"))
            .arg(self.root())
            .args(args)
            .env_clear()
            .envs(environment()?);
        command::run(inside, None, LIMIT).await
    }
}

/// The `ENV` of the Dockerfile.
///
/// # Errors
/// When it has none.
pub fn environment() -> Result<Vec<(String, String)>> {
    let file = std::fs::read_to_string(project().join("Dockerfile"))?.replace("\\\n", " ");
    let last = file.rsplit("\nFROM ").next().unwrap_or_default();
    let environment: Vec<(String, String)> = last
        .lines()
        .filter_map(|line| line.strip_prefix("ENV "))
        .flat_map(str::split_whitespace)
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    ensure!(
        !environment.is_empty(),
        "the Dockerfile sets no environment"
    );
    Ok(environment)
}

/// A name server that knows one name: it is at 127.0.0.1. It ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    address: Ipv4Addr,
    task: JoinHandle<()>,
}

impl NameServer {
    /// Starts one; port 53 needs root.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start(name: &'static str) -> Result<Self> {
        // Of the loopback addresses, one that no resolver of the machine has; the process makes it its own.
        let number = std::process::id();
        let address = Ipv4Addr::new(
            127,
            53,
            (number >> 8 & 0xff) as u8,
            (number & 0xfe | 1) as u8,
        );
        let socket = UdpSocket::bind(SocketAddr::from((address, 53)))
            .await
            .with_context(|| format!("listening on {address}:53"))?;
        let task = tokio::spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                if let Some(answer) = answer(&query[..length], name) {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Ok(Self { address, task })
    }

    /// The line of `resolv.conf` that names it.
    pub fn resolv_conf(&self) -> String {
        format!("nameserver {}\n", self.address)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The answer to one question: an address for A, nothing for AAAA, "no such name" for other names.
fn answer(query: &[u8], known: &str) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let question = query.get(12..at + 4)?;
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    let right = labels.join(".") == known;
    let address = right && kind == 1;
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, if right { 0x80 } else { 0x83 }]);
    answer.extend([0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    answer.extend(question);
    if address {
        // The name by its place in the question, A, IN, no time to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}
