//! What the e-graph knows of each class: the type of its value, by the op table's inference, and when the value is
//! there.
//!
//! Every node of a class has the class's type: rules are checked for it before they merge two classes
//! (`saturate.rs`), and congruence keeps it. A value that one of its nodes makes of parameters alone, by ops that
//! parameters' recipes have as well, is there once weights are loaded ([`Placement::Load`]): it costs a step nothing,
//! and `fold.rs` makes a parameter of it.

use std::collections::HashMap;

use egg::{Analysis, DidMerge, Id};
use mcc_ir::attr::AttrValue;
use mcc_ir::module::{Module, ParamSource};
use mcc_ir::op::Op;
use mcc_ir::types::{Dim, ScaleBlock, Type};

use super::language::{EGraph, Node};

/// What is declared about the leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Types {
    /// Types of every input, parameter and state that the entry uses.
    pub(super) leaves: HashMap<Op, Type>,
    /// How the module's parameters are made, as far as [`recipe`] looks.
    recipes: HashMap<Op, Recipe>,
}

impl Types {
    /// Those of a module, before an entry's are added.
    pub(super) fn of(module: &Module) -> Types {
        let recipe = |source: &ParamSource| match source {
            ParamSource::Stack(_) => Recipe::Stack,
            ParamSource::HeadRows { .. } => Recipe::Heads,
            _ => Recipe::Other,
        };
        let recipes = module.params.iter().map(|param| {
            let name = param.name.clone();
            (Op::Param { name }, recipe(&param.source))
        });
        Types {
            leaves: HashMap::new(),
            recipes: recipes.collect(),
        }
    }
}

/// When a value is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Once the parameters are loaded, of which it is made.
    Load(Recipe),
    /// In each step.
    Step,
}

/// How a value is made of parameters: what decides which further steps a recipe may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recipe {
    /// Matrices along a new axis.
    Stack,
    /// Rows of each head of a matrix.
    Heads,
    /// Anything else.
    Other,
}

/// The recipe of an op over loaded values, if recipes have that op; [`super::fold`] writes it.
pub(super) fn recipe(op: &Op, operands: &[(&Type, Recipe)]) -> Option<Recipe> {
    let ranks = |n: usize| operands.iter().all(|(ty, _)| ty.rank() == n);
    let stacks = || operands.iter().all(|(_, recipe)| *recipe == Recipe::Stack);
    match (op, operands) {
        (Op::Concat { axis: 0 }, _) if ranks(2) => Some(Recipe::Other),
        (Op::Concat { axis: 0 | 1 }, _) if ranks(3) && stacks() => Some(Recipe::Stack),
        (Op::Dequantize, [(ty, _)]) if ty.scale == Some(ScaleBlock::WEIGHT) => Some(Recipe::Other),
        (Op::Transpose { a, b }, [(ty, _)]) => {
            let last = ty.rank().checked_sub(1)?;
            ((*a).min(*b) + 1 == last && (*a).max(*b) == last).then_some(Recipe::Other)
        }
        (Op::Reshape { shape }, [(ty, _)]) => match (shape.as_slice(), ty.shape.as_slice()) {
            ([one, n, k], [rows, columns])
                if *one == Dim::Const(1) && (n, k) == (rows, columns) =>
            {
                Some(Recipe::Stack)
            }
            ([_, _, k], [_, columns]) if k == columns && ty.scale.is_none() => Some(Recipe::Heads),
            _ => None,
        },
        (Op::Slice { axis: 1, .. }, [(_, Recipe::Heads)]) => Some(Recipe::Heads),
        _ => None,
    }
}

/// The fact about one class.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// An attribute's value.
    Attr(AttrValue),
    /// A value of this type, and when it is there.
    Value(Type, Placement),
    /// Several results.
    Tuple(Vec<Type>),
    /// A node that the op table rejects, and why. No class of the input has it; a rule that makes one is wrong.
    Ill(String),
}

impl Data {
    /// The type of a class that is one value.
    pub(super) fn ty(&self) -> Option<&Type> {
        match self {
            Data::Value(ty, _) => Some(ty),
            _ => None,
        }
    }

    /// When a class that is one value is there.
    pub(super) fn placement(&self) -> Placement {
        match self {
            Data::Value(_, placement) => *placement,
            _ => Placement::Step,
        }
    }

    /// Whether two classes may be merged: values of one type.
    pub(super) fn agrees(&self, other: &Data) -> bool {
        match (self, other) {
            (Data::Value(a, _), Data::Value(b, _)) => a == b,
            (Data::Ill(_), _) | (_, Data::Ill(_)) => false,
            (a, b) => a == b,
        }
    }
}

impl Analysis<Node> for Types {
    type Data = Data;

    fn make(graph: &mut EGraph, node: &Node, _: Id) -> Data {
        let inferred = match node {
            Node::Attr(value) => return Data::Attr(value.clone()),
            Node::Leaf(op) => graph
                .analysis
                .leaves
                .get(op)
                .map(|ty| vec![ty.clone()])
                .ok_or_else(|| format!("{op} is not declared")),
            Node::Proj(result, [tuple]) => match &graph[*tuple].data {
                Data::Tuple(types) => types
                    .get(*result)
                    .map(|ty| vec![ty.clone()])
                    .ok_or_else(|| format!("result {result} of {}", types.len())),
                _ => Err(format!("result {result} of a value that is no tuple")),
            },
            Node::Op(..) => infer(graph, node),
        };
        match inferred {
            Ok(mut types) if types.len() == 1 => {
                Data::Value(types.swap_remove(0), placement(graph, node))
            }
            Ok(types) => Data::Tuple(types),
            Err(why) => Data::Ill(why),
        }
    }

    /// Merged classes have equal types, see the head of this file; what one of them has at load time, both have.
    fn merge(&mut self, into: &mut Data, from: Data) -> DidMerge {
        debug_assert!(into.agrees(&from), "a merge of {into:?} and {from:?}");
        match (into, from) {
            (Data::Value(_, at), Data::Value(_, from)) if *at != from => {
                // Of two recipes the older class's stays, as its node comes first.
                let later = *at == Placement::Step;
                if later {
                    *at = from;
                }
                DidMerge(later, !later)
            }
            _ => DidMerge(false, false),
        }
    }
}

fn placement(graph: &EGraph, node: &Node) -> Placement {
    if let Node::Leaf(op @ Op::Param { .. }) = node {
        let recipe = graph.analysis.recipes.get(op).copied();
        return Placement::Load(recipe.unwrap_or(Recipe::Other));
    }
    let Some((op, operands)) = node.to_op(graph) else {
        return Placement::Step;
    };
    let loaded = operands.iter().map(|id| match &graph[*id].data {
        Data::Value(ty, Placement::Load(recipe)) => Some((ty, *recipe)),
        _ => None,
    });
    let loaded: Option<Vec<_>> = loaded.collect();
    match loaded.and_then(|operands| recipe(&op, &operands)) {
        Some(recipe) => Placement::Load(recipe),
        None => Placement::Step,
    }
}

fn infer(graph: &EGraph, node: &Node) -> Result<Vec<Type>, String> {
    let (op, operands) = node
        .to_op(graph)
        .ok_or_else(|| format!("`{node}` with attributes that do not fit"))?;
    let types: Option<Vec<Type>> = operands
        .iter()
        .map(|id| graph[*id].data.ty().cloned())
        .collect();
    let types = types.ok_or_else(|| format!("`{op}` of something that is no value"))?;
    op.infer(&types).map_err(|error| error.to_string())
}
