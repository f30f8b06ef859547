//! `holdfast history`: runs, failed ones too.

use jiff::Timestamp;
use serde_json::Value;

use super::arguments::{GlobalArgs, HistoryArgs};
use super::failure::Failure;
use super::{output, print, session};
use crate::host::Name;
use crate::journal::{Outcome, RunQuery};

/// Lists runs, the newest first.
pub(super) fn history(global: &GlobalArgs, arguments: &HistoryArgs) -> Result<(), Failure> {
    let journal = session::journal(global)?;
    let query = RunQuery {
        policy: arguments
            .policy
            .as_deref()
            .map(|policy| Name::parse(policy, &arguments.namespace).to_string()),
        ..RunQuery::default()
    };
    let mut runs = journal
        .runs(&query)
        .map_err(|error| Failure::Failed(error.to_string()))?;
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
