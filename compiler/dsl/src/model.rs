//! The model under construction: dims, parameters and states that entries share, and the entries
//! themselves.
//!
//! A [`Model`] is a shared handle, so that layer constructors can declare parameters on it while an
//! author holds it. An [`Entry`] exists for the time of the closure that fills it; its graph then
//! moves into the module.

use std::cell::{Cell, RefCell};
use std::ops::RangeInclusive;
use std::panic::Location;
use std::rc::Rc;

use mcc_ir::{Dim, Freedom, Graph, Marks, Mesh, Module, Name, Op, ParamSource, Type, ValueId};

use crate::error::{DslError, DslErrors, Mistake, source_loc};
use crate::tensor::{Operand, Tensor};

/// Products that the tensor core sums before promotion when nobody says otherwise, as DeepSeek-V3 does for every FP8
/// product.
const PROMOTE: u32 = 128;

/// A model being written.
#[derive(Debug, Clone)]
pub struct Model(Rc<RefCell<Draft>>);

#[derive(Debug)]
struct Draft {
    module: Module,
    errors: Vec<DslError>,
    /// Promotion interval of products that say nothing else.
    promote: u32,
}

/// A parameter: a constant of the model that every entry may read.
#[derive(Debug, Clone)]
pub struct Param {
    model: Model,
    /// `None` when its declaration was a mistake.
    declared: Option<Rc<mcc_ir::Param>>,
}

/// Memory that lives from step to step.
#[derive(Debug, Clone)]
pub struct State {
    model: Model,
    declared: Option<Rc<mcc_ir::State>>,
}

impl Model {
    /// A model without anything in it.
    pub fn new(name: &str) -> Model {
        Model(Rc::new(RefCell::new(Draft {
            module: Module::new(name),
            errors: Vec::new(),
            promote: PROMOTE,
        })))
    }

    /// Says how far the optimiser may go in entries that say nothing else; without it no bit of a result changes.
    ///
    /// ```
    /// # use mcc_dsl::{Freedom, Model};
    /// let m = Model::new("loose");
    /// m.allow(Freedom::REASSOCIATE);
    /// ```
    pub fn allow(&self, freedom: Freedom) {
        self.0.borrow_mut().module.allow = freedom;
    }

    /// Says which ranks the model is for; without it there is one. Its graphs stay the program of one rank, on the rank's
    /// own tokens ([`Mesh`]).
    ///
    /// ```
    /// # use mcc_dsl::Model;
    /// let m = Model::new("wide");
    /// m.mesh("nodes=4,gpus=8,ep=32".parse()?);
    /// assert!(m.finish().unwrap().to_string().contains("mesh nodes = 4, gpus = 8, ep = 32, tp = 1, dp = 32\n"));
    /// # Ok::<(), mcc_dsl::MeshError>(())
    /// ```
    pub fn mesh(&self, mesh: Mesh) {
        self.0.borrow_mut().module.mesh = Some(mesh);
    }

    /// Sets the promotion interval of the products written from here on that say nothing else
    /// ([`crate::Product::promote`]); without it that is 128.
    ///
    /// ```
    /// # use mcc_dsl::Model;
    /// let m = Model::new("careful");
    /// m.promote(64);
    /// ```
    pub fn promote(&self, interval: u32) {
        self.0.borrow_mut().promote = interval;
    }

    /// Declares a named dim with its smallest and largest extent.
    #[track_caller]
    pub fn dim(&self, name: &str, bounds: RangeInclusive<u64>) -> Dim {
        let result = self
            .0
            .borrow_mut()
            .module
            .add_dim(name, *bounds.start(), *bounds.end());
        if let Err(error) = result {
            self.report(error.into(), Location::caller());
        }
        Dim::sym(name)
    }

    /// Declares a parameter and how it is made from checkpoint tensors.
    #[track_caller]
    pub fn param(&self, name: &str, ty: Type, source: ParamSource) -> Param {
        let at = Location::caller();
        if !self.knows_dims(&ty.shape, at) {
            return Param {
                model: self.clone(),
                declared: None,
            };
        }
        let result = self
            .0
            .borrow_mut()
            .module
            .add_param(name, ty, source)
            .cloned();
        let declared = result
            .map_err(|error| self.report(error.into(), at))
            .ok()
            .map(Rc::new);
        Param {
            model: self.clone(),
            declared,
        }
    }

    /// Declares a state.
    #[track_caller]
    pub fn state(&self, name: &str, ty: Type) -> State {
        let at = Location::caller();
        if !self.knows_dims(&ty.shape, at) {
            return State {
                model: self.clone(),
                declared: None,
            };
        }
        let result = self.0.borrow_mut().module.add_state(name, ty).cloned();
        let declared = result
            .map_err(|error| self.report(error.into(), at))
            .ok()
            .map(Rc::new);
        State {
            model: self.clone(),
            declared,
        }
    }

