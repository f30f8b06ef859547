//! Plain files: the good ones are taken, with their defaults; each bad one gets
//! messages that help the person who has to fix it.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use holdfast_crds::{
    manifest::{Parsed, Resource, check_references, parse},
    rules::Check as _,
};
use rstest::rstest;

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn read(path: &Path) -> Parsed {
    parse(Path::new(name(path)), &fs::read_to_string(path).unwrap())
}

/// As `holdfast validate` prints them.
fn messages(parsed: &Parsed) -> Vec<String> {
    let references = check_references(parsed);
    parsed
        .problems
        .iter()
        .chain(&references)
        .map(ToString::to_string)
        .collect()
}

/// What `holdfast validate` says about text.
fn validate(text: &str) -> Vec<String> {
    messages(&parse(Path::new("x.yaml"), text))
}

#[test]
fn good_files_are_taken() {
    for path in folder("good") {
        let parsed = read(&path);
        assert_eq!(
            messages(&parsed),
            Vec::<String>::new(),
            "{}",
            path.display()
        );
        let resources: Vec<&Resource> = parsed.resources.iter().map(|it| &it.resource).collect();
        let ignored: Vec<String> = parsed
            .ignored
            .iter()
            .map(|it| {
                format!(
                    "{} {}",
                    it.location,
                    it.kind.as_deref().unwrap_or("without a kind")
                )
            })
            .collect();
        insta::with_settings!({snapshot_suffix => name(&path).replace('.', "_")}, {
            insta::assert_yaml_snapshot!("good", (resources, ignored));
        });
    }
}

/// Both hosts: what the API server would hand out passes the rules in Rust.
#[test]
fn good_resources_pass_the_rules() {
    for path in folder("good") {
        for loaded in read(&path).resources {
            let violations = match &loaded.resource {
                Resource::Destination(object) => object.check(),
                Resource::BackupPolicy(object) => object.check(),
                Resource::Backup(object) => object.check(),
                Resource::Restore(object) => object.check(),
            };
            assert_eq!(violations, [], "{}", path.display());
        }
    }
}

/// What is written out is read back as the same.
#[test]
fn resources_round_trip() {
    for path in folder("good") {
        for loaded in read(&path).resources {
            let text = serde_json::to_string_pretty(&loaded.resource).unwrap();
            let again = parse(Path::new("again.json"), &text);
            assert_eq!(again.problems, [], "{text}");
            assert_eq!(again.resources[0].resource, loaded.resource);
        }
    }
}

#[test]
fn bad_files_are_explained() {
    for path in folder("bad") {
        let messages = messages(&read(&path));
        assert!(!messages.is_empty(), "{} has no problem", path.display());
        let text = messages.join("\n");
        for secret in ["hunter", "hunt%40er2"] {
            assert!(!text.contains(secret), "a secret is repeated: {text}");
        }
        insta::with_settings!({
            snapshot_suffix => name(&path).replace('.', "_"),
            omit_expression => true,
        }, {
            insta::assert_snapshot!("bad", text);
        });
    }
}

fn policy(source: &str) -> String {
    format!(
        "{{apiVersion: holdfast.dev/v1alpha1, kind: BackupPolicy, metadata: {{name: a}}, spec: {{source: {source}, destinations: [{{name: b}}]}}}}\n---\n{{apiVersion: holdfast.dev/v1alpha1, kind: Destination, metadata: {{name: b}}, spec: {{local: {{path: /b}}, encryption: {{password: {{env: PW}}}}}}}}"
    )
}

#[rstest]
#[case("mongodb://db", true)]
#[case("mongodb://db:27017/?replicaSet=rs0", true)]
#[case("mongodb://user@db:27017", true)]
#[case("mongodb://user@db1:27017,db2:27017/admin?appName=a:b@c", true)]
#[case("mongodb://db:27017,db2:27018/?appName=a@b", true)]
#[case("mongodb+srv://cluster.example.com/?authMechanism=MONGODB-X509", true)]
#[case("mongodb://[::1]:27017/", true)]
#[case("mongodb://user@[::1]:27017/", true)]
#[case("mongodb://user:pw@db", false)]
#[case("mongodb://user:@db", false)]
#[case("mongodb://:pw@db", false)]
#[case("mongodb://user:p/w@db", false)]
#[case("mongodb://user:p?w@db", false)]
#[case("mongodb://user:p@w@db", false)]
#[case("mongodb+srv://user:12345@cluster.example.com", false)]
#[case("mongodb://u%40x:pw@[::1]:27017/", false)]
#[case("mongodb://db/?tls=true&TLSCertificateKeyFilePassword=pw", false)]
#[case("mongodb://db/?proxyHost=p&proxyPassword=pw", false)]
#[case("mongodb://id@db/?authMechanismProperties=AWS_SESSION_TOKEN:pw", false)]
fn a_uri_holds_no_password(#[case] uri: &str, #[case] accepted: bool) {
    let messages = validate(&policy(&format!("{{mongodb: {{uri: \"{uri}\"}}}}")));
    assert_eq!(messages.is_empty(), accepted, "{messages:?}");
    assert!(
        messages
            .iter()
            .all(|message| message.contains("uriFrom") && !message.contains("pw"))
    );
}

