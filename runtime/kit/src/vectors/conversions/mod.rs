//! Conversions and scalar arithmetic of the device: the instructions that the kernels use, each over many inputs.
//!
//! In: a device, a seed, a count. Out: for each instruction how many results differ from its definition, or for an
//! approximate one the largest error seen beside the bound of the PTX ISA.
//! Holds: 16-bit operands are tried exhaustively; FP32 operands with every upper half, with lower halves around the
//! rounding points, and seeded ones.

mod inputs;
mod ops;

use std::fmt;
use std::time::Instant;

use mcc_runtime::{Device, DeviceError, Launch, LaunchDims, ModuleImage, StreamId};
use rayon::prelude::*;
use serde::Serialize;

use super::VectorError;
use super::probe::pack;
use inputs::operands;
use ops::{Bound, Inputs, Meaning, OPS, Op, judge};

/// How much is compared.
#[derive(Clone, Debug)]
pub struct ConversionOptions {
    /// Of the inputs.
    pub seed: u64,
    /// Inputs of each instruction with 32-bit operands.
    pub inputs: u64,
    /// Mismatches that are kept, of each instruction.
    pub keep: usize,
}

impl Default for ConversionOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            inputs: 1 << 22,
            keep: 4,
        }
    }
}

/// Results of [`run`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConversionReport {
    /// The device's name.
    pub device: String,
    /// Its driver, empty where there is none.
    pub driver: String,
    /// Seed of the inputs.
    pub seed: u64,
    /// Time of all of it, seconds.
    pub seconds: f64,
    /// Results compared.
    pub results: u64,
    /// Results that differ, or are beyond their bound.
    pub mismatches: u64,
    /// By instruction.
    pub instructions: Vec<InstructionReport>,
}

impl ConversionReport {
    /// Whether everything that was compared agrees.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.mismatches == 0
    }
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstructionReport {
    /// As PTX spells it.
    pub instruction: &'static str,
    /// Whether every operand was tried.
    pub exhaustive: bool,
    /// Results compared.
    pub results: u64,
    /// Results that differ, or are beyond the bound.
    pub mismatches: u64,
    /// The largest error of an approximate instruction.
    pub error: Option<ErrorReport>,
    /// The first mismatches.
    pub first: Vec<Case>,
}

/// Errors of an approximate instruction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorReport {
    /// What the PTX ISA allows.
    pub bound: String,
    /// The largest distance from the correctly rounded result, in units of the last place.
    pub max_ulps: u64,
    /// The largest relative error from the exact value.
    pub max_relative: f64,
    /// Where the largest distance was seen.
    pub worst: Option<Case>,
    /// Results that are not correctly rounded.
    pub not_nearest: u64,
}

/// One result with its operands, hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// Operands in turn.
    pub operands: [String; 3],
    /// What the device gave.
    pub device: String,
    /// What the definition gives; the correctly rounded value of an approximate instruction.
    pub model: String,
}

/// Threads of a block.
const BLOCK: usize = 256;
/// Results of one launch.
const BATCH: usize = 1 << 22;

/// Compares each instruction of the device with its definition.
///
/// # Errors
/// When the device refuses or fails a kernel. Wrong results are counted in the report.
pub fn run(
    device: &mut dyn Device,
    options: &ConversionOptions,
) -> Result<ConversionReport, VectorError> {
    let start = Instant::now();
    let instructions = OPS
        .iter()
        .enumerate()
        .map(|(key, op)| probe(device, key, op, options))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ConversionReport {
        device: device.props().name.clone(),
        driver: device.props().driver.clone(),
        seed: options.seed,
        seconds: start.elapsed().as_secs_f64(),
        results: instructions.iter().map(|i| i.results).sum(),
        mismatches: instructions.iter().map(|i| i.mismatches).sum(),
        instructions,
    })
}

