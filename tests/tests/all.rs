//! Everything that is tested across crates.
//!
//! | module | what holds |
//! |---|---|
//! | [`conformance`] | every kernel family's PTX, run on the simulator, means what the reference evaluator means |
//! | [`ptx`] | the kernels of the tiny and of the published model: snapshots, and what ptxas says of them |
//! | [`random`] | random models through the whole compiler mean on the simulator what they mean in the evaluator |
//! | [`ranks`] | kernels over several ranks: rows reach their experts and sums their tokens |
//! | [`waits`] | a kernel that would wait for ever says where, and fails |
//! | [`mutation`] | the tiny model's kernels are clean under the simulator's checkers, and bugs planted into them are found |
//! | [`round_trip`] | every text form reads back as what was printed |
//! | [`build`] | two builds are equal byte for byte, and the manifest says what the program says |
//! | [`bad_input`] | whatever is wrong with an input is said in words, and nothing is left behind |
//! | [`cuda`] | the trained checkpoint through the CUDA driver API, on a driver over the simulator |
//! | [`doctor`] | what a machine lacks is said with its cost and its remedy |
//! | [`gemm_tune`] | predicted and published times, and the way of measured ones into the tuning database |
//! | [`gemm_tools`] | the reader of machine code, the bar that GEMMs keep, and the promotion experiment |
//! | [`mesh`] | the trained checkpoint with its experts spread over ranks, against one rank |
//! | [`e2e`] | the trained checkpoint, built and run, against a reference of another make |

mod bad_input;
mod build;
mod conformance;
mod cuda;
mod doctor;
mod e2e;
mod gemm_tools;
mod gemm_tune;
mod harness;
mod mesh;
mod mutation;
mod ptx;
mod random;
mod ranks;
mod round_trip;
mod sources;
mod waits;
