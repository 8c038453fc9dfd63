//! The tests that need the whole compiler; they live in `tests/all.rs`, one binary because each links LLVM.
