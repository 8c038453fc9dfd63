//! Rewrite rules: what a rule is, and the list of the rule sets.
//!
//! A rule says that two patterns are equal wherever its condition holds. It never removes anything: both sides
//! stay in the e-graph and the cost model chooses. Rules of a subject are an aligned table in a file of their
//! own; `docs/add-a-rule.md` says how to add one.

use std::collections::HashMap;

use egg::{ENodeOrVar, Id, Language, Pattern, PatternAst, Searcher, Subst, Var};
use mcc_ir::Freedom;
use mcc_ir::attr::AttrValue;
use mcc_ir::op::Op;
use mcc_ir::types::{Dim, Name, Type};
use serde::Serialize;

use super::analysis::{Data, Placement};
use super::language::{EGraph, Node};

mod algebra;
mod attention;
mod epilogue;
mod fusion;
mod layout;
mod moe;
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
    /// Where values are rounded; and the order in which those are summed.
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

impl RuleClass {
    /// Every class.
    pub const ALL: [RuleClass; 3] = [
        RuleClass::Exact,
        RuleClass::Reassociating,
        RuleClass::Rounding,
    ];

    /// Whether an author who gave this freedom allows rules of this class.
    #[must_use]
    pub fn is_allowed(self, freedom: Freedom) -> bool {
        match self {
            RuleClass::Exact => true,
            RuleClass::Reassociating => freedom.reassociate,
            RuleClass::Rounding => freedom.round,
        }
    }
}

/// A row of a rule table.
#[derive(Debug)]
pub(super) struct Rule {
    /// Stable name, as reports print it.
    pub(super) name: &'static str,
    /// The equation, and why it holds.
    pub(super) doc: &'static str,
    /// What it may change.
    pub(super) class: RuleClass,
    /// Left and right sides that are equal. The left side of the first is what is searched for; the others say
    /// what else becomes equal, for the further results of a tuple.
    pub(super) equations: &'static [(&'static str, &'static str)],
    /// How many left sides are searched for, from the first on: 2 where a rule is about two ops that read one value.
    /// They are joined on the variables that both have.
    pub(super) searched: usize,
    /// Holds where the equations do. May bind variables of the right sides.
    pub(super) when: fn(&mut Match<'_>) -> Option<()>,
}

/// The rule sets by subject.
static SETS: [(&str, &[Rule]); 8] = [
    ("shapes", shapes::RULES),
    ("algebra", algebra::RULES),
    ("quantize", quantize::RULES),
    ("moe", moe::RULES),
    ("attention", attention::RULES),
    ("fusion", fusion::RULES),
    ("epilogue", epilogue::RULES),
    ("layout", layout::RULES),
];

/// The sets by name; each round of saturation searches for their rules in this order.
pub(super) fn sets() -> impl Iterator<Item = (&'static str, &'static [Rule])> {
    SETS.into_iter()
}

/// Every rule, set by set.
pub(super) fn all() -> impl Iterator<Item = &'static Rule> {
    sets().flat_map(|(_, rules)| rules)
}

/// Rules that make of `dispatch` and `combine` what only one rank's kernels compute: between ranks these are exchanges of
/// rows, which have no such forms.
const ON_ONE_RANK: &[&str] = &[
    "weigh-before-down",
    "shared-as-routed",
    "combine-add",
    "add-combine",
    "combine-add-norm-quantize",
];

/// The rules that builds for so many ranks use.
pub(super) fn in_use(ranks: u64) -> impl Iterator<Item = &'static Rule> {
    all().filter(move |rule| ranks == 1 || !ON_ONE_RANK.contains(&rule.name))
}

