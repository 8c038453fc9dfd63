//! Kernel families, built as MLIR and lowered through LLVM to PTX
