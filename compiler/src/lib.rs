//! The compiler's front: importers, the pipeline as a flat list of stages, the bundle, the command line.
//!
//! ```text
//! checkpoint dir ─┐                    stages::run                              pack
//! .mir file ──────┼─ source::read ─► verify ─ egraph ─ select ─ codegen ─ ptxas ─► Bundle ─► .mccb
//! Rust model ─────┘   import/          each stage has a text form; --emit stops at one, --dump keeps all
//! ```
//!
//! | file | what |
//! |---|---|
//! | [`source`] | what the user points at, and the graph in it |
//! | [`import`] | Hugging Face checkpoints |
//! | [`stages`] | the pipeline |
//! | [`kernels`] | what several builds need not compile twice |
//! | [`pack`] | program and kernels to bundle |
//! | [`ptxas`] | NVIDIA's assembler, when it is there |
//! | [`doctor`] | what this machine has and lacks |
//! | [`fuzz`] | random models, compiled and run, against the evaluator |
//! | [`gemm`] | what shows how good the GEMMs are |
//! | [`cli`] | `mcc build`, `run`, `eval`, `inspect`, `bench`, `doctor`, `sim`, `fuzz`, `gemm` |

pub mod cli;
pub mod doctor;
pub mod error;
pub mod fuzz;
pub mod gemm;
pub mod import;
pub mod kernels;
pub mod pack;
pub mod ptxas;
pub mod source;
pub mod stages;

pub use error::Error;
