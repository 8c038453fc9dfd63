//! A model on several ranks: one host thread, one device and one [`Model`] a rank.
//!
//! In: a cluster, how a rank's model is loaded, and prompts or a text. Out: what came of them, in their order, whichever
//! rank had them. Items are dealt to ranks in turn. Ranks take every step together ([`crate::turns`]); one that is done
//! early takes part with no tokens until all are.

use std::fmt;

use crate::device::{Device, SimCluster};
use crate::error::{RankError, RuntimeError};
use crate::model::Model;
use crate::session::Session;
use crate::stats::Size;
use crate::text::{
    EvalReport, GenerateOptions, Generation, check_eval, eval_windows, generate, score_window,
};
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

/// Continues prompts, rank r those with the numbers r, r + ranks, and so on. The texts are in the prompts' order.
///
/// # Errors
/// When a rank fails, or the others do without it.
pub fn generate_on_ranks(
    cluster: &SimCluster,
    load: impl Fn(usize, Box<dyn Device>) -> Result<Model, RuntimeError> + Sync,
    prompts: &[Vec<i32>],
    options: &GenerateOptions,
) -> Result<(Vec<Generation>, RanksReport), RuntimeError> {
    let each = |prompt: &Vec<i32>, session: &mut Session<'_>| {
        session.reset()?;
        generate(session, prompt, options, &mut |_| ())
    };
    dealt(cluster, load, prompts, each)
}

/// As [`crate::evaluate`], with the windows dealt to ranks; the result is the same to the last bit.
///
/// # Errors
/// As [`crate::evaluate`], and when a rank fails.
pub fn evaluate_on_ranks(
    cluster: &SimCluster,
    load: impl Fn(usize, Box<dyn Device>) -> Result<Model, RuntimeError> + Sync,
    tokens: &[i32],
    context: usize,
    chunk: Option<usize>,
) -> Result<(EvalReport, RanksReport), RuntimeError> {
    let windows: Vec<&[i32]> = eval_windows(tokens, context).collect();
    let (scores, report) = dealt(cluster, load, &windows, |window, session| {
        check_eval(session, tokens, context)?;
        score_window(session, window, chunk)
    })?;
    if scores.is_empty() {
        return Err(RuntimeError::TextTooShort {
            tokens: tokens.len(),
        });
    }
    Ok((EvalReport::of(scores.iter().flatten()), report))
}

/// Deals items to ranks in turn; what `each` makes of them, in their order.
fn dealt<I: Sync, T: Send>(
    cluster: &SimCluster,
    load: impl Fn(usize, Box<dyn Device>) -> Result<Model, RuntimeError> + Sync,
    items: &[I],
    each: impl Fn(&I, &mut Session<'_>) -> Result<T, RuntimeError> + Sync,
) -> Result<(Vec<T>, RanksReport), RuntimeError> {
    let ranks = cluster.ranks();
    let results = on_ranks(cluster, load, |rank, session| {
        let own = items.iter().skip(rank).step_by(ranks);
        own.map(|item| each(item, session))
            .collect::<Result<Vec<T>, _>>()
    });
    let (mut done, mut errors) = (Vec::new(), Vec::new());
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(result) => done.push(result),
            Err(source) => errors.push(RankError { rank, source }),
        }
    }
    if !errors.is_empty() {
        return Err(RuntimeError::Ranks(errors));
    }
    let report = RanksReport::new(cluster, &done);
    let mut hands: Vec<_> = done.into_iter().map(|r| r.value.into_iter()).collect();
    let next = (0..items.len()).filter_map(|i| hands[i % ranks].next());
    Ok((next.collect(), report))
}

/// What ranks did, and what went from one to another; to print.
pub struct RanksReport {
    /// Of each rank, as JSON and as text.
    stats: Vec<(serde_json::Value, String)>,
    traffic: Vec<Pair>,
}

/// Traffic from one rank to another, where there was some.
struct Pair {
    from: usize,
    to: usize,
    traffic: mcc_sim::Traffic,
}

impl RanksReport {
    fn new<T>(cluster: &SimCluster, ranks: &[RankResult<T>]) -> Self {
        let all = 0..cluster.ranks();
        let pairs = all
            .clone()
            .flat_map(|from| all.clone().map(move |to| (from, to)));
        let traffic = pairs
            .map(|(from, to)| Pair {
                from,
                to,
                traffic: cluster.traffic(from, to),
            })
            .filter(|pair| pair.traffic != mcc_sim::Traffic::default())
            .collect();
        let stats = ranks
            .iter()
            .map(|r| (r.stats.clone(), r.stats_text.clone()));
        Self {
            stats: stats.collect(),
            traffic,
        }
    }

    /// `ranks`, a list of what [`crate::StatsReport::to_json`] gives, and `traffic`, a list of pairs of ranks.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let ranks: Vec<_> = self.stats.iter().map(|(json, _)| json).collect();
        let traffic: Vec<_> = self
            .traffic
            .iter()
            .map(|p| {
                serde_json::json!({
                    "from": p.from,
                    "to": p.to,
                    "nvlink_bytes": p.traffic.nvlink_bytes,
                    "network_bytes": p.traffic.network_bytes,
                    "network_messages": p.traffic.network_messages,
                })
            })
            .collect();
        serde_json::json!({ "ranks": ranks, "traffic": traffic })
    }
}

/// Rank 0 in full, as all do the same; and what every rank sent.
impl fmt::Display for RanksReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rank 0 of {}", self.stats.len())?;
        if let Some((_, text)) = self.stats.first() {
            f.write_str(text)?;
        }
        writeln!(f, "traffic  from rank     NVLink    network  messages")?;
        for from in 0..self.stats.len() {
            let own = self.traffic.iter().filter(|p| p.from == from);
            let (mut nvlink, mut network, mut messages) = (0, 0, 0);
            for pair in own {
                nvlink += pair.traffic.nvlink_bytes;
                network += pair.traffic.network_bytes;
                messages += pair.traffic.network_messages;
            }
            writeln!(
                f,
                "         {from:>9} {:>10} {:>10} {messages:>9}",
                Size(nvlink).to_string(),
                Size(network).to_string()
            )?;
        }
        Ok(())
    }
}
