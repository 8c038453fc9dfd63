//! Kernels over several ranks, run on simulated devices that share a node's memory or a network.
//!
//! In: a group of ranks, each with tokens and a routing. Out: rows at the experts and sums back at the tokens, against a
//! statement of what they mean that is written here, without the evaluator: which row comes from whom, in which
//! order, and how sums are rounded.

mod bench;
mod direct;
mod failures;
mod mutants;
mod orders;
mod published;
mod routing;
mod step;
mod traffic;
mod two_hop;
