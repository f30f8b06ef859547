//! What a real API server takes and what `holdfast validate` takes is the same: one table of cases,
//! asked of both. There is no webhook; every rule is in the schema or in CEL.
//!
//! The table lies in `admission/`. In `destination.txt`, `policy.txt` and `others.txt` a line
//! `=== good KIND: TITLE` (or `bad`) begins a case, and what follows is the object's `spec`, or the
//! whole object where the kind is `document`. In `schedule.txt` each line is the schedule of a policy.

#[path = "support/control.rs"]
mod support;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use holdfast_e2e::command::Output;
use holdfast_e2e::{Workspace, shared};

/// What the cases refer to, so that nothing but themselves is judged.
const COMPANIONS: &str = "
{apiVersion: holdfast.dev/v1alpha1, kind: Destination, metadata: {name: disk}, spec: {local: {path: /disk}, encryption: {password: {env: PW}}}}
---
{apiVersion: holdfast.dev/v1alpha1, kind: Destination, metadata: {name: bucket}, spec: {s3: {bucket: acme}, encryption: {password: {env: PW}}}}
---
{apiVersion: holdfast.dev/v1alpha1, kind: Destination, metadata: {name: shared}, spec: {s3: {bucket: acme}, encryption: {password: {env: PW}}}}
---
{apiVersion: holdfast.dev/v1alpha1, kind: Destination, metadata: {name: shared, namespace: backups}, spec: {s3: {bucket: acme}, encryption: {password: {env: PW}}, allowedNamespaces: [default]}}
---
{apiVersion: holdfast.dev/v1alpha1, kind: BackupPolicy, metadata: {name: shop}, spec: {source: {mongodb: {uri: \"mongodb://db\"}}, destinations: [{name: disk}]}}
---
{apiVersion: holdfast.dev/v1alpha1, kind: BackupPolicy, metadata: {name: uploads}, spec: {source: {files: {paths: [/srv]}}, destinations: [{name: disk}]}}
";

/// How many of them run at once.
const AT_ONCE: usize = 4;

/// What becomes of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
}

/// One object, and whether it is to be taken.
#[derive(Debug)]
struct Case {
    verdict: Verdict,
    title: String,
    document: String,
}

fn verdict(word: &str) -> Result<Verdict> {
    match word {
        "good" => Ok(Verdict::Good),
        "bad" => Ok(Verdict::Bad),
        other => anyhow::bail!("{other} is neither good nor bad"),
    }
}

/// An object of a kind, from its spec in YAML.
fn document(kind: &str, name: &str, spec: &str) -> String {
    let mut text = format!(
        "apiVersion: holdfast.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    );
    for line in spec.lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The table.
fn cases() -> Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/admission");
    let read = |name: &str| {
        let file = folder.join(name);
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
    };
    let mut cases = Vec::new();
    for name in ["destination.txt", "policy.txt", "others.txt"] {
        for block in read(name)?.split("\n=== ").skip(1) {
            let (head, body) = block.split_once('\n').context("a case without a body")?;
            let (word, title) = head.split_once(' ').context("a case without a title")?;
            let (kind, _) = title.split_once(": ").context("a title without a kind")?;
            cases.push(Case {
                verdict: verdict(word)?,
                title: title.to_owned(),
                document: if kind == "document" {
                    body.to_owned()
                } else {
                    document(kind, &format!("case-{}", cases.len()), body.trim_end())
                },
            });
        }
    }
    for line in read("schedule.txt")?.lines() {
        let Some((word @ ("good" | "bad"), schedule)) = line.split_once(": ") else {
            continue;
        };
        let spec = format!(
            "source: {{files: {{paths: [/srv]}}}}\ndestinations: [{{name: disk}}]\nschedule: {{{schedule}}}"
        );
        cases.push(Case {
            verdict: verdict(word)?,
            title: format!("BackupPolicy: schedule {schedule}"),
            document: document("BackupPolicy", &format!("case-{}", cases.len()), &spec),
        });
    }
    Ok(cases)
}

/// `holdfast validate`, the real binary.
async fn validated(workspace: &Workspace, number: usize, case: &Case) -> Result<(Verdict, Output)> {
    let companions = workspace.join("companions.yaml");
    let file = workspace.join(format!("case-{number}.yaml"));
    std::fs::write(&file, &case.document)?;
    let args = [
        "validate".as_ref(),
        companions.as_os_str(),
        file.as_os_str(),
    ];
    let output = workspace.holdfast(args).await?;
    let verdict = match output.code {
        Some(0) => Verdict::Good,
        Some(2) => Verdict::Bad,
        _ => anyhow::bail!("{}: {}", case.title, output.said()),
    };
    Ok((verdict, output))
}

/// `kubectl create --dry-run=server`: the API server admits it, and stores nothing.
async fn admitted(case: &Case) -> Result<(Verdict, Output)> {
    let args = ["create", "--dry-run=server", "--validate=strict"];
    let output = shared::api().await?.feed(&args, &case.document).await?;
    if output.code == Some(0) {
        return Ok((Verdict::Good, output));
    }
    // An answer, and not that nobody answered.
    let answers = [
        "is invalid",
        "strict decoding error",
        "no matches for kind",
        "resource name may not be empty",
        "cannot be handled as a",
        "unable to decode",
        "unknown field",
    ];
    let said = output.said();
    ensure!(
        answers.iter().any(|answer| said.contains(answer)),
        "{}: {said}",
        case.title
    );
    Ok((Verdict::Bad, output))
}

/// Fails with every case that one of the two judges otherwise than the table.
fn agreed(told: &[String], cases: usize) -> Result<()> {
    ensure!(
        told.is_empty(),
        "{} of {cases} cases are judged otherwise:\n{}",
        told.len(),
        told.join("\n")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validate_and_a_real_api_server_agree_on_every_case() -> Result<()> {
    let cases = cases()?;
    ensure!(cases.len() >= 200, "only {} cases are left", cases.len());
    let workspace = Workspace::new()?;
    std::fs::write(workspace.join("companions.yaml"), COMPANIONS)?;
    shared::api().await?.apply_crds().await?;
    let judged: Vec<Option<String>> = stream::iter(cases.iter().enumerate())
        .map(|(number, case)| {
            let workspace = &workspace;
            async move {
                let (by_file, file) = validated(workspace, number, case).await?;
                let (by_server, server) = admitted(case).await?;
                let right = by_file == case.verdict && by_server == case.verdict;
                anyhow::Ok((!right).then(|| {
                    format!(
                        "{} is {:?}\n  validate: {by_file:?} {}\n  API server: {by_server:?} {}",
                        case.title,
                        case.verdict,
                        file.said().trim(),
                        server.said().trim()
                    )
                }))
            }
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let told: Vec<String> = judged.into_iter().flatten().collect();
    agreed(&told, cases.len())
}

/// Each bad case is refused for what it is there to show, and not for a slip in it.
#[test]
fn what_is_refused_is_told_why() -> Result<()> {
    let mut told = String::new();
    for case in cases()? {
        if case.verdict == Verdict::Good {
            continue;
        }
        let _ = writeln!(told, "{}", case.title);
        let mut parsed = holdfast_crds::manifest::parse(Path::new("companions.yaml"), COMPANIONS);
        parsed.extend(holdfast_crds::manifest::parse(
            Path::new("case.yaml"),
            &case.document,
        ));
        let references = holdfast_crds::manifest::check_references(&parsed);
        parsed.problems.extend(references);
        parsed.problems.sort();
        for problem in &parsed.problems {
            let _ = writeln!(
                told,
                "  {}:{}: {}",
                problem.location.line, problem.location.column, problem.message
            );
        }
    }
    insta::assert_snapshot!(told);
    Ok(())
}

/// What may change in an object that is there, and what may not: only a server can tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_cannot_be_changed_and_the_rest_can() -> Result<()> {
    let api = shared::api().await?;
    api.apply_crds().await?;
    let namespace = api.namespace("admission").await?;
    let own = |text: String| {
        text.replacen(
            "metadata: {",
            &format!("metadata: {{namespace: {namespace}, "),
            1,
        )
    };
    let restore = |policy: &str| {
        own(document(
            "Restore",
            "once",
            &format!("from: {{policy: {policy}}}\nto: {{original: {{}}}}"),
        ))
    };
    let policy = |destination: &str| {
        own(document(
            "BackupPolicy",
            "shop",
            &format!(
                "source: {{files: {{paths: [/srv]}}}}\ndestinations: [{{name: {destination}}}]"
            ),
        ))
    };
    api.apply(&restore("shop")).await?;
    api.apply(&policy("disk")).await?;

    let dry = ["apply", "--dry-run=server", "--validate=strict"];
    // The same again, with a label, is no change of the spec.
    let labelled = restore("shop").replacen("{namespace", "{labels: {a: b}, namespace", 1);
    api.feed(&dry, &labelled).await?.ok()?;
    let changed = api.feed(&dry, &restore("other")).await?;
    support::expect(
        changed,
        1,
        &["a Restore is done once and cannot be changed: create another one"],
    )?;
    api.feed(&dry, &policy("bucket")).await?.ok()?;
    let broken = api.feed(&dry, &policy("Bucket")).await?;
    support::expect(broken, 1, &["spec.destinations[0].name"])?;
    Ok(())
}

/// The defaults that an API server fills in are those that a plain file gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_are_the_same() -> Result<()> {
    let api = shared::api().await?;
    api.apply_crds().await?;
    let args = [
        "create",
        "--dry-run=server",
        "--validate=strict",
        "-o",
        "json",
    ];
    for (number, case) in cases()?.iter().enumerate() {
        if case.verdict == Verdict::Bad {
            continue;
        }
        let by_server = api.feed(&args, &case.document).await?.ok()?.json()?;
        let parsed = holdfast_crds::manifest::parse(Path::new("case.yaml"), &case.document);
        let resource = parsed
            .resources
            .first()
            .with_context(|| format!("{}: {:?}", case.title, parsed.problems))?;
        let by_file = serde_json::to_value(&resource.resource)?;
        let (file, server) = (plain(&by_file["spec"]), plain(&by_server["spec"]));
        ensure!(
            file == server,
            "case {number}, {}:\n{file:#}\n{server:#}",
            case.title
        );
    }
    Ok(())
}

/// Without keys that have no value, and with the quantities that are written as numbers as text,
/// which is how they are read.
fn plain(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), plain(value)))
            .map(|(key, value)| match value {
                Value::Number(number) if ["cpu", "memory"].contains(&key.as_str()) => {
                    (key, Value::String(number.to_string()))
                }
                value => (key, value),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}
