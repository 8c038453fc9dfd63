//! Why a rule is not in the choice: it is not in use, it matches nowhere, its condition does not hold, or it lost.
//!
//! The rule is searched for in the e-graph as saturation left it, so a match may be of nodes that other rules made. Of
//! layers that are alike one is looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::layer::View;
use crate::egraph::Options;
use crate::egraph::cost::Sums;
use crate::egraph::language::Node;
use crate::egraph::report;
use crate::egraph::rules::{self, Compiled, Match, Rule, RuleClass, instantiate};
use crate::error::PassError;

/// The answer for one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WhyNot {
    /// The rule.
    pub rule: String,
    /// What it may change.
    pub class: RuleClass,
    /// Why it was not in use at all.
    pub left_out: Option<String>,
    /// Where no match was found: ops of its left side that are nowhere in the entry, as written or as rewritten.
    pub missing: Vec<String>,
    /// Matches of its left side.
    pub matches: usize,
    /// Matches whose right side is in the choice.
    pub taken: usize,
    /// Matches of each kind of layer at which its condition does not hold.
    pub refused: Vec<Refused>,
    /// Matches of each kind of layer whose right side lost.
    pub lost: Vec<Lost>,
}

/// Matches at which a condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// The layers.
    pub layers: String,
    /// How many in each of them.
    pub count: usize,
    /// The ops of the first one.
    pub ops: Vec<String>,
}

/// A match whose right side is not in the choice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// The layers where it is so.
    pub layers: String,
    /// The ops that it matched.
    pub ops: Vec<String>,
    /// What it would put in their place.
    pub node: String,
    /// What the choice has there; `None` where it has no use for the value.
    pub instead: Option<String>,
    /// Whether saturation added it: not after a cap, against a word of the author, or when it is not in use.
    pub found: bool,
    /// What the best choice with it takes more; `None` where it was not found, or would be computed from itself.
    pub more: Option<Sums>,
}

/// The rule of that name.
///
/// # Errors
/// An unknown name, with those that there are.
pub(super) fn rule(name: &str) -> Result<&'static Rule, PassError> {
    rules::all()
        .find(|rule| rule.name == name)
        .ok_or_else(|| PassError::Unknown {
            what: "rule",
            name: name.to_owned(),
            known: rules::all().map(|rule| rule.name.to_owned()).collect(),
        })
}

/// Looks for the rule in an optimised entry.
pub(super) fn answer(
    rule: &'static Rule,
    view: &View<'_>,
    options: &Options,
    used: &[Compiled],
) -> Result<WhyNot, String> {
    let mut answer = WhyNot {
        rule: rule.name.to_owned(),
        class: rule.class,
        left_out: None,
        missing: Vec::new(),
        matches: 0,
        taken: 0,
        refused: Vec::new(),
        lost: Vec::new(),
    };
    if used.iter().all(|used| used.rule.name != rule.name) {
        answer.left_out = Some(if options.without.iter().any(|name| name == rule.name) {
            "the options leave it out".to_owned()
        } else if !options.classes.contains(&rule.class) {
            format!("rules that are {} are not in use", rule.class)
        } else {
            "it is used on one rank only".to_owned()
        });
    }
    let compiled = Compiled::new(rule)?;
    // Conditions may bind attributes, which adds them.
    let mut graph = view.work.imported.graph.clone();
    let substs = compiled.search(&graph);
    answer.matches = substs.len();
    if substs.is_empty() {
        answer.missing = missing(view, &compiled);
        return Ok(answer);
    }
    let groups = view.groups();
    let mut refused: BTreeMap<usize, Refused> = BTreeMap::new();
    let mut windows = BTreeMap::new();
    for mut subst in substs {
        let mut ops = Vec::new();
        let roots: Vec<_> = compiled
            .searched()
            .map(|pattern| {
                instantiate(pattern, &subst, |node| {
                    if matches!(node, Node::Op(..)) {
                        ops.push(node.clone());
                    }
                    graph.lookup(node)
                })
            })
            .collect();
        // Where two ops are looked for, what the first one becomes stands for both.
        let Some(root) = roots[0].map(|root| graph.find(root)) else {
            continue;
        };
        let layer = view.layer_of(root).cloned().flatten();
        let group = groups.iter().position(|group| group.contains(&layer));
        let Some(group) = group else { continue };
        let shown = groups[group][groups[group].len() / 2] == layer;
        let layers = || {
            let names: Vec<String> = groups[group]
                .iter()
                .flatten()
                .map(ToString::to_string)
                .collect();
            if names.is_empty() {
                "outside of layers".to_owned()
            } else {
                report::ranges(&names)
            }
        };
        let lines = |ops: &[Node]| ops.iter().map(|node| view.terms.line(node)).collect();
        let holds = (rule.when)(&mut Match {
            graph: &mut graph,
            subst: &mut subst,
        });
        if holds.is_none() {
            if shown {
                let entry = refused.entry(group).or_insert_with(|| Refused {
                    layers: layers(),
                    count: 0,
                    ops: lines(&ops),
                });
                entry.count += 1;
            }
            continue;
        }
        // The root of the right side, as a node of the class.
        let mut right = None;
        let class = instantiate(&compiled.equations[0].1, &subst, |node| {
            right = Some(node.clone());
            graph.lookup(node)
        });
        let chosen = view.work.selection.node(root);
        let Some(right) = right.map(|node| view.canonical(&node)) else {
            // A variable: the two are one class, and nothing is made.
            answer.taken += usize::from(class.map(|class| graph.find(class)) == Some(root));
            continue;
        };
        if class.is_some() && chosen == Some(&right) {
            answer.taken += 1;
            continue;
        }
        if !shown {
            continue;
        }
        let more = if class.is_some() {
            let window = windows
                .entry(group)
                .or_insert_with(|| view.window(layer.as_ref()));
            view.more(window, root, &right)
        } else {
            None
        };
        answer.lost.push(Lost {
            layers: layers(),
            ops: lines(&ops),
            node: view.terms.node(&right),
            instead: chosen.map(|node| view.terms.node(node)),
            found: class.is_some(),
            more,
        });
    }
    answer.refused = refused.into_values().collect();
    answer
        .lost
        .sort_by_key(|lost| lost.more.map_or(i128::MAX, |more| more.time));
    Ok(answer)
}

/// Ops of the left side that no class has.
fn missing(view: &View<'_>, rule: &Compiled) -> Vec<String> {
    let graph = &view.work.imported.graph;
    let classes = graph.classes().flat_map(|class| &class.nodes);
    let there: BTreeSet<&str> = classes
        .filter_map(|node| match node {
            Node::Op(mnemonic, _) => Some(*mnemonic),
            _ => None,
        })
        .collect();
    let mut missing: Vec<String> = Vec::new();
    instantiate_ops(rule, |mnemonic| {
        if !there.contains(mnemonic) && missing.iter().all(|known| known != mnemonic) {
            missing.push(mnemonic.to_owned());
        }
    });
    missing
}

/// Calls `see` for each op of the left side.
fn instantiate_ops(rule: &Compiled, mut see: impl FnMut(&str)) {
    for node in rule.searched().flat_map(|pattern| pattern.as_ref()) {
        if let egg::ENodeOrVar::ENode(Node::Op(mnemonic, _)) = node {
            see(mnemonic);
        }
    }
}