    /// Adds an entry point, written by `body`.
    #[track_caller]
    pub fn entry(&self, name: &str, body: impl FnOnce(&Entry)) {
        let at = Location::caller();
        let entry = Entry(Rc::new(Scope {
            model: self.clone(),
            graph: RefCell::new(Some(Graph::new(name))),
            allow: Cell::new(None),
        }));
        body(&entry);
        // Tensors that outlive the closure find no graph any more and are reported where they are
        // used.
        let Some(mut graph) = entry.0.graph.borrow_mut().take() else {
            return;
        };
        graph.dead_code_eliminate();
        let result = self.0.borrow_mut().module.add_entry(graph);
        if let Err(error) = result {
            self.report(error.into(), at);
        }
    }

    /// The finished module, verified.
    ///
    /// # Errors
    /// Every mistake made since [`Model::new`].
    pub fn finish(self) -> Result<Module, DslErrors> {
        let draft = self.0.borrow();
        if !draft.errors.is_empty() {
            return Err(DslErrors(draft.errors.clone()));
        }
        match mcc_ir::verify(&draft.module) {
            Ok(()) => Ok(draft.module.clone()),
            Err(errors) => {
                let told = |e: mcc_ir::VerifyError| DslError {
                    at: e.loc.clone(),
                    mistake: Mistake::Rule(e),
                };
                Err(DslErrors(errors.into_iter().map(told).collect()))
            }
        }
    }

    pub(crate) fn report(&self, mistake: Mistake, at: &Location<'_>) {
        self.0.borrow_mut().errors.push(DslError {
            at: Some(source_loc(at)),
            mistake,
        });
    }

    /// Whether every named dim is declared; reports the first that is not.
    pub(crate) fn knows_dims(&self, shape: &[Dim], at: &Location<'_>) -> bool {
        let unknown = {
            let draft = self.0.borrow();
            shape.iter().find_map(|dim| match dim {
                Dim::Sym { name, .. } if draft.module.dim(name).is_none() => {
                    let names: Vec<&str> =
                        draft.module.dims.iter().map(|d| d.name.as_str()).collect();
                    let declared = if names.is_empty() {
                        "none".to_owned()
                    } else {
                        names.join(", ")
                    };
                    Some(Mistake::UnknownDim {
                        name: name.clone(),
                        declared,
                    })
                }
                _ => None,
            })
        };
        match unknown {
            Some(mistake) => {
                self.report(mistake, at);
                false
            }
            None => true,
        }
    }

    fn is(&self, other: &Model) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

/// An entry point while its body runs.
#[derive(Debug, Clone)]
pub struct Entry(Rc<Scope>);

#[derive(Debug)]
struct Scope {
    model: Model,
    /// Taken when the body has returned.
    graph: RefCell<Option<Graph>>,
    /// Freedom of the ops being added, see [`Entry::allowing`].
    allow: Cell<Option<Freedom>>,
}

impl Entry {
    /// Says how far the optimiser may go in this entry.
    pub fn allow(&self, freedom: Freedom) {
        self.with_graph(|graph| graph.allow = Some(freedom));
    }

    /// Says how far the optimiser may go in the ops that `body` adds: a layer, or a part of one. The innermost counts.
    pub fn allowing<T>(&self, freedom: Freedom, body: impl FnOnce() -> T) -> T {
        let outer = self.0.allow.replace(Some(freedom));
        let result = body();
        self.0.allow.set(outer);
        result
    }

    /// Changes the marks of the op that computes a value.
    pub(crate) fn mark(&self, value: ValueId, change: impl FnOnce(&mut Marks)) {
        self.with_graph(|graph| {
            let mut marks = graph.node(value.node).marks.clone();
            change(&mut marks);
            graph.mark(value.node, marks);
        });
    }

    /// Declares an input.
    #[track_caller]
    pub fn input(&self, name: &str, ty: Type) -> Tensor {
        let at = Location::caller();
        if !self.0.model.knows_dims(&ty.shape, at) {
            return Tensor::poisoned(self);
        }
        let result = self.with_graph(|graph| graph.input(name, ty));
        match result {
            Some(Ok(value)) => Tensor::new(self, value),
            Some(Err(error)) => {
                self.0.model.report(error.into(), at);
                Tensor::poisoned(self)
            }
            None => Tensor::poisoned(self),
        }
    }

    /// Names a result of the entry.
    #[track_caller]
    pub fn output(&self, name: &str, value: &impl Operand) {
        if let Some(value) = value.value_in(self, "output", Location::caller()) {
            self.with_graph(|graph| graph.output(name, value));
        }
    }

