//! Equality saturation over the graph: finds cheaper ways to compute the same values, bit for bit where the author allows
//! nothing else.
//!
//! ```text
//! entry ── convert::import ──► e-graph ── saturate ──► e-graph ── extract ──► choice ── convert::export, fold ──► entry
//!          equal ops merge               rules/*: both           cost.rs: least           ops over parameters    verified
//!                                        sides stay;             traffic and launches     become parameters
//!                                        pins.rs: where
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
mod fold;
mod language;
mod names;
mod origins;
mod pins;
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
use fold::Folded;
use language::Node;
use origins::Origins;
use pins::Pins;
use rules::Compiled;
use saturate::{Caps, History};

/// What the optimiser may do, and how far it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Classes of rules in use, where the author allows them ([`mcc_ir::Freedom`]).
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
    /// All that the author allows. The caps are far above what the rules need on real models.
    fn default() -> Options {
        Options {
            classes: RuleClass::ALL.to_vec(),
            without: Vec::new(),
            usual: Vec::new(),
            effort: Some(Effort::default()),
            max_rounds: 16,
            max_growth: 8,
        }
    }
}

/// Class of a rule and what it says, by its name.
#[must_use]
pub fn describe(rule: &str) -> Option<(RuleClass, &'static str)> {
    let found = rules::all().find(|row| row.name == rule)?;
    Some((found.class, found.doc))
}

/// Rewrites every entry of a verified module to the cheapest equal graph found.
///
/// # Errors
/// [`PassError::UnknownRule`] when the author or the options forbid a rule that there is not. Else only for bugs of
/// this compiler: a rule that equates different types, or a result that the verifier refuses.
pub fn optimize(
    module: &Module,
    target: &Target,
    options: &Options,
) -> Result<(Module, Report), PassError> {
    optimize_with(rules::in_use(ranks(module)), module, target, options)
}

/// [`optimize`] with those of these rules that the options leave.
fn optimize_with(
    rules: impl Iterator<Item = &'static rules::Rule>,
    module: &Module,
    target: &Target,
    options: &Options,
) -> Result<(Module, Report), PassError> {
    names::check(module, &options.without)?;
    let rules = compile_of(rules, options)?;
    let mut result = Module {
        entries: Vec::with_capacity(module.entries.len()),
        ..module.clone()
    };
    let mut folded = Folded::default();
    let mut report = Report {
        target: target.name.clone(),
        entries: Vec::new(),
    };
    for entry in &module.entries {
        let model = CostModel::new(module, &entry.name, target, &options.usual);
        let work =
            Work::new(module, entry, &rules, &model, options, &mut folded).map_err(internal)?;
        let origins = Origins::new(&work.imported, &work.originals, &work.history);
        report.entries.push(work.report(entry, &origins, &model));
        result.entries.push(work.result);
    }
    folded.finish(module, &mut result);
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

/// How many ranks a module is for.
fn ranks(module: &Module) -> u64 {
    module.mesh.map_or(1, |mesh| u64::from(mesh.ranks()))
}

/// The rules of builds of a module that the options leave, read.
fn compile(module: &Module, options: &Options) -> Result<Vec<Compiled>, PassError> {
    compile_of(rules::in_use(ranks(module)), options)
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

/// The e-graph of an entry with everything that the rules find where they are allowed, and how it came about.
fn saturated(
    module: &Module,
    entry: &Graph,
    rules: &[Compiled],
    options: &Options,
) -> Result<(Imported, Pins, History), String> {
    let mut rules: Vec<&Compiled> = rules.iter().collect();
    loop {
        let mut imported = convert::import(module, entry);
        let caps = Caps {
            nodes: imported
                .graph
                .total_size()
                .saturating_mul(options.max_growth),
            rounds: options.max_rounds,
        };
        let mut pins = Pins::new(module, entry, &imported);
        let history = saturate::saturate(&mut imported.graph, &rules, &mut pins, caps)?;
        let strained = pins.strained(&imported.graph, &history);
        if strained.is_empty() {
            pins.keep(&mut imported.graph);
            return Ok((imported, pins, history));
        }
        // Each time there are fewer rules, so this ends.
        rules.retain(|rule| !strained.contains(rule.rule.name));
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
        folded: &mut Folded,
    ) -> Result<Work, String> {
        let (imported, pins, history) = saturated(module, entry, rules, options)?;
        let originals = imported.originals();
        let age = |node: &Node| originals.get(node).map(|original| original.age);
        let problem = Problem::new(&imported.graph, &imported.roots(entry), age, model)?;
        let selection = extract::extract(&problem, options.effort.as_ref())?;
        let origins = Origins::new(&imported, &originals, &history);
        let loc = |node: &Node| entry.node(origins.author(node)?).loc.clone();
        let default = entry.allow.unwrap_or(module.allow);
        let marks = |node: &Node| pins.marks(node, default);
        let mut result = convert::export(module, entry, &imported, &selection, loc, marks)?;
        folded.fold(module, &mut result)?;
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
        // Where a value is read from is a fact of its class; of two views the one that is chosen may be of another value.
        debug_assert!(
            report
                .after
                .nanoseconds
                .abs_diff(report::nanoseconds(self.selection.cost))
                <= report.after.nanoseconds / 100,
            "extraction counts what it chose"
        );
        report
    }
}
