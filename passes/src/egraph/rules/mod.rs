//! Rewrite rules: what a rule is, and the list of the rule sets.
//!
//! A rule says that two patterns are equal wherever its condition holds. It never removes anything: both sides
//! stay in the e-graph and the cost model chooses. Rules of a subject are an aligned table in a file of their
//! own; `docs/add-a-rule.md` says how to add one.

use egg::{ENodeOrVar, Id, Language, Pattern, PatternAst, Subst, Var};
use mcc_ir::attr::AttrValue;
use mcc_ir::types::{Dim, Type};
use serde::Serialize;

use super::analysis::Data;
use super::language::{EGraph, Node};

mod epilogue;
mod fusion;
mod quantize;
mod shapes;

/// What a rule may change in the numbers that a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleClass {
    /// Nothing: both sides are equal bit for bit, with every rounding in force.
    Exact,
    /// The order of sums.
    Reassociating,
    /// Where values are rounded.
    Rounding,
}

impl std::fmt::Display for RuleClass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            RuleClass::Exact => "exact",
            RuleClass::Reassociating => "reassociating",
            RuleClass::Rounding => "rounding",
        })
    }
}

/// A row of a rule table.
#[derive(Debug)]
pub(super) struct Rule {
    /// Stable name, as reports print it.
    pub(super) name: &'static str,
    /// What it may change.
    pub(super) class: RuleClass,
    /// Left and right sides that are equal. The left side of the first is what is searched for; the others say
    /// what else becomes equal, for the further results of a tuple.
    pub(super) equations: &'static [(&'static str, &'static str)],
    /// Holds where the equations do. May bind variables of the right sides.
    pub(super) when: fn(&mut Match<'_>) -> Option<()>,
}

/// Whether builds use the rules of [`epilogue`]: only while code generation has the kernels of their right sides.
const EPILOGUES: bool = true;

/// The sets by name; each round of saturation searches for their rules in this order.
pub(super) fn sets() -> impl Iterator<Item = (&'static str, &'static [Rule])> {
    let sets = [
        ("shapes", shapes::RULES),
        ("quantize", quantize::RULES),
        ("fusion", fusion::RULES),
        ("epilogue", epilogue::RULES),
    ];
    sets.into_iter()
}

/// Every rule, set by set.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    sets().flat_map(|(_, rules)| rules)
}

/// The rules of [`all`] whose right sides have kernels.
pub(super) fn in_use() -> impl Iterator<Item = &'static Rule> {
    all().filter(|rule| EPILOGUES || !epilogue::RULES.iter().any(|r| r.name == rule.name))
}

/// Writes a rule table: `"name" Class "left" => "right", .. if condition;`
macro_rules! rules {
    ($( $name:literal $class:ident $($left:literal => $right:literal),+ if $when:expr; )*) => {
        pub(super) static RULES: &[crate::egraph::rules::Rule] = &[ $( crate::egraph::rules::Rule {
            name: $name,
            class: crate::egraph::rules::RuleClass::$class,
            equations: &[ $(($left, $right)),+ ],
            when: $when,
        } ),* ];
    };
}
use rules;

/// The condition of a rule that needs none.
fn always(_: &mut Match<'_>) -> Option<()> {
    Some(())
}

/// `Some` where it holds: conditions chain facts with `?`.
fn holds(fact: bool) -> Option<()> {
    fact.then_some(())
}

/// One place where the left side of a rule was found.
pub(super) struct Match<'a> {
    pub(super) graph: &'a mut EGraph,
    pub(super) subst: &'a mut Subst,
}

impl Match<'_> {
    fn data(&self, var: &str) -> Option<&Data> {
        let id = self.subst.get(var.parse::<Var>().ok()?)?;
        Some(&self.graph[*id].data)
    }

    /// The type of the value bound to the variable.
    fn ty(&self, var: &str) -> Option<&Type> {
        self.data(var)?.ty()
    }

    /// The integer attribute bound to the variable.
    fn int(&self, var: &str) -> Option<u64> {
        match self.data(var)? {
            Data::Attr(AttrValue::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// The shape attribute bound to the variable.
    fn shape(&self, var: &str) -> Option<&[Dim]> {
        match self.data(var)? {
            Data::Attr(AttrValue::Shape(dims)) => Some(dims),
            _ => None,
        }
    }

    /// The extent of the axis that `axis` is bound to, of the value that `value` is bound to, if it is constant.
    fn extent(&self, value: &str, axis: &str) -> Option<u64> {
        self.ty(value)?
            .shape
            .get(usize::try_from(self.int(axis)?).ok()?)?
            .as_const()
    }

    /// Binds a variable that only right sides have to an integer attribute.
    fn bind(&mut self, var: &str, value: u64) -> Option<()> {
        let var = var.parse().ok()?;
        let id = self.graph.add(Node::Attr(AttrValue::Int(value)));
        self.subst.insert(var, id);
        Some(())
    }
}

/// A rule with its patterns read.
pub(super) struct Compiled {
    pub(super) rule: &'static Rule,
    /// The first left side.
    pub(super) searcher: Pattern<Node>,
    /// All left and right sides.
    pub(super) equations: Vec<(PatternAst<Node>, PatternAst<Node>)>,
}

impl Compiled {
    /// Reads a rule's patterns.
    ///
    /// # Errors
    /// The pattern that names no op, or a rule without equations, as a sentence.
    pub(super) fn new(rule: &'static Rule) -> Result<Compiled, String> {
        let read = |text: &str| -> Result<PatternAst<Node>, String> {
            text.parse()
                .map_err(|error| format!("rule `{}`: pattern `{text}`: {error}", rule.name))
        };
        let equations = rule
            .equations
            .iter()
            .map(|(left, right)| Ok((read(left)?, read(right)?)));
        let equations = equations.collect::<Result<Vec<_>, String>>()?;
        let (left, _) = equations
            .first()
            .ok_or_else(|| format!("rule `{}` has no equation", rule.name))?;
        Ok(Compiled {
            rule,
            searcher: Pattern::new(left.clone()),
            equations,
        })
    }
}

/// The class of the pattern under the substitution; `add` adds or looks up each of its nodes. `None` when `add`
/// gives up or a variable is unbound.
pub(super) fn instantiate(
    pattern: &PatternAst<Node>,
    subst: &Subst,
    mut add: impl FnMut(Node) -> Option<Id>,
) -> Option<Id> {
    let mut ids: Vec<Id> = Vec::with_capacity(pattern.len());
    for node in pattern {
        ids.push(match node {
            ENodeOrVar::Var(var) => *subst.get(*var)?,
            ENodeOrVar::ENode(node) => {
                add(node.clone().map_children(|child| ids[usize::from(child)]))?
            }
        });
    }
    ids.last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_readable_and_named_once() {
        let mut names: Vec<_> = all().map(|rule| rule.name).collect();
        for rule in all() {
            Compiled::new(rule).unwrap();
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_pattern_of_an_unknown_op_or_with_a_wrong_number_of_children_is_refused() {
        for text in ["(quantise ?x)", "(quantize ?x ?y)", "(rms_norm ?x ?w)"] {
            assert!(text.parse::<PatternAst<Node>>().is_err(), "{text}");
        }
    }
}
