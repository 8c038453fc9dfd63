//! Predicted times of launches, from the manifest alone: what the hardware has to do at the least.
//!
//! In: a step of an entry, values of the named dims, the target's figures ([`mcc_bundle::Hardware`]), and where the
//! simulator has run the launch, its warp instructions. Out: a [`Prediction`]: seconds and what bounds them.
//!
//! ```text
//! tensor  = ceil(units / SMs) * operations of a unit / (peak / SMs * sustained clock / clock)
//! memory  = bytes / bandwidth of device memory           (cold; warm only when the bytes exceed the L2)
//! cache   = bytes / (busy SMs * 64 bytes a cycle)         L2 to SM
//! issue   = warp instructions / (busy SMs * 4 a cycle)    where they were counted
//! seconds = launch + max(tensor, memory, cache, issue)
//! ```
//!
//! A unit is what an SM works on as a whole: a tile of a product with its padding, a block of any other kernel.
//! Nothing here is fitted to measurements, so that a measured time beside it says what a kernel loses. Left out:
//! latency (filling and draining of the pipelines, barriers, dependent loads), FP32 promotion, exponentials and bank
//! conflicts where instructions were not counted, second readings that miss the L2, blocks of unequal work (causal
//! masks), and clocks above or below the sustained one.

use mcc_bundle::{DimValues, Hardware, Kernel, Manifest, Step, Unit};
use serde::{Deserialize, Serialize};

use crate::error::RuntimeError;

/// An SM of compute capability 9.0 (CUDA programming guide, "Technical Specifications per Compute Capability").
mod sm {
    pub const THREADS: u64 = 2048;
    pub const BLOCKS: u64 = 32;
    pub const REGISTERS: u64 = 65536;
    pub const SMEM_BYTES: u64 = 233_472;
    /// Taken by the system of every block's.
    pub const SMEM_RESERVED: u64 = 1024;
    /// Registers are given to warps in units of this many.
    pub const REGISTER_UNIT: u64 = 256;
    /// Warp instructions issued in a cycle, one by each scheduler.
    pub const ISSUES: f64 = 4.0;
    /// Bytes from the L2 in a cycle.
    pub const L2_BYTES: f64 = 64.0;
}

/// One launch: its shape and its work.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchFacts {
    /// Extents of the operands' views.
    pub extents: Vec<Vec<u64>>,
    /// Blocks, x y z.
    pub grid: [u64; 3],
    /// Which peak rate the operations are held against.
    pub unit: Unit,
    /// Floating-point operations of the tensor cores.
    pub flops: u64,
    /// Bytes of device memory, at the least.
    pub bytes: u64,
    /// Blocks that fit an SM at once.
    pub blocks_per_sm: u64,
}

/// What a launch is held up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The tensor cores.
    Tensor,
    /// Device memory.
    Memory,
    /// The way from the L2 to the SMs.
    Cache,
    /// The schedulers.
    Issue,
    /// Nothing but the launch itself takes longer.
    Launch,
}

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// With the launch.
    pub seconds: f64,
    /// The longest of the terms.
    pub bound: Bound,
}

impl LaunchFacts {
    /// The facts of a step under these dims; `None` when its grid is empty.
    ///
    /// # Errors
    /// When an extent has no value; validation has seen to the rest.
    pub fn of(
        manifest: &Manifest,
        step: &Step,
        dims: &DimValues,
        sms: u32,
    ) -> Result<Option<Self>, RuntimeError> {
        let kernel = &manifest.kernels[step.kernel.0 as usize];
        let bad = |what: String| RuntimeError::BadStep {
            step: step.label.clone(),
            kernel: kernel.name.clone(),
            what,
        };
        let extents: Vec<Vec<u64>> = step
            .operands
            .iter()
            .map(|view| view.shape.iter().map(|dim| dim.resolve(dims)).collect())
            .collect::<Option<_>>()
            .ok_or_else(|| bad("an extent has no value".to_owned()))?;
        let extent = |operand: usize, axis: usize| extents.get(operand)?.get(axis).copied();
        let eval = |expr: &mcc_bundle::Expr| {
            expr.eval(&extent, u64::from(sms))
                .map_err(|err| bad(err.to_string()))
        };
        let launch = &kernel.launch;
        let mut grid = [0; 3];
        for (blocks, expr) in grid.iter_mut().zip(&launch.grid) {
            *blocks = eval(expr)?;
        }
        if grid.contains(&0) {
            return Ok(None);
        }
        let (flops, bytes) = (eval(&launch.work.flops)?, eval(&launch.work.bytes)?);
        Ok(Some(Self {
            grid,
            unit: launch.work.unit,
            flops,
            bytes,
            blocks_per_sm: blocks_per_sm(kernel),
            extents,
        }))
    }

