//! Launching what may be anything: a small device, arguments by the sizes of
//! the parameters, and limits that end every run.

use mcc_sim::{
    Completion, Gpu, GpuConfig, LaunchConfig, Module, SimError, Swizzle, TensorElem, TensorMap,
};

use crate::source::Source;

/// Device memory of a run.
pub const MEMORY: u64 = 64 << 20;
/// Warp instructions of one cluster; a hundred times as many of a launch.
pub const INSTRUCTIONS: u64 = 10_000;
/// Bytes behind a pointer argument.
const BUFFER: u64 = 1 << 20;

/// A small device.
pub fn config() -> GpuConfig {
    GpuConfig {
        global_bytes: MEMORY,
        threads: 1,
        instruction_limit: Some(INSTRUCTIONS),
        launch_limit: Some(100 * INSTRUCTIONS),
        ..GpuConfig::default()
    }
}

/// One with a schedule and checkers by choice.
pub fn device(s: &mut Source<'_>) -> Gpu {
    Gpu::new(GpuConfig {
        threads: 1 + s.below(2),
        completion: match s.below(3) {
            0 => Completion::Early,
            1 => Completion::Late,
            _ => Completion::Random(s.word()),
        },
        check: s.below(2) == 1,
        ..config()
    })
}

/// Launches every kernel of a module; what they do wrong is no matter.
pub fn all(gpu: &Gpu, module: &Module, s: &mut Source<'_>) {
    let names: Vec<String> = module.kernels().take(4).map(str::to_owned).collect();
    for name in names {
        // Refusals and faults are what a bad kernel must end in.
        let _ = one(gpu, module, &name, s);
    }
}

fn one(gpu: &Gpu, module: &Module, name: &str, s: &mut Source<'_>) -> Result<(), SimError> {
    let layout = module.param_layout(name)?;
    let end = layout.iter().map(|(at, size)| at + size).max().unwrap_or(0);
    if end as u64 > 1 << 16 {
        return Ok(());
    }
    let mut params = vec![0u8; end];
    for (at, size) in layout {
        let value = match size {
            8 => {
                let buffer = gpu.alloc(BUFFER, 256)?;
                if s.below(2) == 0 {
                    gpu.fill(buffer, s.byte(), BUFFER)?;
                }
                match s.below(16) {
                    0 => s.word().to_le_bytes().to_vec(),
                    1 => (buffer + s.below(64) as u64).to_le_bytes().to_vec(),
                    _ => buffer.to_le_bytes().to_vec(),
                }
            }
            128 => tensor_map(gpu, s)?,
            _ => {
                let v = [16, 64, 128, 1, 0, 100, s.word()][s.below(7)];
                let bytes = v.to_le_bytes().into_iter();
                bytes.chain(std::iter::repeat(0)).take(size).collect()
            }
        };
        params[at..at + size].copy_from_slice(&value);
    }
    let demands = module.demands(name)?;
    let few = |s: &mut Source<'_>| 1 + s.below(3) as u32;
    let cluster = demands
        .cluster
        .unwrap_or([if s.one_in(4) { 2 } else { 1 }, 1, 1]);
    let block = demands.block.unwrap_or_else(|| {
        let most = demands.max_threads.unwrap_or(256).clamp(1, 1024) as u32;
        match s.below(4) {
            0 => [1 + s.below(most as usize) as u32, 1, 1],
            1 => [8, 4, few(s)],
            _ => [most, 1, 1],
        }
    });
    let grid: [u32; 3] = std::array::from_fn(|d| {
        let blocks = if d == 0 { few(s) } else { 1 };
        cluster[d].clamp(1, 16) * blocks
    });
    let cfg = LaunchConfig {
        grid: if s.one_in(64) { [u32::MAX; 3] } else { grid },
        block,
        cluster,
        dynamic_smem: [200_000, 0, 1024, 49_152, 200_000, 225_000][s.below(6)],
        programmatic: s.one_in(8),
    };
    gpu.launch(module, name, &cfg, &params).map(|_| ())
}

/// A valid tensor map, or now and then 128 bytes of anything.
fn tensor_map(gpu: &Gpu, s: &mut Source<'_>) -> Result<Vec<u8>, SimError> {
    if s.one_in(8) {
        return Ok((0..16).flat_map(|_| s.word().to_le_bytes()).collect());
    }
    let (elem, bytes) = [
        (TensorElem::U8, 1),
        (TensorElem::Bf16, 2),
        (TensorElem::F32, 4),
    ][s.below(3)];
    let rank = [2, 2, 2, 3, 1, 4, 5][s.below(7)];
    let swizzle = [Swizzle::B128, Swizzle::None, Swizzle::B32, Swizzle::B64][s.below(4)];
    let map = TensorMap {
        elem,
        global_address: gpu.alloc(BUFFER, 256)?,
        dims: (0..rank).map(|_| 1 + s.below(64) as u64).collect(),
        strides: (1..rank).map(|d| 256 << (3 * d - 3)).collect(),
        box_dims: (0..rank)
            .map(|d| match d {
                0 => swizzle.span() as u32 / bytes,
                1 => 1 + s.below(64) as u32,
                _ => 1,
            })
            .collect(),
        elem_strides: vec![1 + u32::from(s.one_in(8)); rank],
        swizzle,
        oob_nan: s.one_in(4),
    };
    Ok(map.encode().map_or_else(|_| vec![0; 128], |m| m.to_vec()))
}
