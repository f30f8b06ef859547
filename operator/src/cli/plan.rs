//! `holdfast plan PATH…`: what the next pass would do, and when. It changes nothing.

use jiff::Timestamp;
use serde_json::Value;

use super::arguments::{GlobalArgs, PlanArgs};
use super::failure::Failure;
use super::session::Session;
use super::{output, print};
use crate::plan::Plan;
use crate::reconcile::policy::{self, Patience};
use crate::reconcile::restore;

/// Prints the plan of every policy and Restore.
pub(super) async fn plan(global: &GlobalArgs, arguments: PlanArgs) -> Result<(), Failure> {
    let mut session =
        Session::of_paths(global, &arguments.paths, holdfast_crds::DEFAULT_NAMESPACE)?;
    session.runner.view.only_looks = true;
    let now = Timestamp::now();
    let mut plans: Vec<Plan> = Vec::new();
    for name in session.declared.restores.keys() {
        plans.push(
            restore::plan(&session.runner, name, Patience::Backoff, now)
                .await?
                .plan,
        );
    }
    for name in session.declared.policies.keys() {
        let (plan, _) = policy::plan(&session.runner, name, Patience::Backoff, now).await?;
        plans.push(plan);
    }
    let items: Vec<Value> = plans.iter().map(output::plan_resource).collect();
    print::list(arguments.output.output, &items, || output::plans(&plans))
}
