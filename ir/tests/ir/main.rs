//! Tests of the graph IR through its public API: inference, graphs, text form, verifier, generated docs.

mod docs;
mod fuzz;
mod graph;
mod infer;
mod products;
mod sample;
mod table;
mod text;
mod verify;
