//! Buffers and kernels of all entries, while they are being made.
//!
//! Holds: sizes are computed at the dims' upper bounds and are multiples of [`BUFFER_ALIGN`]; parameters,
//! states, kernels with equal configs, and ports with equal names and types exist once for all entries.

use mcc_ir::exchange::ExpertGroup;
use mcc_ir::kernel::{ExchangeRange, KernelConfig};
use mcc_ir::program::{BUFFER_ALIGN, BufferId, Kernel, KernelId, ProgramParam, View};
use mcc_ir::{DType, Dim, DimDecl, Module, Type};

use super::view::{self, Placed};
use crate::error::PassError;

/// What a buffer is for; temporaries have no address yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Filled once when weights are loaded.
    Weight,
    /// Lives from step to step.
    State,
    /// Written by the host before a step.
    Input,
    /// Read by the host after a step.
    Output,
    /// Lives inside one step.
    Temp,
    /// Written by other ranks.
    Exchange,
    /// Says where the other ranks of a group of so many are.
    World {
        /// Ranks.
        ranks: u32,
    },
}

/// A buffer before the memory plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// For people.
    pub name: String,
    /// What it is for.
    pub storage: Storage,
    /// Size, a multiple of [`BUFFER_ALIGN`].
    pub bytes: u64,
}

/// How the rows of a new temporary lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layouts {
    /// Rows may have a gap behind them, so that each starts at a multiple of 16 bytes.
    Rows,
    /// No gaps.
    Dense,
}

/// GPU virtual addresses have 49 bits; sizes below this add up without overflow.
const MAX_BYTES: u64 = 1 << 48;
const ROW_BYTES: u64 = 16;
/// Rows of scales start at multiples of 16 bytes: four floats.
const SCALE_ROWS: u64 = 4;

/// See the module doc.
pub struct Pool {
    dims: Vec<DimDecl>,
    pub drafts: Vec<Draft>,
    pub params: Vec<ProgramParam>,
    pub kernels: Vec<Kernel>,
    param_views: Vec<(String, Placed)>,
    states: Vec<(String, View)>,
    ports: Vec<(Storage, String, Type, View)>,
    /// The `Exchange` buffer, and the byte at which each range of it begins.
    exchange: Option<(BufferId, Vec<(ExchangeRange, u64)>)>,
    world: Option<View>,
}

impl Pool {
    /// Places all parameters and states of a module.
    pub fn new(module: &Module) -> Result<Self, PassError> {
        let mut pool = Self {
            dims: module.dims.clone(),
            drafts: Vec::new(),
            params: Vec::new(),
            kernels: Vec::new(),
            param_views: Vec::new(),
            states: Vec::new(),
            ports: Vec::new(),
            exchange: None,
            world: None,
        };
        for param in &module.params {
            let data = pool.dense(
                &param.name,
                Storage::Weight,
                param.ty.dtype,
                &param.ty.shape,
            )?;
            let scales = match param.ty.scale_shape() {
                Some(shape) => Some(pool.dense(
                    &format!("{}.scales", param.name),
                    Storage::Weight,
                    DType::F32,
                    &shape,
                )?),
                None => None,
            };
            pool.params.push(ProgramParam {
                name: param.name.to_string(),
                ty: param.ty.clone(),
                source: param.source.clone(),
                data: data.buffer,
                scales: scales.as_ref().map(|s| s.buffer),
            });
            pool.param_views
                .push((param.name.to_string(), Placed { data, scales }));
        }
        for state in &module.states {
            if state.ty.scale.is_some() {
                return Err(PassError::Internal {
                    pass: "select",
                    what: format!(
                        "the state `{}` is block-scaled, which no op writes",
                        state.name
                    ),
                });
            }
            let data = pool.dense(&state.name, Storage::State, state.ty.dtype, &state.ty.shape)?;
            pool.states.push((state.name.to_string(), data));
        }
        Ok(pool)
    }

