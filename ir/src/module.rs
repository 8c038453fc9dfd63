//! A model: the ranks that it is for, named dims, parameters with their recipes, states, and the entry graphs that share them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::graph::{Graph, NodeId};
use crate::marks::Freedom;
use crate::mesh::Mesh;
use crate::types::{Name, Type};

/// A named dim with its bounds, both inclusive.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DimDecl {
    /// As used in shapes.
    pub name: Name,
    /// Smallest extent at run time.
    pub min: u64,
    /// Largest extent at run time; buffers are sized by it.
    pub max: u64,
}

/// A parameter shared by all entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// Written `@name` in graphs.
    pub name: Name,
    /// All dims constant.
    pub ty: Type,
    /// Where its values come from.
    pub source: ParamSource,
}

/// Memory that lives from step to step (a KV cache).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Written `@name` in graphs; distinct from the parameters' names.
    pub name: Name,
    /// Its type; named dims are this step's extents of a buffer of maximal size.
    pub ty: Type,
}

/// Recipe of a parameter over the tensors of a checkpoint; the runtime evaluates it while loading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamSource {
    /// The tensor as stored. For an `e4m3` parameter: the codes, with scales from `<name>_scale_inv`.
    Tensor(String),
    /// Along axis 0 of `[N, K]` matrices; all but the last have a multiple of 128 rows when block-scaled.
    Concat(Vec<ParamSource>),
    /// Along a new leading axis, e.g. the experts.
    Stack(Vec<ParamSource>),
    /// Along a new leading axis, the experts that a rank holds: rank `r` the physical ones `r * slots..(r + 1) * slots`.
    /// Which part, or logical expert, a physical one is says the placement that the runtime is given; without one
    /// physical expert `p` is `p` modulo the number of parts.
    Experts {
        /// Which of the model's layers with experts this is, counted from 0: a placement has one list for each.
        layer: u64,
        /// Experts of a rank.
        slots: u64,
        /// All logical experts.
        parts: Vec<ParamSource>,
    },
    /// `e4m3` to `bf16`: code times scale in f32, rounded to nearest even.
    Dequant(Box<ParamSource>),
    /// `[heads*P, K]` seen as `[heads, P, K]`; rows `start..start+len` of each head: `[heads, len, K]`.
    HeadRows {
        /// The `[heads*P, K]` matrix.
        src: Box<ParamSource>,
        /// Number of heads.
        heads: u64,
        /// First row taken of each head.
        start: u64,
        /// Rows taken of each head.
        len: u64,
    },
    /// Swaps the last two axes.
    Transpose(Box<ParamSource>),
    /// Generated: `f32[positions, dim/2, 2]`, the cosine and sine of each rotation (`docs/model.md`, "RoPE and
    /// YaRN").
    RopeTable {
        /// Rotated channels.
        dim: u64,
        /// Base of the frequencies.
        theta: f64,
        /// Number of positions.
        positions: u64,
        /// Context extension, if any.
        yarn: Option<Yarn>,
    },
}

/// YaRN context extension of a rotary embedding (`docs/model.md`, "RoPE and YaRN").
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yarn {
    /// Ratio of the new context to the original one.
    pub factor: f64,
    /// Positions the model was first trained on.
    pub original: f64,
    /// Rotations above which a channel keeps its frequency.
    pub beta_fast: f64,
    /// Rotations below which a channel is fully interpolated.
    pub beta_slow: f64,
    /// Attention temperature of the table: multiplies cosines and sines.
    pub mscale: f64,
    /// Attention temperature of all channels: divides the table's, and its square is in the softmax scale.
    pub mscale_all_dim: f64,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Module {
    /// As its author calls it.
    pub name: Name,
    /// What the optimiser may do to the entries that say nothing else.
    pub allow: Freedom,
    /// The ranks that it runs on; one where there is none.
    pub mesh: Option<Mesh>,
    /// Named dims.
    pub dims: Vec<DimDecl>,
    /// Parameters.
    pub params: Vec<Param>,
    /// States.
    pub states: Vec<State>,
    /// Entry points.
    pub entries: Vec<Graph>,
}

/// What a builder did wrong; the author's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ModuleError {
    /// The name is taken.
    #[error("{kind} `{name}` is declared twice")]
    Duplicate {
        /// `dim`, `parameter`, `state`, `entry`, `input`, `output`.
        kind: &'static str,
        /// The name.
        name: Name,
    },
    /// `min` above `max`, or an empty range.
    #[error("dim `{name}` has the empty range {min}..={max}; write a bound of at least 1")]
    EmptyDim {
        /// The dim.
        name: Name,
        /// Lower bound.
        min: u64,
        /// Upper bound.
        max: u64,
    },
    /// A type that no value can have.
    #[error("`{name}` has the type {ty}: {why}")]
    BadType {
        /// Whose type.
        name: Name,
        /// The type.
        ty: Type,
        /// What a type must be.
        why: String,
    },
}

