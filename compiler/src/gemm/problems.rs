//! The GEMMs that predictions and tuning are about: rows of `bench/shapes.json`, or one that the user names.
//!
//! In: a file of shapes, or flags. Out: [`Named`] problems, with what others published for them.

use std::collections::BTreeMap;
use std::path::Path;

use mcc_ir::kernel::{Epilogue, GemmForm};
use mcc_ir::types::DType;
use mcc_passes::heuristics::gemm::GemmProblem;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const SHAPES: &str = include_str!("../../../bench/shapes.json");
const PUBLISHED: &str = include_str!("../../../bench/published.json");

/// A problem with the name of its benchmark entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// `<shape>_m64`.
    pub name: String,
    /// What is computed, rows included.
    pub problem: GemmProblem,
    /// What others measured for it.
    pub published: Option<Published>,
}

/// Others' figures, TFLOP/s.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Published {
    /// Of the versions and claims, the least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// With nothing in the L2.
    pub cold: Option<f64>,
}

#[derive(Deserialize)]
struct Shapes {
    shapes: Vec<Shape>,
}

#[derive(Deserialize)]
struct Shape {
    name: String,
    op: String,
    n: Option<u64>,
    k: Option<u64>,
    m: Option<u64>,
    groups: Option<u32>,
    heads: Option<u32>,
    dims: Vec<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Publications {
    source: String,
    rows: Vec<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    name: String,
    dims: BTreeMap<String, u64>,
    least: f64,
    most: f64,
    cold: Option<f64>,
}

/// The GEMMs of a file of shapes [default: the project's], one for each choice of dims.
///
/// # Errors
/// When the file cannot be read, or a row lacks an extent.
pub fn shapes(path: Option<&Path>) -> Result<Vec<Named>, Error> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path).map_err(Error::io("read", path))?,
        None => SHAPES.to_owned(),
    };
    let origin = path.map_or_else(
        || "bench/shapes.json".to_owned(),
        |p| p.display().to_string(),
    );
    let document: Shapes =
        serde_json::from_str(&text).map_err(|e| Error::Usage(format!("{origin}: {e}")))?;
    let published = publications()?;
    let mut all = Vec::new();
    for shape in &document.shapes {
        for dims in &shape.dims {
            let problem = problem(shape, dims)
                .map_err(|what| Error::Usage(format!("{origin}: {}: {what}", shape.name)))?;
            let Some(problem) = problem else { continue };
            let suffix: String = dims
                .iter()
                .map(|(letter, extent)| format!("_{}{extent}", letter.to_lowercase()))
                .collect();
            let found = published
                .rows
                .iter()
                .find(|p| p.name == shape.name && p.dims == *dims);
            all.push(Named {
                name: format!("{}{suffix}", shape.name),
                problem,
                published: found.map(|p| Published {
                    least: p.least,
                    most: p.most,
                    cold: p.cold,
                }),
            });
        }
    }
    if all.is_empty() {
        return Err(Error::Usage(format!("{origin}: no row is a GEMM")));
    }
    Ok(all)
}

/// Where the published figures come from.
///
/// # Errors
/// Never: the file is part of the compiler.
pub fn source_of_published() -> Result<String, Error> {
    Ok(publications()?.source)
}

fn publications() -> Result<Publications, Error> {
    serde_json::from_str(PUBLISHED).map_err(|e| Error::Usage(format!("bench/published.json: {e}")))
}

/// The GEMM of a row; `None` when it is about something else.
fn problem(shape: &Shape, dims: &BTreeMap<String, u64>) -> Result<Option<GemmProblem>, String> {
    let need = |value: Option<u64>, name: &str| value.ok_or_else(|| format!("`{name}` is missing"));
    let dim = |letter: &str| need(dims.get(letter).copied(), letter);
    let groups = || shape.groups.ok_or_else(|| "`groups` is missing".to_owned());
    let (input, out, form, rows, depth) = match shape.op.as_str() {
        "fp8_gemm" => (DType::E4M3, DType::BF16, GemmForm::Dense, dim("M")?, None),
        "bf16_gemm" => (DType::BF16, DType::BF16, GemmForm::Dense, dim("M")?, None),
        "fp8_grouped_gemm" => {
            let form = GemmForm::Grouped { groups: groups()? };
            (DType::E4M3, DType::BF16, form, dim("M")?, None)
        }
        // M rows of each group.
        "fp8_masked_gemm" => {
            let groups = groups()?;
            let rows = dim("M")? * u64::from(groups);
            let form = GemmForm::Masked { groups };
            (DType::E4M3, DType::BF16, form, rows, None)
        }
        // B blocks of 128 tokens, of all groups together.
        "fp8_weight_grad" => {
            let form = GemmForm::KGrouped { groups: groups()? };
            let (rows, depth) = (need(shape.m, "m")?, dim("B")? * 128);
            (DType::E4M3, DType::F32, form, rows, Some(depth))
        }
        "batched_gemm" => {
            let heads = shape.heads.ok_or("`heads` is missing")?;
            let form = GemmForm::Batched { heads };
            (DType::BF16, DType::BF16, form, dim("T")?, None)
        }
        _ => return Ok(None),
    };
    let depth = match depth {
        Some(depth) => depth,
        None => need(shape.k, "k")?,
    };
    let epilogue = match form {
        GemmForm::KGrouped { .. } => Epilogue::Accumulate,
        _ => Epilogue::Store,
    };
    Ok(Some(GemmProblem {
        epilogue,
        ..GemmProblem::new(input, out, form, rows, need(shape.n, "n")?, depth)
    }))
}

