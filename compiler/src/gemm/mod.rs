//! Tools that show how good the generated GEMMs are, for `mcc gemm`.
//!
//! | file | what |
//! |---|---|
//! | [`configs`] | the configurations to look at: those that the project's models get, and one of each kind |
//! | [`compile_time`] | milliseconds to PTX and to a cubin |
//! | [`promotion`], [`promotion_plot`] | error against K and promotion interval, as a table and as a plot |
//! | [`one_kernel`] | one kernel on the simulated device |
//! | [`predict`] | predicted times beside published and measured ones |
//! | [`problems`] | the products of the benchmarks, or one that the user names |
//! | [`sass`] | what the loops of a kernel execute, from nvdisasm's text |
//! | [`statics`] | registers, spills, shared memory and instructions per K block, against a bar |
//! | [`tune`] | candidates to measure, and the tuning database from what was measured |

pub mod compile_time;
pub mod configs;
pub mod one_kernel;
pub mod predict;
pub mod problems;
pub mod promotion;
pub mod promotion_plot;
pub mod sass;
pub mod statics;
pub mod tune;
