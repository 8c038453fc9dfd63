//! The verifier: every rule that a module must keep, checked anew after each pass.
//!
//! In: any module. Out: all errors, each with the entry, value, op and source line at fault. A module that
//! passes has a mesh whose axes fit its ranks, declared and bounded dims, acyclic entries whose types are what the op table infers, states
//! updated at most once by values of their type, and recipes that can make their parameters.

use std::collections::HashSet;
use std::fmt;

use thiserror::Error;

use crate::graph::{Graph, NodeId, SourceLoc, ValueId};
use crate::module::{Module, ParamSource};
use crate::op::Op;
use crate::types::{DType, Dim, Name, ScaleBlock, Type};

/// A rule that a module breaks. Found in a graph as its author built or wrote it, it is the author's fault; found
/// after a pass, it is the compiler's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct VerifyError {
    /// The entry, unless the error is in the module's declarations.
    pub entry: Option<Name>,
    /// The value, for errors at a node.
    pub value: Option<ValueId>,
    /// The op that computes the value.
    pub op: Option<String>,
    /// Where its author wrote it.
    pub loc: Option<SourceLoc>,
    /// The rule, and what breaks it.
    pub message: String,
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(loc) = &self.loc {
            write!(f, "{loc}: ")?;
        }
        if let Some(entry) = &self.entry {
            write!(f, "entry `{entry}`: ")?;
        }
        match (&self.op, self.value) {
            (Some(op), Some(value)) => write!(f, "`{op}` ({value}): ")?,
            (Some(op), None) => write!(f, "`{op}`: ")?,
            (None, _) => {}
        }
        f.write_str(&self.message)
    }
}

/// Checks every rule.
///
/// # Errors
/// All rules that the module breaks, in the order of its text; never empty.
pub fn verify(module: &Module) -> Result<(), Vec<VerifyError>> {
    let mut v = Verifier {
        module,
        entry: None,
        errors: Vec::new(),
    };
    v.declarations();
    for entry in &module.entries {
        v.entry = Some(entry);
        v.entry(entry);
    }
    if v.errors.is_empty() {
        Ok(())
    } else {
        Err(v.errors)
    }
}

struct Verifier<'a> {
    module: &'a Module,
    entry: Option<&'a Graph>,
    errors: Vec<VerifyError>,
}

