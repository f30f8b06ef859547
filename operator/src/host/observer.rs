//! Tells the metrics and the probes what the reconcilers saw.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::host::{Declared, Host, Name, View};
use crate::metrics::{DestinationFacts, Metrics, PolicyFacts};
use crate::reconcile::{destination, memory};
use crate::web::Readiness;

/// Tells the metrics and the probes what the reconcilers saw. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Observer {
    /// The metrics.
    pub metrics: Metrics,
    /// The probes.
    pub readiness: Readiness,
}

impl Observer {
    /// Looks at a destination, writes its status and tells.
    pub async fn destination<H: Host>(&self, view: &View<H>, name: &Name) -> bool {
        match destination::reconcile(view, name, Timestamp::now()).await {
            Ok(seen) => {
                if let Some(problem) = &seen.problem {
                    tracing::warn!(destination = %name, problem, "A destination cannot be used.");
                }
                self.metrics.set_destination(
                    &name.namespace,
                    &name.name,
                    DestinationFacts {
                        up: Some(seen.up),
                        backups: seen.backups,
                        stored_bytes: seen.stored_bytes,
                        last_check: None,
                    },
                );
                seen.up
            }
            Err(error) => {
                tracing::error!(destination = %name, %error, "A destination was not looked at.");
                false
            }
        }
    }

    /// Tells how a policy stands, from its status.
    pub async fn policy<H: Host>(&self, view: &View<H>, name: &Name) {
        let declared = view.host.declared();
        let Some(object) = declared.policies.get(name) else {
            return;
        };
        let now = Timestamp::now();
        let observed = memory::observe(view, "BackupPolicy", name, &object.spec, now).await;
        let Ok(record) = observed else { return };
        let status: holdfast_crds::BackupPolicyStatus = memory::status(&record);
        self.metrics.set_policy(
            &name.namespace,
            &name.name,
            PolicyFacts::of(
                &name.to_string(),
                &object.spec,
                &status,
                record.spec_seen,
                now,
            ),
        );
    }

    /// Drops what is told of objects that are not declared any more.
    pub fn retain(&self, declared: &Declared) {
        let names = |names: Vec<&Name>| -> BTreeSet<(String, String)> {
            names
                .into_iter()
                .map(|name| (name.namespace.clone(), name.name.clone()))
                .collect()
        };
        self.metrics.retain(
            &names(declared.policies.keys().collect()),
            &names(declared.destinations.keys().collect()),
        );
    }

    /// Takes note that every object has been looked at once.
    pub fn first_pass_done(&self) {
        self.readiness.first_pass_done();
    }
}
