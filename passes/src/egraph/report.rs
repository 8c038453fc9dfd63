//! What the optimiser did: rewrites taken and costs before and after, as data and as text.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use mcc_ir::graph::{Graph, NodeId};
use mcc_ir::op::Op;
use serde::Serialize;

use super::cost::{Bound, Cost, CostModel};
use super::extract::{Proof, Selection};
use super::origins::Origins;
use super::rules::RuleClass;

/// The name under which merged equal ops are reported: importing does it, not a rule.
const SHARE: &str = "share-equal";

/// The report of a module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The target whose costs decided.
    pub target: String,
    /// Entry by entry.
    pub entries: Vec<EntryReport>,
}

/// The report of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryReport {
    /// Its name.
    pub entry: String,
    /// Estimates for the entry as it came.
    pub before: Totals,
    /// Estimates for the result.
    pub after: Totals,
    /// Rewrites that the result rests on, by name.
    pub rewrites: Vec<Rewrite>,
    /// Rounds of saturation.
    pub rounds: usize,
    /// Whether the rules had nothing left to add.
    pub saturated: bool,
    /// Nodes of the e-graph.
    pub nodes: usize,
    /// How far the choice can be from the best.
    pub proof: Proof,
}

/// One rule's part in a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// The rule's name.
    pub rule: String,
    /// What it may change.
    pub class: RuleClass,
    /// How often it was used.
    pub count: usize,
    /// In which layers, e.g. `layers.3`; uses outside of any layer are not listed.
    pub layers: Vec<String>,
}

/// Sums over an entry at the usual extents of its dims, or their upper bounds. Ops that nothing needs do not count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Ops, views included, without inputs, parameters and states.
    pub ops: usize,
    /// How many there are of each op.
    pub by_op: BTreeMap<&'static str, usize>,
    /// Kernel launches.
    pub launches: u64,
    /// Bytes of global memory read and written.
    pub bytes: u64,
    /// Those of them that go from or to device memory, the rest staying in the L2.
    pub hbm_bytes: u64,
    /// Bytes that a rank sends inside of its node.
    pub nvlink_bytes: u64,
    /// Bytes that a rank sends to other nodes.
    pub ib_bytes: u64,
    /// Time by the cost model.
    pub nanoseconds: u64,
    /// The same by what bounds each op, launches of ops that something else bounds included.
    pub by_bound: BTreeMap<Bound, u64>,
}

impl Totals {
    pub(super) fn of(entry: &Graph, model: &CostModel<'_>) -> Totals {
        let mut entry = entry.clone();
        entry.dead_code_eliminate();
        let mut totals = Totals::default();
        let mut cost = Cost::default();
        let mut by_bound: BTreeMap<Bound, Cost> = BTreeMap::new();
        for (id, of, used) in model.of_graph(&entry) {
            totals.ops += 1;
            *totals.by_op.entry(entry.op(id).mnemonic()).or_default() += 1;
            totals.launches += of.launches;
            for (sum, bytes) in [
                (&mut totals.bytes, of.bytes(|result| used[result])),
                (&mut totals.hbm_bytes, of.far_bytes(|result| used[result])),
                (&mut totals.nvlink_bytes, of.nvlink_bytes),
                (&mut totals.ib_bytes, of.ib_bytes),
            ] {
                *sum = sum.saturating_add(bytes);
            }
            let total = of.total(|result| used[result]);
            cost += total;
            if total.time > 0 {
                *by_bound.entry(of.bound(|result| used[result])).or_default() += total;
            }
        }
        let by_bound = by_bound.into_iter();
        totals.by_bound = by_bound
            .map(|(bound, cost)| (bound, nanoseconds(cost)))
            .collect();
        totals.nanoseconds = nanoseconds(cost);
        totals
    }
}

/// The time of a cost.
pub(super) fn nanoseconds(cost: Cost) -> u64 {
    u64::try_from(cost.time / 1_000_000).unwrap_or(u64::MAX)
}

/// The rewrites that a selection rests on, by name.
pub(super) fn rewrites(
    entry: &Graph,
    origins: &Origins<'_>,
    selection: &Selection,
) -> Vec<Rewrite> {
    let layers = layers(entry);
    let mut by_rule: BTreeMap<&str, (RuleClass, usize, BTreeSet<Layer>)> = BTreeMap::new();
    let shared = origins
        .duplicates()
        .map(|id| (SHARE, RuleClass::Exact, Some(id)));
    let taken = origins
        .taken(selection)
        .into_iter()
        .map(|taken| (taken.rule, taken.class, taken.at));
    for (rule, class, at) in shared.chain(taken) {
        let (_, count, of) = by_rule.entry(rule).or_insert((class, 0, BTreeSet::new()));
        *count += 1;
        of.extend(at.and_then(|id| layers.get(&id)).cloned());
    }
    by_rule
        .into_iter()
        .map(|(rule, (class, count, layers))| Rewrite {
            rule: rule.to_owned(),
            class,
            count,
            layers: layers.iter().map(Layer::to_string).collect(),
        })
        .collect()
}