impl Verifier<'_> {
    fn error(&mut self, message: impl Into<String>) {
        let entry = self.entry.map(|g| g.name.clone());
        self.errors.push(VerifyError {
            entry,
            value: None,
            op: None,
            loc: None,
            message: message.into(),
        });
    }

    fn error_at(&mut self, graph: &Graph, id: NodeId, result: usize, message: impl Into<String>) {
        let node = graph.node(id);
        self.errors.push(VerifyError {
            entry: Some(graph.name.clone()),
            value: Some(ValueId { node: id, result }),
            op: Some(node.op.to_string()),
            loc: node.loc.clone(),
            message: message.into(),
        });
    }

    fn unique<'n>(&mut self, kind: &str, names: impl Iterator<Item = &'n Name>) {
        let mut seen = HashSet::new();
        for name in names {
            if !seen.insert(name) {
                self.error(format!("{kind} `{name}` is declared twice"));
            }
        }
    }

    fn declarations(&mut self) {
        let m = self.module;
        if let Some(Err(why)) = m.mesh.map(|mesh| mesh.check()) {
            self.error(why.to_string());
        }
        self.unique("dim", m.dims.iter().map(|d| &d.name));
        self.unique("entry", m.entries.iter().map(|e| &e.name));
        // Both are written `@name`.
        self.unique(
            "parameter or state",
            m.params
                .iter()
                .map(|p| &p.name)
                .chain(m.states.iter().map(|s| &s.name)),
        );
        for d in &m.dims {
            if d.min > d.max || d.max == 0 {
                self.error(format!(
                    "dim `{}` has the empty range {}..={}",
                    d.name, d.min, d.max
                ));
            }
        }
        for p in &m.params {
            if let Some(why) = self.type_fault(&p.ty) {
                self.error(format!(
                    "parameter `@{}` has the type {}: {why}",
                    p.name, p.ty
                ));
            } else if let Err(why) = check_source(&p.source, &p.ty) {
                self.error(format!("parameter `@{}` of type {}: {why}", p.name, p.ty));
            }
        }
        for s in &m.states {
            if let Some(why) = self.type_fault(&s.ty) {
                self.error(format!("state `@{}` has the type {}: {why}", s.name, s.ty));
            }
        }
    }

    /// What is wrong with a type: by itself, in its use of named dims, or in its size at their upper bounds.
    fn type_fault(&self, ty: &Type) -> Option<String> {
        if let Err(why) = ty.check() {
            return Some(why);
        }
        let mut bytes = ty.dtype.bytes();
        for dim in &ty.shape {
            if let Dim::Sym { name, .. } = dim
                && self.module.dim(name).is_none()
            {
                return Some(format!(
                    "dim `{name}` is not declared; write `dim {name}: min..=max`"
                ));
            }
            let extent = dim.resolve(|name| self.module.dim(name).map(|d| d.max));
            let product = extent
                .and_then(|n| bytes.checked_mul(n))
                .filter(|n| *n <= i64::MAX as u64);
            let Some(product) = product else {
                return Some("more than 2^63 bytes at the upper bounds of its dims".into());
            };
            bytes = product;
        }
        None
    }

    fn entry(&mut self, graph: &Graph) {
        let order = graph.topo();
        if order.len() != graph.len() {
            let missing = graph.len() - order.len();
            self.error(format!(
                "{missing} op(s) read their own results: the graph has a cycle"
            ));
        }
        for id in order {
            self.node(graph, id);
        }
        self.updates(graph);
        self.unique("output", graph.outputs.iter().map(|(name, _)| name));
        for (name, value) in &graph.outputs {
            if graph.get(*value).is_none() {
                self.error(format!(
                    "output `{name}` is {value}, which is no value of the graph"
                ));
            }
        }
    }

    fn node(&mut self, graph: &Graph, id: NodeId) {
        let node = graph.node(id);
        for (result, ty) in node.results.iter().enumerate() {
            if let Some(why) = self.type_fault(ty) {
                self.error_at(graph, id, result, format!("result of type {ty}: {why}"));
            }
        }
        let declared = match &node.op {
            Op::Input { .. } => return,
            Op::Param { name } => self.module.param(name).map(|p| &p.ty),
            Op::State { name } => self.module.state(name).map(|s| &s.ty),
            op => {
                let mut operands = Vec::new();
                for value in graph.operands(id) {
                    match graph.get(value) {
                        Some(ty) => operands.push(ty.clone()),
                        None => self.error_at(
                            graph,
                            id,
                            0,
                            format!("reads {value}, which is no value of the graph"),
                        ),
                    }
                }
                match op.infer(&operands) {
                    Ok(types) if types == node.results => {}
                    Ok(types) => {
                        let message = format!(
                            "results are {}, inferred {}",
                            list(&node.results),
                            list(&types)
                        );
                        self.error_at(graph, id, 0, message);
                    }
                    Err(e) => self.error_at(graph, id, 0, e.to_string()),
                }
                return;
            }
        };
        match declared {
            None => self.error_at(graph, id, 0, "is not declared on the module"),
            Some(ty) if node.results != [ty.clone()] => {
                self.error_at(
                    graph,
                    id,
                    0,
                    format!("is declared as {ty}, used as {}", list(&node.results)),
                );
            }
            Some(_) => {}
        }
    }

    fn updates(&mut self, graph: &Graph) {
        let mut seen = HashSet::new();
        for (name, value) in &graph.updates {
            if !seen.insert(name) {
                self.error(format!("state `@{name}` is updated twice"));
            }
            let Some(state) = self.module.state(name) else {
                self.error(format!(
                    "`@{name}` is updated but is no state of the module"
                ));
                continue;
            };
            match graph.get(*value) {
                None => self.error(format!(
                    "update of `@{name}` is {value}, which is no value of the graph"
                )),
                Some(ty) if *ty != state.ty => {
                    let message = format!(
                        "updates the state `@{name}` of type {} by a value of type {ty}",
                        state.ty
                    );
                    self.error_at(graph, value.node, value.result, message);
                }
                Some(_) => {}
            }
        }
    }
}

