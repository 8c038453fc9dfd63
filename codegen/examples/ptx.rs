//! Prints the PTX of one kernel, given its config as JSON: `{"family":"gemm_fp8","n":512,…}`.

use mcc_codegen::Codegen;
use mcc_ir::program::Kernel;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = std::env::args()
        .nth(1)
        .ok_or("usage: ptx '<kernel config as JSON>'")?;
    let kernel = Kernel {
        name: "kernel".to_owned(),
        config: serde_json::from_str(&config)?,
    };
    let code = Codegen::new().compile(&kernel)?;
    if std::env::args().nth(2).as_deref() == Some("mlir") {
        print!("{}", code.mlir);
    } else {
        print!("{}", code.ptx);
    }
    Ok(())
}
