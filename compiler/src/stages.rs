//! The pipeline: a flat list of stages, each verified after it has run and each with a text form.
//!
//! | stage | in | out | text |
//! |---|---|---|---|
//! | source | files | plain graph | `.mir` |
//! | verify | graph | the same | – |
//! | egraph | graph | optimised graph, verified | `.mir` |
//! | distribute | graph with a mesh | graph of one of its ranks, verified | `.mir` |
//! | select, memory | graph | program, verified | JSON |
//! | codegen | program | kernels | MLIR, LLVM IR, PTX |
//! | ptxas | PTX | cubins and resources, when it is there | SASS |
//! | pack | all of it | bundle | – |

use std::cell::LazyCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mcc_codegen::{Codegen, KernelCode};
use mcc_ir::program::Program;
use mcc_ir::{Mesh, Module};
use mcc_passes::select::{DimHint, Options as SelectOptions};
use mcc_passes::target::Target;
use mcc_passes::{distribute, egraph};

use crate::error::Error;
use crate::kernels::Kernels;
use crate::ptxas::{self, Assembled, Ptxas};
use crate::source::Source;

/// What the user chose.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Target name.
    pub target: String,
    /// The ranks to build for, where they are others than the source says.
    pub mesh: Option<Mesh>,
    /// How rows travel between ranks.
    pub ranks: distribute::Options,
    /// Whether the optimiser runs.
    pub optimize: bool,
    /// Whether cubins are made when ptxas is there.
    pub cubins: bool,
    /// Folder that gets the text of every stage.
    pub dump: Option<PathBuf>,
}

/// The stage at which a build ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Emit {
    /// The optimised graph, on a mesh that of one rank, `.mir`.
    Graph,
    /// The program, JSON.
    Program,
    /// MLIR of every kernel, as built.
    Mlir,
    /// LLVM IR of every kernel, optimised.
    Llvm,
    /// PTX of every kernel.
    Ptx,
    /// Machine code of every kernel, disassembled; needs ptxas and nvdisasm.
    Sass,
}