fn list(types: &[Type]) -> String {
    types
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// What a recipe has to make: extents that only the checkpoint knows are `None`.
#[derive(Clone)]
struct Wanted {
    dtype: DType,
    scale: Option<ScaleBlock>,
    shape: Vec<Option<u64>>,
}

/// Whether some checkpoint could make a value of that type by that recipe.
fn check_source(source: &ParamSource, ty: &Type) -> Result<(), String> {
    let shape: Option<Vec<_>> = ty.shape.iter().map(|d| d.as_const().map(Some)).collect();
    let shape = shape.ok_or("a parameter has constant dims only")?;
    if ty.scale.is_some_and(|block| block != ScaleBlock::WEIGHT) {
        return Err(format!(
            "block-scaled parameters have {} blocks",
            ScaleBlock::WEIGHT
        ));
    }
    if ty.dtype == DType::I32 {
        return Err("no recipe makes integers".into());
    }
    make(
        source,
        Wanted {
            dtype: ty.dtype,
            scale: ty.scale,
            shape,
        },
    )
}

fn make(source: &ParamSource, want: Wanted) -> Result<(), String> {
    match source {
        ParamSource::Tensor(name) if name.is_empty() => Err("a tensor needs a name".into()),
        ParamSource::Tensor(_) => Ok(()),
        ParamSource::Concat(parts) => {
            let [_, k] = want.shape[..] else {
                return Err(format!(
                    "concat makes a matrix, not {} axes",
                    want.shape.len()
                ));
            };
            all(
                parts,
                "concat",
                &Wanted {
                    shape: vec![None, k],
                    ..want
                },
            )
        }
        ParamSource::Stack(parts) => {
            let Some((first, rest)) = want.shape.split_first() else {
                return Err("stack makes at least one axis".into());
            };
            if let Some(n) = first.filter(|n| *n != parts.len() as u64) {
                return Err(format!(
                    "stack has {} parts for an axis of {n}",
                    parts.len()
                ));
            }
            all(
                parts,
                "stack",
                &Wanted {
                    shape: rest.to_vec(),
                    ..want.clone()
                },
            )
        }
        ParamSource::Experts { slots, parts, .. } => {
            let Some((first, rest)) = want.shape.split_first() else {
                return Err("experts makes at least one axis".into());
            };
            if let Some(n) = first.filter(|n| n != slots) {
                return Err(format!("experts has {slots} slots for an axis of {n}"));
            }
            all(
                parts,
                "experts",
                &Wanted {
                    shape: rest.to_vec(),
                    ..want.clone()
                },
            )
        }
        ParamSource::Dequant(src) => {
            if want.dtype != DType::BF16 {
                return Err(format!("dequant makes bf16, not {}", want.dtype));
            }
            make(
                src,
                Wanted {
                    dtype: DType::E4M3,
                    scale: Some(ScaleBlock::WEIGHT),
                    ..want
                },
            )
        }
        ParamSource::HeadRows {
            src,
            heads,
            start,
            len,
        } => {
            let [h, rows, k] = want.shape[..] else {
                return Err(format!("head_rows makes 3 axes, not {}", want.shape.len()));
            };
            if want.scale.is_some() {
                return Err("head_rows cuts scale blocks; put dequant inside of it".into());
            }
            if *heads == 0 || *len == 0 || start.checked_add(*len).is_none() {
                return Err(format!(
                    "head_rows of {heads} heads, {len} rows from {start} on, is empty or too large"
                ));
            }
            if h.is_some_and(|h| h != *heads) || rows.is_some_and(|rows| rows != *len) {
                return Err(format!("head_rows makes [{heads}, {len}, K]"));
            }
            make(
                src,
                Wanted {
                    shape: vec![None, k],
                    ..want
                },
            )
        }
        ParamSource::Transpose(src) => {
            let mut shape = want.shape.clone();
            let [.., a, b] = &mut shape[..] else {
                return Err("transpose needs two axes".into());
            };
            std::mem::swap(a, b);
            make(src, Wanted { shape, ..want })
        }
        ParamSource::RopeTable {
            dim,
            theta,
            positions,
            yarn,
        } => {
            let numbers = yarn.map_or(vec![], |y| {
                vec![
                    y.factor,
                    y.original,
                    y.beta_fast,
                    y.beta_slow,
                    y.mscale,
                    y.mscale_all_dim,
                ]
            });
            if *dim == 0 || !dim.is_multiple_of(2) {
                return Err(format!(
                    "rope_table needs an even number of channels, not {dim}"
                ));
            }
            if !numbers.iter().chain([theta]).all(|x| x.is_finite()) || *theta <= 1.0 {
                return Err("rope_table needs finite numbers, and theta above 1".into());
            }
            if yarn.is_some_and(|y| {
                [y.factor, y.original, y.beta_fast, y.beta_slow]
                    .iter()
                    .any(|x| *x <= 0.0)
            }) {
                return Err("yarn needs positive factor, original, beta_fast and beta_slow".into());
            }
            let made = [Some(*positions), Some(dim / 2), Some(2)];
            let fits = want.shape.len() == 3
                && want
                    .shape
                    .iter()
                    .zip(&made)
                    .all(|(w, m)| w.is_none() || w == m);
            if want.dtype != DType::F32 || !fits {
                return Err(format!("rope_table makes f32[{positions}, {}, 2]", dim / 2));
            }
            Ok(())
        }
    }
}

fn all(parts: &[ParamSource], name: &str, want: &Wanted) -> Result<(), String> {
    if parts.is_empty() {
        return Err(format!("{name} needs at least one part"));
    }
    parts.iter().try_for_each(|part| make(part, want.clone()))
}
