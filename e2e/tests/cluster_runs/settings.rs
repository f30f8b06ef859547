//! What a policy says of its pods reaches them, and what they must not have they have not: rights,
//! a token, anything that the restricted standard forbids.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_e2e::command;

use crate::support::{NEVER, World, policy, text};

const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";

#[tokio::test]
async fn a_policy_shapes_its_pods() -> Result<()> {
    let test = "a_policy_shapes_its_pods";
    let Some(world) = World::new(test, "shaped").await? else {
        return Ok(());
    };
    let label = ["label", "namespace", &world.name, RESTRICTED];
    world.cluster.kubectl(label).await?.ok()?;
    let label = ["label", "nodes", "--all", "holdfast-e2e=yes", "--overwrite"];
    world.cluster.kubectl(label).await?.ok()?;
    world
        .apply(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: backups}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {greeting: hello}\n",
        )
        .await?;
    let source = world.source(16 << 20).await?;
    world.bucket("").await?;
    let job = "{resources: {requests: {cpu: 50m, memory: 128Mi}, limits: {memory: 900Mi}}, \
               nodeSelector: {holdfast-e2e: 'yes'}, \
               tolerations: [{key: backups, operator: Exists, effect: NoSchedule}], \
               serviceAccountName: backups, imagePullSecrets: [{name: registry}], \
               volumes: [{name: words, configMap: {name: words}}], \
               volumeMounts: [{name: words, mountPath: /words, readOnly: true}], \
               securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456}}";
    world
        .apply(&format!(
            "{}  hooks: {{before: [{{command: [/usr/local/bin/holdfast, --version]}}]}}\n",
            policy(&source.yaml(), NEVER, "[{name: bucket}]", job)
        ))
        .await?;
    let operator = world.operator("one").await?;
    world.ask("now").await?;
    let shown = async {
        let pod = world.pod("backup", &[]).await?;
        source.hold().await?;
        let spec = &pod.object["spec"];
        let container = &spec["containers"][0];
        let has = |value: &serde_json::Value, wanted: serde_json::Value| {
            ensure!(*value == wanted, "{value} is not {wanted}: {spec:#}");
            anyhow::Ok(())
        };
        let resources = serde_json::json!({
            "requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "900Mi"},
        });
        has(&container["resources"], resources)?;
        has(&spec["nodeSelector"]["holdfast-e2e"], "yes".into())?;
        has(&spec["serviceAccountName"], "backups".into())?;
        has(&spec["imagePullSecrets"][0]["name"], "registry".into())?;
        let tolerations = spec["tolerations"].to_string();
        ensure!(tolerations.contains("\"backups\""), "{tolerations}");

        // And the process is what the spec says.
        let status = pod.proc("status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
        };
        ensure!(field("Uid:") == ["1234"; 4], "{status}");
        ensure!(field("Gid:") == ["2345"; 4], "{status}");
        ensure!(field("Groups:").contains(&"3456"), "{status}");
        ensure!(field("CapEff:") == ["0000000000000000"], "{status}");
        ensure!(field("CapBnd:") == ["0000000000000000"], "{status}");
        ensure!(field("NoNewPrivs:") == ["1"], "{status}");
        ensure!(field("Seccomp:") == ["2"], "{status}");
        ensure!(pod.proc("root/words/greeting")? == "hello");
        let mounts = pod.proc("mounts")?;
        let root = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some("/"));
        let options = root.and_then(|line| line.split(' ').nth(3));
        ensure!(
            options.is_some_and(|options| options.split(',').any(|one| one == "ro")),
            "{mounts}"
        );

        // No token, of this account nor of any.
        ensure!(
            !pod.sees("/var/run/secrets") && !pod.sees("/run/secrets"),
            "{mounts}"
        );
        ensure!(!mounts.contains("serviceaccount"), "{mounts}");
        let environment = pod.proc("environ")?;
        ensure!(!environment.contains("HOLDFAST_TOKEN") && !environment.contains("eyJ"));
        source.freely();
        world.says("backup/now", "True", "Completed").await?;
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}

#[tokio::test]
async fn the_restricted_standard_takes_a_default_policy_whose_pods_may_do_nothing() -> Result<()> {
    let test = "the_restricted_standard_takes_a_default_policy_whose_pods_may_do_nothing";
    let Some(world) = World::new(test, "restricted").await? else {
        return Ok(());
    };
    let label = ["label", "namespace", &world.name, RESTRICTED];
    world.cluster.kubectl(label).await?.ok()?;
    let source = world.source(16 << 20).await?;
    world.bucket("").await?;
    let without_job = policy(&source.yaml(), NEVER, "[{name: bucket}]", "{}");
    let without_job = without_job.replace("  job: {}\n", "");
    ensure!(!without_job.contains("job:"));
    world.apply(&without_job).await?;
    let operator = world.operator("one").await?;
    world.ask("now").await?;
    let shown = async {
        let pod = world.pod("backup", &[]).await?;
        source.hold().await?;
        let account = text(&pod.object["spec"]["serviceAccountName"]);
        ensure!(account == "default", "{account}");

        // From where the pod is, the API server is a stranger's.
        let target = pod.process.to_string();
        let path = format!("/api/v1/namespaces/{}/secrets", world.name);
        for (url, what) in [
            (format!("{}{path}", world.cluster.server()?), "Secrets"),
            (
                format!(
                    "{}/apis/holdfast.dev/v1alpha1/namespaces/{}/backups",
                    world.cluster.server()?,
                    world.name
                ),
                "Backups",
            ),
        ] {
            let mut curl = tokio::process::Command::new(command::find("nsenter")?);
            curl.args([
                "--target",
                &target,
                "--net",
                "curl",
                "--silent",
                "--insecure",
            ]);
            curl.args(["--max-time", "10", "--output", "/dev/null"]);
            curl.args(["--write-out", "%{http_code}", &url]);
            let answer = command::run(curl, None, Duration::from_secs(20)).await?;
            let code = answer.ok()?.stdout;
            ensure!(matches!(code.trim(), "401" | "403"), "{what}: {code}");
        }

        // And were its token mounted, it would open nothing.
        let subject = format!("--as=system:serviceaccount:{}:{account}", world.name);
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let groups = groups.map(|group| format!("--as-group={group}"));
        let asked = ["auth", "can-i", &subject, &groups[0], &groups[1]];
        let list = [&asked[..], &["--list"]].concat();
        let rights = world.kubectl(&list).await?.ok()?.stdout;
        ensure!(rights.contains("selfsubjectaccessreviews"), "{rights}");
        for word in ["holdfast.dev", "secrets", "pods", "jobs", "*.*"] {
            ensure!(!rights.contains(word), "{word}: {rights}");
        }
        for verb in ["get", "list", "patch", "delete"] {
            for kind in ["backups.holdfast.dev/status", "*.holdfast.dev", "secrets"] {
                let (kind, subresource) = kind.split_once('/').unwrap_or((kind, ""));
                let subresource = format!("--subresource={subresource}");
                let question = [&asked[..], &[verb, kind, &subresource]].concat();
                let answer = world.kubectl(&question).await?;
                ensure!(
                    answer.stdout.trim() == "no",
                    "{verb} {kind}: {}",
                    answer.said()
                );
            }
        }
        source.freely();
        world.says("backup/now", "True", "Completed").await?;
        Ok(())
    };
    world.explained(shown.await, Some(&operator)).await
}
