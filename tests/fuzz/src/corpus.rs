//! Real PTX to start from: the project's kernels from their snapshots, kernels
//! that nvcc, Triton and LLVM made.

use std::path::{Path, PathBuf};

/// PTX files, small ones first. Empty where the sources are not at hand.
pub fn ptx() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folders = [
        "tests/snapshots",
        "codegen/ptx/tests/data",
        "runtime/sim/tests/foreign",
    ];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .filter_map(|f| std::fs::read_dir(root.join(f)).ok())
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "ptx" || e == "snap"))
        .collect();
    files.sort();
    let mut all: Vec<String> = files
        .iter()
        .filter_map(|p| std::fs::read_to_string(p).ok())
        // A snapshot has a header; PTX begins with its version.
        .filter_map(|t| Some(t[t.find(".version")?..].to_owned()))
        .filter(|t| t.contains(".entry"))
        .collect();
    // Variants of one family differ little: one of each length class.
    all.sort_by_key(String::len);
    all.dedup_by_key(|t| t.len() / 256);
    all
}
