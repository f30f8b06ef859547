//! Brings what is declared about, pass by pass: reconcile, carry out, reconcile again, until a plan
//! holds nothing but waiting.

use std::sync::Arc;

use holdfast_engine::class::Classified;
use holdfast_engine::progress::Progress;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::host::{Host, Name};
use crate::plan::{Action, Plan};
use crate::reconcile::carry_out::{self, CarriedOut};
use crate::reconcile::policy::Patience;
use crate::reconcile::{backup, policy, restore};
use crate::run::{RunError, Runner};

/// How many plans in a row may hold work before a pass is ended: each one leads closer, and one
/// that does not must not turn in place.
const MAX_ROUNDS: usize = 16;

/// Carries plans out on this machine, so many runs side by side.
#[derive(Debug)]
pub struct Converger<H> {
    /// Does things.
    pub runner: Runner<H>,
    /// One permit a run.
    pub slots: Arc<Semaphore>,
    /// How failed attempts are looked at.
    pub patience: Patience,
    /// Told of runs that begin; the command line shows them.
    pub on_start: fn(&str, Progress) -> Box<dyn std::any::Any + Send>,
}

/// The right to carry out one plan.
type Slot<'a> = SemaphorePermit<'a>;

impl<H> Clone for Converger<H> {
    fn clone(&self) -> Self {
        Self {
            runner: self.runner.clone(),
            slots: self.slots.clone(),
            patience: self.patience,
            on_start: self.on_start,
        }
    }
}

/// What a pass over one object came to.
#[derive(Debug, Default)]
pub struct Passed {
    /// Actions that were done.
    pub done: usize,
    /// What failed, in words.
    pub failures: Vec<String>,
    /// When to look again, if nothing happens before.
    pub next: Option<Timestamp>,
}

impl Passed {
    fn failed(error: &RunError) -> Self {
        Self {
            failures: vec![error.to_string()],
            ..Self::default()
        }
    }
}

impl<H: Host> Converger<H> {
    /// Brings a policy about, with the Backups that ask for its runs.
    pub async fn policy(&self, name: &Name) -> Passed {
        let mut passed = Passed::default();
        for _ in 0..MAX_ROUNDS {
            let (plan, slot) = match self.planned(name).await {
                Ok(planned) => planned,
                Err(error) => {
                    tracing::error!(policy = %name, %error, "A policy could not be reconciled.");
                    passed.failures.push(error.to_string());
                    return passed;
                }
            };
            passed.next = plan.next();
            let carried = self.carry_out(name, &plan, slot).await;
            self.report_backups(name).await;
            passed.done += carried.done;
            let stuck = carried.done == 0;
            for error in &carried.failed {
                passed.failures.push(error.to_string());
            }
            if stuck || self.runner.cancel.is_cancelled() {
                if !carried.failed.is_empty() {
                    // The status must tell of the failure, and the delay before the next try.
                    match policy::reconcile(&self.runner, name, self.patience, Timestamp::now())
                        .await
                    {
                        Ok(plan) => passed.next = plan.next(),
                        Err(error) => passed.failures.push(error.to_string()),
                    }
                } else if let Some((reason, message)) = plan.refusal() {
                    passed.failures.push(format!("{reason}: {message}"));
                }
                break;
            }
        }
        if let Some(soon) = self.while_another_runs(name).await {
            passed.next = Some(passed.next.map_or(soon, |next| next.min(soon)));
        }
        passed
    }

