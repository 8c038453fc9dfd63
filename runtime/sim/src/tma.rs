//! Tile transfers of the tensor memory accelerator (PTX ISA 5.5).
//!
//! In: a decoded map, the coordinates of a box, and its place in shared
//! memory. Out: the box's bytes, moved. A box lies in shared memory densely,
//! dimension 0 innermost, with the 16-byte units permuted by the swizzle,
//! which depends on the shared-memory address. Elements out of bounds read as
//! zero (or NaN) and are not written.
//!
//! That a box narrower than its swizzle span is packed without padding is an
//! assumption. TF32 and `ftz` maps move the bits unchanged.

use mcc_ptx::Type;

use crate::exec::atom;
use crate::isa::AtomOp;
use crate::memory::Table;
use crate::memory::cells;
use crate::tensor_map::{Swizzle, TensorElem, TensorMap};

/// A tensor map in the form that a transfer needs.
#[derive(Debug, Clone, Copy)]
pub struct Tile {
    pub rank: usize,
    /// Address of the tensor.
    pub base: u64,
    dims: [u64; 5],
    /// Bytes from one index to the next, of every dimension.
    strides: [u64; 5],
    /// Elements of the box, and the step between them in the tensor.
    counts: [u32; 5],
    steps: [u32; 5],
    elem: TensorElem,
    swizzle: Swizzle,
    oob_nan: bool,
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Load,
    Store,
    Reduce(AtomOp),
}

#[derive(Debug)]
pub enum TileError {
    Global {
        address: u64,
        bytes: u64,
        hint: String,
    },
    Map(String),
}

impl Tile {
    pub fn decode(bytes: &[u8; 128]) -> Result<Tile, String> {
        let map = TensorMap::decode(bytes)?;
        let rank = map.dims.len();
        let mut t = Tile {
            rank,
            base: map.global_address,
            dims: [1; 5],
            strides: [0; 5],
            counts: [1; 5],
            steps: [1; 5],
            elem: map.elem,
            swizzle: map.swizzle,
            oob_nan: map.oob_nan,
            bytes: map.box_bytes(),
        };
        t.strides[0] = map.elem.bytes();
        for (i, n) in map.box_counts().enumerate() {
            t.counts[i] = n;
            t.dims[i] = map.dims[i];
            t.steps[i] = map.elem_strides[i];
            if i > 0 {
                t.strides[i] = map.strides[i - 1];
            }
        }
        Ok(t)
    }

    /// Bytes of the box in shared memory.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of shared memory that the box may touch: the swizzle moves units
    /// within lines of 128 bytes, also in a last line that is not full.
    pub fn footprint(&self) -> u64 {
        match self.swizzle {
            Swizzle::None => self.bytes,
            _ => self.bytes.next_multiple_of(128),
        }
    }

    /// The parts of the tensor that the box at `coords` covers: address and
    /// bytes of each row, for the checkers.
    pub fn rows(&self, coords: &[i32; 5]) -> Vec<(u64, u64)> {
        let size = self.elem.bytes();
        let step = i64::from(self.steps[0]);
        let at = |i: u32| i64::from(coords[0]) + i64::from(i) * step;
        let inside = |i: &u32| at(*i) >= 0 && (at(*i) as u64) < self.dims[0];
        let (low, high) = (
            (0..self.counts[0]).find(inside),
            (0..self.counts[0]).rev().find(inside),
        );
        let (Some(low), Some(high)) = (low, high) else {
            return Vec::new();
        };
        let span = (u64::from(high - low) * step as u64 + 1) * size;
        let mut index = [0u32; 5];
        let mut rows = Vec::new();
        loop {
            let mut row = self.base.wrapping_add(at(low) as u64 * size);
            let mut covered = true;
            for d in 1..self.rank {
                let x = i64::from(coords[d]) + i64::from(index[d]) * i64::from(self.steps[d]);
                covered &= x >= 0 && (x as u64) < self.dims[d];
                row = row.wrapping_add((x as u64).wrapping_mul(self.strides[d]));
            }
            if covered {
                rows.push((row, span));
            }
            let mut d = 1;
            loop {
                if d >= self.rank {
                    return rows;
                }
                index[d] += 1;
                if index[d] < self.counts[d] {
                    break;
                }
                index[d] = 0;
                d += 1;
            }
        }
    }

    /// Moves the box at `coords`; `shared` is its [`Self::footprint`] at the shared
    /// address `address`.
    pub fn transfer(
        &self,
        table: &Table,
        coords: &[i32; 5],
        shared: &mut [u8],
        address: u32,
        direction: Direction,
    ) -> Result<(), TileError> {
        let size = self.elem.bytes();
        let row_bytes = u64::from(self.counts[0]) * size;
        let mut index = [0u32; 5];
        let mut at = 0u64;
        loop {
            // The global address of this row's element 0, if the outer
            // coordinates are inside.
            let mut inside = true;
            let mut row = self.base;
            for d in 1..self.rank {
                let x = i64::from(coords[d]) + i64::from(index[d]) * i64::from(self.steps[d]);
                if x < 0 || x as u64 >= self.dims[d] {
                    inside = false;
                    break;
                }
                let offset = (x as u64).checked_mul(self.strides[d]);
                let Some(next) = offset.and_then(|o| row.checked_add(o)) else {
                    return Err(TileError::Global {
                        address: u64::MAX,
                        bytes: row_bytes,
                        hint: String::new(),
                    });
                };
                row = next;
            }
            self.row(
                table,
                inside.then_some(row),
                coords[0],
                shared,
                address,
                at,
                direction,
            )?;
            at += row_bytes;
            let mut d = 1;
            loop {
                if d >= self.rank {
                    return Ok(());
                }
                index[d] += 1;
                if index[d] < self.counts[d] {
                    break;
                }
                index[d] = 0;
                d += 1;
            }
        }
    }

