//! `mcc bench`: times of every launch, measured on a GPU and predicted elsewhere.

use std::path::PathBuf;

use mcc_bundle::Bundle;
use mcc_runtime::bench::BenchFlags;
use mcc_runtime::{DeviceKind, RuntimeError, probe_cuda};

use super::model::{self, bar};
use super::print_line;
use crate::error::Error;

/// Flags of `mcc bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The bundle; or anything that `mcc build` takes, which is then built first. Not needed with --machine on a GPU.
    #[arg(required_unless_present = "machine")]
    bundle: Option<PathBuf>,
    /// The GPU to build for, when there is no bundle yet.
    #[arg(long, default_value = "h100")]
    target: String,
    #[command(flatten)]
    flags: BenchFlags,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Error> {
    let kind: DeviceKind = args.flags.device.parse().map_err(RuntimeError::from)?;
    // A GPU that is not there shows before the time of a build is spent.
    if matches!(kind, DeviceKind::Cuda(_)) {
        probe_cuda().map_err(RuntimeError::from)?;
    }
    let bundle: Option<Bundle> = match &args.bundle {
        Some(path) => Some(model::bundle(path, &args.target, None)?.0),
        None => None,
    };
    let bar = bar("measuring");
    let report = args.flags.run(bundle, &mut |_, done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    if args.flags.json {
        let text = serde_json::to_string(&report);
        print_line(&text.map_err(|err| Error::Manifest(err.to_string()))?);
    } else {
        print_line(report.to_string().trim_end());
    }
    if report.failures.is_empty() {
        return Ok(());
    }
    Err(Error::Unmeasured {
        failed: report.failures.len(),
        all: report.failures.len() + report.entries.len(),
    })
}
