//! A server that is a child process: its own process group, its own log, and
//! gone when its guard is dropped.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What can be sent to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Please end.
    Term,
    /// Please end (as from a keyboard).
    Int,
    /// Reload.
    Hup,
    /// End now.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// A running child process. Dropping it kills it, with all its descendants,
/// and waits until it is gone.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Server {
    /// Starts a program in a process group of its own. What it prints is
    /// appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening the log {}", log.display()))?;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing the log")?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}: {}", crate::command::show(&command)))?;
        crate::janitor::group_started(child.id());
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
            ended: None,
        })
    }

    /// Should the test binary end first, it is asked to end and given time,
    /// where others are killed: it has something of its own to clean up.
    pub fn ends_gently(&self) {
        crate::janitor::ends_gently(self.child.id());
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All it has printed so far.
    pub fn printed(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        crate::command::tail(&self.printed(), lines)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .with_context(|| format!("asking after {}", self.name))?;
            if self.ended.is_some() {
                crate::janitor::group_gone(self.child.id());
            }
        }
        Ok(self.ended)
    }

    /// An error with the log's tail if it has ended.
    pub fn alive(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended ({status}); its log ends with:\n{}",
                self.name,
                self.log_tail(30)
            ),
        }
    }

    /// Tries again and again until `probe` gives something. Fails with the
    /// log's tail when the process ends or the limit has passed.
    pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            self.alive()
                .with_context(|| format!("waiting for {what}"))?;
            match probe().await {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(error) => last = Some(error),
            }
            if Instant::now() >= deadline {
                let tail = self.log_tail(30);
                let why = last.map(|error| format!("{error:#}; ")).unwrap_or_default();
                bail!(
                    "{}: no {what} within {} s: {why}its log ends with:\n{tail}",
                    self.name,
                    limit.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until the port on 127.0.0.1 accepts a connection.
    pub async fn until_listening(&mut self, port: u16, limit: Duration) -> Result<()> {
        self.until("answer on its port", limit, || async {
            let address = (std::net::Ipv4Addr::LOCALHOST, port);
            Ok(tokio::net::TcpStream::connect(address).await.ok().map(drop))
        })
        .await
    }

    /// Sends a signal to the process alone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        send(signal, &self.child.id().to_string());
        Ok(())
    }

    /// SIGKILL to it and to every descendant, those in other sessions too;
    /// returns when it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        let id = self.child.id();
        let family = descendants(id);
        // The process was not waited for yet, so its id and its group's are its own.
        send(Signal::Kill, &format!("-{id}"));
        for member in family {
            send(Signal::Kill, &member.to_string());
        }
        self.ended = Some(
            self.child
                .wait()
                .with_context(|| format!("waiting for {}", self.name))?,
        );
        crate::janitor::group_gone(id);
        Ok(())
    }

    /// SIGTERM, then waits; SIGKILL and an error when it is not gone in time.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term)?;
        match self.wait(limit).await? {
            Some(status) => Ok(status),
            None => {
                let tail = self.log_tail(20);
                self.kill9()?;
                bail!(
                    "{} did not end within {} s of SIGTERM; its log ends with:\n{tail}",
                    self.name,
                    limit.as_secs()
                )
            }
        }
    }

    /// Waits for its end, at most so long; `None` when it is still running.
    pub async fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// Sends a signal through the shell's own `kill`: no other safe way in `std`.
fn send(signal: Signal, target: &str) {
    let _ = Command::new("sh")
        .args([
            "-c",
            "kill -s \"$1\" -- \"$2\"",
            "sh",
            signal.name(),
            target,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// The processes that descend from this one, read from /proc.
pub(crate) fn descendants(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // "1234 (name that may hold anything) S 1 …"
        let parent = stat
            .rsplit_once(") ")
            .and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        if let Some(parent) = parent {
            parents.push((id, parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let of = family[next];
        family.extend(
            parents
                .iter()
                .filter(|(id, parent)| *parent == of && *id != of)
                .map(|(id, _)| *id),
        );
        next += 1;
    }
    family.remove(0);
    family
}

/// Whether a process of this id exists (a zombie does not count).
pub fn exists(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.chars().next()? != 'Z'))
        .unwrap_or(false)
}

/// The most memory (resident, in bytes) that a running process had at once.
pub fn peak_memory(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))
        .with_context(|| format!("asking how much memory process {id} uses"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("it has ended")?;
    Ok(kib.parse::<u64>()? * 1024)
}
