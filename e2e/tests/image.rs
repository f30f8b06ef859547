//! The image: what is in it, and that names resolve and TLS roots count inside it.

#[path = "support/control.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::helm::project;
use holdfast_e2e::image::{Image, NameServer};
use holdfast_e2e::s3::{self, S3};
use holdfast_e2e::skips::skip;
use holdfast_e2e::{Workdir, command};
use support::expect;
use tokio::process::Command;

const OBJECTS: &str = "objects.holdfast.test";

/// Whether this is root; says by name what is skipped otherwise.
fn root(test: &str) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if !root {
        skip(test, "only root can change its root");
    }
    root
}

#[tokio::test]
async fn the_image_holds_the_binary_and_what_it_needs_and_nothing_else() -> Result<()> {
    let image = Image::assemble().await?;
    let known = [
        "etc/group",
        "etc/hostname",
        "etc/hosts",
        "etc/nsswitch.conf",
        "etc/passwd",
        "etc/resolv.conf",
        "etc/services",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/local/bin/holdfast",
    ];
    for file in support::files(&image.root())? {
        let name = file
            .strip_prefix(image.root())?
            .to_string_lossy()
            .into_owned();
        let library =
            (name.starts_with("lib/") || name.starts_with("lib64/")) && name.contains(".so");
        ensure!(known.contains(&name.as_str()) || library, "what is {name}?");
    }
    for name in known {
        ensure!(image.path(name).is_file(), "{name} is missing");
    }
    let passwd = std::fs::read_to_string(image.path("etc/passwd"))?;
    ensure!(passwd.contains("\nholdfast:x:65532:65532:"), "{passwd}");
    if !root("running the binary in the image") {
        return Ok(());
    }
    expect(
        image.run(["holdfast", "--version"]).await?,
        0,
        &["holdfast "],
    )?;
    let schema = expect(image.run(["holdfast", "schema", "--crd"]).await?, 0, &[])?;
    ensure!(schema.stdout.contains("kind: CustomResourceDefinition"));
    Ok(())
}

#[test]
fn the_dockerfile_makes_a_small_image_for_an_ordinary_account() -> Result<()> {
    let file = std::fs::read_to_string(project().join("Dockerfile"))?;
    let (_, last) = file.rsplit_once("\nFROM ").context("no stage")?;
    ensure!(last.starts_with("scratch\n"), "{last}");
    for line in [
        "COPY --from=build /rootfs/ /",
        "USER 65532:65532",
        "ENTRYPOINT [\"/usr/local/bin/holdfast\"]",
    ] {
        ensure!(last.lines().any(|one| one == line), "no {line} in {last}");
    }
    ensure!(
        !last.contains("\nRUN "),
        "nothing can run in the last stage"
    );
    // What the build copies is what it needs: the workspace's members, and the script.
    let ignored = std::fs::read_to_string(project().join(".dockerignore"))?;
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        ".cargo",
        "crds",
        "operator",
        "e2e/Cargo.toml",
        "e2e/src",
        "e2e/cluster/rootfs",
    ] {
        ensure!(
            ignored.lines().any(|line| line == format!("!{path}")),
            "{path} is left out"
        );
    }
    Ok(())
}

/// A certificate authority, and a certificate of it for [`OBJECTS`].
struct Authority {
    dir: Workdir,
}

