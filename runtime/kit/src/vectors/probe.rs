//! Tiles through the device and through the arithmetic function.
//!
//! In: tiles of one form. Out: the device's results, the model's, and where they differ.
//! Holds: the device sees the images of `form`, the model the codes in the order of K; they meet only in the
//! comparison.

use mcc_runtime::{
    Device, DeviceError, FunctionId, Launch, LaunchDims, ModuleImage, ParamSlot, StreamId,
};
use mcc_sim::numerics::wgmma::{self, fused_sum, fused_sum_half};
use rayon::prelude::*;

use super::VectorError;
use super::form::{ENTRY, Form, K_BYTES, M, THREADS};
use super::inputs::Tile;
use super::report::{Mismatch, distance};
use super::types::{Accumulator, Types};

/// Most bytes of one buffer of a launch.
const LAUNCH_BYTES: usize = 32 << 20;

/// A loaded probe.
pub(super) struct Probe {
    types: Types,
    form: Form,
    function: FunctionId,
    params: Vec<ParamSlot>,
}

impl Probe {
    pub fn load(device: &mut dyn Device, types: Types, form: Form) -> Result<Self, VectorError> {
        let ptx = form.ptx(types);
        let what = || format!("{}, {}", super::form::instruction(types), form.name(types));
        let failed = |source| VectorError {
            what: what(),
            source,
        };
        let image = ModuleImage {
            kernel: ENTRY,
            ptx: &ptx,
            cubin: None,
        };
        let function = device.load_module(&image).map_err(failed)?;
        let params = device.param_layout(function).map_err(failed)?;
        Ok(Self {
            types,
            form,
            function,
            params,
        })
    }

    /// Tiles of one launch.
    pub fn batch(&self) -> usize {
        let largest = self
            .form
            .a_bytes()
            .max(self.form.b_bytes())
            .max(self.form.c_bytes(self.types.accumulator));
        (LAUNCH_BYTES / largest).max(1)
    }

    /// Multiplies the tiles on the device: `[tile][row][column]`, bits of the accumulator's format.
    pub fn run(
        &self,
        device: &mut dyn Device,
        tiles: &[Tile],
    ) -> Result<Vec<Vec<u32>>, VectorError> {
        let label = format!(
            "{}, {}",
            super::form::instruction(self.types),
            self.form.name(self.types)
        );
        self.run_labelled(device, tiles, &label)
            .map_err(|source| VectorError {
                what: label,
                source,
            })
    }

    fn run_labelled(
        &self,
        device: &mut dyn Device,
        tiles: &[Tile],
        label: &str,
    ) -> Result<Vec<Vec<u32>>, DeviceError> {
        let (form, accumulator) = (self.form, self.types.accumulator);
        let c_bytes = form.c_bytes(accumulator);
        let image = |bytes: usize, fill: &(dyn Fn(&Tile, &mut [u8]) + Sync)| {
            let mut all = vec![0; bytes * tiles.len()];
            all.par_chunks_exact_mut(bytes)
                .zip(tiles)
                .for_each(|(part, tile)| fill(tile, part));
            all
        };
        let images = [
            image(form.a_bytes(), &|tile, out| {
                place_operand(&tile.a, M, out, |step, row, byte| {
                    form.a_place(step, row, byte)
                });
            }),
            image(form.b_bytes(), &|tile, out| {
                place_operand(&tile.b, form.n, out, |step, row, byte| {
                    form.place(form.n, step, row, byte)
                });
            }),
            image(c_bytes, &|tile, out| self.place_c(&tile.c, out)),
        ];
        let mut out = vec![0; c_bytes * tiles.len()];
        let mut addresses = Vec::with_capacity(4);
        let done = self.launch(device, &images, &mut out, &mut addresses, label);
        // What was allocated goes back whatever happened; the first error is the one to tell.
        let mut freed = Ok(());
        for address in addresses {
            freed = freed.and(device.free(address));
        }
        done.and(freed)?;
        Ok(out
            .par_chunks_exact(c_bytes)
            .map(|part| self.read_d(part))
            .collect())
    }

    fn launch(
        &self,
        device: &mut dyn Device,
        images: &[Vec<u8>; 3],
        out: &mut [u8],
        addresses: &mut Vec<u64>,
        label: &str,
    ) -> Result<(), DeviceError> {
        for image in images {
            let address = device.alloc(image.len() as u64, "tensor-core probe: inputs")?;
            addresses.push(address);
            device.write(address, image)?;
        }
        let results = device.alloc(out.len() as u64, "tensor-core probe: results")?;
        addresses.push(results);
        device.fill(results, 0xff, out.len() as u64)?;
        let words: Vec<u64> = addresses
            .iter()
            .copied()
            .chain([u64::from(self.form.scale_d)])
            .collect();
        let tiles = out.len() / self.form.c_bytes(self.types.accumulator);
        let launch = Launch {
            function: self.function,
            dims: LaunchDims {
                grid: [tiles as u32, 1, 1],
                block: THREADS as u32,
                cluster: [1; 3],
                smem_bytes: self.form.smem_bytes() as u32,
                programmatic: false,
            },
            params: &pack(&self.params, &words),
            label,
        };
        device.launch(StreamId::MAIN, &launch)?;
        device.read(results, out)
    }