    /// All blocks.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.grid.iter().product()
    }

    /// Rounds in which the SMs take up the blocks.
    #[must_use]
    pub fn waves(&self, sms: u32) -> u64 {
        self.blocks()
            .div_ceil((u64::from(sms) * self.blocks_per_sm).max(1))
    }

    /// The time of this launch of `kernel`; `warm` when its operands may be in the L2, `instructions` when known.
    #[must_use]
    pub fn predict(
        &self,
        kernel: &Kernel,
        hardware: &Hardware,
        sms: u32,
        warm: bool,
        instructions: Option<u64>,
    ) -> Prediction {
        let clock = hardware.sustained_clock_hz.max(1) as f64;
        let busy = self.blocks().clamp(1, u64::from(sms).max(1)) as f64;
        let bytes = self.bytes as f64;
        let mut terms = vec![
            (Bound::Tensor, self.tensor_seconds(kernel, hardware, sms)),
            (Bound::Cache, bytes / (busy * sm::L2_BYTES * clock)),
        ];
        if !(warm && self.bytes <= hardware.l2_bytes) {
            let bandwidth = hardware.hbm_bytes_per_s.max(1) as f64;
            terms.push((Bound::Memory, bytes / bandwidth));
        }
        if let Some(instructions) = instructions {
            let seconds = instructions as f64 / (busy * sm::ISSUES * clock);
            terms.push((Bound::Issue, seconds));
        }
        let launch = hardware.launch_ns as f64 * 1e-9;
        let (mut bound, mut longest) = (Bound::Launch, 0.0);
        for (name, seconds) in terms {
            if seconds > longest {
                (bound, longest) = (name, seconds);
            }
        }
        if longest < launch {
            bound = Bound::Launch;
        }
        Prediction {
            seconds: launch + longest,
            bound,
        }
    }

    fn tensor_seconds(&self, kernel: &Kernel, hardware: &Hardware, sms: u32) -> f64 {
        let peak = match self.unit {
            Unit::None => return 0.0,
            Unit::Fp8 => hardware.fp8_flops,
            Unit::Bf16 => hardware.bf16_flops,
        };
        let sms = u64::from(sms).max(1);
        let sustained = hardware.sustained_clock_hz.max(1) as f64 / hardware.clock_hz.max(1) as f64;
        let of_one_sm = peak.max(1) as f64 / sms as f64 * sustained;
        let (units, flops) = match tiles(kernel, self.unit, &self.extents) {
            Some(tiles) => tiles,
            None => {
                let blocks = self.blocks();
                (blocks, self.flops as f64 / blocks.max(1) as f64)
            }
        };
        units.div_ceil(sms) as f64 * flops / of_one_sm
    }
}

/// Tiles of a product and the operations of one, padding included; `None` for other kernels. Rows, or depth, of a
/// grouped product count as spread evenly.
fn tiles(kernel: &Kernel, unit: Unit, extents: &[Vec<u64>]) -> Option<(u64, f64)> {
    let number = |value: &serde_json::Value, name: &str| {
        value.get(name)?.as_u64().filter(|number| *number > 0)
    };
    let config = &kernel.config;
    let tile = config.get("tile")?;
    let (tile_m, tile_n) = (number(tile, "m")?, number(tile, "n")?);
    let form = config.get("form")?;
    let of_form = |kind: &str, count: &str| number(form.get(kind)?, count);
    let a = extents.first()?;
    let rows = *a.first()?;
    let mut k = number(config, "k").unwrap_or(1);
    let row_tiles = if let Some(groups) = of_form("grouped", "groups") {
        let busy = groups.min(rows).max(1);
        busy * rows.div_ceil(busy).div_ceil(tile_m)
    } else if form.get("masked").is_some() {
        // Rows of each group follow the groups.
        rows * a.get(1)?.div_ceil(tile_m)
    } else if let Some(groups) = of_form("k_grouped", "groups") {
        k = a.get(1)?.div_ceil(groups);
        groups * rows.div_ceil(tile_m)
    } else {
        of_form("batched", "heads").unwrap_or(1) * rows.div_ceil(tile_m)
    };
    // K goes in steps of a 128-byte swizzle span.
    let step = if unit == Unit::Fp8 { 128 } else { 64 };
    let tiles = row_tiles * number(config, "n")?.div_ceil(tile_n);
    let depth = k.next_multiple_of(step);
    Some((tiles, 2.0 * (tile_m * tile_n) as f64 * depth as f64))
}

