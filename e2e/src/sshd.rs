//! OpenSSH's own server as the current user, with its SFTP subsystem.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::mongod::restrict;
use crate::process::Server;
use crate::{Workdir, command, ports};

/// The passphrase of the encrypted client key.
pub const KEY_PASSPHRASE: &str = "open sesame";
/// The password that [`Options::password`] makes valid.
pub const PASSWORD: &str = "holdfast-e2e-password";
/// `crypt(3)` of [`PASSWORD`].
const PASSWORD_HASH: &str = "$6$holdfaste2e$IvMz/CICTTvs4XS4sANTO4bUui3k/T5gJYQa5l6.YIm8sNVMKb2zBH44KczPISipZ2xrNlPHJNAWeDdQDiJFf0";

/// How the server is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Accept [`PASSWORD`] too. Needs root and mount namespaces: the server
    /// sees a shadow file of its own, the machine's is not touched.
    pub password: bool,
    /// More lines for sshd_config.
    pub extra: Vec<String>,
}

/// A running sshd. Dropping it ends it and its sessions.
#[derive(Debug)]
pub struct Sshd {
    server: Option<Server>,
    dir: PathBuf,
    port: u16,
    user: String,
    options: Options,
}

impl Sshd {
    /// Starts one that accepts the three client keys.
    pub async fn start(dir: &Workdir) -> Result<Self> {
        Self::start_with(dir, Options::default()).await
    }

    /// Starts one.
    pub async fn start_with(dir: &Workdir, options: Options) -> Result<Self> {
        let dir = dir.fresh("sshd")?;
        std::fs::create_dir(dir.join("files"))?;
        generate(&dir.join("host_key"), "ed25519", "").await?;
        generate(&dir.join("key"), "ed25519", "").await?;
        generate(&dir.join("key_rsa"), "rsa", "").await?;
        generate(&dir.join("key_encrypted"), "ed25519", KEY_PASSPHRASE).await?;
        let mut authorized = String::new();
        for key in ["key", "key_rsa", "key_encrypted"] {
            authorized += &std::fs::read_to_string(dir.join(key).with_extension("pub"))?;
        }
        std::fs::write(dir.join("authorized_keys"), authorized)?;
        let mut sshd = Self {
            server: None,
            port: ports::free()?,
            user: current_user()?,
            dir,
            options,
        };
        sshd.write_config()?;
        sshd.restart().await?;
        Ok(sshd)
    }