    pub fn param(&self, name: &str) -> Result<Placed, PassError> {
        let found = self
            .param_views
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, placed)| placed.clone());
        found.ok_or_else(|| undeclared("parameter", name))
    }

    pub fn state(&self, name: &str) -> Result<View, PassError> {
        let found = self
            .states
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, view)| view.clone());
        found.ok_or_else(|| undeclared("state", name))
    }

    /// Whether a view is the whole of a state.
    pub fn is_state(&self, view: &View) -> bool {
        self.states.iter().any(|(_, state)| state == view)
    }

    /// The buffer of an entry's input or output. Entries run one at a time, and the host writes all inputs
    /// before and reads all outputs after each, so that those of equal name and type share a buffer.
    pub fn port(
        &mut self,
        entry: &str,
        name: &str,
        ty: &Type,
        storage: Storage,
    ) -> Result<View, PassError> {
        let key =
            |(s, n, t, _): &&(Storage, String, Type, View)| *s == storage && n == name && t == ty;
        if let Some((_, _, _, view)) = self.ports.iter().find(key) {
            return Ok(view.clone());
        }
        // The first entry that needs it gives its name only where another type took the plain one.
        let taken = self
            .ports
            .iter()
            .any(|(s, n, _, _)| *s == storage && n == name);
        let label = if taken {
            format!("{entry}.{name}")
        } else {
            name.to_owned()
        };
        let view = self.dense(&label, storage, ty.dtype, &ty.shape)?;
        self.ports
            .push((storage, name.to_owned(), ty.clone(), view.clone()));
        Ok(view)
    }

    /// An existing buffer seen as a whole value of that type.
    pub fn view_of(&self, buffer: BufferId, ty: &Type) -> Result<View, PassError> {
        view::dense(buffer, ty.dtype, &ty.shape).ok_or_else(|| too_large(&ty.to_string()))
    }

    /// A new temporary, with scales if its type has them.
    pub fn temp(&mut self, name: &str, ty: &Type, layout: Layouts) -> Result<Placed, PassError> {
        let data = match layout {
            Layouts::Dense => self.dense(name, Storage::Temp, ty.dtype, &ty.shape)?,
            Layouts::Rows => self.padded(name, ty)?,
        };
        let scales = match ty.scale_shape() {
            Some(shape) => Some(self.scales(&format!("{name}.scales"), &shape)?),
            None => None,
        };
        Ok(Placed { data, scales })
    }

    /// The kernel of that config, made when it is the first of its kind.
    pub fn kernel(&mut self, config: KernelConfig) -> KernelId {
        let known = self.kernels.iter().position(|k| k.config == config);
        let index = known.unwrap_or_else(|| {
            self.kernels.push(Kernel {
                name: config.name(),
                config,
            });
            self.kernels.len() - 1
        });
        KernelId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// A range of the `Exchange` buffer, as words; equal ranges are one, since launches follow each other.
    pub fn exchange(&mut self, range: ExchangeRange) -> Result<View, PassError> {
        if self.exchange.is_none() {
            // It grows with each range.
            let buffer = self.buffer("exchange", Storage::Exchange, 1)?;
            self.exchange = Some((buffer, Vec::new()));
        }
        let (buffer, ranges) = self.exchange.get_or_insert((BufferId(0), Vec::new()));
        let end = |(range, offset): &(ExchangeRange, u64)| offset.checked_add(range.bytes());
        let offset = match ranges.iter().find(|(known, _)| *known == range) {
            Some((_, offset)) => *offset,
            None => {
                let offset = ranges.last().map_or(Some(0), end);
                let offset = offset.and_then(|o| o.checked_next_multiple_of(BUFFER_ALIGN));
                let offset = offset.ok_or_else(|| too_large("exchange"))?;
                ranges.push((range, offset));
                offset
            }
        };
        Ok(View {
            buffer: *buffer,
            offset,
            dtype: DType::I32,
            shape: vec![Dim::Const(range.bytes() / DType::I32.bytes())],
            strides: vec![1],
        })
    }

    /// The `World` buffer, as words. All groups of a program are of one mesh.
    pub fn world(&mut self, group: &ExpertGroup) -> Result<View, PassError> {
        if let Some(view) = &self.world {
            return Ok(view.clone());
        }
        let words = [Dim::Const(group.world_words())];
        let ranks = group.ranks();
        let view = self.dense("world", Storage::World { ranks }, DType::I32, &words)?;
        self.world = Some(view.clone());
        Ok(view)
    }

    /// Gives the `Exchange` buffer the size of all its ranges.
    pub fn finish_exchange(&mut self) -> Result<(), PassError> {
        let Some((buffer, ranges)) = &self.exchange else {
            return Ok(());
        };
        let bytes = ranges
            .last()
            .and_then(|(range, offset)| offset.checked_add(range.bytes()))
            .and_then(|bytes| bytes.checked_next_multiple_of(BUFFER_ALIGN))
            .filter(|bytes| *bytes <= MAX_BYTES)
            .ok_or_else(|| too_large("exchange"))?;
        if let Some(draft) = self.drafts.get_mut(buffer.0 as usize) {
            draft.bytes = bytes;
        }
        Ok(())
    }

    fn dense(
        &mut self,
        name: &str,
        storage: Storage,
        dtype: DType,
        shape: &[Dim],
    ) -> Result<View, PassError> {
        let bytes = self
            .extents(shape)
            .and_then(|n| n.checked_mul(dtype.bytes()))
            .ok_or_else(|| too_large(name))?;
        let buffer = self.buffer(name, storage, bytes)?;
        view::dense(buffer, dtype, shape).ok_or_else(|| too_large(name))
    }

    /// Row-major, each innermost row padded to a multiple of 16 bytes.
    fn padded(&mut self, name: &str, ty: &Type) -> Result<View, PassError> {
        let Some((Dim::Const(width), leading)) = ty.shape.split_last() else {
            return self.dense(name, Storage::Temp, ty.dtype, &ty.shape);
        };
        let mut shape: Vec<Dim> = leading.to_vec();
        shape.push(Dim::Const(
            width.next_multiple_of(ROW_BYTES / ty.dtype.bytes()),
        ));
        let mut view = self.dense(name, Storage::Temp, ty.dtype, &shape)?;
        view.shape.clone_from(&ty.shape);
        Ok(view)
    }

    /// Scales of activations, MN-major: all rows of a group lie together, the groups a fixed stride apart.
    ///
    /// ```text
    /// group 0:  m0 m1 m2 ... | pad     stride = align(Mmax, 4), whatever M is at run time
    /// group 1:  m0 m1 m2 ... | pad
    /// ```
    fn scales(&mut self, name: &str, shape: &[Dim]) -> Result<View, PassError> {
        let Some((Dim::Const(groups), leading)) = shape.split_last() else {
            return Err(PassError::Internal {
                pass: "select",
                what: format!("`{name}` has an open number of groups"),
            });
        };
        let rows = self
            .extents(leading)
            .and_then(|n| n.checked_next_multiple_of(SCALE_ROWS));
        let rows = rows.ok_or_else(|| too_large(name))?;
        let bytes = rows
            .checked_mul(*groups)
            .and_then(|n| n.checked_mul(DType::F32.bytes()));
        let buffer = self.buffer(name, Storage::Temp, bytes.ok_or_else(|| too_large(name))?)?;
        let mut strides = view::dense_strides(leading).ok_or_else(|| too_large(name))?;
        strides.push(rows);
        Ok(View {
            buffer,
            offset: 0,
            dtype: DType::F32,
            shape: shape.to_vec(),
            strides,
        })
    }

    fn buffer(&mut self, name: &str, storage: Storage, bytes: u64) -> Result<BufferId, PassError> {
        let id =
            u32::try_from(self.drafts.len()).map_err(|_| too_large("the number of buffers"))?;
        let bytes = bytes
            .max(1)
            .checked_next_multiple_of(BUFFER_ALIGN)
            .filter(|b| *b <= MAX_BYTES);
        let bytes = bytes.ok_or_else(|| too_large(name))?;
        self.drafts.push(Draft {
            name: name.to_owned(),
            storage,
            bytes,
        });
        Ok(BufferId(id))
    }

    /// Number of elements at the upper bounds.
    fn extents(&self, shape: &[Dim]) -> Option<u64> {
        shape.iter().try_fold(1_u64, |n, dim| {
            let max =
                dim.resolve(|name| self.dims.iter().find(|d| d.name == name).map(|d| d.max))?;
            n.checked_mul(max)
        })
    }
}

fn too_large(what: &str) -> PassError {
    PassError::TooLarge {
        what: format!("`{what}`"),
    }
}

fn undeclared(kind: &str, name: &str) -> PassError {
    PassError::Internal {
        pass: "select",
        what: format!("the {kind} `{name}` is not declared, though the module was verified"),
    }
}
