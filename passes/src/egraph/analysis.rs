//! What the e-graph knows of each class: the type of its value, by the op table's inference.
//!
//! Every node of a class has the class's type: rules are checked for it before they merge two classes
//! (`saturate.rs`), and congruence keeps it.

use std::collections::HashMap;

use egg::{Analysis, DidMerge, Id};
use mcc_ir::attr::AttrValue;
use mcc_ir::op::Op;
use mcc_ir::types::Type;

use super::language::{EGraph, Node};

/// Declared types of the leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Types {
    /// Of every input, parameter and state that the entry uses.
    pub(super) leaves: HashMap<Op, Type>,
}

/// The fact about one class.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Data {
    /// An attribute's value.
    Attr(AttrValue),
    /// A value of this type.
    Value(Type),
    /// Several results.
    Tuple(Vec<Type>),
    /// A node that the op table rejects, and why. No class of the input has it; a rule that makes one is wrong.
    Ill(String),
}

impl Data {
    /// The type of a class that is one value.
    pub(super) fn ty(&self) -> Option<&Type> {
        match self {
            Data::Value(ty) => Some(ty),
            _ => None,
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
            Ok(mut types) if types.len() == 1 => Data::Value(types.swap_remove(0)),
            Ok(types) => Data::Tuple(types),
            Err(why) => Data::Ill(why),
        }
    }

    /// Merged classes have equal data, see the head of this file.
    fn merge(&mut self, into: &mut Data, from: Data) -> DidMerge {
        debug_assert_eq!(*into, from, "a merge of values of different types");
        DidMerge(false, false)
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