/// Writes a rule table: the equation as a doc comment, then `"name" Class "left" => "right", .. if condition;`, with `both` behind the class where the
/// first two left sides are searched for.
macro_rules! rules {
    (@searched) => { 1 };
    (@searched both) => { 2 };
    ($( $(#[doc = $doc:literal])+ $name:literal $class:ident $($both:ident)? $($left:literal => $right:literal),+ if $when:expr; )*) => {
        pub(super) static RULES: &[crate::egraph::rules::Rule] = &[ $( crate::egraph::rules::Rule {
            name: $name,
            doc: concat!($($doc, "\n"),+),
            class: crate::egraph::rules::RuleClass::$class,
            equations: &[ $(($left, $right)),+ ],
            searched: rules!(@searched $($both)?),
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

    /// The constant extents of the value bound to the variable.
    fn extents<const N: usize>(&self, var: &str) -> Option<[u64; N]> {
        let extents: Option<Vec<u64>> = self.ty(var)?.shape.iter().map(Dim::as_const).collect();
        extents?.try_into().ok()
    }

    /// Holds where the value is made of parameters once they are loaded.
    fn is_loaded(&self, var: &str) -> Option<()> {
        holds(matches!(self.data(var)?.placement(), Placement::Load(_)))
    }

    /// The class bound to the variable.
    fn id(&self, var: &str) -> Option<Id> {
        self.subst.get(var.parse().ok()?).copied()
    }

    /// Children of the op with that mnemonic in a class.
    fn node_of(&self, class: Id, mnemonic: &str) -> Option<&[Id]> {
        self.graph[class].nodes.iter().find_map(|node| match node {
            Node::Op(op, children) if *op == mnemonic => Some(children.as_slice()),
            _ => None,
        })
    }

    /// The name of the parameter that a class is.
    fn param(&self, id: Id) -> Option<&Name> {
        self.graph[id].nodes.iter().find_map(|node| match node {
            Node::Leaf(Op::Param { name }) => Some(name),
            _ => None,
        })
    }

    /// Binds a variable that only right sides have to an integer attribute.
    fn bind(&mut self, var: &str, value: u64) -> Option<()> {
        self.bind_attr(var, AttrValue::Int(value))
    }

    /// Binds a variable that only right sides have to a shape.
    fn bind_shape(&mut self, var: &str, shape: impl IntoIterator<Item = Dim>) -> Option<()> {
        self.bind_attr(var, AttrValue::Shape(shape.into_iter().collect()))
    }

    fn bind_attr(&mut self, var: &str, value: AttrValue) -> Option<()> {
        let var = var.parse().ok()?;
        let id = self.graph.add(Node::Attr(value));
        self.subst.insert(var, id);
        Some(())
    }
}

/// A rule with its patterns read.
pub(super) struct Compiled {
    pub(super) rule: &'static Rule,
    /// The left sides that are searched for: at least one.
    searchers: Vec<Pattern<Node>>,
    /// All left and right sides.
    pub(super) equations: Vec<(PatternAst<Node>, PatternAst<Node>)>,
}

impl Compiled {
    /// Reads a rule's patterns.
    ///
    /// # Errors
    /// The pattern that names no op, or a rule with fewer equations than it searches for, as a sentence.
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
        if rule.searched == 0 || equations.len() < rule.searched {
            return Err(format!("rule `{}` lacks equations", rule.name));
        }
        let searched = equations.iter().take(rule.searched);
        Ok(Compiled {
            rule,
            searchers: searched
                .map(|(left, _)| Pattern::new(left.clone()))
                .collect(),
            equations,
        })
    }

    /// The left sides that are searched for.
    pub(super) fn searched(&self) -> impl Iterator<Item = &PatternAst<Node>> {
        self.searchers.iter().map(|searcher| &searcher.ast)
    }

    /// Every way in which the graph has the left sides, in the order of class numbers.
    pub(super) fn search(&self, graph: &EGraph) -> Vec<Subst> {
        let mut found = vec![Subst::default()];
        let mut bound: Vec<Var> = Vec::new();
        for searcher in &self.searchers {
            let mut matches = searcher.search(graph);
            matches.sort_by_key(|m| m.eclass);
            let vars = searcher.vars();
            let shared: Vec<Var> = vars
                .iter()
                .copied()
                .filter(|var| bound.contains(var))
                .collect();
            let key = |subst: &Subst| -> Vec<Option<Id>> {
                shared.iter().map(|var| subst.get(*var).copied()).collect()
            };
            let mut by_key: HashMap<Vec<Option<Id>>, Vec<Subst>> = HashMap::new();
            for subst in matches.into_iter().flat_map(|m| m.substs) {
                by_key.entry(key(&subst)).or_default().push(subst);
            }
            let mut joined = Vec::new();
            for before in &found {
                for subst in by_key.get(&key(before)).into_iter().flatten() {
                    let mut both = before.clone();
                    for var in &vars {
                        if let Some(id) = subst.get(*var) {
                            both.insert(*var, *id);
                        }
                    }
                    joined.push(both);
                }
            }
            found = joined;
            bound.extend(vars);
        }
        found
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
    use std::fmt::Write;
    use std::path::Path;

    use super::*;

    /// `docs/rules.md`.
    fn page() -> String {
        let mut page = String::from(
            "# Rules\n\nMade from the rule tables in [passes/src/egraph/rules/](../passes/src/egraph/rules); a test holds \
             the two together, and `MCC_BLESS=1 cargo test -p mcc-passes` writes this page anew. \
             [add-a-rule.md](add-a-rule.md) says how a rule is written and proven.\n\n*Exact* rules change no bit. \
             *Reassociating* ones change the order of sums, *rounding* ones where values are rounded: they are used \
             where the author allows it (`allow` in the text form, `Freedom` in the DSL). Rules *on one rank* are left out \
             of builds for a mesh of several.\n",
        );
        for (set, rules) in &SETS {
            write!(page, "\n## {set}\n").unwrap();
            for rule in *rules {
                let class = format!("{:?}", rule.class).to_lowercase();
                let where_used = if ON_ONE_RANK.contains(&rule.name) {
                    ", on one rank"
                } else {
                    ""
                };
                write!(page, "\n### {}\n\n*{class}{where_used}*.", rule.name).unwrap();
                for line in rule.doc.lines() {
                    write!(page, " {}", line.trim().replace('*', "\\*")).unwrap();
                }
                page.push_str("\n\n");
                for (left, right) in rule.equations {
                    writeln!(page, "    {left}\n     => {right}").unwrap();
                }
            }
        }
        page
    }

    #[test]
    fn the_page_about_rules_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md");
        if std::env::var_os("MCC_BLESS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/rules.md differs from the tables; MCC_BLESS=1 cargo test -p mcc-passes writes it anew"
        );
    }

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
    fn rules_of_one_rank_exist() {
        for name in ON_ONE_RANK {
            assert!(all().any(|rule| rule.name == *name), "no rule `{name}`");
        }
        assert_eq!(in_use(1).count(), all().count());
        assert_eq!(in_use(2).count() + ON_ONE_RANK.len(), all().count());
    }

    #[test]
    fn a_pattern_of_an_unknown_op_or_with_a_wrong_number_of_children_is_refused() {
        for text in ["(quantise ?x)", "(quantize ?x ?y)", "(rms_norm ?x ?w)"] {
            assert!(text.parse::<PatternAst<Node>>().is_err(), "{text}");
        }
    }
}