/// Blocks of a kernel that an SM holds at once; registers count where `ptxas` has told them.
fn blocks_per_sm(kernel: &Kernel) -> u64 {
    let threads = u64::from(kernel.launch.block).max(1);
    let warps = threads.div_ceil(32);
    let static_smem = kernel
        .resources
        .map_or(0, |r| u64::from(r.static_smem_bytes));
    let smem = u64::from(kernel.launch.smem_bytes) + static_smem + sm::SMEM_RESERVED;
    let registers = kernel.resources.map_or(0, |r| {
        (u64::from(r.registers) * 32).next_multiple_of(sm::REGISTER_UNIT) * warps
    });
    let by_registers = sm::REGISTERS.checked_div(registers).unwrap_or(sm::BLOCKS);
    let most = (sm::THREADS / (warps * 32))
        .min(sm::SMEM_BYTES / smem)
        .min(by_registers);
    most.clamp(1, sm::BLOCKS)
}

#[cfg(test)]
mod tests {
    use mcc_bundle::{Expr, LaunchSpec, Resources, Work};
    use serde_json::{Value, json};

    use super::*;

    /// Round figures, so that the expected times can be worked out by hand.
    const HARDWARE: Hardware = Hardware {
        clock_hz: 2_000_000_000,
        sustained_clock_hz: 1_600_000_000,
        fp8_flops: 1_000_000_000_000_000,
        bf16_flops: 500_000_000_000_000,
        f32_flops: 60_000_000_000_000,
        hbm_bytes: 80_000_000_000,
        hbm_bytes_per_s: 2_000_000_000_000,
        l2_bytes: 50_000_000,
        launch_ns: 2000,
    };
    const SMS: u32 = 100;

    fn kernel(config: Value, block: u32, smem_bytes: u32, registers: u32) -> Kernel {
        Kernel {
            name: "k".to_owned(),
            family: "f".to_owned(),
            config,
            operands: Vec::new(),
            launch: LaunchSpec {
                grid: [Expr::Const(1), Expr::Const(1), Expr::Const(1)],
                block,
                cluster: [1, 1, 1],
                smem_bytes,
                params: Vec::new(),
                programmatic: false,
                work: Work::default(),
            },
            resources: Some(Resources {
                registers,
                spill_bytes: 0,
                static_smem_bytes: 0,
            }),
            ptx_sha256: String::new(),
            cubin_sha256: None,
        }
    }

    fn facts(rows: u64, blocks: u64, unit: Unit, flops: u64, bytes: u64) -> LaunchFacts {
        LaunchFacts {
            extents: vec![vec![rows, 1]],
            grid: [blocks, 1, 1],
            unit,
            flops,
            bytes,
            blocks_per_sm: 1,
        }
    }

    fn close(found: Prediction, seconds: f64, bound: Bound) {
        assert!(
            (found.seconds / seconds - 1.0).abs() < 1e-9,
            "{found:?}, expected {seconds} s"
        );
        assert_eq!(found.bound, bound);
    }

    fn product(groups: Option<u64>) -> Kernel {
        let form = groups.map_or(
            json!("dense"),
            |groups| json!({"grouped": {"groups": groups}}),
        );
        of_form(form)
    }

    fn of_form(form: Value) -> Kernel {
        let config = json!({"tile": {"m": 128, "n": 128}, "n": 7168, "k": 16384, "form": form});
        kernel(config, 384, 200_000, 168)
    }

    #[test]
    fn a_product_takes_its_waves_of_whole_tiles_at_the_sustained_clock() {
        // 32 * 56 = 1792 tiles are 18 rounds of 100 SMs. A tile is 2 * 128 * 128 * 16384 operations, an SM does
        // 1e15 / 100 * 1.6 / 2 = 8e12 a second.
        let flops = 2 * 4096 * 7168 * 16384;
        let facts = facts(4096, 100, Unit::Fp8, flops, 250_000_000);
        let tensor = 18.0 * 536_870_912.0 / 8e12;
        let found = facts.predict(&product(None), &HARDWARE, SMS, false, None);
        close(found, 2e-6 + tensor, Bound::Tensor);
        // BF16 has half the peak, and this K is whole blocks of it, too.
        let bf16 = LaunchFacts {
            unit: Unit::Bf16,
            ..facts
        };
        let found = bf16.predict(&product(None), &HARDWARE, SMS, true, None);
        close(found, 2e-6 + 2.0 * tensor, Bound::Tensor);
    }