    fn place_c(&self, c: &[u32], out: &mut [u8]) {
        for (i, &bits) in c.iter().enumerate() {
            let at = Form::c_place(self.types.accumulator, i / self.form.n, i % self.form.n);
            match self.types.accumulator {
                Accumulator::F32 => out[4 * at..4 * at + 4].copy_from_slice(&bits.to_le_bytes()),
                Accumulator::F16 => {
                    out[2 * at..2 * at + 2].copy_from_slice(&(bits as u16).to_le_bytes());
                }
            }
        }
    }

    fn read_d(&self, image: &[u8]) -> Vec<u32> {
        (0..self.form.results())
            .map(|i| {
                let at = Form::c_place(self.types.accumulator, i / self.form.n, i % self.form.n);
                match self.types.accumulator {
                    Accumulator::F32 => {
                        let b = &image[4 * at..4 * at + 4];
                        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
                    }
                    Accumulator::F16 => {
                        u32::from(u16::from_le_bytes([image[2 * at], image[2 * at + 1]]))
                    }
                }
            })
            .collect()
    }

    /// What the arithmetic function gives for a tile.
    pub fn model(&self, tile: &Tile) -> Vec<u32> {
        model(self.types, self.form, tile)
    }

    /// Whether the device's bits are the model's.
    pub fn agrees(&self, device: u32, model: u32, nan_by_bits: bool) -> bool {
        let format = self.types.accumulator.format();
        device == model || (!nan_by_bits && format.is_nan(device) && format.is_nan(model))
    }

    /// A mismatch with its inputs.
    pub fn describe(
        &self,
        tile: &Tile,
        number: u64,
        i: usize,
        device: u32,
        model: u32,
    ) -> Mismatch {
        let (types, form) = (self.types, self.form);
        let (row, column) = (i / form.n, i % form.n);
        let hex = |codes: &[u8], width: usize, rows: usize, row: usize| -> Vec<String> {
            (0..form.steps)
                .map(|step| {
                    let at = (step * rows + row) * K_BYTES;
                    codes[at..at + K_BYTES]
                        .chunks_exact(width)
                        .flat_map(|code| code.iter().rev())
                        .map(|byte| format!("{byte:02x}"))
                        .collect()
                })
                .collect()
        };
        let digits = 8 / types.accumulator.per_register();
        let c = if form.scale_d { tile.c[i] } else { 0 };
        Mismatch {
            form: form.name(types),
            tile: number,
            row,
            column,
            a: hex(&tile.a, types.a.bytes(), M, row),
            b: hex(&tile.b, types.b.bytes(), form.n, column),
            c: format!("{c:0digits$x}"),
            device: format!("{device:0digits$x}"),
            model: format!("{model:0digits$x}"),
            ulps: self.ulps(device, model),
        }
    }

    /// Distance of two results; `None` when one is NaN.
    pub fn ulps(&self, device: u32, model: u32) -> Option<u64> {
        let format = self.types.accumulator.format();
        if format.is_nan(device) || format.is_nan(model) {
            return None;
        }
        let sign = 1 << (format.exp_bits + format.man_bits);
        Some(distance(device, model, sign))
    }
}

/// What the arithmetic function gives for a tile: `[row][column]`.
pub(super) fn model(types: Types, form: Form, tile: &Tile) -> Vec<u32> {
    let precision = types.a.precision();
    let mut d = if form.scale_d {
        tile.c.clone()
    } else {
        vec![0; form.results()]
    };
    let (mut a, mut b) = (wgmma::Tile::default(), wgmma::Tile::default());
    for step in 0..form.steps {
        let part = |rows: usize| step * rows * K_BYTES..(step + 1) * rows * K_BYTES;
        a.load(types.a, &tile.a[part(M)], M, false);
        b.load(types.b, &tile.b[part(form.n)], form.n, false);
        for (i, d) in d.iter_mut().enumerate() {
            let ((av, ae), (bv, be)) = (a.row(i / form.n), b.row(i % form.n));
            *d = match types.accumulator {
                Accumulator::F32 => {
                    fused_sum(precision, av, ae, bv, be, f32::from_bits(*d)).to_bits()
                }
                Accumulator::F16 => u32::from(fused_sum_half(precision, av, ae, bv, be, *d as u16)),
            };
        }
    }
    d
}

/// Puts codes, `[step][row][32 bytes]`, where `place` says.
fn place_operand(
    codes: &[u8],
    rows: usize,
    out: &mut [u8],
    place: impl Fn(usize, usize, usize) -> usize,
) {
    for (i, row) in codes.chunks_exact(K_BYTES).enumerate() {
        for (byte, &code) in row.iter().enumerate() {
            out[place(i / rows, i % rows, byte)] = code;
        }
    }
}

/// The parameter space of a kernel whose parameters are these words, each cut to its slot.
pub(super) fn pack(slots: &[ParamSlot], words: &[u64]) -> Vec<u8> {
    let end = slots.iter().map(|slot| slot.offset + slot.size).max();
    let mut space = vec![0; end.unwrap_or(0)];
    for (slot, word) in slots.iter().zip(words) {
        let size = slot.size.min(8);
        space[slot.offset..slot.offset + size].copy_from_slice(&word.to_le_bytes()[..size]);
    }
    space
}
