//! A model on several ranks: one host thread, one device and one [`Model`] a rank.
//!
//! In: a cluster, how a rank's model is loaded, and what each rank does with its session. Out: what came of it on each
//! rank. Ranks take every step together ([`crate::turns`]); one that is done early takes part with no tokens until all
//! are.

use crate::device::{Device, SimCluster};
use crate::error::RuntimeError;
use crate::model::Model;
use crate::session::Session;
use crate::turns::Turns;

/// What one rank did.
pub struct RankResult<T> {
    /// What its work gave.
    pub value: T,
    /// Times, counts and memory of its model, as [`crate::StatsReport`] has them.
    pub stats: serde_json::Value,
    /// The same for people.
    pub stats_text: String,
}

/// Loads a model on every rank and works with all of them at once. `load` and `work` are told which rank it is.
///
/// A rank that fails leaves the others alone: they go on, and their kernels give up where they wait for it.
pub fn on_ranks<T: Send>(
    cluster: &SimCluster,
    load: impl Fn(usize, Box<dyn Device>) -> Result<Model, RuntimeError> + Sync,
    work: impl Fn(usize, &mut Session<'_>) -> Result<T, RuntimeError> + Sync,
) -> Vec<Result<RankResult<T>, RuntimeError>> {
    let turns = Turns::new(cluster.ranks());
    let one = |rank: usize| {
        // Dropped on every way out: nobody waits for this rank then.
        let turn = turns.of(rank);
        let device = cluster.device(rank)?;
        let mut model = load(rank, Box::new(device))?;
        model.join(turn);
        let value = {
            let mut session = model.session()?;
            let value = work(rank, &mut session)?;
            session.finish()?;
            value
        };
        let report = model.stats_report();
        Ok(RankResult {
            value,
            stats: report.to_json(),
            stats_text: report.to_string(),
        })
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..cluster.ranks())
            .map(|rank| scope.spawn(move || one(rank)))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Deals items to ranks in turn: which of them a rank has.
pub fn dealt<T>(items: &[T], rank: usize, ranks: usize) -> impl Iterator<Item = (usize, &T)> {
    items.iter().enumerate().skip(rank).step_by(ranks.max(1))
}