fn ptx(op: &Op) -> String {
    let load = |register: &str, pointer: &str| {
        format!(
            "    ld.param.u64 %rd1, [{pointer}];\n    cvta.to.global.u64 %rd1, %rd1;\n    \
             add.s64 %rd1, %rd1, %rd0;\n    ld.global.b32 {register}, [%rd1];\n"
        )
    };
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64\n\n\
         .visible .entry probe(.param .u64 px, .param .u64 py, .param .u64 pz, .param .u64 pd)\n\
         .maxntid {BLOCK}, 1, 1\n{{\n    \
         .reg .b32 %r<2>, %x, %y, %z, %d;\n    .reg .b16 %hx, %hd;\n    .reg .b64 %rd<3>;\n    \
         mov.u32 %r0, %ctaid.x;\n    mov.u32 %r1, %tid.x;\n    \
         mad.lo.u32 %r0, %r0, {BLOCK}, %r1;\n    mul.wide.u32 %rd0, %r0, 4;\n\
         {}{}{}    {}\n    \
         ld.param.u64 %rd2, [pd];\n    cvta.to.global.u64 %rd2, %rd2;\n    \
         add.s64 %rd2, %rd2, %rd0;\n    st.global.b32 [%rd2], %d;\n    ret;\n}}\n",
        load("%x", "px"),
        load("%y", "py"),
        load("%z", "pz"),
        op.body.replace("; ", ";\n    ")
    )
}

fn probe(
    device: &mut dyn Device,
    key: usize,
    op: &Op,
    options: &ConversionOptions,
) -> Result<InstructionReport, VectorError> {
    let failed = |source| VectorError {
        what: op.name.to_owned(),
        source,
    };
    let text = ptx(op);
    let image = ModuleImage {
        kernel: "probe",
        ptx: &text,
        cubin: None,
    };
    let function = device.load_module(&image).map_err(failed)?;
    let params = device.param_layout(function).map_err(failed)?;
    let exhaustive = matches!(op.inputs, Inputs::All16 | Inputs::AllHalves);
    let total = if exhaustive {
        1 << 16
    } else {
        (options.inputs.max(1) as usize).next_multiple_of(BLOCK)
    };
    let mut found = Found::default();
    for from in (0..total).step_by(BATCH) {
        let count = (total - from).min(BATCH);
        let all: Vec<[u32; 3]> = (from..from + count)
            .into_par_iter()
            .map(|i| operands(op.inputs, options.seed, key, i, total))
            .collect();
        let run = |device: &mut dyn Device, addresses: &mut Vec<u64>| {
            let mut bytes = vec![0; 4 * count];
            for which in 0..3 {
                for (out, operands) in bytes.chunks_exact_mut(4).zip(&all) {
                    out.copy_from_slice(&operands[which].to_le_bytes());
                }
                addresses.push(device.alloc(bytes.len() as u64, "conversions: operands")?);
                device.write(addresses[which], &bytes)?;
            }
            addresses.push(device.alloc(bytes.len() as u64, "conversions: results")?);
            device.fill(addresses[3], 0xff, bytes.len() as u64)?;
            let launch = Launch {
                function,
                dims: LaunchDims {
                    grid: [(count / BLOCK) as u32, 1, 1],
                    block: BLOCK as u32,
                    cluster: [1; 3],
                    smem_bytes: 0,
                    programmatic: false,
                },
                params: &pack(&params, addresses),
                label: op.name,
            };
            device.launch(StreamId::MAIN, &launch)?;
            device.read(addresses[3], &mut bytes)?;
            Ok::<_, DeviceError>(bytes)
        };
        let mut addresses = Vec::with_capacity(4);
        let done = run(device, &mut addresses);
        let mut freed = Ok(());
        for address in addresses {
            freed = freed.and(device.free(address));
        }
        let results = done
            .and_then(|bytes| freed.map(|()| bytes))
            .map_err(failed)?;
        found = (all, results.as_chunks::<4>().0)
            .into_par_iter()
            .with_min_len(4096)
            .fold(Found::default, |mut found, (operands, result)| {
                found.add(op, operands, u32::from_le_bytes(*result), options.keep);
                found
            })
            .collect::<Vec<_>>()
            .into_iter()
            .fold(found, |all, part| all.join(part, options.keep));
    }
    let bound = match op.meaning {
        Meaning::Exact(_) | Meaning::Widening(_) => None,
        Meaning::Approximate { bound, .. } => Some(match bound {
            Bound::Ulps(ulps) => format!("{ulps} ulp"),
            Bound::Relative(log) => format!("2^{log} relative"),
        }),
    };
    Ok(InstructionReport {
        instruction: op.name,
        exhaustive,
        results: total as u64,
        mismatches: found.mismatches,
        error: bound.map(|bound| ErrorReport {
            bound,
            max_ulps: found.max_ulps,
            max_relative: found.max_relative,
            worst: found.worst,
            not_nearest: found.not_nearest,
        }),
        first: found.first,
    })
}

