//! The GEMM configurations that the tools look at.
//!
//! In: what a user can build, or nothing. Out: kernels with distinct names. Holds: a configuration that kernel
//! selection produces for the project's own models is in [`in_use`]; every form, epilogue, kind of tile and promotion
//! interval is in [`one_of_each`], whether or not a model has it today.

use std::path::{Path, PathBuf};

use mcc_ir::kernel::{
    Epilogue, GemmBf16, GemmForm, GemmFp8, GemmTile, KernelConfig, NO_PROMOTION, Share,
};
use mcc_ir::program::Kernel;
use mcc_ir::types::DType;
use mcc_passes::heuristics::gemm::{GemmProblem, candidates};

use crate::error::Error;
use crate::import::LimitOptions;
use crate::source::{self, Source};
use crate::stages::{self, BuildOptions, Emit};

/// Shared memory that one block may use on Hopper.
const SMEM: u64 = 232_448;

/// What the tools read when no source is named: the checkout's models, and the published one.
///
/// # Errors
/// Without the checkout, or when a model does not import.
pub fn default_sources() -> Result<Vec<Source>, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let limits = LimitOptions::default;
    let mut sources = vec![
        source::read(&root.join("examples/tiny-v3"), limits())?,
        source::read(&root.join("bench/models/kernels.rs"), limits())?,
    ];
    sources.push(published(&root.join("bench/models/v3-slice/config.json"))?);
    Ok(sources)
}

/// The published model: the slice's config with all experts, all words and one layer of each kind more.
fn published(slice: &Path) -> Result<Source, Error> {
    let text = std::fs::read_to_string(slice).map_err(Error::io("read", slice))?;
    let mut config: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::Config {
        path: slice.to_owned(),
        what: e.to_string(),
    })?;
    for (field, value) in [
        ("n_routed_experts", 256),
        ("num_experts_per_tok", 8),
        ("n_group", 8),
        ("topk_group", 4),
        ("vocab_size", 129_280),
    ] {
        config[field] = value.into();
    }
    let dir = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let path = dir.path().join("config.json");
    std::fs::write(&path, config.to_string()).map_err(Error::io("write", &path))?;
    let limits = LimitOptions {
        max_step_tokens: Some(4096),
        max_context: None,
        promote: None,
    };
    source::read(dir.path(), limits)
}

/// Sources that the user names.
///
/// # Errors
/// As [`source::read`].
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, Error> {
    let read = |path: &PathBuf| source::read(path, LimitOptions::default());
    match paths {
        [] => default_sources(),
        paths => paths.iter().map(read).collect(),
    }
}