    /// A plan, and the slot to carry it out in when there is anything to do. A slot may be long in
    /// coming, and what was planned before may be wrong by then: it is planned anew.
    async fn planned(&self, name: &Name) -> Result<(Plan, Option<Slot<'_>>), RunError> {
        let reconcile =
            async || policy::reconcile(&self.runner, name, self.patience, Timestamp::now()).await;
        let plan = reconcile().await?;
        if plan.work().next().is_none() {
            return Ok((plan, None));
        }
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok((plan, Some(slot)));
        }
        let slot = self.slots.acquire().await.ok();
        Ok((reconcile().await?, slot))
    }

    /// When to look again at a policy of which another process has a run in progress: nobody tells
    /// when that ends.
    async fn while_another_runs(&self, name: &Name) -> Option<Timestamp> {
        let open = self.runner.host.open_runs().await.ok()?;
        let key = name.to_string();
        open.iter()
            .any(|run| run.policy_key().as_deref() == Some(key.as_str()))
            .then(|| {
                Timestamp::now()
                    .checked_add(SignedDuration::from_secs(10))
                    .ok()
            })
            .flatten()
    }

    /// Brings a Restore about.
    pub async fn restore(&self, name: &Name) -> Passed {
        let mut slot = None;
        // A second time when the slot was long in coming.
        let (plan, start, (policy, destination, snapshot)) = loop {
            let start = Timestamp::now();
            let plan = match restore::reconcile(&self.runner, name, self.patience, start).await {
                Ok(plan) => plan,
                Err(error) => {
                    tracing::error!(restore = %name, %error, "A restore could not be reconciled.");
                    return Passed::failed(&error);
                }
            };
            let Some(chosen) = chosen(&plan, name) else {
                return Passed {
                    next: plan.next(),
                    failures: plan
                        .refusal()
                        .map(|(reason, message)| format!("{reason}: {message}"))
                        .into_iter()
                        .collect(),
                    ..Passed::default()
                };
            };
            if slot.is_some() {
                break (plan, start, chosen);
            }
            slot = self.slots.try_acquire().ok();
            if slot.is_some() {
                break (plan, start, chosen);
            }
            slot = self.slots.acquire().await.ok();
            if slot.is_none() {
                return Passed::default();
            }
        };
        let mut passed = Passed {
            next: plan.next(),
            ..Passed::default()
        };
        let progress = Progress::new();
        let _shown = (self.on_start)(&format!("restore {name}"), progress.clone());
        let result = carry_out::declared_restore(
            &self.runner,
            name,
            &self
                .runner
                .host
                .declared()
                .destination_name(&policy, &destination),
            &snapshot,
            &progress,
        )
        .await;
        drop(slot);
        let reported = restore::report(&self.runner, name, &plan, start, result.as_ref()).await;
        match result {
            Ok(_) => passed.done += 1,
            Err(error) => {
                passed.failures.push(error.to_string());
                if matches!(error.class(), holdfast_engine::class::ErrorClass::Transient) {
                    passed.next = Timestamp::now()
                        .checked_add(SignedDuration::from_mins(1))
                        .ok();
                }
            }
        }
        if let Err(error) = reported {
            passed.failures.push(error.to_string());
        }
        passed
    }

    /// Does what follows a backup: copies, forgets, prunes. Another backup that comes due meanwhile
    /// is left to the next pass.
    pub async fn upkeep(&self, name: &Name) -> Passed {
        let mut passed = Passed::default();
        for _ in 0..MAX_ROUNDS {
            let now = Timestamp::now();
            let plan = match policy::upkeep(&self.runner, name, self.patience, now).await {
                Ok(plan) => plan,
                Err(error) => {
                    passed.failures.push(error.to_string());
                    return passed;
                }
            };
            let slot = self.slots.acquire().await.ok();
            let carried = self.carry_out(name, &plan, slot).await;
            passed.done += carried.done;
            passed
                .failures
                .extend(carried.failed.iter().map(ToString::to_string));
            if carried.done == 0 || self.runner.cancel.is_cancelled() {
                break;
            }
        }
        passed
    }

    async fn carry_out(&self, policy: &Name, plan: &Plan, slot: Option<Slot<'_>>) -> CarriedOut {
        let idle = plan.work().next().is_none();
        if idle || slot.is_none() || self.runner.cancel.is_cancelled() {
            return CarriedOut::default();
        }
        let progress = Progress::new();
        let _shown = (self.on_start)(&plan.subject, progress.clone());
        carry_out::carry_out(
            &self.runner,
            &policy.namespace,
            Some(policy),
            &plan.actions,
            &progress,
        )
        .await
    }

    /// Writes how the Backups stand that ask for runs of a policy.
    async fn report_backups(&self, policy: &Name) {
        let declared = self.runner.host.declared();
        for (name, object) in &declared.backups {
            if name.namespace != policy.namespace || object.spec.policy != policy.name {
                continue;
            }
            if let Err(error) = backup::reconcile(&self.runner, name, Timestamp::now()).await {
                tracing::error!(backup = %name, %error, "The status of a backup was not written.");
            }
        }
    }
}

/// The policy, the destination and the backup that the plan of a Restore has chosen.
fn chosen(plan: &Plan, restore: &Name) -> Option<(Name, String, String)> {
    plan.actions.iter().find_map(|action| match action {
        Action::Restore {
            policy,
            destination,
            snapshot,
            ..
        } => Some((
            Name::parse(policy, &restore.namespace),
            destination.clone(),
            snapshot.id.clone(),
        )),
        _ => None,
    })
}
