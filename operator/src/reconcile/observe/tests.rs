use std::sync::Arc;

use holdfast_crds::manifest;
use holdfast_engine::class::ErrorClass;
use serde_json::json;

use super::*;
use crate::host::files::FilesHost;
use crate::journal::{
    Ending, FailureClass, Figures, Journal, NewRun, ObjectKey, RunError as Failure,
};

const FILES: &str = "
apiVersion: holdfast.dev/v1alpha1
kind: BackupPolicy
metadata: {name: shop}
spec:
  source: {files: {paths: [/srv]}}
  destinations: [{name: disk}]
---
apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {name: now}
spec: {policy: shop}
---
apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {name: back}
spec: {from: {policy: shop}, to: {original: {}}}
";

struct Site {
    journal: Journal,
    view: View<FilesHost>,
    _directory: tempfile::TempDir,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn site() -> Site {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), at(0)).unwrap().0;
    let parsed = manifest::parse(std::path::Path::new("all.yaml"), FILES);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let declared = Declared::from_loaded(parsed.resources);
    let host = FilesHost::new(declared, None, journal.clone());
    Site {
        journal,
        view: View::new(Arc::new(host)),
        _directory: directory,
    }
}

impl Site {
    async fn observe(&self, second: i64) -> PolicyObservation {
        let name = Name::new("default", "shop");
        policy(&self.view, &name, at(second)).await.unwrap()
    }

    /// How many Backups ask for a run.
    async fn asked(&self, second: i64) -> usize {
        self.observe(second).await.requests.len()
    }

    fn run(&self, object: Option<&str>, second: i64, ending: Ending) {
        let new = NewRun {
            kind: RunKind::Backup,
            namespace: "default".to_owned(),
            policy: Some("shop".to_owned()),
            destination: Some("disk".to_owned()),
            destination_namespace: None,
            object: object.map(str::to_owned),
            into_source: false,
            scheduled_for: None,
            fingerprint: None,
        };
        let run = self.journal.start(new, at(second)).unwrap();
        self.journal.finish(&run.id, ending).unwrap();
    }

    fn status(&self, kind: &str, name: &str, status: &serde_json::Value) {
        let key = ObjectKey::new(kind, "default", name);
        let record = self.journal.object(&key).unwrap().unwrap();
        self.journal
            .set_object_status(&key, &record.uid, status)
            .unwrap();
    }
}

fn good(second: i64) -> Ending {
    Ending::succeeded(at(second), Figures::default(), Some("5f1c".to_owned()))
}

fn bad(second: i64) -> Ending {
    let error = Failure {
        message: "the path is not there".to_owned(),
        class: FailureClass::from(ErrorClass::Permanent),
        reason: "PathNotFound".to_owned(),
    };
    Ending::failed(at(second), error)
}

fn condition(reason: &str) -> serde_json::Value {
    json!({"conditions": [{
        "type": "Succeeded", "status": "False", "reason": reason, "message": "",
        "lastTransitionTime": at(0).to_string(),
    }]})
}

/// The history that is looked at ends somewhere; what the object says of itself does not.
#[tokio::test]
async fn a_backup_that_was_made_is_not_asked_for_again_however_many_runs_follow() {
    let site = site();
    assert_eq!(site.asked(0).await, 1);
    site.run(Some("now"), 1, good(2));
    assert_eq!(site.asked(3).await, 0);
    site.status("Backup", "now", &json!({"id": "5f1c"}));
    for number in 0..201 {
        site.run(None, 10 + number, good(10 + number));
    }
    assert_eq!(site.asked(300).await, 0);
}

/// One that failed for good is told until a backup succeeds, and not tried again then either.
#[tokio::test]
async fn a_backup_that_failed_for_good_stays_so() {
    let site = site();
    site.observe(0).await;
    site.run(Some("now"), 1, bad(2));
    site.status("Backup", "now", &condition("BackupFailed"));
    let task = Task::Request("now".to_owned());
    let observed = site.observe(3).await;
    assert_eq!(observed.requests.len(), 1);
    assert!(observed.attempts.contains_key(&task));
    site.run(None, 4, good(5));
    let observed = site.observe(6).await;
    assert!(observed.requests.is_empty() && observed.attempts.is_empty());
}

/// One that is declared anew under the same name is another one.
#[tokio::test]
async fn a_backup_that_is_declared_anew_is_made() {
    let site = site();
    site.observe(0).await;
    site.run(Some("now"), 1, bad(2));
    site.status("Backup", "now", &condition("BackupFailed"));
    let key = ObjectKey::new("Backup", "default", "now");
    site.journal.forget_object(&key).unwrap();
    let observed = site.observe(60).await;
    assert_eq!(observed.requests.len(), 1);
    assert!(observed.attempts.is_empty(), "{:?}", observed.attempts);
}

/// A Restore into the source goes before backups, but not one that waits for a backup itself.
#[tokio::test]
async fn a_restore_of_what_is_not_there_holds_no_backup_back() {
    let site = site();
    assert_eq!(
        site.observe(0).await.restore_pending.as_deref(),
        Some("back")
    );
    site.status("Restore", "back", &condition("DestinationNotReady"));
    assert_eq!(
        site.observe(1).await.restore_pending.as_deref(),
        Some("back")
    );
    for reason in ["NoBackup", "UnknownBackup", "AmbiguousBackup"] {
        site.status("Restore", "back", &condition(reason));
        assert_eq!(site.observe(2).await.restore_pending, None, "{reason}");
    }
}
