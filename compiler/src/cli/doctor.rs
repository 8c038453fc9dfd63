//! `mcc doctor`: what this machine has, what it lacks, what that costs and how to get it.

use std::path::PathBuf;

use mcc_bundle::Bundle;
use mcc_runtime::DeviceKind;
use mcc_runtime::doctor::{Diagnosis, run_side};

use super::print_line;
use crate::doctor::{compare_side, compile_side};
use crate::error::Error;

/// Flags of `mcc doctor`.
#[derive(clap::Args, Debug)]
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
pub fn run(args: &Args) -> Result<(), Error> {
    let kind: DeviceKind = args
        .device
        .parse()
        .map_err(mcc_runtime::RuntimeError::from)?;
    let bundle = match &args.bundle {
        Some(path) => Some(Bundle::read(path).map_err(Error::bundle(path))?),
        None => None,
    };
    let mut findings = compile_side();
    let manifest = bundle.as_ref().map(|bundle| &bundle.manifest);
    findings.extend(run_side(manifest, matches!(kind, DeviceKind::Cuda(_))));
    findings.extend(compare_side());
    let diagnosis = Diagnosis::of(findings);
    if args.json {
        let text = serde_json::to_string(&diagnosis);
        print_line(&text.map_err(|err| Error::Manifest(err.to_string()))?);
    } else {
        print_line(diagnosis.to_string().trim_end());
    }
    if diagnosis.ok {
        return Ok(());
    }
    Err(Error::Incomplete)
}
