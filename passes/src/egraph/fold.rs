//! Work that is done once: ops over parameters alone become parameters.
//!
//! ```text
//! %0 = concat @gate, @up {axis = 0}          param @gate_and_up = concat(tensor("gate"), tensor("up"))
//! %1 = matmul %x, %0                     ->  %0 = matmul %x, @gate_and_up
//! ```
//!
//! In: an entry as extraction chose it. Out: the entry without the ops whose results a parameter's recipe can say
//! ([`super::analysis::recipe`] knows which), and the parameters that it reads in their place. Equal recipes are one
//! parameter, also those of several entries. A reshape by itself stays what it is, a view: a parameter of its own would
//! hold the same bytes again.

use std::collections::HashMap;

use mcc_ir::graph::{Graph, ValueId};
use mcc_ir::module::{Module, Param, ParamSource};
use mcc_ir::op::Op;
use mcc_ir::types::{Name, Type};

/// Parameters that entries read in place of ops, beside the module's.
#[derive(Debug, Default)]
pub(super) struct Folded {
    params: Vec<Param>,
}

/// A value that is made of parameters.
#[derive(Clone, Debug)]
struct Made {
    name: String,
    source: ParamSource,
    /// Whether it is more than a view of a parameter.
    moves: bool,
}

impl Folded {
    /// Folds one entry.
    ///
    /// # Errors
    /// A parameter whose type is not the op's, as a sentence: a bug of this file.
    pub(super) fn fold(&mut self, module: &Module, graph: &mut Graph) -> Result<(), String> {
        let mut made: HashMap<ValueId, Made> = HashMap::new();
        let order = graph.topo();
        for id in &order {
            let value = ValueId {
                node: *id,
                result: 0,
            };
            let step = match graph.op(*id) {
                Op::Param { name } => module.param(name).map(|param| Made {
                    name: name.to_string(),
                    source: param.source.clone(),
                    moves: false,
                }),
                op => {
                    let operands = graph.operands(*id);
                    let of: Option<Vec<&Made>> =
                        operands.iter().map(|value| made.get(value)).collect();
                    of.filter(|of| !of.is_empty()).and_then(|of| step(op, &of))
                }
            };
            if let Some(step) = step {
                made.insert(value, step);
            }
        }
        let named: Vec<ValueId> = graph
            .updates
            .iter()
            .chain(&graph.outputs)
            .map(|(_, value)| *value)
            .collect();
        for id in order {
            let old = ValueId {
                node: id,
                result: 0,
            };
            let Some(step) = made.get(&old).filter(|step| step.moves) else {
                continue;
            };
            let is_read = |reader| {
                let result = ValueId {
                    node: reader,
                    result: 0,
                };
                !made.contains_key(&result)
            };
            if !named.contains(&old) && !graph.users(old).iter().any(|user| is_read(user.node)) {
                continue;
            }
            let param = self.param(module, step, graph.ty(old));
            let new = graph.param(&param);
            graph
                .replace_all_uses(old, new)
                .map_err(|error| error.to_string())?;
        }
        graph.dead_code_eliminate();
        Ok(())
    }

    /// The parameter of that recipe: one that is there, or a new one.
    fn param(&mut self, module: &Module, step: &Made, ty: &Type) -> Param {
        let mut known = module.params.iter().chain(&self.params);
        if let Some(param) = known.find(|param| param.source == step.source && param.ty == *ty) {
            return param.clone();
        }
        let taken = |name: &str| {
            let derived = self.params.iter().any(|param| param.name == *name);
            derived || module.param(name).is_some() || module.state(name).is_some()
        };
        let numbered = (2..).map(|n| format!("{}_{n}", step.name));
        let name = std::iter::once(step.name.clone())
            .chain(numbered)
            .find(|name| !taken(name))
            .unwrap_or_default();
        let param = Param {
            name: name.into(),
            ty: ty.clone(),
            source: step.source.clone(),
        };
        self.params.push(param.clone());
        param
    }

    /// Gives the module the parameters that were made, and takes those from it that only `before` reads.
    pub(super) fn finish(self, before: &Module, after: &mut Module) {
        after.params.extend(self.params);
        let (was, is) = (read(before), read(after));
        after
            .params
            .retain(|param| is.contains(&param.name) || !was.contains(&param.name));
    }
}

