//! Program and kernels to bundle.
//!
//! The manifest's structures mirror the program's one to one, so most of them cross over by way of their
//! common JSON; a test holds that nothing is lost. Kernels gain their launch, their code and its resources.

use mcc_bundle::{Bundle, Hardware, Kernel, Manifest, Operand, SCHEMA_VERSION, Target};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Error;
use crate::source::Source;
use crate::stages::{self, Built};

/// Puts a bundle together from a complete build.
///
/// # Errors
/// [`Error::Manifest`]: a compiler bug.
pub fn pack(source: &Source, built: &Built) -> Result<Bundle, Error> {
    let program = built
        .program
        .as_ref()
        .ok_or_else(|| Error::Manifest("the build has no program".to_owned()))?;
    let bug = |e: mcc_bundle::BundleError| Error::Manifest(e.to_string());
    let mut kernels = Vec::new();
    for ((kernel, code), assembled) in program
        .kernels
        .iter()
        .zip(&built.kernels)
        .zip(&built.assembled)
    {
        let config =
            serde_json::to_value(&kernel.config).map_err(|e| Error::Manifest(e.to_string()))?;
        let family = config
            .get("family")
            .and_then(|f| f.as_str())
            .unwrap_or_default()
            .to_owned();
        let operands = kernel
            .config
            .operands()
            .into_iter()
            .map(|o| {
                Ok(Operand {
                    name: o.name.to_owned(),
                    dtype: mirror(&o.dtype)?,
                    rank: o.rank,
                    written: o.written,
                })
            })
            .collect::<Result<_, Error>>()?;
        kernels.push(Kernel {
            name: kernel.name.clone(),
            family,
            config,
            operands,
            launch: mirror(&code.launch)?,
            resources: assembled.as_ref().map(|a| a.resources),
            // Filled in by `Bundle::new`.
            ptx_sha256: String::new(),
            cubin_sha256: None,
        });
    }
    let manifest = Manifest {
        schema: SCHEMA_VERSION,
        compiler: format!("mcc {}", env!("CARGO_PKG_VERSION")),
        target: Target {
            name: built.target.name.clone(),
            arch: built.target.arch.clone(),
            sms: built.target.sms,
            ptx_isa: built
                .kernels
                .iter()
                .filter_map(|k| version(&k.ptx))
                .max()
                .unwrap_or_default(),
            hardware: hardware(&built.target),
        },
        model: program.model.clone(),
        mesh: mirror(&program.mesh)?,
        dims: mirror(&program.dims)?,
        buffers: mirror(&program.buffers)?,
        arena_bytes: program.arena_bytes,
        params: mirror(&program.params)?,
        kernels,
        entries: mirror(&program.entries)?,
        tokenizer: source.special.clone(),
    };
    let ptx = built.kernels.iter().map(|k| k.ptx.clone()).collect();
    let cubins = built
        .assembled
        .iter()
        .map(|a| a.as_ref().map(|a| a.cubin.clone()))
        .collect();
    let mut bundle = Bundle::new(manifest, ptx, cubins).map_err(bug)?;
    bundle.tokenizer = source.tokenizer.clone();
    bundle.graph = Some(built.graph.to_string());
    bundle.program = Some(stages::json(program)?);
    Ok(bundle)
}

/// What of a target file predictions need.
fn hardware(target: &mcc_passes::target::Target) -> Hardware {
    Hardware {
        clock_hz: target.clock_hz,
        sustained_clock_hz: target.sustained_clock_hz,
        fp8_flops: target.fp8_flops,
        bf16_flops: target.bf16_flops,
        f32_flops: target.f32_flops,
        hbm_bytes: target.hbm_bytes,
        hbm_bytes_per_s: target.hbm_bytes_per_s,
        l2_bytes: target.l2_bytes,
        launch_ns: target.launch_ns,
    }
}

/// The bundle's structure of the same JSON.
fn mirror<T: Serialize, U: DeserializeOwned>(value: &T) -> Result<U, Error> {
    serde_json::to_value(value)
        .and_then(serde_json::from_value)
        .map_err(|e| Error::Manifest(e.to_string()))
}

/// `8.0` of `.version 8.0`.
fn version(ptx: &str) -> Option<String> {
    ptx.lines()
        .find_map(|l| l.trim().strip_prefix(".version "))
        .map(|v| v.trim().to_owned())
}
