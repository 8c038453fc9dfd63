//! Equality saturation over the graph: finds cheaper ways to compute the same values, bit for bit.
//!
//! ```text
//! entry ── convert::import ──► e-graph ── saturate ──► e-graph ── extract ──► choice ── convert::export ──► entry
//!          equal ops merge               rules/*: both           cost.rs: least                    verified
//!                                        sides stay              traffic and launches
//! ```
//!
//! In: a verified module and a target. Out: the same module with rewritten entries, verified again, and a
//! [`Report`] of the rewrites taken. Each entry is optimised on its own. Nothing here depends on time, on hash
//! order or on the host: the same module gives the same bytes.

use std::collections::HashMap;

use mcc_ir::graph::Graph;
use mcc_ir::module::Module;

use crate::error::PassError;
use crate::select::DimHint;
use crate::target::Target;

mod analysis;
mod convert;
mod cost;
pub mod explain;
mod extract;
mod language;
mod origins;
mod report;
mod rules;
mod saturate;
#[cfg(test)]
mod tests;

pub use cost::{Bound, Sums};
pub use extract::{Effort, Proof};
pub use report::{EntryReport, Report, Rewrite, Totals};
pub use rules::RuleClass;

use convert::{Imported, Original};
use cost::CostModel;
use extract::{Problem, Selection};
use language::Node;
use origins::Origins;
use rules::Compiled;
use saturate::{Caps, History};

/// What the optimiser may do, and how far it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Classes of rules in use.
    pub classes: Vec<RuleClass>,
    /// Rules that are not to be used, by name.
    pub without: Vec<String>,
    /// Extents that dims usually have, where costs at the upper bound would mislead.
    pub usual: Vec<DimHint>,
    /// How hard integer programs try to better the greedy choice; `None`: not at all.
    pub effort: Option<Effort>,
    /// Rounds of saturation at most.
    pub max_rounds: usize,
    /// Nodes of the e-graph at most, as a multiple of those of the entry.
    pub max_growth: usize,
}

impl Default for Options {
    /// Exact rules alone. The caps are far above what the rules need on real models.
    fn default() -> Options {
        Options {
            classes: vec![RuleClass::Exact],
            without: Vec::new(),
            usual: Vec::new(),
            effort: Some(Effort::default()),
            max_rounds: 16,
            max_growth: 8,
        }
    }
}

/// Rewrites every entry of a verified module to the cheapest equal graph found.
///
/// # Errors
/// Only for bugs of this compiler: a rule that equates different types, or a result that the verifier refuses.
pub fn optimize(
    module: &Module,
    target: &Target,
    options: &Options,
) -> Result<(Module, Report), PassError> {
    optimize_with(rules::in_use(), module, target, options)
}

/// [`optimize`] with those of these rules that the options leave.
fn optimize_with(
    rules: impl Iterator<Item = &'static rules::Rule>,
    module: &Module,
    target: &Target,
    options: &Options,
) -> Result<(Module, Report), PassError> {
    let rules = compile_of(rules, options)?;
    let mut result = Module {
        entries: Vec::with_capacity(module.entries.len()),
        ..module.clone()
    };
    let mut report = Report {
        target: target.name.clone(),
        entries: Vec::new(),
    };
    for entry in &module.entries {
        let model = CostModel::new(module, &entry.name, target, &options.usual);
        let work = Work::new(module, entry, &rules, &model, options).map_err(internal)?;
        let origins = Origins::new(&work.imported, &work.originals, &work.history);
        report.entries.push(work.report(entry, &origins, &model));
        result.entries.push(work.result);
    }
    mcc_ir::verify::verify(&result).map_err(|errors| {
        internal(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("; "),
        )
    })?;
    Ok((result, report))
}

/// The rules of builds that the options leave, read.
fn compile(options: &Options) -> Result<Vec<Compiled>, PassError> {
    compile_of(rules::in_use(), options)
}

fn compile_of(
    rules: impl Iterator<Item = &'static rules::Rule>,
    options: &Options,
) -> Result<Vec<Compiled>, PassError> {
    rules
        .filter(|rule| {
            options.classes.contains(&rule.class)
                && options.without.iter().all(|name| name != rule.name)
        })
        .map(Compiled::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(internal)
}

fn internal(what: String) -> PassError {
    PassError::Internal {
        pass: "egraph",
        what,
    }
}

/// An optimised entry, and everything that it was chosen from.
struct Work {
    imported: Imported,
    originals: HashMap<Node, Original>,
    history: History,
    problem: Problem,
    selection: Selection,
    result: Graph,
}

impl Work {
    fn new(
        module: &Module,
        entry: &Graph,
        rules: &[Compiled],
        model: &CostModel<'_>,
        options: &Options,
    ) -> Result<Work, String> {
        let mut imported = convert::import(entry);
        let caps = Caps {
            nodes: imported
                .graph
                .total_size()
                .saturating_mul(options.max_growth),
            rounds: options.max_rounds,
        };
        let history = saturate::saturate(&mut imported.graph, rules, caps)?;
        let originals = imported.originals();
        let age = |node: &Node| originals.get(node).map(|original| original.age);
        let problem = Problem::new(&imported.graph, &imported.roots(entry), age, model)?;
        let selection = extract::extract(&problem, options.effort.as_ref())?;
        let origins = Origins::new(&imported, &originals, &history);
        let loc = |node: &Node| entry.node(origins.author(node)?).loc.clone();
        let result = convert::export(module, entry, &imported, &selection, loc)?;
        Ok(Work {
            imported,
            originals,
            history,
            problem,
            selection,
            result,
        })
    }

    fn report(&self, entry: &Graph, origins: &Origins<'_>, model: &CostModel<'_>) -> EntryReport {
        let report = EntryReport {
            entry: entry.name.to_string(),
            before: Totals::of(entry, model),
            after: Totals::of(&self.result, model),
            rewrites: report::rewrites(entry, origins, &self.selection),
            rounds: self.history.rounds,
            saturated: self.history.saturated,
            nodes: self.imported.graph.total_size(),
            proof: self.selection.proof.clone(),
        };
        debug_assert_eq!(
            report.after.nanoseconds,
            report::nanoseconds(self.selection.cost),
            "extraction counts what it chose"
        );
        report
    }
}