/// The GEMM kernels that kernel selection makes of these sources, each once.
///
/// # Errors
/// When a source does not build.
pub fn in_use(sources: &[Source], target: &str) -> Result<Vec<Kernel>, Error> {
    let options = BuildOptions {
        target: target.to_owned(),
        mesh: None,
        ranks: mcc_passes::distribute::Options::default(),
        optimize: true,
        cubins: false,
        dump: None,
    };
    let mut found: Vec<Kernel> = Vec::new();
    for source in sources {
        let built = stages::run(source, &options, Some(Emit::Program), &mut |_, _, _| {})?;
        for kernel in built.program.map(|p| p.kernels).unwrap_or_default() {
            if is_gemm(&kernel.config) && !found.iter().any(|k| k.config == kernel.config) {
                found.push(kernel);
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

const fn is_gemm(config: &KernelConfig) -> bool {
    matches!(config, KernelConfig::GemmFp8(_) | KernelConfig::GemmBf16(_))
}

/// The same with as many stages as a build gives a large product.
fn ringed(config: GemmFp8) -> GemmFp8 {
    let problem = GemmProblem {
        epilogue: config.epilogue,
        promote: config.promote,
        ..GemmProblem::new(
            DType::E4M3,
            config.out,
            config.form,
            4096,
            config.n.into(),
            config.k.into(),
        )
    };
    let tile = with_stages(&problem, config.tile);
    GemmFp8 { tile, ..config }
}

fn with_stages(problem: &GemmProblem, tile: GemmTile) -> GemmTile {
    let room = SMEM.saturating_sub(candidates::fixed_bytes(problem, tile));
    let fit = room / candidates::stage_bytes(problem, tile).max(1);
    let k_blocks = problem.k_blocks().div_ceil(tile.split_k.into());
    let stages = candidates::whole_turns(fit.clamp(1, candidates::MAX_STAGES), k_blocks);
    GemmTile {
        stages: u32::try_from(stages).unwrap_or(1),
        ..tile
    }
}

/// The FP8 product that the others are variants of.
fn fp8(m: u32, n: u32) -> GemmFp8 {
    GemmFp8 {
        n: 4096,
        k: 7168,
        form: GemmForm::Dense,
        epilogue: Epilogue::Store,
        out: DType::BF16,
        promote: 128,
        tile: GemmTile::new(m, n, 1),
    }
}

fn swapped(m: u32, n: u32, split_k: u32) -> GemmFp8 {
    let base = fp8(m, n);
    GemmFp8 {
        tile: GemmTile {
            swap: true,
            split_k,
            ..base.tile
        },
        ..base
    }
}

fn shared(m: u32, n: u32, share: Share) -> GemmFp8 {
    let base = fp8(m, n);
    GemmFp8 {
        tile: GemmTile { share, ..base.tile },
        ..base
    }
}

fn bf16(m: u32, n: u32, form: GemmForm, epilogue: Epilogue, out: DType) -> GemmBf16 {
    let (columns, k) = (4096, 7168);
    let problem = GemmProblem {
        epilogue,
        ..GemmProblem::new(DType::BF16, out, form, 4096, columns.into(), k.into())
    };
    GemmBf16 {
        n: columns,
        k,
        form,
        epilogue,
        out,
        tile: with_stages(&problem, GemmTile::new(m, n, 1)),
    }
}

/// One configuration of each form, epilogue, kind of tile and promotion interval.
#[must_use]
pub fn one_of_each() -> Vec<Kernel> {
    let tiles = [
        (64, 16),
        (64, 64),
        (64, 128),
        (64, 192),
        (128, 64),
        (128, 112),
        (128, 128),
        (128, 160),
        (128, 192),
        (256, 64),
        (256, 128),
    ];
    let mut fp8s: Vec<GemmFp8> = tiles.map(|(m, n)| fp8(m, n)).into();
    fp8s.extend([
        shared(128, 128, Share::A),
        shared(128, 128, Share::B),
        shared(256, 128, Share::A),
    ]);
    fp8s.extend([(8, 64), (16, 128), (32, 64)].map(|(m, n)| swapped(m, n, 1)));
    fp8s.extend([2, 4, 8].map(|split| swapped(16, 64, split)));
    fp8s.extend(
        [
            GemmForm::Grouped { groups: 8 },
            GemmForm::Masked { groups: 8 },
        ]
        .map(|form| GemmFp8 {
            form,
            ..fp8(128, 128)
        }),
    );
    fp8s.push(GemmFp8 {
        form: GemmForm::Grouped { groups: 256 },
        ..swapped(16, 128, 1)
    });
    fp8s.push(GemmFp8 {
        form: GemmForm::KGrouped { groups: 8 },
        epilogue: Epilogue::Accumulate,
        out: DType::F32,
        ..fp8(128, 128)
    });
    fp8s.push(GemmFp8 {
        epilogue: Epilogue::Add,
        ..fp8(128, 128)
    });
    fp8s.push(GemmFp8 {
        out: DType::F32,
        ..fp8(128, 128)
    });
    for (m, form, weighted) in [
        (128, GemmForm::Dense, false),
        (64, GemmForm::Dense, false),
        (128, GemmForm::Grouped { groups: 8 }, true),
        (128, GemmForm::Masked { groups: 8 }, true),
    ] {
        fp8s.push(GemmFp8 {
            form,
            epilogue: Epilogue::SwigluQuantize { weighted },
            out: DType::E4M3,
            ..fp8(m, 256)
        });
    }
    fp8s.extend([32, 64, 256, 512, NO_PROMOTION].map(|promote| GemmFp8 {
        promote,
        ..fp8(128, 128)
    }));
    let store = |m, n, form| bf16(m, n, form, Epilogue::Store, DType::BF16);
    let bf16s = [
        store(64, 64, GemmForm::Dense),
        store(128, 128, GemmForm::Dense),
        store(128, 128, GemmForm::Grouped { groups: 8 }),
        store(128, 128, GemmForm::Batched { heads: 128 }),
        bf16(128, 128, GemmForm::Dense, Epilogue::Store, DType::F32),
        bf16(128, 128, GemmForm::Dense, Epilogue::Add, DType::BF16),
    ];
    let fp8s = fp8s.into_iter().map(ringed).map(KernelConfig::GemmFp8);
    fp8s.chain(bf16s.into_iter().map(KernelConfig::GemmBf16))
        .map(|config| Kernel {
            name: config.name(),
            config,
        })
        .collect()
}
