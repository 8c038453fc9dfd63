//! The `mcc` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match mcc::cli::run(mcc::cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code().into()
        }
    }
}