impl Module {
    /// A module without anything in it.
    pub fn new(name: impl Into<Name>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Declares a named dim with inclusive bounds.
    ///
    /// # Errors
    /// When the name is taken or the range is empty.
    pub fn add_dim(
        &mut self,
        name: impl Into<Name>,
        min: u64,
        max: u64,
    ) -> Result<(), ModuleError> {
        let name = name.into();
        if self.dim(&name).is_some() {
            return Err(ModuleError::Duplicate { kind: "dim", name });
        }
        if min > max || max == 0 {
            return Err(ModuleError::EmptyDim { name, min, max });
        }
        self.dims.push(DimDecl { name, min, max });
        Ok(())
    }

    /// Declares a parameter.
    ///
    /// # Errors
    /// When the name is taken by a parameter or state, or the type is malformed.
    pub fn add_param(
        &mut self,
        name: impl Into<Name>,
        ty: Type,
        source: ParamSource,
    ) -> Result<&Param, ModuleError> {
        let name = name.into();
        self.check_new(&name, &ty, "parameter")?;
        self.params.push(Param { name, ty, source });
        Ok(&self.params[self.params.len() - 1])
    }

    /// Declares a state.
    ///
    /// # Errors
    /// When the name is taken by a parameter or state, or the type is malformed.
    pub fn add_state(&mut self, name: impl Into<Name>, ty: Type) -> Result<&State, ModuleError> {
        let name = name.into();
        self.check_new(&name, &ty, "state")?;
        self.states.push(State { name, ty });
        Ok(&self.states[self.states.len() - 1])
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn add_entry(&mut self, graph: Graph) -> Result<(), ModuleError> {
        if self.entry(&graph.name).is_some() {
            return Err(ModuleError::Duplicate {
                kind: "entry",
                name: graph.name,
            });
        }
        self.entries.push(graph);
        Ok(())
    }

    /// The dim of that name.
    #[must_use]
    pub fn dim(&self, name: &str) -> Option<&DimDecl> {
        self.dims.iter().find(|d| d.name == name)
    }

    /// The parameter of that name.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|p| p.name == name)
    }

    /// The state of that name.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|s| s.name == name)
    }

    /// The entry of that name.
    #[must_use]
    pub fn entry(&self, name: &str) -> Option<&Graph> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// The entry of that name, to change it.
    pub fn entry_mut(&mut self, name: &str) -> Option<&mut Graph> {
        self.entries.iter_mut().find(|e| e.name == name)
    }

    /// What the optimiser may do to an op of an entry: the op's word, else the entry's, else the module's.
    #[must_use]
    pub fn freedom(&self, entry: &Graph, node: NodeId) -> Freedom {
        let own = entry.node(node).marks.allow;
        own.or(entry.allow).unwrap_or(self.allow)
    }

    fn check_new(&self, name: &Name, ty: &Type, kind: &'static str) -> Result<(), ModuleError> {
        if self.param(name).is_some() || self.state(name).is_some() {
            return Err(ModuleError::Duplicate {
                kind,
                name: name.clone(),
            });
        }
        ty.check().map_err(|why| ModuleError::BadType {
            name: name.clone(),
            ty: ty.clone(),
            why,
        })
    }
}
