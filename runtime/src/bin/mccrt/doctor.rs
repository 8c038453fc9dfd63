//! `mccrt doctor`: what this machine can run bundles on, and what it lacks for it.

use std::path::PathBuf;

use mcc_bundle::Bundle;
use mcc_runtime::DeviceKind;
use mcc_runtime::doctor::{Diagnosis, run_side};

use crate::{Failure, print_line};

/// Flags of `mccrt doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// A bundle that GPUs are held against.
    bundle: Option<PathBuf>,
    /// What must work: `sim`, or `cuda`, which makes a usable GPU required.
    #[arg(long, default_value = "sim")]
    device: String,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command; fails when something required is not there.
pub fn run(args: &Args) -> Result<(), Failure> {
    let kind: DeviceKind = args.device.parse()?;
    let bundle = args.bundle.as_ref().map(Bundle::read).transpose()?;
    let manifest = bundle.as_ref().map(|bundle| &bundle.manifest);
    let diagnosis = Diagnosis::of(run_side(manifest, matches!(kind, DeviceKind::Cuda(_))));
    if args.json {
        print_line(&serde_json::json!(diagnosis).to_string());
    } else {
        print_line(diagnosis.to_string().trim_end());
    }
    if diagnosis.ok {
        Ok(())
    } else {
        Err(Failure::Incomplete)
    }
}