/// Names of the parameters that entries read.
fn read(module: &Module) -> std::collections::HashSet<Name> {
    let ops = module.entries.iter().flat_map(|entry| {
        let ops = entry.topo().into_iter().map(|id| entry.op(id));
        ops.filter_map(|op| match op {
            Op::Param { name } => Some(name.clone()),
            _ => None,
        })
    });
    ops.collect()
}

/// One op over values that are made of parameters; `None` where no recipe has it.
fn step(op: &Op, of: &[&Made]) -> Option<Made> {
    let first = of.first()?;
    let one = |ending: &str, source: ParamSource, moves: bool| Made {
        name: format!("{}{ending}", first.name),
        source,
        moves: moves || first.moves,
    };
    let source = || Box::new(first.source.clone());
    match op {
        Op::Concat { axis } => Some(Made {
            name: joined_name(of),
            source: joined(*axis, of)?,
            moves: true,
        }),
        Op::Dequantize => Some(one(".bf16", ParamSource::Dequant(source()), true)),
        Op::Transpose { .. } => Some(one(".turned", ParamSource::Transpose(source()), true)),
        Op::Reshape { shape } => match shape.as_slice() {
            [one_matrix, _, _] if one_matrix.as_const() == Some(1) => Some(one(
                "",
                ParamSource::Stack(vec![first.source.clone()]),
                false,
            )),
            [heads, rows, _] => {
                let rows = ParamSource::HeadRows {
                    src: source(),
                    heads: heads.as_const()?,
                    start: 0,
                    len: rows.as_const()?,
                };
                Some(one("", rows, false))
            }
            _ => None,
        },
        Op::Slice {
            axis: 1,
            start: from,
            len,
        } => {
            let ParamSource::HeadRows {
                src, heads, start, ..
            } = &first.source
            else {
                return None;
            };
            let rows = ParamSource::HeadRows {
                src: src.clone(),
                heads: *heads,
                start: start.checked_add(*from)?,
                len: *len,
            };
            Some(one(&format!(".rows_{from}_{}", from + len), rows, true))
        }
        _ => None,
    }
}

/// `layers.0.mlp.gate_proj` and `layers.0.mlp.up_proj` are `layers.0.mlp.gate_proj_and_up_proj`.
fn joined_name(of: &[&Made]) -> String {
    let mut names = of.iter().map(|made| made.name.as_str());
    let first = names.next().unwrap_or_default();
    names.fold(first.to_owned(), |all, name| {
        let common = all.bytes().zip(name.bytes()).take_while(|(a, b)| a == b);
        let prefix = &name[..common.count()];
        let scope = prefix.rfind('.').map_or(0, |dot| dot + 1);
        format!("{all}_and_{}", &name[scope..])
    })
}

/// Matrices joined row by row, or stacks of them: one behind the other along axis 0, matrix by matrix along axis 1.
fn joined(axis: usize, of: &[&Made]) -> Option<ParamSource> {
    let stacks: Option<Vec<&Vec<ParamSource>>> = of
        .iter()
        .map(|made| match &made.source {
            ParamSource::Stack(parts) => Some(parts),
            _ => None,
        })
        .collect();
    match (axis, stacks) {
        (0, None) => {
            let parts = of.iter().flat_map(|made| rows(&made.source));
            Some(ParamSource::Concat(parts.cloned().collect()))
        }
        (0, Some(stacks)) => {
            let parts = stacks.into_iter().flatten();
            Some(ParamSource::Stack(parts.cloned().collect()))
        }
        (1, Some(stacks)) => {
            let count = stacks.first()?.len();
            let matrix = |at: usize| -> Option<ParamSource> {
                let parts: Option<Vec<&ParamSource>> =
                    stacks.iter().map(|stack| stack.get(at)).collect();
                let parts = parts?.into_iter().flat_map(rows);
                Some(ParamSource::Concat(parts.cloned().collect()))
            };
            (0..count)
                .map(matrix)
                .collect::<Option<_>>()
                .map(ParamSource::Stack)
        }
        _ => None,
    }
}

/// What is joined in a matrix: its parts, or it alone.
fn rows(source: &ParamSource) -> &[ParamSource] {
    match source {
        ParamSource::Concat(parts) => parts,
        one => std::slice::from_ref(one),
    }
}
