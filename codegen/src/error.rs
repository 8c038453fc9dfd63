//! What can go wrong while a kernel is generated, and whose fault it is.

/// An error of code generation.
#[derive(Debug, thiserror::Error)]
pub enum CodegenError {
    /// The config asks for something that the family does not do.
    #[error("kernel {kernel}: {what}; supported: {supported}")]
    Unsupported {
        /// PTX entry name.
        kernel: String,
        /// What was asked.
        what: String,
        /// What can be asked instead.
        supported: String,
    },
    /// MLIR rejected what a kernel family built: a compiler bug.
    #[error("compiler bug: kernel {kernel} does not pass {stage}:\n{detail}")]
    Bug {
        /// PTX entry name.
        kernel: String,
        /// Stage of lowering.
        stage: &'static str,
        /// MLIR's or LLVM's own words.
        detail: String,
    },
}
