//! Writers whose every committed state satisfies invariants: a backup at one
//! cluster time satisfies them too, and any other does not for long.
//!
//! * **Money**: transactions move money between the collections `checking` and
//!   `savings`; the sum over both is constant.
//! * **Pairs**: transactions insert or delete the same `_id` in `left` and in
//!   `right`; the two are always equal.
//! * **Order**: one writer appends n to `cause` and, once that is acknowledged,
//!   to `effect`; so `effect` never has what `cause` has not, neither has gaps,
//!   and `cause` is ahead by at most one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::{TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT};
use mongodb::{Client, ClientSession, Collection, Database};
use tokio::task::JoinHandle;

use crate::random::Random;

const OPENING_BALANCE: i64 = 1_000;

/// A bank in a database of its own.
#[derive(Clone, Debug)]
pub struct Bank {
    database: Database,
    accounts: u64,
}

impl Bank {
    /// Makes the collections, with `accounts` accounts in each of the two.
    pub async fn create(client: &Client, database: &str, accounts: u64) -> Result<Self> {
        let database = client.database(database);
        database.drop().await?;
        for name in ["checking", "savings"] {
            let collection = database.collection::<Document>(name);
            let ids: Vec<i64> = (0..i64::try_from(accounts)?).collect();
            for chunk in ids.chunks(10_000) {
                let documents = chunk.iter().map(|id| {
                    // Some weight, so that reading them takes a while.
                    doc! { "_id": id, "balance": OPENING_BALANCE, "note": format!("{name} {id} ").repeat(8) }
                });
                collection
                    .insert_many(documents)
                    .await
                    .with_context(|| format!("filling {name}"))?;
            }
        }
        for name in ["left", "right", "cause", "effect"] {
            database.create_collection(name).await?;
        }
        Ok(Self { database, accounts })
    }

    /// Starts the writers: `writers` for money, one for pairs, one for order.
    pub fn start(&self, writers: u64, seed: u64) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let mut tasks = Vec::new();
        for writer in 0..writers {
            let (bank, stop, done) = (self.clone(), stop.clone(), done.clone());
            let mut random = Random::new(seed.wrapping_mul(1_000_003).wrapping_add(writer));
            tasks.push(tokio::spawn(async move {
                let mut session = bank.database.client().start_session().await?;
                while !stop.load(Ordering::Relaxed) {
                    bank.transfer(&mut session, &mut random).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            }));
        }
        let (bank, halt, count) = (self.clone(), stop.clone(), done.clone());
        let mut random = Random::new(seed ^ 0x5041_4952);
        tasks.push(tokio::spawn(async move {
            bank.pairs(&halt, &count, &mut random).await
        }));
        let (bank, halt, count) = (self.clone(), stop.clone(), done.clone());
        tasks.push(tokio::spawn(async move { bank.order(&halt, &count).await }));
        Running { stop, done, tasks }
    }

    fn collection(&self, name: &str) -> Collection<Document> {
        self.database.collection(name)
    }

    async fn transfer(&self, session: &mut ClientSession, random: &mut Random) -> Result<()> {
        let amount = i64::try_from(random.below(50))? + 1;
        let from = i64::try_from(random.below(self.accounts))?;
        let to = i64::try_from(random.below(self.accounts))?;
        let (source, sink) = if random.below(2) == 0 {
            ("checking", "savings")
        } else {
            ("savings", "checking")
        };
        let give = doc! { "$inc": { "balance": -amount } };
        let take = doc! { "$inc": { "balance": amount } };
        self.transact(
            session,
            &[
                (source, from, Step::Update(give)),
                (sink, to, Step::Update(take)),
            ],
        )
        .await
    }