impl Authority {
    async fn new() -> Result<Self> {
        let authority = Self {
            dir: Workdir::new()?,
        };
        authority
            .openssl(&[
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=Holdfast test authority",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
            ])
            .await?;
        authority
            .openssl(&[
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=objects",
                "-keyout",
                "server.key",
                "-out",
                "server.csr",
            ])
            .await?;
        let extensions = format!("subjectAltName=DNS:{OBJECTS}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(authority.dir.join("extensions"), extensions)?;
        authority
            .openssl(&[
                "x509",
                "-req",
                "-in",
                "server.csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                "extensions",
                "-out",
                "server.pem",
            ])
            .await?;
        Ok(authority)
    }

    async fn openssl(&self, args: &[&str]) -> Result<()> {
        let mut openssl = Command::new(command::find("openssl")?);
        openssl.current_dir(self.dir.path()).args(args);
        command::run(openssl, None, Duration::from_secs(60))
            .await?
            .ok()
            .map(drop)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// A backup of a folder of the image to the bucket, and what the binary needs for it.
fn declare(image: &Image, port: u16) -> Result<()> {
    image.write(
        "work/secrets/repository/password",
        "correct horse battery staple",
    )?;
    image.write("work/secrets/bucket/id", s3::ACCESS_KEY)?;
    image.write("work/secrets/bucket/secret", s3::SECRET_KEY)?;
    image.write("work/data/one.txt", "one")?;
    image.write("work/state/.keep", "")?;
    image.write(
        "work/policies/all.yaml",
        &format!(
            "apiVersion: holdfast.dev/v1alpha1
kind: Destination
metadata: {{name: bucket}}
spec:
  s3:
    bucket: inside
    endpoint: https://{OBJECTS}:{port}
    region: {}
    accessKeyId: {{secretKeyRef: {{name: bucket, key: id}}}}
    secretAccessKey: {{secretKeyRef: {{name: bucket, key: secret}}}}
  encryption: {{password: {{secretKeyRef: {{name: repository, key: password}}}}}}
---
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {{name: data}}
spec:
  source: {{files: {{paths: [/work/data]}}}}
  schedule: {{cron: \"0 0 29 2 *\", immediate: true}}
  destinations: [{{name: bucket}}]
",
            s3::REGION
        ),
    )?;
    image.give("work")
}

const RUN: [&str; 8] = [
    "holdfast",
    "run",
    "--once",
    "/work/policies",
    "--secrets-dir",
    "/work/secrets",
    "--state-dir",
    "/work/state",
];

const CHECK: [&str; 9] = [
    "holdfast",
    "check",
    "bucket",
    "--file",
    "/work/policies",
    "--secrets-dir",
    "/work/secrets",
    "--state-dir",
    "/work/state",
];

#[tokio::test]
async fn names_resolve_and_tls_roots_count_in_the_image() -> Result<()> {
    if !root("names_resolve_and_tls_roots_count_in_the_image") {
        return Ok(());
    }
    let authority = Authority::new().await?;
    let dir = Workdir::new()?;
    let mut server = S3::start(&dir).await?;
    server.create_bucket("inside").await?;
    server
        .restart_with_tls(authority.file("server.pem"), authority.file("server.key"))
        .await?;
    let names = NameServer::start(OBJECTS).await?;
    let stranger = Image::assemble().await?;
    declare(&stranger, server.port())?;
    stranger.write("etc/resolv.conf", &names.resolv_conf())?;
    let image = Image::assemble().await?;
    declare(&image, server.port())?;
    image.write("etc/resolv.conf", &names.resolv_conf())?;
    add(
        &image.path("etc/ssl/certs/ca-certificates.crt"),
        &authority.file("ca.pem"),
    )?;

    // The first does not know the authority; it tries for a while, so the other is run meanwhile.
    let (refused, made) = tokio::join!(stranger.run(CHECK), image.run(RUN));
    let made = expect(made?, 0, &["BackedUp"])?;
    ensure!(!made.said().contains("time zone"), "{}", made.said());
    let objects = support::files(&server.bucket_dir("inside"))?;
    ensure!(!objects.is_empty(), "nothing was written");
    let refused = refused?;
    ensure!(refused.code == Some(1), "{}", refused.said());
    let said = refused.said().to_lowercase();
    ensure!(
        said.contains("certificate") || said.contains("unknownissuer"),
        "{said}"
    );

    // Without a name server, the file of hosts is enough.
    drop(names);
    image.write("etc/resolv.conf", "")?;
    image.write("etc/hosts", &format!("127.0.0.1 localhost {OBJECTS}\n"))?;
    expect(image.run(CHECK).await?, 0, &[])?;
    Ok(())
}

/// Appends one file to another.
fn add(roots: &Path, more: &Path) -> Result<()> {
    let mut all = std::fs::read_to_string(roots)?;
    all.push_str(&std::fs::read_to_string(more)?);
    std::fs::write(roots, all)?;
    Ok(())
}