/// A layer, as parameter names spell it: the components up to the first that ends in a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Layer {
    index: u64,
    prefix: String,
}

impl Layer {
    /// `layers.3.mlp.down` is of `layers.3`, `l0.cache` of `l0`; `embed` is of none.
    fn of_name(name: &str) -> Option<Layer> {
        let mut end = 0;
        for part in name.split('.') {
            end += part.len();
            let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
            if let Ok(index) = part[word.len()..].parse() {
                let prefix = name[..end - (part.len() - word.len())].to_owned();
                return Some(Layer { index, prefix });
            }
            end += 1;
        }
        None
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.prefix, self.index)
    }
}

/// The layer of each op: that of its own parameters and states, or else the last among its operands'.
pub(super) fn layers(entry: &Graph) -> HashMap<NodeId, Layer> {
    let mut layers: HashMap<NodeId, Layer> = HashMap::new();
    for id in entry.topo() {
        let operands = entry.operands(id);
        let own = operands
            .iter()
            .filter_map(|value| match entry.op(value.node) {
                Op::Param { name } | Op::State { name } => Layer::of_name(name),
                _ => None,
            });
        let inherited = || {
            operands
                .iter()
                .filter_map(|value| layers.get(&value.node))
                .max()
                .cloned()
        };
        if let Some(layer) = own.max().or_else(inherited) {
            layers.insert(id, layer);
        }
    }
    layers
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "e-graph, costs of {}", self.target)?;
        self.entries
            .iter()
            .try_for_each(|entry| write!(f, "{entry}"))
    }
}

impl fmt::Display for EntryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = if self.saturated {
            "saturated"
        } else {
            "stopped by a cap"
        };
        writeln!(
            f,
            "\nentry {}: {stop} after {} rounds at {} nodes",
            self.entry, self.rounds, self.nodes
        )?;
        let (a, b) = (&self.before, &self.after);
        writeln!(f, "  {:10} {:>14} -> {:>14}", "ops", a.ops, b.ops)?;
        writeln!(
            f,
            "  {:10} {:>14} -> {:>14}",
            "launches", a.launches, b.launches
        )?;
        writeln!(f, "  {:10} {:>14} -> {:>14}", "bytes", a.bytes, b.bytes)?;
        for (name, a, b) in [
            ("nvlink", a.nvlink_bytes, b.nvlink_bytes),
            ("ib", a.ib_bytes, b.ib_bytes),
        ] {
            if a.max(b) > 0 {
                writeln!(f, "  {name:10} {a:>14} -> {b:>14}")?;
            }
        }
        writeln!(
            f,
            "  {:10} {:>14} -> {:>14}",
            "estimate",
            micros(a.nanoseconds),
            micros(b.nanoseconds)
        )?;
        writeln!(f, "  {}", self.proof)?;
        for Rewrite {
            rule,
            count,
            layers,
            ..
        } in &self.rewrites
        {
            writeln!(f, "  {rule:24} {count:>5} x  {}", ranges(layers))?;
        }
        Ok(())
    }
}

fn micros(nanoseconds: u64) -> String {
    format!("{}.{} us", nanoseconds / 1000, nanoseconds % 1000 / 100)
}

/// `layers.0`, `layers.1`, `layers.2` as `layers.0..=2`.
pub(super) fn ranges(layers: &[String]) -> String {
    let layers: Vec<Layer> = layers
        .iter()
        .filter_map(|layer| Layer::of_name(layer))
        .collect();
    let mut out: Vec<String> = Vec::new();
    for run in layers.chunk_by(|a, b| a.prefix == b.prefix && a.index + 1 == b.index) {
        match run {
            [one] => out.push(one.to_string()),
            [first, .., last] => out.push(format!("{first}..={}", last.index)),
            [] => {}
        }
    }
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_named_by_the_first_numbered_component() {
        let layer = |name| Layer::of_name(name).map(|layer| layer.to_string());
        assert_eq!(layer("layers.3.mlp.w1").as_deref(), Some("layers.3"));
        assert_eq!(
            layer("model.layers.12.x").as_deref(),
            Some("model.layers.12")
        );
        assert_eq!(layer("l0.cache").as_deref(), Some("l0"));
        assert_eq!(layer("embed"), None);
    }

    #[test]
    fn runs_of_layers_print_as_ranges() {
        let layers: Vec<String> = ["l0", "l1", "l2", "l5", "m6"].map(str::to_owned).into();
        assert_eq!(ranges(&layers), "l0..=2, l5, m6");
        assert_eq!(ranges(&[]), "");
    }
}