    fn write_config(&self) -> Result<()> {
        let dir = self.dir.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host_key\nPidFile none\n\
             AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PubkeyAuthentication yes\nPasswordAuthentication {password}\nKbdInteractiveAuthentication no\n\
             PermitRootLogin yes\nSubsystem sftp internal-sftp\nLogLevel VERBOSE\nUseDNS no\n\
             PrintMotd no\nPrintLastLog no\nMaxSessions 100\nMaxStartups 100:30:200\n{extra}\n",
            port = self.port,
            password = if self.options.password { "yes" } else { "no" },
            extra = self.options.extra.join("\n"),
        );
        std::fs::write(self.dir.join("sshd_config"), config).context("writing sshd_config")
    }

    /// Starts it (again) on the same port; sessions that were open are cut.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9()?;
        let root = self.user == "root";
        if root {
            // Where Debian's sshd locks its unprivileged half in; the system's
            // service would make it at boot.
            std::fs::create_dir_all("/run/sshd").context("making /run/sshd")?;
        }
        let program = command::find("sshd")?;
        let config = self.dir.join("sshd_config");
        let mut command;
        if self.options.password {
            if !root {
                bail!("sshd: password logins can be tested as root only");
            }
            let shadow = self.dir.join("shadow");
            std::fs::write(&shadow, shadow_with_password("root")?)?;
            restrict(&shadow)?;
            command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.arg("mount --bind \"$1\" /etc/shadow && shift && exec \"$@\"");
            command.arg("sh").arg(shadow).arg(program);
        } else {
            command = Command::new(program);
        }
        command.arg("-D").arg("-e").arg("-f").arg(config);
        let name = format!("sshd on port {}", self.port);
        let server = Server::spawn(&name, command, &self.dir.join("log"))?;
        self.server
            .insert(server)
            .until_listening(self.port, Duration::from_secs(20))
            .await
    }

    /// Gives it another host key and starts it again, as after a reinstall
    /// (or with somebody in the middle).
    pub async fn swap_host_key(&mut self) -> Result<()> {
        self.kill9()?;
        std::fs::remove_file(self.dir.join("host_key"))?;
        std::fs::remove_file(self.dir.join("host_key.pub"))?;
        generate(&self.dir.join("host_key"), "ed25519", "").await?;
        self.restart().await
    }

    /// Ends it and every open session at once.
    pub fn kill9(&mut self) -> Result<()> {
        match self.server.take() {
            Some(mut server) => server.kill9(),
            None => Ok(()),
        }
    }

    /// Always 127.0.0.1.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who may log in: the current user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::id)
    }

    /// A folder on the "remote" side to put repositories in. There is no
    /// chroot: the path is the same on both sides.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// An ed25519 key without a passphrase.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    /// An RSA key without a passphrase.
    pub fn rsa_key(&self) -> PathBuf {
        self.dir.join("key_rsa")
    }

    /// An ed25519 key that [`KEY_PASSPHRASE`] opens.
    pub fn encrypted_key(&self) -> PathBuf {
        self.dir.join("key_encrypted")
    }

    /// The host key as in `hostKey:`, `ssh-ed25519 AAAA…`, without a comment.
    pub fn host_key(&self) -> Result<String> {
        let line = std::fs::read_to_string(self.dir.join("host_key.pub"))
            .context("reading the host key")?;
        Ok(line
            .split_whitespace()
            .take(2)
            .collect::<Vec<_>>()
            .join(" "))
    }

    /// The host key as a line of a known_hosts file.
    pub fn known_hosts_line(&self) -> Result<String> {
        Ok(format!(
            "[{}]:{} {}",
            self.host(),
            self.port,
            self.host_key()?
        ))
    }

    /// Writes a known_hosts file and returns its path.
    pub fn known_hosts(&self) -> Result<PathBuf> {
        let path = self.dir.join("known_hosts");
        std::fs::write(&path, self.known_hosts_line()? + "\n")?;
        Ok(path)
    }

    /// What it logged: logins, refusals, disconnects.
    pub fn log(&self) -> String {
        std::fs::read(self.dir.join("log"))
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    /// The command stock `ssh` and `restic` reach it with.
    pub fn ssh_command(&self) -> Result<Vec<String>> {
        Ok([
            "ssh",
            "-F",
            "none",
            "-p",
            &self.port.to_string(),
            "-i",
            &self.key().to_string_lossy(),
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
            "-o",
            &format!("UserKnownHostsFile={}", self.known_hosts()?.display()),
            &format!("{}@{}", self.user, self.host()),
        ]
        .map(str::to_owned)
        .to_vec())
    }
}

/// Makes a key pair with ssh-keygen.
pub(crate) async fn generate(path: &Path, kind: &str, passphrase: &str) -> Result<()> {
    let mut command = tokio::process::Command::new(command::find("ssh-keygen")?);
    command
        .args([
            "-q",
            "-t",
            kind,
            "-N",
            passphrase,
            "-C",
            "holdfast-e2e",
            "-f",
        ])
        .arg(path);
    if kind == "rsa" {
        command.args(["-b", "2048"]);
    }
    command::run(command, None, Duration::from_secs(60))
        .await?
        .ok()?;
    Ok(())
}

fn current_user() -> Result<String> {
    let output = Command::new("id")
        .arg("-un")
        .output()
        .context("asking who I am")?;
    let user = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if user.is_empty() {
        bail!("`id -un` does not know the current user");
    }
    Ok(user)
}

/// The machine's shadow file with another password for one user.
fn shadow_with_password(user: &str) -> Result<String> {
    let shadow = std::fs::read_to_string("/etc/shadow").context("reading /etc/shadow")?;
    let mut lines: Vec<String> = shadow
        .lines()
        .filter(|line| line.split(':').next() != Some(user))
        .map(str::to_owned)
        .collect();
    lines.push(format!("{user}:{PASSWORD_HASH}:19000:0:99999:7:::"));
    Ok(lines.join("\n") + "\n")
}