    #[test]
    fn ragged_rows_pay_for_whole_tiles_in_every_group() {
        // 130 rows in 4 groups are 33 rows each: one tile of 128 rows a group, 4 * 56 = 224 tiles, 3 rounds.
        let facts = facts(130, 100, Unit::Fp8, 1, 1);
        let found = facts.predict(&product(Some(4)), &HARDWARE, SMS, false, None);
        close(found, 2e-6 + 3.0 * 536_870_912.0 / 8e12, Bound::Tensor);
    }

    #[test]
    fn masked_and_k_grouped_products_count_each_group() {
        let of = |form: Value, a: [u64; 2]| {
            let facts = LaunchFacts {
                extents: vec![a.to_vec()],
                ..facts(1, 100, Unit::Fp8, 1, 1)
            };
            facts.predict(&of_form(form), &HARDWARE, SMS, false, None)
        };
        // 4 groups of up to 130 rows: two row tiles each, 8 * 56 = 448 tiles, 5 rounds.
        let found = of(json!({"masked": {"groups": 4}}), [4, 130]);
        close(found, 2e-6 + 5.0 * 536_870_912.0 / 8e12, Bound::Tensor);
        // 130 rows in each of 4 groups, which share a depth of 4 * 512.
        let found = of(json!({"k_grouped": {"groups": 4}}), [130, 2048]);
        close(
            found,
            2e-6 + 5.0 * 536_870_912.0 / 32.0 / 8e12,
            Bound::Tensor,
        );
    }

    #[test]
    fn memory_bounds_what_has_no_products_and_the_l2_what_fits_it() {
        let rows = kernel(Value::Null, 256, 0, 32);
        // 200 MB do not fit the L2: 100 us at 2 TB/s, warm or cold.
        let large = facts(4096, 4096, Unit::None, 0, 200_000_000);
        for warm in [false, true] {
            let found = large.predict(&rows, &HARDWARE, SMS, warm, None);
            close(found, 102e-6, Bound::Memory);
        }
        // 20 MB do: 10 us cold, 20e6 / (100 * 64 * 1.6e9) = 1.95 us warm, which the launch exceeds.
        let small = facts(4096, 4096, Unit::None, 0, 20_000_000);
        let found = small.predict(&rows, &HARDWARE, SMS, false, None);
        close(found, 12e-6, Bound::Memory);
        let found = small.predict(&rows, &HARDWARE, SMS, true, None);
        close(found, 2e-6 + 20e6 / 1.024e13, Bound::Launch);
    }

    #[test]
    fn two_blocks_are_bound_by_what_two_sms_can_read() {
        let rows = kernel(Value::Null, 256, 0, 32);
        let found =
            facts(2, 2, Unit::None, 0, 1_000_000).predict(&rows, &HARDWARE, SMS, false, None);
        close(found, 2e-6 + 1e6 / (2.0 * 64.0 * 1.6e9), Bound::Cache);
    }

    #[test]
    fn counted_instructions_bound_the_issue() {
        let rows = kernel(Value::Null, 256, 0, 32);
        let facts = facts(4096, 4096, Unit::None, 0, 1000);
        let found = facts.predict(&rows, &HARDWARE, SMS, false, Some(1_000_000_000));
        close(found, 2e-6 + 1e9 / (400.0 * 1.6e9), Bound::Issue);
    }

    #[test]
    fn an_sm_holds_what_its_registers_shared_memory_and_threads_allow() {
        let held =
            |block, smem, registers| blocks_per_sm(&kernel(Value::Null, block, smem, registers));
        // 12 warps of 168 * 32 registers are 64512 of 65536.
        assert_eq!(held(384, 0, 168), 1);
        assert_eq!(held(256, 0, 32), 8);
        assert_eq!(held(256, 100_000, 32), 2);
        assert_eq!(held(32, 0, 16), 32);
        // 33 registers a thread are 1056 a warp, given as 1280: 51 warps, 6 blocks of 8.
        assert_eq!(held(256, 0, 33), 6);
        let facts = LaunchFacts {
            blocks_per_sm: 2,
            ..facts(1, 401, Unit::None, 0, 0)
        };
        assert_eq!(facts.waves(SMS), 3);
    }

    #[test]
    fn a_target_without_figures_divides_by_nothing() {
        let nothing = Hardware::default();
        let found =
            facts(1, 1, Unit::Fp8, 100, 100).predict(&product(None), &nothing, 0, false, Some(1));
        assert!(found.seconds.is_finite());
    }
}
