//! Reads PTX from a file, checks it against the instruction table and prints
//! it in canonical form: `cargo run -p mcc-ptx --example fmt -- kernel.ptx`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: fmt FILE.ptx");
        return ExitCode::FAILURE;
    };
    let source = match std::fs::read_to_string(&path) {
        Ok(source) => source,
        Err(error) => {
            eprintln!("{path}: {error}");
            return ExitCode::FAILURE;
        }
    };
    match mcc_ptx::parse(&source) {
        Ok(module) => {
            print!("{module}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{path}:{error}");
            ExitCode::FAILURE
        }
    }
}
