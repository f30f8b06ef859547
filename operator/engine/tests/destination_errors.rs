//! What goes wrong with destinations, on real servers: each failure by its own name, and no secret
//! in any of them.

// Helpers of tests fail as tests do.
#![allow(clippy::expect_used)]

mod destination_support;

use anyhow::Result;
use bytes::Bytes;
use destination_support::{
    SmallDisk, error_of, keys, local, noise, open, private_key, s3, s3_config, sftp, sftp_config,
    skip,
};
use holdfast_e2e::s3::{ACCESS_KEY, SECRET_KEY};
use holdfast_e2e::ssh_agent::SshAgent;
use holdfast_e2e::sshd::{KEY_PASSPHRASE, Options, PASSWORD, Sshd};
use holdfast_e2e::{Workdir, ports, shared};
use holdfast_engine::class::{Classified, ErrorClass};
use holdfast_engine::destination::{
    HostKeyCheck, S3Config, SftpAuthentication, SftpConfig, StorageConfig,
    StorageErrorKind as Kind, connect,
};

#[tokio::test]
async fn a_bucket_that_is_not_there() -> Result<()> {
    let storage = open(&s3(shared::s3().await?, "no-such-bucket", "")).await;
    for error in [
        storage.probe().await.expect_err("no bucket"),
        storage.create().await.expect_err("no bucket"),
        storage
            .list("snapshots")
            .await
            .map(drop)
            .expect_err("no bucket"),
        storage
            .size("config")
            .await
            .map(drop)
            .expect_err("no bucket"),
        storage
            .read("config")
            .await
            .map(drop)
            .expect_err("no bucket"),
        storage
            .write("config", vec![])
            .await
            .expect_err("no bucket"),
    ] {
        assert_eq!(error.kind, Kind::NoSuchPlace, "{error}");
        assert!(error.to_string().contains("no-such-bucket"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_keys_of_a_bucket() -> Result<()> {
    let server = shared::s3().await?;
    server.create_bucket("wrong-keys").await?;
    let good = s3_config(&server.endpoint(), "wrong-keys", "");
    let own = ACCESS_KEY;
    for credentials in [
        keys(own, "a-wrong-secret"),
        keys("nobody", "a-wrong-secret"),
    ] {
        let credentials = Some(credentials);
        let storage = open(&StorageConfig::S3(S3Config {
            credentials,
            ..good.clone()
        }))
        .await;
        for error in [
            storage.probe().await.expect_err("refused"),
            storage.size("config").await.map(drop).expect_err("refused"),
            storage.write("config", vec![]).await.expect_err("refused"),
        ] {
            assert_eq!(error.kind, Kind::AuthenticationFailed, "{error}");
            assert_eq!(error.class(), ErrorClass::Waiting);
            assert!(!error.to_string().contains("a-wrong-secret"), "{error}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_account_without_rights_on_the_bucket() -> Result<()> {
    let server = shared::s3().await?;
    server.create_bucket("not-yours").await?;
    server.create_user("guest", "guest-secret").await?;
    let config = S3Config {
        credentials: Some(keys("guest", "guest-secret")),
        ..s3_config(&server.endpoint(), "not-yours", "")
    };
    let storage = open(&StorageConfig::S3(config)).await;
    for error in [
        storage.probe().await.expect_err("refused"),
        storage.size("config").await.map(drop).expect_err("refused"),
        storage.write("config", vec![]).await.expect_err("refused"),
        storage.remove("config").await.expect_err("refused"),
    ] {
        assert_eq!(error.kind, Kind::PermissionDenied, "{error}");
    }
    Ok(())
}

/// Where the Destination gives no keys, the SDK looks for them as AWS's own tools do. It looks into
/// the environment, which a test cannot change for itself: this test runs itself again.
#[tokio::test]
async fn keys_come_from_the_sdks_chain_where_none_are_given() -> Result<()> {
    const ENDPOINT: &str = "HOLDFAST_TEST_CHAIN_ENDPOINT";
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        let endpoint = Some(endpoint).filter(|endpoint| !endpoint.is_empty());
        let config = S3Config {
            endpoint,
            credentials: None,
            ..s3_config("http://127.0.0.1", "chain", "")
        };
        let found = match connect(&StorageConfig::S3(config)).await {
            Ok(storage) => storage.probe().await,
            Err(error) => Err(error),
        };
        println!("FOUND {:?}", found.map_err(|error| error.kind));
        return Ok(());
    }
    let server = shared::s3().await?;
    server.create_bucket("chain").await?;
    let run_again = |endpoint: &str, environment: &[(&str, &str)]| -> Result<String> {
        let output = std::process::Command::new(std::env::current_exe()?)
            .args([
                "--exact",
                "keys_come_from_the_sdks_chain_where_none_are_given",
                "--nocapture",
            ])
            .env_clear()
            .env(ENDPOINT, endpoint)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment.iter().copied())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(said
            .lines()
            .find(|line| line.contains("FOUND"))
            .unwrap_or(&said)
            .to_owned())
    };
    let own = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
    ];
    let endpoint = server.endpoint();
    assert!(run_again(&endpoint, &own)?.contains("Ok(())"));
    let none = run_again(&endpoint, &[])?;
    assert!(none.contains("AuthenticationFailed"), "{none}");
    let no_region = run_again("", &own)?;
    assert!(no_region.contains("InvalidConfig"), "{no_region}");
    Ok(())
}

#[tokio::test]
async fn nobody_listens() -> Result<()> {
    let port = ports::free()?;
    let server = shared::sshd().await?;
    let sftp = SftpConfig {
        port,
        ..sftp_config(server, &server.files())
    };
    let s3 = s3_config(&format!("http://127.0.0.1:{port}"), "bucket", "");
    for config in [StorageConfig::Sftp(sftp), StorageConfig::S3(s3)] {
        let error = error_of(&config).await;
        assert_eq!(error.kind, Kind::Unreachable, "{error}");
        assert_eq!(error.class(), ErrorClass::Transient);
        assert!(error.to_string().contains(&port.to_string()), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_without_an_address() -> Result<()> {
    let server = shared::sshd().await?;
    let host = "no-such-host.invalid".to_owned();
    let sftp = SftpConfig {
        host,
        ..sftp_config(server, &server.files())
    };
    let s3 = s3_config("http://no-such-host.invalid", "bucket", "");
    for config in [StorageConfig::Sftp(sftp), StorageConfig::S3(s3)] {
        let error = error_of(&config).await;
        assert_eq!(error.kind, Kind::Unreachable, "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_key_that_changed() -> Result<()> {
    let dir = Workdir::new()?;
    let mut server = Sshd::start(&dir).await?;
    let config = sftp_config(&server, &server.files());
    let known_hosts = SftpConfig {
        host_key: HostKeyCheck::KnownHosts(server.known_hosts()?),
        ..config.clone()
    };
    for config in [&config, &known_hosts] {
        open(&StorageConfig::Sftp(config.clone()))
            .await
            .probe()
            .await?;
    }
    server.swap_host_key().await?;
    for config in [config, known_hosts] {
        let storage = open(&StorageConfig::Sftp(config)).await;
        let started = std::time::Instant::now();
        let error = storage.write("config", vec![]).await.expect_err("refused");
        assert_eq!(error.kind, Kind::HostKeyMismatch, "{error}");
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert_eq!(
            error.to_string().matches("SHA256:").count(),
            2,
            "seen and expected: {error}"
        );
        assert!(
            started.elapsed().as_secs() < 10,
            "what is permanent is not tried again"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_host_key_that_is_not_known() -> Result<()> {
    let server = shared::sshd().await?;
    let dir = Workdir::new()?;
    let file = dir.join("known_hosts");
    std::fs::write(&file, format!("elsewhere {}\n", server.host_key()?))?;
    let config = SftpConfig {
        host_key: HostKeyCheck::KnownHosts(file.clone()),
        ..sftp_config(server, &server.files())
    };
    let error = error_of(&StorageConfig::Sftp(config.clone())).await;
    assert_eq!(error.kind, Kind::HostKeyUnknown, "{error}");
    assert!(error.to_string().contains("SHA256:"), "{error}");

    std::fs::write(&file, server.known_hosts_line()? + "\n")?;
    open(&StorageConfig::Sftp(config.clone()))
        .await
        .probe()
        .await?;

    std::fs::write(
        &file,
        format!(
            "{}\n@revoked * {}\n",
            server.known_hosts_line()?,
            server.host_key()?
        ),
    )?;
    let error = error_of(&StorageConfig::Sftp(config.clone())).await;
    assert_eq!(error.kind, Kind::HostKeyMismatch, "{error}");

    std::fs::remove_file(&file)?;
    let error = error_of(&StorageConfig::Sftp(config)).await;
    assert_eq!(error.kind, Kind::InvalidConfig, "{error}");
    Ok(())
}

/// The server has keys of two types and prefers the other one.
#[tokio::test]
async fn the_type_of_the_pinned_key_is_asked_for() -> Result<()> {
    let dir = Workdir::new()?;
    let second = dir.join("host_key_rsa");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"])
        .arg(&second)
        .status()?;
    assert!(made.success());
    let extra = vec![format!("HostKey {}", second.display())];
    let server = Sshd::start_with(
        &dir,
        Options {
            extra,
            ..Options::default()
        },
    )
    .await?;
    for key in [
        std::fs::read_to_string(second.with_extension("pub"))?,
        server.host_key()?,
    ] {
        let config = SftpConfig {
            host_key: HostKeyCheck::Pinned(vec![key]),
            ..sftp_config(&server, &server.files())
        };
        open(&StorageConfig::Sftp(config)).await.probe().await?;
    }
    Ok(())
}

#[tokio::test]
async fn keys_of_each_kind_log_in_and_others_do_not() -> Result<()> {
    let server = shared::sshd().await?;
    let with = |authentication| {
        let config = sftp_config(server, &server.files());
        StorageConfig::Sftp(SftpConfig {
            authentication,
            ..config
        })
    };
    for good in [
        private_key(&server.key(), None),
        private_key(&server.rsa_key(), None),
        private_key(&server.encrypted_key(), Some(KEY_PASSPHRASE)),
    ] {
        open(&with(vec![good])).await.probe().await?;
    }
    let dir = Workdir::new()?;
    let strange = dir.join("strange");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&strange)
        .status()?;
    assert!(made.success());
    for bad in [
        private_key(&strange, None),
        private_key(&server.encrypted_key(), None),
        private_key(&server.encrypted_key(), Some("wrong-passphrase")),
        SftpAuthentication::Password("wrong-password".into()),
    ] {
        let error = error_of(&with(vec![bad.clone()])).await;
        assert_eq!(error.kind, Kind::AuthenticationFailed, "{error}");
        assert_eq!(error.class(), ErrorClass::Waiting);
        let said = format!("{error} {error:?} {bad:?}");
        assert!(
            !said.contains("wrong-pass") && !said.contains("BEGIN"),
            "{said}"
        );
    }
    // The first way that works is taken.
    let ways = vec![
        private_key(&strange, None),
        private_key(&server.key(), None),
    ];
    open(&with(ways)).await.probe().await?;
    Ok(())
}

#[tokio::test]
async fn passwords_log_in() -> Result<()> {
    let dir = Workdir::new()?;
    let options = Options {
        password: true,
        ..Options::default()
    };
    let server = match Sshd::start_with(&dir, options).await {
        Ok(server) => server,
        Err(error) => {
            skip(&format!(
                "password logins need root and mount namespaces: {error:#}"
            ));
            return Ok(());
        }
    };
    let with = |password: &str| {
        let authentication = vec![SftpAuthentication::Password(password.into())];
        let config = sftp_config(&server, &server.files());
        StorageConfig::Sftp(SftpConfig {
            authentication,
            ..config
        })
    };
    open(&with(PASSWORD)).await.probe().await?;
    let error = error_of(&with("wrong-password")).await;
    assert_eq!(error.kind, Kind::AuthenticationFailed, "{error}");
    assert!(!error.to_string().contains("wrong-password"), "{error}");
    Ok(())
}

/// The agent is found through the environment, which a test cannot change for itself: this test
/// runs itself again with the agent's socket in it.
#[tokio::test]
async fn an_agent_logs_in() -> Result<()> {
    const SERVER: &str = "HOLDFAST_TEST_AGENT_SERVER";
    if let Ok(server) = std::env::var(SERVER) {
        let (port, host_key) = server.split_once(' ').expect("port and key");
        let config = SftpConfig {
            host: "127.0.0.1".to_owned(),
            port: port.parse()?,
            user: std::env::var("HOLDFAST_TEST_AGENT_USER")?,
            path: "/".to_owned(),
            authentication: vec![SftpAuthentication::Agent],
            host_key: HostKeyCheck::Pinned(vec![host_key.to_owned()]),
        };
        open(&StorageConfig::Sftp(config)).await.probe().await?;
        return Ok(());
    }
    let server = shared::sshd().await?;
    let dir = Workdir::new()?;
    let run_again = |socket: &std::path::Path| {
        let mut again = std::process::Command::new(std::env::current_exe().expect("this test"));
        again
            .args(["--exact", "an_agent_logs_in", "--nocapture"])
            .env(
                SERVER,
                format!("{} {}", server.port(), server.host_key().expect("a key")),
            )
            .env("HOLDFAST_TEST_AGENT_USER", server.user())
            .env("SSH_AUTH_SOCK", socket);
        again.output()
    };
    let agent = SshAgent::start(&dir, &server.rsa_key()).await?;
    let output = run_again(agent.socket())?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let output = run_again(&dir.join("no-agent"))?;
    assert!(!output.status.success(), "there is no agent");
    Ok(())
}

#[tokio::test]
async fn a_server_without_sftp() -> Result<()> {
    let dir = Workdir::new()?;
    let extra = vec!["ForceCommand /bin/false".to_owned()];
    let server = Sshd::start_with(
        &dir,
        Options {
            extra,
            ..Options::default()
        },
    )
    .await?;
    let error = error_of(&sftp(&server, &server.files())).await;
    assert!(
        matches!(error.kind, Kind::InvalidConfig | Kind::Interrupted),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_directory_without_a_parent() -> Result<()> {
    let server = shared::sshd().await?;
    let storage = open(&sftp(server, &server.files().join("not/mounted"))).await;
    for error in [
        storage.probe().await.expect_err("no place"),
        storage.create().await.expect_err("no place"),
        storage
            .list("snapshots")
            .await
            .map(drop)
            .expect_err("no place"),
        storage.write("config", vec![]).await.expect_err("no place"),
    ] {
        assert_eq!(error.kind, Kind::NoSuchPlace, "{error}");
    }
    let file = server.files().join("a-file");
    std::fs::write(&file, "x")?;
    let error = error_of(&sftp(server, &file)).await;
    assert_eq!(error.kind, Kind::InvalidConfig, "{error}");
    Ok(())
}

/// The tests run as root, whom permission bits do not stop; a read-only file system does.
#[tokio::test]
async fn a_full_disk_and_a_read_only_one() -> Result<()> {
    let server = shared::sshd().await?;
    let Some(disk) = SmallDisk::mount("1m") else {
        return Ok(());
    };
    let configs = [local(disk.path()), sftp(server, disk.path())];
    for config in &configs {
        let storage = open(config).await;
        storage
            .write("config", vec![Bytes::from_static(b"small")])
            .await?;
        let error = storage
            .write("data/ab/abcd", vec![noise(3_000_000, 1)])
            .await
            .expect_err("there is no room");
        assert_eq!(error.kind, Kind::Full, "{error}");
        assert_eq!(error.class(), ErrorClass::Waiting);
        assert_eq!(storage.list("data").await?, [], "nothing is left of it");
        let left = std::fs::read_dir(disk.path().join("data/ab"))?.count();
        assert_eq!(left, 0, "nothing hidden is left of it either");
        storage.write("config", vec![noise(1000, 1)]).await?;
    }
    disk.make_read_only();
    for config in &configs {
        let storage = open(config).await;
        assert_eq!(storage.size("config").await?, Some(1000));
        let error = storage
            .write("keys/0123", vec![])
            .await
            .expect_err("read-only");
        assert_eq!(error.kind, Kind::PermissionDenied, "{error}");
        let error = storage.remove("config").await.expect_err("read-only");
        assert_eq!(error.kind, Kind::PermissionDenied, "{error}");
    }
    Ok(())
}
