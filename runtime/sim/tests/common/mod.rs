//! What the tests of the simulator share: a small device, and launching with
//! typed parameters.
#![allow(dead_code)] // Each test binary uses a part.

use mcc_sim::{Completion, Gpu, GpuConfig, LaunchConfig, LaunchStats, Module, SimError};

pub const ALL: [Completion; 4] = [
    Completion::Early,
    Completion::Late,
    Completion::Random(1),
    Completion::Random(99),
];

pub fn gpu(completion: Completion) -> Gpu {
    Gpu::new(GpuConfig {
        completion,
        check: true,
        threads: 2,
        ..GpuConfig::default()
    })
}

/// A device that looks only for what any GPU would fault at.
pub fn unchecked(completion: Completion) -> Gpu {
    Gpu::new(GpuConfig {
        completion,
        threads: 2,
        ..GpuConfig::default()
    })
}

pub const HEADER: &str = ".version 8.6\n.target sm_90a\n.address_size 64\n";

/// A module with one kernel `k`: its parameters and its body.
pub fn kernel(params: &str, body: &str) -> String {
    format!("{HEADER}\n.visible .entry k({params})\n{{\n{body}\n}}\n")
}

pub fn load(gpu: &Gpu, ptx: &str) -> Module {
    gpu.load_module(ptx)
        .unwrap_or_else(|e| panic!("{e}\n{ptx}"))
}

/// A kernel argument.
#[derive(Clone)]
pub enum Arg {
    U32(u32),
    U64(u64),
    Bytes(Vec<u8>),
}

pub fn launch(
    gpu: &Gpu,
    m: &Module,
    cfg: &LaunchConfig,
    args: &[Arg],
) -> Result<LaunchStats, SimError> {
    launch_kernel(gpu, m, "k", cfg, args)
}

pub fn launch_kernel(
    gpu: &Gpu,
    m: &Module,
    kernel: &str,
    cfg: &LaunchConfig,
    args: &[Arg],
) -> Result<LaunchStats, SimError> {
    let layout = m.param_layout(kernel)?;
    let total = layout.last().map_or(0, |(o, s)| o + s);
    let mut bytes = vec![0; total];
    assert_eq!(args.len(), layout.len());
    for (arg, (at, size)) in args.iter().zip(layout) {
        let data = match arg {
            Arg::U32(v) => v.to_le_bytes().to_vec(),
            Arg::U64(v) => v.to_le_bytes().to_vec(),
            Arg::Bytes(v) => v.clone(),
        };
        assert_eq!(data.len(), size);
        bytes[at..at + size].copy_from_slice(&data);
    }
    gpu.launch(m, kernel, cfg, &bytes)
}

pub fn upload(gpu: &Gpu, data: &[u8]) -> u64 {
    let at = gpu.alloc(data.len() as u64, 256).expect("memory");
    gpu.write(at, data).expect("allocated");
    at
}

pub fn upload_u32(gpu: &Gpu, data: &[u32]) -> u64 {
    upload(
        gpu,
        &data
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>(),
    )
}

pub fn upload_f32(gpu: &Gpu, data: &[f32]) -> u64 {
    upload_u32(gpu, &data.iter().map(|v| v.to_bits()).collect::<Vec<u32>>())
}

pub fn download(gpu: &Gpu, at: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    gpu.read(at, &mut out).expect("allocated");
    out
}

pub fn download_u32(gpu: &Gpu, at: u64, len: usize) -> Vec<u32> {
    download(gpu, at, 4 * len)
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        .collect()
}

pub fn download_f32(gpu: &Gpu, at: u64, len: usize) -> Vec<f32> {
    download_u32(gpu, at, len)
        .into_iter()
        .map(f32::from_bits)
        .collect()
}
