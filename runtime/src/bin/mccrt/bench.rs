//! `mccrt bench`: times of every launch, measured on a GPU and predicted elsewhere.

use std::path::PathBuf;

use mcc_bundle::Bundle;
use mcc_runtime::bench::BenchFlags;

use crate::{Failure, print_line};

/// Flags of `mccrt bench`.
#[derive(clap::Args)]
pub struct Args {
    /// The bundle; not needed with --machine on a GPU.
    #[arg(required_unless_present = "machine")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    flags: BenchFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    let bundle = args.bundle.as_ref().map(Bundle::read).transpose()?;
    let report = args.flags.run(bundle, &mut |_, _, _| ())?;
    if args.flags.json {
        print_line(&serde_json::json!(report).to_string());
    } else {
        print_line(report.to_string().trim_end());
    }
    match report.failures.len() {
        0 => Ok(()),
        failed => Err(Failure::Unmeasured {
            failed,
            all: failed + report.entries.len(),
        }),
    }
}