/// Everything a build makes.
pub struct Built {
    /// The target description.
    pub target: Target,
    /// The optimised graph, on a mesh that of one rank.
    pub graph: Module,
    /// What the optimiser did.
    pub report: Option<egraph::Report>,
    /// Launches and buffers.
    pub program: Option<Program>,
    /// Code of each of the program's kernels, in order.
    pub kernels: Vec<KernelCode>,
    /// Machine code of each kernel, when ptxas ran.
    pub assembled: Vec<Option<Assembled>>,
    /// Time of each stage.
    pub times: Vec<(&'static str, Duration)>,
}

/// Runs the stages up to `last`, or all of them.
///
/// # Errors
/// The first stage's that fails; nothing but the dump folder is written.
pub fn run(
    source: &Source,
    options: &BuildOptions,
    last: Option<Emit>,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Built, Error> {
    run_with(source, options, last, &Kernels::new(), progress)
}

/// [`run`], one of several builds that have kernels in common: those in `kernels` are not compiled again.
///
/// # Errors
/// As [`run`].
pub fn run_with(
    source: &Source,
    options: &BuildOptions,
    last: Option<Emit>,
    kernels: &Kernels,
    progress: &mut dyn FnMut(&str, usize, usize),
) -> Result<Built, Error> {
    let mut built = Built {
        target: Target::load(&options.target)?,
        graph: source.module.clone(),
        report: None,
        program: None,
        kernels: Vec::new(),
        assembled: Vec::new(),
        times: Vec::new(),
    };
    let dump = Dump::open(options.dump.as_deref())?;
    let mut clock = Instant::now();
    let mut done = |stage: &'static str, times: &mut Vec<(&'static str, Duration)>| {
        times.push((stage, clock.elapsed()));
        clock = Instant::now();
    };
    let ends = |stage: Emit| last == Some(stage);

    progress("verify", 0, 1);
    built.graph.mesh = options.mesh.or(built.graph.mesh);
    verify(&built.graph)?;
    dump.write("1-source.mir", &built.graph.to_string())?;
    done("verify", &mut built.times);

    if options.optimize {
        progress("optimise", 0, 1);
        let egraph_options = egraph::Options {
            usual: hints(&built.graph),
            ..egraph::Options::default()
        };
        let (graph, report) = egraph::optimize(&built.graph, &built.target, &egraph_options)?;
        dump.write("2-egraph.mir", &graph.to_string())?;
        dump.write("2-egraph.txt", &report.to_string())?;
        built.graph = graph;
        built.report = Some(report);
        done("egraph", &mut built.times);
    }
    if built.graph.mesh.is_some_and(|mesh| mesh.ranks() > 1) {
        built.graph = distribute::distribute(&built.graph, &options.ranks)?;
        dump.write("2-ranks.mir", &built.graph.to_string())?;
        done("distribute", &mut built.times);
    }
    if ends(Emit::Graph) {
        return Ok(built);
    }

    progress("select kernels", 0, 1);
    let program = mcc_passes::lower(
        &built.graph,
        &built.target,
        &SelectOptions {
            hints: hints(&built.graph),
        },
    )?;
    dump.write("3-program.json", &json(&program)?)?;
    done("select", &mut built.times);
    if ends(Emit::Program) {
        built.program = Some(program);
        return Ok(built);
    }

    let shown = last.is_some_and(|l| matches!(l, Emit::Mlir | Emit::Llvm));
    let intermediates = shown || options.dump.is_some();
    // The device library is for ptxas alone.
    let ptxas = (options.cubins || ends(Emit::Sass))
        .then(Ptxas::find)
        .flatten();
    let nvshmem = match ptxas {
        Some(_) => ptxas::nvshmem()?,
        None => None,
    };
    let links = nvshmem.is_some();
    let codegen = LazyCell::new(|| {
        let codegen = Codegen::new().with_intermediates(intermediates);
        codegen.with_nvshmem(nvshmem.clone())
    });
    for (i, kernel) in program.kernels.iter().enumerate() {
        progress(&kernel.name, i, program.kernels.len());
        let code = kernels.code(kernel, intermediates, links, || &*codegen)?;
        let on_the_way = code.intermediate.iter();
        let texts = on_the_way.flat_map(|i| [("mlir", &i.mlir), ("ll", &i.llvm)]);
        for (ending, text) in texts.chain([("ptx", &code.ptx)]) {
            dump.write(&format!("4-{}.{ending}", code.name), text)?;
        }
        built.kernels.push(code);
    }
    built.program = Some(program);
    done("codegen", &mut built.times);
    if last.is_some_and(|l| l < Emit::Sass) {
        return Ok(built);
    }

    if options.cubins || ends(Emit::Sass) {
        if let Some(ptxas) = ptxas {
            progress("ptxas", 0, built.kernels.len());
            built.assembled = ptxas.assemble(&built.kernels, &built.target.arch)?;
            done("ptxas", &mut built.times);
        } else if ends(Emit::Sass) {
            return Err(Error::MissingTool {
                tool: "ptxas",
                how: Ptxas::how_to_get(),
            });
        }
    }
    if built.assembled.is_empty() {
        built.assembled = built.kernels.iter().map(|_| None).collect();
    }
    Ok(built)
}

/// The program's text.
///
/// # Errors
/// Never for a program that a build made.
pub fn json(program: &Program) -> Result<String, Error> {
    program
        .to_json()
        .map_err(|e| Error::Manifest(e.to_string()))
}

/// Refuses a graph that is not well-formed, as its author's mistake.
pub(crate) fn verify(module: &Module) -> Result<(), Error> {
    mcc_ir::verify::verify(module).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Error::Usage(format!(
            "the graph is not well-formed:\n{}",
            lines.join("\n")
        ))
    })
}

/// A decode step has one token, whatever the upper bound of its dims is.
pub(crate) fn hints(module: &Module) -> Vec<DimHint> {
    module
        .entries
        .iter()
        .filter(|e| &*e.name == "decode")
        .flat_map(|e| {
            ["T", "R"].map(|dim| DimHint {
                entry: e.name.to_string(),
                dim: dim.to_owned(),
                usual: 1,
            })
        })
        .collect()
}

/// The folder of `--dump`.
struct Dump<'a>(Option<&'a Path>);

impl<'a> Dump<'a> {
    fn open(dir: Option<&'a Path>) -> Result<Self, Error> {
        if let Some(dir) = dir {
            std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        }
        Ok(Self(dir))
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        let Some(dir) = self.0 else { return Ok(()) };
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", path))
    }
}
