//! The e-graph's language: graph ops as egg nodes.
//!
//! An op becomes one node whose children are its attributes, in the order of the op table, and then its
//! operands. Attributes are leaves, so that a pattern can bind them and carry them from one op to another:
//!
//! ```text
//! %1 = rms_norm %0, @w {eps = 1e-6}          (rms_norm 1e-6 %0 @w)
//! %2, %3 = route %1, @bias {top_k = 4, ..}   (proj0 (route 4 .. %1 @bias)), (proj1 (route ..))
//! ```
//!
//! An op with one result stands for that result. An op with several stands for their tuple, and `proj<i>`
//! takes one out; a tuple is thus computed once however many of its results are used.

use std::fmt;

use egg::{FromOp, Id, Language};
use mcc_ir::attr::AttrValue;
use mcc_ir::op::{Op, OpRow};
use mcc_ir::types::{DType, F32};
use thiserror::Error;

use super::analysis::{Data, Types};

/// The e-graph of one entry.
pub(super) type EGraph = egg::EGraph<Node, Types>;

/// A node of the e-graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Node {
    /// An input, parameter or state.
    Leaf(Op),
    /// An attribute of an op.
    Attr(AttrValue),
    /// One result of a tuple.
    Proj(usize, [Id; 1]),
    /// An op of the table by its mnemonic: attributes, then operands.
    Op(&'static str, Vec<Id>),
}

/// What must be equal for two nodes to be of one kind: patterns look nodes up by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Leaf(Op),
    Attr(AttrValue),
    Proj(usize),
    Op(&'static str, usize),
}

impl Language for Node {
    type Discriminant = Kind;

    fn discriminant(&self) -> Kind {
        match self {
            Node::Leaf(op) => Kind::Leaf(op.clone()),
            Node::Attr(value) => Kind::Attr(value.clone()),
            Node::Proj(result, _) => Kind::Proj(*result),
            Node::Op(mnemonic, children) => Kind::Op(mnemonic, children.len()),
        }
    }

    fn matches(&self, other: &Self) -> bool {
        match (self, other) {
            (Node::Leaf(a), Node::Leaf(b)) => a == b,
            (Node::Attr(a), Node::Attr(b)) => a == b,
            (Node::Proj(a, _), Node::Proj(b, _)) => a == b,
            (Node::Op(a, x), Node::Op(b, y)) => a == b && x.len() == y.len(),
            _ => false,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            Node::Leaf(_) | Node::Attr(_) => &[],
            Node::Proj(_, child) => child,
            Node::Op(_, children) => children,
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            Node::Leaf(_) | Node::Attr(_) => &mut [],
            Node::Proj(_, child) => child,
            Node::Op(_, children) => children,
        }
    }
}

impl Node {
    /// The node of an op whose operands are the given classes. Attribute leaves are added on the way.
    pub(super) fn of_op(graph: &mut EGraph, op: &Op, operands: &[Id]) -> Node {
        if op.is_leaf() {
            return Node::Leaf(op.clone());
        }
        let mut children: Vec<Id> = op
            .attrs()
            .into_iter()
            .map(|(_, value)| graph.add(Node::Attr(value)))
            .collect();
        children.extend_from_slice(operands);
        Node::Op(op.mnemonic(), children)
    }

    /// The op and its operands' classes, for a node that is one; `None` for attributes, projections, and nodes
    /// whose attributes do not fit (which no rule makes).
    pub(super) fn to_op(&self, graph: &EGraph) -> Option<(Op, Vec<Id>)> {
        match self {
            Node::Leaf(op) => Some((op.clone(), Vec::new())),
            Node::Attr(_) | Node::Proj(..) => None,
            Node::Op(mnemonic, children) => {
                let row = OpRow::find(mnemonic)?;
                let (attrs, operands) = children.split_at_checked(row.attrs.len())?;
                let attrs = row
                    .attrs
                    .iter()
                    .zip(attrs)
                    .map(|(decl, id)| match &graph[*id].data {
                        Data::Attr(value) => Some((decl.name.into(), value.clone())),
                        _ => None,
                    });
                let op = row.build(attrs.collect::<Option<Vec<_>>>()?).ok()?;
                Some((op, operands.to_vec()))
            }
        }
    }
}

/// The head of the node's s-expression, as patterns write it.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Leaf(op) => write!(f, "{op}"),
            Node::Attr(value) => write!(f, "{value}"),
            Node::Proj(result, _) => write!(f, "proj{result}"),
            Node::Op(mnemonic, _) => f.write_str(mnemonic),
        }
    }
}

/// A pattern that names no op of the table, or with the wrong number of children.
#[derive(Debug, Error)]
#[error("no op `{op}` with {children} children, attributes included")]
pub(super) struct UnknownPattern {
    op: String,
    children: usize,
}

/// Reads the head of a pattern's node: a mnemonic, `proj<i>`, or an attribute: an integer, a number with a point, or
/// an element type.
impl FromOp for Node {
    type Error = UnknownPattern;

    fn from_op(op: &str, children: Vec<Id>) -> Result<Self, UnknownPattern> {
        let unknown = UnknownPattern {
            op: op.to_owned(),
            children: children.len(),
        };
        if children.is_empty() {
            let int = op.parse().ok().map(AttrValue::Int);
            let float = || op.parse().ok().map(|x| AttrValue::Float(F32::new(x)));
            let dtype = || DType::from_keyword(op).map(AttrValue::DType);
            if let Some(value) = int.or_else(float).or_else(dtype) {
                return Ok(Node::Attr(value));
            }
        }
        if let (Some(Ok(result)), [child]) =
            (op.strip_prefix("proj").map(str::parse), &children[..])
        {
            return Ok(Node::Proj(result, [*child]));
        }
        let row = OpRow::find(op).ok_or_else(|| UnknownPattern {
            op: op.to_owned(),
            children: children.len(),
        })?;
        let fixed = row.attrs.len() + row.operands.len();
        let fits = if row.variadic.is_some() {
            children.len() >= fixed
        } else {
            children.len() == fixed
        };
        if fits {
            Ok(Node::Op(row.mnemonic, children))
        } else {
            Err(unknown)
        }
    }
}