    /// One innermost row of the box, which starts `at` bytes into it.
    #[allow(clippy::too_many_arguments)] // Private; the row of one transfer.
    fn row(
        &self,
        table: &Table,
        row: Option<u64>,
        first: i32,
        shared: &mut [u8],
        address: u32,
        at: u64,
        direction: Direction,
    ) -> Result<(), TileError> {
        let size = self.elem.bytes();
        let count = self.counts[0];
        let step = i64::from(self.steps[0]);
        let first = i64::from(first);
        // Offset in the box of the byte that lies `b` bytes into the row.
        let place = |b: u64| -> usize {
            let linear = address.wrapping_add((at + b) as u32);
            self.swizzle.apply(linear).wrapping_sub(address) as usize
        };
        // Elements of the row that are inside the tensor.
        let inside = |i: u32| {
            let x = first + i64::from(i) * step;
            x >= 0 && (x as u64) < self.dims[0]
        };
        let row_bytes = u64::from(count) * size;
        let (mut low, mut high) = (0, count);
        if row.is_none() {
            (low, high) = (0, 0);
        } else {
            while low < high && !inside(low) {
                low += 1;
            }
            while high > low && !inside(high - 1) {
                high -= 1;
            }
        }
        if direction == Direction::Load && (low > 0 || high < count) {
            self.fill(shared, &place, 0, u64::from(low) * size);
            self.fill(shared, &place, u64::from(high) * size, row_bytes);
        }
        let (Some(row), true) = (row, low < high) else {
            return Ok(());
        };
        let start = row.wrapping_add((first + i64::from(low) * step) as u64 * size);
        let span = (u64::from(high - low - 1) * step as u64 + 1) * size;
        let Some((cells, from)) = table.resolve(start, span) else {
            return Err(TileError::Global {
                address: start,
                bytes: span,
                hint: table.describe(start),
            });
        };
        let whole = low == 0 && high == count && step == 1;
        if whole && !matches!(direction, Direction::Reduce(_)) {
            // 16-byte units stay together; the swizzle moves them.
            for u in (0..(u64::from(count) * size) as usize).step_by(16) {
                let unit = &mut shared[place(u as u64)..][..16];
                if direction == Direction::Load {
                    cells::read(cells, from + u, unit);
                } else {
                    cells::write(cells, from + u, unit);
                }
            }
            return Ok(());
        }
        for i in low..high {
            let global = from + (u64::from(i - low) * step as u64 * size) as usize;
            let element = &mut shared[place(u64::from(i) * size)..][..size as usize];
            match direction {
                Direction::Load => cells::read(cells, global, element),
                Direction::Store => cells::write(cells, global, element),
                Direction::Reduce(op) => {
                    let mut v = [0u8; 8];
                    v[..size as usize].copy_from_slice(element);
                    let ty = self.reduce_type().ok_or_else(|| {
                        TileError::Map(format!("{:?} elements cannot be reduced", self.elem))
                    })?;
                    atom::update(cells, global, op, ty, u64::from_le_bytes(v), 0);
                }
            }
        }
        Ok(())
    }

    fn reduce_type(&self) -> Option<Type> {
        Some(match self.elem {
            TensorElem::U8 => return None,
            TensorElem::U16 => return None,
            TensorElem::U32 => Type::U32,
            TensorElem::S32 => Type::S32,
            TensorElem::U64 => Type::U64,
            TensorElem::S64 => Type::S64,
            TensorElem::F16 => Type::F16,
            TensorElem::Bf16 => Type::Bf16,
            TensorElem::F64 => Type::F64,
            _ => Type::F32,
        })
    }

    /// Writes what elements out of bounds read as into bytes `from..to` of a row. Units of 16 bytes stay
    /// together under the swizzle, so whole units go at once: most of a decode step's boxes is out of bounds.
    /// `from` and `to` are multiples of the element's size.
    fn fill(&self, shared: &mut [u8], place: &impl Fn(u64) -> usize, from: u64, to: u64) {
        let nan: u64 = match self.elem {
            TensorElem::F16 => 0x7fff,
            TensorElem::Bf16 => 0x7fff,
            TensorElem::F64 => 0x7fff_ffff_ffff_ffff,
            _ => 0x7fff_ffff,
        };
        let bits = if self.oob_nan { nan } else { 0 };
        let size = self.elem.bytes() as usize;
        let mut unit = [0u8; 16];
        if bits != 0 {
            for element in unit.chunks_exact_mut(size) {
                element.copy_from_slice(&bits.to_le_bytes()[..size]);
            }
        }
        let mut at = from;
        while at < to {
            // Up to the end of the unit that `at` lies in.
            let n = (16 - at % 16).min(to - at);
            shared[place(at)..][..n as usize].copy_from_slice(&unit[..n as usize]);
            at += n;
        }
    }
}