#[rstest]
#[case("@hourly", true)]
#[case("@daily", true)]
#[case("@weekly", true)]
#[case("@monthly", true)]
#[case("@yearly", true)]
#[case("*/5 * * * *", true)]
#[case("0 4 * * SUN", true)]
#[case("0 0 29 2 *", true)]
#[case("0 0 L * *", true)]
#[case("15 */6 * jan-mar 1-5", true)]
#[case("@reboot", false)]
#[case("@every 5m", false)]
#[case("* * * *", false)]
#[case("0 * * * * *", false)]
#[case("60 * * * *", false)]
#[case("* * * * 8", false)]
#[case("0 0 30 2 *", false)]
#[case("*/0 * * * *", false)]
#[case("5-1 * * * *", false)]
#[case("", false)]
fn cron_expressions(#[case] cron: &str, #[case] accepted: bool) {
    let text = policy("{files: {paths: [/a]}}").replace(
        "destinations:",
        &format!("schedule: {{cron: \"{cron}\"}}, destinations:"),
    );
    let messages = validate(&text);
    assert_eq!(messages.is_empty(), accepted, "{messages:?}");
}

#[rstest]
#[case("UTC", true)]
#[case("Europe/Paris", true)]
#[case("America/Argentina/Buenos_Aires", true)]
#[case("Europe/Atlantis", false)]
#[case("CET-1CEST,M3.5.0,M10.5.0/3", false)]
#[case("../../etc/passwd", false)]
#[case("+02:00", false)]
fn time_zones(#[case] zone: &str, #[case] accepted: bool) {
    let text = policy("{files: {paths: [/a]}}").replace(
        "destinations:",
        &format!("schedule: {{cron: \"@daily\", timeZone: \"{zone}\"}}, destinations:"),
    );
    let messages = validate(&text);
    assert_eq!(messages.is_empty(), accepted, "{messages:?}");
}

/// The fault of one document does not hide those of another, nor does the
/// object that could not be read count as missing.
#[test]
fn a_broken_destination_is_not_a_missing_one() {
    let text = policy("{files: {paths: [/a]}}").replace("path: /b", "path: b");
    let messages = validate(&text);
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("absolute"), "{messages:?}");
}

#[test]
fn objects_of_two_files_are_compared() {
    let text = policy("{files: {paths: [/a]}}");
    let mut all = parse(Path::new("one.yaml"), &text);
    all.extend(parse(Path::new("two.yaml"), &text));
    let messages = messages(&all);
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages
            .iter()
            .all(|it| it.starts_with("two.yaml:") && it.contains("one.yaml:"))
    );
}

#[test]
fn a_status_in_a_file_counts_for_nothing() {
    let text = "{apiVersion: holdfast.dev/v1alpha1, kind: Backup, metadata: {name: a}, spec: {policy: p}, status: {id: abc}}";
    let parsed = parse(Path::new("x.yaml"), text);
    assert_eq!(parsed.problems, []);
    let Resource::Backup(backup) = &parsed.resources[0].resource else {
        panic!("a backup")
    };
    assert_eq!(backup.status, None);
    assert_eq!(backup.metadata.namespace.as_deref(), Some("default"));
}

#[test]
fn a_field_can_be_located() {
    let text = "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: a}\nspec:\n  policy: p\n";
    let parsed = parse(Path::new("x.yaml"), text);
    assert_eq!(
        parsed.resources[0].locate("/spec/policy").to_string(),
        "x.yaml:5:3"
    );
    assert_eq!(
        parsed.resources[0].locate("/spec/tags/0").to_string(),
        "x.yaml:4:1"
    );
}

/// Whatever the bytes, there is an answer and no panic.
#[rstest]
#[case("\u{0}")]
#[case("%YAML 9.9\n---\na: b")]
#[case("? {a: b}\n: c")]
#[case("&a [*a]")]
#[case("<<: 3")]
#[case("- - - - - -")]
#[case("--- \u{1}\n---\n\u{1}\n--- @\n--- `\n%\n--- %\n---")]
#[case("# a\n--- \"\n---\n--- [\n--- {")]
#[case("apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: 3\nspec: []\n")]
#[case("apiVersion: holdfast.dev/v1alpha1\nkind: [a]\n")]
#[case("apiVersion: 3\nkind: Backup\n")]
#[case("kind: List\napiVersion: v1\nitems: 3\n")]
#[case(
    "apiVersion: holdfast.dev/v1alpha1\nkind: Backup\nmetadata: {name: a}\nspec: {policy: p, tags: {a: b}}"
)]
#[case("apiVersion: !!binary aGk=\n")]
#[case("--- \n--- \n...\n...\n---")]
fn odd_input(#[case] text: &str) {
    let _ = validate(text);
}

proptest::proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "[ \\-:{}\\[\\]&*!|>'\"\n\ta-c?,#%]{0,80}") {
        let _ = validate(&text);
    }

    #[test]
    fn a_cut_file_gets_an_answer(at in 0_usize..2000) {
        let text = include_str!("good/design.yaml");
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let _ = validate(&text[..at]);
    }
}
