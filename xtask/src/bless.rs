//! `cargo xtask bless`: run the tests and accept every snapshot that changed.
//!
//! A snapshot says that text changed, not that it is right: read the diff, and
//! see that the executed case beside the snapshot still passes.

use crate::error::Result;
use crate::{shell, workspace};

#[derive(clap::Args)]
pub struct Args {
    /// What to pass on to `cargo test` in place of `--workspace`, such as `-p mcc-ptx`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_test_args: Vec<String>,
}

pub fn main(args: &Args) -> Result<()> {
    let mut cargo = workspace::cargo();
    cargo.arg("test").env("INSTA_UPDATE", "always");
    if args.cargo_test_args.is_empty() {
        cargo.arg("--workspace");
    } else {
        cargo.args(&args.cargo_test_args);
    }
    shell::run(&mut cargo)?;
    eprintln!("\nread what changed before you commit it: git diff");
    Ok(())
}
