//! Extraction: chooses one node for each class that the outputs need, so that the whole costs least.
//!
//! The cost of a choice is that of the DAG: a class that several others read is paid once, and so is a tuple,
//! whose unused results cost nothing. To choose the cheapest DAG is NP-hard, since sharing turns it into a set cover.
//!
//! ```text
//! problem   the e-graph with costs
//! greedy    from the author's graph, moves that lower the total, until none does   the answer at any time
//! parts     cuts the problem where no choice can matter to another                 layers fall apart, and are alike
//! program   an integer program for each distinct part, started from the answer     a better one, or the proof
//! ```
//!
//! Holds: the choice is acyclic and no more expensive than the author's; [`Proof`] says how far from the best it can be.

mod greedy;
mod parts;
mod problem;
mod program;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;

use egg::Id;
use serde::Serialize;

use super::cost::{Cost, Femtoseconds};
use super::language::Node;
pub(super) use problem::Problem;
pub use program::Effort;

/// The chosen node of each class that the roots need.
#[derive(Clone)]
pub(super) struct Selection {
    nodes: HashMap<Id, Node>,
    /// Their cost.
    pub(super) cost: Cost,
    /// How good it is.
    pub(super) proof: Proof,
}

impl Selection {
    /// The chosen node of a canonical class; `None` when the roots do not need it.
    pub(super) fn node(&self, class: Id) -> Option<&Node> {
        self.nodes.get(&class)
    }

    /// The chosen nodes, in no order.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }
}

/// What is known about the cost of a choice. Times are those of the cost model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Of the greedy choice, femtoseconds.
    pub greedy: i128,
    /// Of the choice taken.
    pub chosen: i128,
    /// No choice takes less. 0 where no integer program was asked.
    pub bound: i128,
    /// Parts with something to choose.
    pub parts: usize,
    /// Those of them that are not equal to another one.
    pub distinct: usize,
    /// Distinct parts whose program was given up, with the reason.
    pub open: Vec<String>,
}

impl Proof {
    /// How far a time is above the bound, in millionths of the bound.
    #[must_use]
    pub fn gap(&self, time: Femtoseconds) -> Option<u64> {
        if self.bound <= 0 {
            return None;
        }
        u64::try_from((time - self.bound) * 1_000_000 / self.bound).ok()
    }
}

/// `greedy within 0.0123 % of the bound, the program within 0.0000 %: 124 parts, 9 distinct`
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |time| match self.gap(time) {
            Some(gap) => format!("{}.{:04} %", gap / 10_000, gap % 10_000),
            None => "an unknown part".to_owned(),
        };
        if self.parts == 0 && self.bound == 0 {
            return f.write_str("greedy choice, no bound");
        }
        write!(
            f,
            "greedy within {} of the bound, the choice within {}: {} parts with a choice, {} distinct",
            percent(self.greedy),
            percent(self.chosen),
            self.parts,
            self.distinct
        )?;
        let mut open = self.open.clone();
        open.sort_unstable();
        open.dedup();
        for why in open {
            let parts = self.open.iter().filter(|other| **other == why).count();
            write!(f, "; {parts} left open: {why}")?;
        }
        Ok(())
    }
}

/// Chooses nodes for everything that the problem's roots need: greedily, and where there is an effort with integer
/// programs.
///
/// # Errors
/// A root that no node of the author computes, as a sentence: a bug of the caller.
pub(super) fn extract(problem: &Problem, effort: Option<&Effort>) -> Result<Selection, String> {
    let greedy = greedy::choose(problem)?;
    let first = problem
        .value(&greedy)
        .ok_or("the greedy choice reads itself")?;
    let mut proof = Proof {
        greedy: first.time,
        chosen: first.time,
        ..Proof::default()
    };
    let (mut choice, mut cost) = (greedy, first);
    if let Some(effort) = effort {
        let better = program::improve(problem, &choice, effort, &mut proof);
        // Counted anew, and exactly: the programs calculate in floating point.
        match problem.value(&better) {
            Some(value) if value < cost => {
                proof.chosen = value.time;
                (choice, cost) = (better, value);
            }
            Some(_) => {}
            None => return Err("the programs' choice reads itself".to_owned()),
        }
        proof.bound = proof.bound.min(cost.time);
    }
    let nodes = problem.classes.iter().zip(&choice);
    let nodes = nodes.filter_map(|(class, alt)| Some((class.id, class.alts[(*alt)?].node.clone())));
    Ok(Selection {
        nodes: nodes.collect(),
        cost,
        proof,
    })
}
