//! Why the optimiser chose what it chose: rewrites in order with what each of them saves, what lost, and by how much.
//!
//! In: a module, a target, options; what else is asked ([`Question`]). Out: an [`Explanation`] as data, which prints as
//! text (`text.rs`), and draws itself (`draw.rs`). Nothing is remembered from a build: the entry is optimised again, and the
//! same module gives the same explanation.
//!
//! Layers whose graphs are equal before and after are one kind; one of them stands for all. What a rewrite of a layer
//! saves, and what lost by how much, is found in the parts of the extraction problem that the layer's values are in:
//! those decide about it, and nothing else does.
//!
//! ```text
//! saved by a rewrite    best choice without it and all later ones  -  best choice with it and all earlier ones
//! lost by              best choice with that node             -  the choice
//! ```

mod draw;
mod layer;
mod table;
mod terms;
mod text;
mod why_not;

use std::collections::BTreeMap;

use mcc_ir::graph::Graph;
use mcc_ir::mesh::Mesh;
use mcc_ir::module::Module;
use serde::Serialize;

use super::cost::{CostModel, Sums};
use super::fold::Folded;
use super::origins::Origins;
use super::report::EntryReport;
use super::rules::RuleClass;
use super::{Options, Work, compile, internal, names};
use crate::error::PassError;
use crate::target::Target;
pub use draw::{dot, html};
pub use table::{Category, Row, Table, table};
pub use why_not::{Lost, Refused, WhyNot};

/// What is asked beside the choice itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Only this entry.
    pub entry: Option<String>,
    /// Only the kind that this layer is of.
    pub layer: Option<String>,
    /// Why a rule was not used where it was not; then nothing is said of layers.
    pub why_not: Option<String>,
}

/// The explanation of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The target whose costs decided.
    pub target: String,
    /// The mesh, if the module has one.
    pub mesh: Option<Mesh>,
    /// Entry by entry.
    pub entries: Vec<Entry>,
}

/// The explanation of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Totals, rewrites by name, and how far from the best the choice can be.
    pub report: EntryReport,
    /// The extents of dims at which costs are counted.
    pub extents: BTreeMap<String, u64>,
    /// Kinds of layers, in the order of their first ones; ops outside of layers at the end. None where `why_not` is asked.
    pub kinds: Vec<Kind>,
    /// The answer to `why_not`.
    pub why_not: Option<WhyNot>,
}

/// Layers that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kind {
    /// All of them, `layers.4..=59`; `outside of layers` for the rest of the entry.
    pub layers: String,
    /// How many.
    pub count: usize,
    /// The one that is shown.
    pub shown: String,
    /// Its ops as written.
    pub before: Vec<String>,
    /// Its ops as chosen.
    pub after: Vec<String>,
    /// What its ops as written take.
    pub written: Sums,
    /// What its ops as chosen take.
    pub chosen: Sums,
    /// Ops of the chosen graph that send rows between ranks; none where there is one rank.
    pub sends: Vec<Sends>,
    /// Ops that compute what an older one computes, with what that saves.
    pub duplicates: Vec<String>,
    /// Rewrites that the choice rests on, in the order in which they were found.
    pub rewrites: Vec<Applied>,
    /// Nodes that lost, the nearest first.
    pub alternatives: Vec<Alternative>,
    /// The classes of the layer, for drawings.
    #[serde(skip)]
    pub picture: Vec<Drawn>,
}

/// An op that sends rows between ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sends {
    /// The op.
    pub op: String,
    /// Bytes for each token and destination, scales included, as written and as chosen.
    pub row_bytes: (u64, u64),
    /// Thousandths of a GPU that a token's row goes to over NVLink.
    pub nvlink_copies: u64,
    /// Thousandths of a node that it goes to over InfiniBand.
    pub ib_copies: u64,
}

/// A rewrite that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The rule.
    pub rule: String,
    /// What it may change.
    pub class: RuleClass,
    /// Where the author wrote what it matched.
    pub at: Option<String>,
    /// The ops that it matched.
    pub before: Vec<String>,
    /// The ops that it made.
    pub after: Vec<String>,
    /// What it saves beyond those before it.
    pub saved: Sums,
}

/// A node that could have computed a value and does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alternative {
    /// The value.
    pub value: String,
    /// What computes it.
    pub chosen: String,
    /// What does not.
    pub node: String,
    /// The rule that found it; `None` for the author's own.
    pub rule: Option<String>,
    /// What the best choice with it takes more; `None` where it would be computed from itself.
    pub more: Option<Sums>,
}

/// A class in a drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Its number.
    pub class: usize,
    /// Its name.
    pub name: String,
    /// Whether it is given from outside of the layer, or a leaf.
    pub given: bool,
    /// Nodes: the text, whether it is chosen, and the classes that it reads.
    pub nodes: Vec<(String, bool, Vec<usize>)>,
}

/// Explains the optimiser's choices for a verified module.
///
/// # Errors
/// [`PassError::UnknownRule`], [`PassError::Unknown`] for an entry or layer that the module does not have; the others
/// are bugs of this compiler.
pub fn explain(
    module: &Module,
    target: &Target,
    options: &Options,
    question: &Question,
) -> Result<Explanation, PassError> {
    let asked = question.why_not.as_deref();
    let asked = asked.map(why_not::rule).transpose()?;
    names::check(module, &options.without)?;
    let rules = compile(module, options)?;
    let mut folded = Folded::default();
    let mut entries = Vec::new();
    let wanted = |entry: &&Graph| {
        question
            .entry
            .as_ref()
            .is_none_or(|name| **name == *entry.name)
    };
    for entry in module.entries.iter().filter(wanted) {
        let model = CostModel::new(module, &entry.name, target, &options.usual);
        let work =
            Work::new(module, entry, &rules, &model, options, &mut folded).map_err(internal)?;
        let origins = Origins::new(&work.imported, &work.originals, &work.history);
        let view = layer::View::new(entry, &work, &origins, &model);
        entries.push(Entry {
            report: work.report(entry, &origins, &model),
            extents: model.extents(),
            kinds: match asked {
                Some(_) => Vec::new(),
                None => view.kinds(question.layer.as_deref()).map_err(internal)?,
            },
            why_not: asked
                .map(|rule| why_not::answer(rule, &view, options, &rules))
                .transpose()
                .map_err(internal)?,
        });
    }
    let unknown = |what: &'static str, name: &str, known: Vec<String>| PassError::Unknown {
        what,
        name: name.to_owned(),
        known,
    };
    if let (Some(name), true) = (&question.entry, entries.is_empty()) {
        let known = module.entries.iter().map(|entry| entry.name.to_string());
        return Err(unknown("entry", name, known.collect()));
    }
    if let (Some(name), None) = (&question.layer, asked)
        && entries.iter().all(|entry| entry.kinds.is_empty())
    {
        let known = module.entries.first().map(layer::names);
        return Err(unknown("layer", name, known.unwrap_or_default()));
    }
    Ok(Explanation {
        target: target.name.clone(),
        mesh: module.mesh,
        entries,
    })
}
