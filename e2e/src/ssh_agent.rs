//! A real ssh-agent with a key loaded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::process::Server;
use crate::{Workdir, command};

/// A running agent. Dropping it ends it.
#[derive(Debug)]
pub struct SshAgent {
    server: Server,
    socket: PathBuf,
}

impl SshAgent {
    /// Starts an agent and loads a key without a passphrase.
    pub async fn start(dir: &Workdir, key: &Path) -> Result<Self> {
        let dir = dir.fresh("agent")?;
        let socket = dir.join("s");
        let mut agent = Command::new(command::find("ssh-agent")?);
        agent.arg("-D").arg("-a").arg(&socket);
        let mut server = Server::spawn("ssh-agent", agent, &dir.join("log"))?;
        server
            .until("socket", Duration::from_secs(20), || async {
                Ok(std::os::unix::net::UnixStream::connect(&socket)
                    .ok()
                    .map(drop))
            })
            .await?;
        let agent = Self { server, socket };
        agent.add(key).await?;
        Ok(agent)
    }

    /// Loads another key.
    pub async fn add(&self, key: &Path) -> Result<()> {
        let mut add = tokio::process::Command::new(command::find("ssh-add")?);
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket);
        command::run(add, None, Duration::from_secs(20))
            .await?
            .ok()?;
        Ok(())
    }

    /// What `SSH_AUTH_SOCK` must be.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }
}
