//! What each set of rules is worth: launches, bytes and time of one layer, with one set after the other in use; and
//! where the time goes.
//!
//! The categories are those of a profile of DeepSeek-V3's training (docs/explain.md): its casts, transposes and copies take
//! 15 % of the compute time, with the moves of experts' rows 19 %.

use std::collections::BTreeMap;

use mcc_ir::graph::Graph;
use mcc_ir::module::Module;
use mcc_ir::op::Op;
use serde::Serialize;

use super::layer;
use crate::egraph::cost::{CostModel, Sums};
use crate::egraph::{Options, optimize, report, rules};
use crate::error::PassError;
use crate::target::Target;

/// What an op's time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Matrix products, with what is fused into them.
    Products,
    /// Attention.
    Attention,
    /// Casts and transposes that are kernels of their own.
    Casts,
    /// Rotation, joins, copies, cache writes.
    Layout,
    /// Rows to experts and back.
    Experts,
    /// Norms and residual sums, with the casts fused into them.
    Norms,
    /// Gated activations.
    Gates,
    /// Choice of experts and tokens, embedding.
    Router,
}

impl Category {
    /// In the order of the table.
    pub const ALL: [Category; 8] = [
        Category::Products,
        Category::Attention,
        Category::Casts,
        Category::Layout,
        Category::Experts,
        Category::Norms,
        Category::Gates,
        Category::Router,
    ];

    /// Heading of its column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Category::Products => "products",
            Category::Attention => "attention",
            Category::Casts => "casts",
            Category::Layout => "layout",
            Category::Experts => "experts",
            Category::Norms => "norms",
            Category::Gates => "gates",
            Category::Router => "router",
        }
    }

    fn of(op: &Op) -> Category {
        let mnemonic = op.mnemonic();
        if mnemonic.contains("matmul") || mnemonic == "weight_grad" {
            return Category::Products;
        }
        match op {
            Op::Attention { .. } => Category::Attention,
            Op::Quantize
            | Op::QuantizePow2
            | Op::QuantizeWide { .. }
            | Op::Dequantize
            | Op::Transpose { .. } => Category::Casts,
            Op::AppendExpert { .. } | Op::RowWeights | Op::Replica | Op::CountExperts => {
                Category::Experts
            }
            _ if mnemonic.starts_with("dispatch") || mnemonic.starts_with("combine") => {
                Category::Experts
            }
            Op::Add => Category::Norms,
            _ if mnemonic.contains("norm") => Category::Norms,
            Op::Swiglu | Op::SwigluQuantize | Op::ScaleRows => Category::Gates,
            Op::Route { .. } | Op::Sample | Op::Gather => Category::Router,
            // Rotation, concatenation, views that copy, cache writes, and what is new.
            _ => Category::Layout,
        }
    }
}

/// A layer of an entry under some of the rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The entry.
    pub entry: String,
    /// The layers that are like this one.
    pub layers: String,
    /// The set that joined those of the rows before: `as written` for none, not even merged equal ops.
    pub rules: String,
    /// The layer's sums.
    pub sums: Sums,
    /// Femtoseconds of each category.
    pub by_category: BTreeMap<Category, i128>,
}

impl Row {
    /// Share of the time in casts and layout, in tenths of a percent; with the moves of experts' rows in the second.
    #[must_use]
    pub fn glue(&self) -> (u64, u64) {
        let of = |category| self.by_category.get(&category).copied().unwrap_or(0);
        let narrow = of(Category::Casts) + of(Category::Layout);
        let share = |time: i128| {
            let share = time * 1000 / self.sums.time.max(1);
            u64::try_from(share).unwrap_or(0)
        };
        (share(narrow), share(narrow + of(Category::Experts)))
    }
}

/// Rows for each entry and kind of layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Table {
    /// The target.
    pub target: String,
    /// One after the other, as rules join.
    pub rows: Vec<Row>,
}

/// Optimises the module with one set of rules after the other, and sums up one layer of each kind.
///
/// # Errors
/// As [`optimize`].
pub fn table(module: &Module, target: &Target, options: &Options) -> Result<Table, PassError> {
    let sets: Vec<_> = rules::sets().collect();
    let mut stages: Vec<(String, Module)> = vec![("as written".to_owned(), module.clone())];
    for count in 0..=sets.len() {
        let name = match count.checked_sub(1) {
            None => "equal ops merged".to_owned(),
            Some(last) => format!("+ {}", sets[last].0),
        };
        let later = sets[count..].iter().flat_map(|(_, rules)| rules.iter());
        let mut without = options.without.clone();
        without.extend(later.map(|rule| rule.name.to_owned()));
        without.sort_unstable();
        without.dedup();
        let options = Options {
            without,
            ..options.clone()
        };
        stages.push((name, optimize(module, target, &options)?.0));
    }
    let mut rows = Vec::new();
    for (at, entry) in module.entries.iter().enumerate() {
        let model = CostModel::new(module, &entry.name, target, &options.usual);
        for (layers, shown) in layer::kinds_of(entry) {
            for (name, stage) in &stages {
                let row = row(&stage.entries[at], &model, &shown, (&layers, name));
                rows.push(row);
            }
        }
    }
    Ok(Table {
        target: target.name.clone(),
        rows,
    })
}

fn row(entry: &Graph, model: &CostModel<'_>, layer: &str, (layers, rules): (&str, &str)) -> Row {
    let of_layer = report::layers(entry);
    let mut row = Row {
        entry: entry.name.to_string(),
        layers: layers.to_owned(),
        rules: rules.to_owned(),
        sums: Sums::default(),
        by_category: BTreeMap::new(),
    };
    for (id, cost, used) in model.of_graph(entry) {
        if of_layer.get(&id).is_some_and(|of| of.to_string() == layer) {
            row.sums.add(&cost, |result| used[result]);
            let time = cost.total(|result| used[result]).time;
            let category = Category::of(entry.op(id));
            *row.by_category.entry(category).or_default() += time;
        }
    }
    row
}