#[derive(Default)]
struct Found {
    mismatches: u64,
    not_nearest: u64,
    max_ulps: u64,
    max_relative: f64,
    worst: Option<Case>,
    first: Vec<Case>,
}

impl Found {
    fn add(&mut self, op: &Op, operands: [u32; 3], device: u32, keep: usize) {
        let [x, y, z] = operands;
        let case = |model: u32| Case {
            operands: operands.map(|o| format!("{o:08x}")),
            device: format!("{device:08x}"),
            model: format!("{model:08x}"),
        };
        match op.meaning {
            Meaning::Exact(meaning) | Meaning::Widening(meaning) => {
                let model = meaning(x, y, z);
                let nan = |bits: u32| f32::from_bits(bits).is_nan();
                let any_nan = matches!(op.meaning, Meaning::Widening(_));
                if device != model && !(any_nan && nan(device) && nan(model)) {
                    self.mismatches += 1;
                    if self.first.len() < keep {
                        self.first.push(case(model));
                    }
                }
            }
            Meaning::Approximate { value, ftz, bound } => {
                let error = judge(value, ftz, bound, x, device);
                let model = || (value(f64::from(f32::from_bits(x))) as f32).to_bits();
                self.not_nearest += u64::from(error.ulps > 0);
                self.max_relative = self.max_relative.max(error.relative);
                if error.ulps > self.max_ulps {
                    self.max_ulps = error.ulps;
                    self.worst = Some(case(model()));
                }
                if !error.within {
                    self.mismatches += 1;
                    if self.first.len() < keep {
                        self.first.push(case(model()));
                    }
                }
            }
        }
    }

    fn join(mut self, other: Self, keep: usize) -> Self {
        self.mismatches += other.mismatches;
        self.not_nearest += other.not_nearest;
        self.max_relative = self.max_relative.max(other.max_relative);
        if other.max_ulps > self.max_ulps {
            self.max_ulps = other.max_ulps;
            self.worst = other.worst;
        }
        let room = keep.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
        self
    }
}

impl fmt::Display for ConversionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "conversions of {}: {} results, {} differ ({:.1} s, seed {})",
            self.device, self.results, self.mismatches, self.seconds, self.seed
        )?;
        for i in &self.instructions {
            let how = if i.exhaustive { "all inputs" } else { "seeded" };
            write!(
                f,
                "  {:<32} {:>9} results, {how:<10} {:>8} differ",
                i.instruction, i.results, i.mismatches
            )?;
            match &i.error {
                Some(error) => writeln!(
                    f,
                    ", at most {} ulp and {:.2e} relative (documented: {})",
                    error.max_ulps, error.max_relative, error.bound
                )?,
                None => writeln!(f)?,
            }
            for case in &i.first {
                writeln!(
                    f,
                    "    {}: device {}, definition {}",
                    case.operands.join(" "),
                    case.device,
                    case.model
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
