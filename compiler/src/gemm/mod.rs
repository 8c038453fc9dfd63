//! Tools that show how good the generated GEMMs are, for `mcc gemm`.
//!
//! | file | what |
//! |---|---|
//! | [`configs`] | the configurations to look at: those that the project's models get, and one of each kind |
//! | [`sass`] | what the loops of a kernel execute, from nvdisasm's text |
//! | [`statics`] | registers, spills, shared memory and instructions per K block, against a bar |

pub mod configs;
pub mod sass;
pub mod statics;
