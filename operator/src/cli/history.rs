//! `holdfast history`: runs, failed ones too.

use jiff::Timestamp;
use serde_json::Value;

use super::arguments::{GlobalArgs, HistoryArgs};
use super::failure::Failure;
use super::{cluster, output, print, session};
use crate::host::Name;
use crate::journal::{Outcome, RunQuery};

/// Lists runs, the newest first.
pub(super) async fn history(global: &GlobalArgs, arguments: &HistoryArgs) -> Result<(), Failure> {
    let mut runs = if arguments.kubernetes {
        cluster::runs(arguments).await?
    } else {
        let namespace = arguments.namespace.as_deref();
        let namespace = namespace.unwrap_or(holdfast_crds::DEFAULT_NAMESPACE);
        session::journal(global)?
            .runs(&query(arguments, namespace))
            .map_err(|error| Failure::Failed(error.to_string()))?
    };
    if arguments.failed {
        runs.retain(|run| {
            run.ending
                .as_ref()
                .is_some_and(|ending| ending.outcome != Outcome::Succeeded)
        });
    }
    runs.truncate(arguments.limit);
    let items: Vec<Value> = runs.iter().map(output::run_resource).collect();
    print::list(arguments.output.output, &items, || {
        output::history(&runs, Timestamp::now())
    })
}

/// Which runs are asked for.
pub(super) fn query(arguments: &HistoryArgs, namespace: &str) -> RunQuery {
    let policy = arguments.policy.as_deref();
    RunQuery {
        policy: policy.map(|policy| Name::parse(policy, namespace).to_string()),
        ..RunQuery::default()
    }
}