    /// The value that a state has after this entry.
    #[track_caller]
    pub fn update(&self, state: &State, value: &Tensor) {
        let at = Location::caller();
        let value = value.value_in(self, "update", at);
        if let (Some(value), Some(_), Some(declared)) =
            (value, state.value_in(self, "update", at), &state.declared)
        {
            self.with_graph(|graph| graph.update(declared.name.clone(), value));
        }
    }

    /// Adds an op; results are poisoned when an operand is, or on a mistake, which is reported.
    pub(crate) fn add(&self, op: Op, operands: &[&dyn Operand], at: &Location<'_>) -> Vec<Tensor> {
        let n_results = op.row().map_or(1, |row| row.results.len());
        let poisoned = || vec![Tensor::poisoned(self); n_results];
        let name = op.mnemonic();
        let values: Option<Vec<ValueId>> = operands
            .iter()
            .map(|o| o.value_in(self, name, at))
            .collect();
        let Some(values) = values else {
            return poisoned();
        };
        match self.with_graph(|graph| graph.add(op, &values, Some(source_loc(at)))) {
            Some(Ok(results)) => {
                if let (Some(allow), Some(value)) = (self.0.allow.get(), results.first()) {
                    self.mark(*value, |marks| marks.allow = Some(allow));
                }
                results.into_iter().map(|v| Tensor::new(self, v)).collect()
            }
            Some(Err(error)) => {
                self.0.model.report(error.into(), at);
                poisoned()
            }
            None => {
                self.0.model.report(Mistake::ForeignTensor { op: name }, at);
                poisoned()
            }
        }
    }

    pub(crate) fn model(&self) -> &Model {
        &self.0.model
    }

    pub(crate) fn is(&self, other: &Entry) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// `None` when the entry is finished.
    pub(crate) fn with_graph<T>(&self, f: impl FnOnce(&mut Graph) -> T) -> Option<T> {
        self.0.graph.borrow_mut().as_mut().map(f)
    }

    /// The promotion interval of a product.
    pub(crate) fn interval(&self, own: Option<u32>) -> u32 {
        own.unwrap_or_else(|| self.0.model.0.borrow().promote)
    }

    fn owns(&self, model: &Model, name: &Name, at: &Location<'_>) -> bool {
        let same = self.0.model.is(model);
        if !same {
            self.0
                .model
                .report(Mistake::ForeignParam { name: name.clone() }, at);
        }
        same
    }
}

impl Operand for Param {
    fn value_in(&self, entry: &Entry, _op: &'static str, at: &Location<'_>) -> Option<ValueId> {
        let declared = self.declared.as_ref()?;
        entry
            .owns(&self.model, &declared.name, at)
            .then(|| entry.with_graph(|g| g.param(declared)))?
    }
}

impl Operand for State {
    fn value_in(&self, entry: &Entry, _op: &'static str, at: &Location<'_>) -> Option<ValueId> {
        let declared = self.declared.as_ref()?;
        entry
            .owns(&self.model, &declared.name, at)
            .then(|| entry.with_graph(|g| g.state(declared)))?
    }
}

impl Param {
    /// Its declared type; `None` when the declaration was a mistake.
    pub fn ty(&self) -> Option<&Type> {
        self.declared.as_ref().map(|p| &p.ty)
    }

    /// Rows of this table: an embedding lookup.
    #[track_caller]
    pub fn gather(&self, index: &Tensor) -> Tensor {
        index
            .entry()
            .add(Op::Gather, &[self, index], Location::caller())
            .remove(0)
    }
}

impl State {
    /// The state with row `positions[t]` replaced by `x[t]`. Name it in [`Entry::update`] to keep
    /// it.
    #[track_caller]
    pub fn write(&self, x: &Tensor, positions: &Tensor) -> Tensor {
        x.entry()
            .add(Op::CacheWrite, &[self, x, positions], Location::caller())
            .remove(0)
    }

    /// The state `[E, M, N]` with each expert's weight gradient added: `x [M, K] * y [N, K]^T` over its tokens
    /// `offsets[e]..offsets[e + 1]` of K. Name it in [`Entry::update`] to keep it.
    #[track_caller]
    pub fn add_weight_grad(&self, x: &Tensor, y: &Tensor, offsets: &Tensor) -> Tensor {
        let promote = x.entry().interval(None);
        let op = Op::WeightGrad { promote };
        let operands: [&dyn Operand; 4] = [x, y, offsets, self];
        x.entry().add(op, &operands, Location::caller()).remove(0)
    }

    /// The state as it was when the entry of `like` started.
    #[track_caller]
    pub fn read(&self, like: &Tensor) -> Tensor {
        let entry = like.entry();
        match self.value_in(entry, "state", Location::caller()) {
            Some(value) => Tensor::new(entry, value),
            None => Tensor::poisoned(entry),
        }
    }
}