/// One GEMM, on the command line.
#[derive(clap::Args, Clone, Debug)]
pub struct ProblemFlags {
    /// Rows to expect (of all groups of a grouped product together), columns, depth.
    #[arg(long, value_name = "M,N,K", value_delimiter = ',')]
    gemm: Vec<u64>,
    /// `dense`, `batched`, `grouped`, `masked` or `kgrouped` (weight gradients).
    #[arg(long, default_value = "dense")]
    form: String,
    /// Experts, or heads of a batched product.
    #[arg(long, default_value_t = 1)]
    groups: u32,
    /// Element type of both factors: `e4m3` (block-scaled) or `bf16`.
    #[arg(long, default_value = "e4m3")]
    input: String,
    /// Element type of the product, `bf16` or `f32` [default: what the epilogue makes].
    #[arg(long)]
    out: Option<String>,
    /// `store`, `add` (a residual), `accumulate` (kgrouped), `swiglu` (and quantise; N columns of gate and up
    /// together), `swiglu-weighted` [default: accumulate for kgrouped, else store].
    #[arg(long)]
    epilogue: Option<String>,
    /// Elements of K between promotions of a block-scaled product: 32, 64, 128, 256, 512 or none.
    #[arg(long, default_value = "128")]
    promote: String,
}

impl ProblemFlags {
    /// The problem; `None` when there is no `--gemm`.
    ///
    /// # Errors
    /// When a word is not known, or the kernels have no such product.
    pub fn problem(&self) -> Result<Option<GemmProblem>, Error> {
        let [m, n, k] = match self.gemm[..] {
            [] => return Ok(None),
            [m, n, k] => [m, n, k],
            _ => {
                return Err(Error::Usage(
                    "--gemm takes three numbers: rows, columns, depth".to_owned(),
                ));
            }
        };
        let unknown = |flag: &str, word: &str, known: &str| {
            Err(Error::Usage(format!(
                "--{flag} {word}: supported are {known}"
            )))
        };
        let groups = self.groups.max(1);
        let form = match self.form.as_str() {
            "dense" => GemmForm::Dense,
            "batched" => GemmForm::Batched { heads: groups },
            "grouped" => GemmForm::Grouped { groups },
            "masked" => GemmForm::Masked { groups },
            "kgrouped" => GemmForm::KGrouped { groups },
            other => {
                return unknown(
                    "form",
                    other,
                    "dense, batched, grouped, masked and kgrouped",
                );
            }
        };
        let k_grouped = matches!(form, GemmForm::KGrouped { .. });
        let input = match self.input.as_str() {
            "e4m3" | "fp8" => DType::E4M3,
            "bf16" => DType::BF16,
            other => return unknown("input", other, "e4m3 and bf16"),
        };
        let epilogue = match self.epilogue.as_deref() {
            None if k_grouped => Epilogue::Accumulate,
            None | Some("store") => Epilogue::Store,
            Some("add") => Epilogue::Add,
            Some("accumulate") => Epilogue::Accumulate,
            Some("swiglu") => Epilogue::SwigluQuantize { weighted: false },
            Some("swiglu-weighted") => Epilogue::SwigluQuantize { weighted: true },
            Some(other) => {
                let known = "store, add, accumulate, swiglu and swiglu-weighted";
                return unknown("epilogue", other, known);
            }
        };
        let made = match epilogue {
            Epilogue::Accumulate => DType::F32,
            Epilogue::SwigluQuantize { .. } => DType::E4M3,
            Epilogue::Store | Epilogue::Add => DType::BF16,
        };
        let out = match self.out.as_deref() {
            None => made,
            Some("bf16") => DType::BF16,
            Some("f32") => DType::F32,
            Some("e4m3") => DType::E4M3,
            Some(other) => return unknown("out", other, "bf16 and f32"),
        };
        let promote = match self.promote.as_str() {
            "none" => mcc_ir::kernel::NO_PROMOTION,
            "32" | "64" | "128" | "256" | "512" => self.promote.parse().unwrap_or(128),
            other => return unknown("promote", other, "32, 64, 128, 256, 512 and none"),
        };
        let problem = GemmProblem {
            epilogue,
            promote,
            ..GemmProblem::new(input, out, form, m, n, k)
        };
        check(&problem)?;
        Ok(Some(problem))
    }
}

/// What no tile changes.
fn check(p: &GemmProblem) -> Result<(), Error> {
    let fp8 = p.input == DType::E4M3;
    let unit = if fp8 { 16 } else { 8 };
    let most = 1 << 31;
    let extents = [p.rows, p.n, p.k];
    let k_grouped = matches!(p.form, GemmForm::KGrouped { .. });
    let swiglu = matches!(p.epilogue, Epilogue::SwigluQuantize { .. });
    let fault = if extents.iter().any(|e| *e == 0 || *e >= most) {
        "rows, columns and depth are at least 1 and below 2^31"
    } else if !p.n.is_multiple_of(unit) || !p.k.is_multiple_of(unit) {
        "columns and depth are multiples of 16, of 8 with BF16 operands"
    } else if fp8 && matches!(p.form, GemmForm::Batched { .. }) {
        "a batched product has BF16 operands (--input bf16)"
    } else if k_grouped != (p.epilogue == Epilogue::Accumulate) {
        "a K-grouped product accumulates, and no other does"
    } else if k_grouped && p.out != DType::F32 {
        "a K-grouped product accumulates in f32"
    } else if swiglu && (!fp8 || p.out != DType::E4M3 || !p.n.is_multiple_of(256)) {
        "SwiGLU with quantisation takes FP8 operands, makes e4m3, and has a multiple of 128 columns of gate and of up"
    } else if !swiglu && p.out == DType::E4M3 {
        "e4m3 is made by SwiGLU with quantisation alone"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("{p}: {fault}")))
}