    /// One transaction, repeated while the server says that this would help.
    async fn transact(
        &self,
        session: &mut ClientSession,
        steps: &[(&str, i64, Step)],
    ) -> Result<()> {
        for _ in 0..1_000 {
            session.start_transaction().await?;
            let ended = match self.run_steps(session, steps).await {
                Ok(()) => commit(session).await,
                Err(error) => {
                    let _ = session.abort_transaction().await;
                    Err(error)
                }
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if error.contains_label(TRANSIENT_TRANSACTION_ERROR) => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::bail!("a transaction was refused a thousand times")
    }

    async fn run_steps(
        &self,
        session: &mut ClientSession,
        steps: &[(&str, i64, Step)],
    ) -> mongodb::error::Result<()> {
        for (name, id, step) in steps {
            let collection = self.collection(name);
            let this = doc! { "_id": id };
            match step {
                Step::Update(change) => {
                    collection
                        .update_one(this, change.clone())
                        .session(&mut *session)
                        .await?;
                }
                Step::Insert => {
                    collection.insert_one(this).session(&mut *session).await?;
                }
                Step::Delete => {
                    collection.delete_one(this).session(&mut *session).await?;
                }
            }
        }
        Ok(())
    }

    async fn pairs(&self, stop: &AtomicBool, done: &AtomicU64, random: &mut Random) -> Result<()> {
        let mut session = self.database.client().start_session().await?;
        let mut alive: Vec<i64> = Vec::new();
        let mut next = 0_i64;
        while !stop.load(Ordering::Relaxed) {
            let delete = alive.len() > 20 && random.below(2) == 0;
            let id = if delete {
                alive.swap_remove(usize::try_from(random.below(alive.len() as u64))?)
            } else {
                next += 1;
                alive.push(next);
                next
            };
            let step = if delete { Step::Delete } else { Step::Insert };
            self.transact(
                &mut session,
                &[("left", id, step.clone()), ("right", id, step)],
            )
            .await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn order(&self, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
        let mut number = 0_i64;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            for name in ["cause", "effect"] {
                self.collection(name)
                    .insert_one(doc! { "_id": number })
                    .await?;
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks the invariants in a database, on the same server or another;
    /// the error says which does not hold.
    pub async fn check(client: &Client, database: &str) -> Result<Checked> {
        let database = client.database(database);
        let (mut sum, mut accounts) = (0_i64, 0_i64);
        for name in ["checking", "savings"] {
            let mut cursor = database
                .collection::<Document>(name)
                .find(doc! {})
                .projection(doc! { "balance": 1 })
                .await?;
            while let Some(account) = cursor.try_next().await? {
                sum += account
                    .get_i64("balance")
                    .with_context(|| format!("{name}: {account}"))?;
                accounts += 1;
            }
        }
        ensure!(accounts > 0, "there are no accounts");
        let due = accounts * OPENING_BALANCE;
        ensure!(
            sum == due,
            "money: {accounts} accounts hold {sum}, not {due}: {} from nowhere",
            sum - due
        );

        let left = ids(&database, "left").await?;
        let right = ids(&database, "right").await?;
        let odd: Vec<_> = left.symmetric_difference(&right).take(5).collect();
        ensure!(
            odd.is_empty(),
            "pairs: left has {}, right has {}; without a partner: {odd:?}",
            left.len(),
            right.len()
        );

        let cause = ids(&database, "cause").await?;
        let effect = ids(&database, "effect").await?;
        for (name, numbers) in [("cause", &cause), ("effect", &effect)] {
            let last = numbers.last().copied().unwrap_or(0);
            ensure!(
                numbers.len() as i64 == last,
                "order: {name} has gaps: {} numbers up to {last}",
                numbers.len()
            );
        }
        let ahead = cause.len() as i64 - effect.len() as i64;
        ensure!(
            (0..=1).contains(&ahead),
            "order: cause has {}, effect has {}",
            cause.len(),
            effect.len()
        );
        Ok(Checked {
            accounts,
            pairs: left.len(),
            order: effect.len(),
        })
    }
}

/// What [`Bank::check`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Accounts in both collections together.
    pub accounts: i64,
    /// Pairs alive.
    pub pairs: usize,
    /// The last number of `effect`.
    pub order: usize,
}

/// Writers at work. Dropping them stops them without asking how it went.
#[derive(Debug)]
pub struct Running {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<Result<()>>>,
}

impl Running {
    /// Writes committed so far.
    pub fn writes(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many were committed.
    pub async fn until_writes(&self, count: u64, limit: Duration) -> Result<()> {
        tokio::time::timeout(limit, async {
            while self.writes() < count && self.tasks.iter().any(|task| !task.is_finished()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .with_context(|| format!("only {} writes within {} s", self.writes(), limit.as_secs()))
    }

    /// Stops the writers; an error if one of them failed. Returns the number
    /// of writes.
    pub async fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await
                .context("a writer panicked")?
                .context("a writer failed")?;
        }
        Ok(self.writes())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What a transaction does to one document.
#[derive(Clone, Debug)]
enum Step {
    Update(Document),
    Insert,
    Delete,
}

/// Commits; asks again, a bounded number of times, when it is unknown whether
/// the commit took place.
async fn commit(session: &mut ClientSession) -> mongodb::error::Result<()> {
    for _ in 0..100 {
        match session.commit_transaction().await {
            Err(error) if error.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT) => {}
            other => return other,
        }
    }
    session.commit_transaction().await
}

async fn ids(database: &Database, name: &str) -> Result<BTreeSet<i64>> {
    let mut ids = BTreeSet::new();
    let mut cursor = database.collection::<Document>(name).find(doc! {}).await?;
    while let Some(document) = cursor.try_next().await? {
        match document.get("_id") {
            Some(Bson::Int64(id)) => ids.insert(*id),
            other => anyhow::bail!("{name}: an _id that is {other:?}"),
        };
    }
    Ok(ids)
}
