//! `mccrt check`: compares a device with another one, step by step; with `--ranks`, the ranks of a launcher.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use mcc_bundle::{Bundle, DimValues};
use mcc_runtime::{Agreement, CheckOptions, Device, DeviceKind, Model, SimDevice, check};
use mcc_sim::{Completion, GpuConfig};

use crate::args::{WeightArgs, open};
use crate::{Failure, print_line, ranks};

/// Flags of `mccrt check`.
#[derive(clap::Args)]
pub struct Args {
    /// The bundle.
    bundle: PathBuf,
    #[command(flatten)]
    weights: WeightArgs,
    #[command(flatten)]
    ranks: ranks::RankArgs,
    /// The device to check: `sim`, `cuda` or `cuda:N`. A simulated one differs from the reference in its number of
    /// SMs and in when asynchronous work takes effect.
    #[arg(long, default_value = "sim")]
    device: String,
    /// The device that says what is right.
    #[arg(long, default_value = "sim")]
    reference: String,
    /// SMs of a simulated device that is checked.
    #[arg(long, default_value_t = 78)]
    sms: u32,
    /// When asynchronous work of a simulated device that is checked takes effect.
    #[arg(long, default_value = "late", value_parser = PossibleValuesParser::new(["early", "late", "random"]))]
    completion: String,
    /// Seeds of inputs; each case runs with each of them.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first of the seeds.
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
    /// Entries to check; all when absent.
    #[arg(long)]
    entry: Vec<String>,
    /// Sizes to check, e.g. `T=64,C=129,R=1`; may be repeated. Several telling ones when absent.
    #[arg(long, value_parser = parse_dims)]
    dims: Vec<DimValues>,
    /// Repeats each step of each entry's first case so often: its output may not change.
    #[arg(long, default_value_t = 0)]
    repeat: usize,
    /// Tokens that both devices generate with the whole model; 0 for none.
    #[arg(long, default_value_t = 16)]
    tokens: usize,
    /// No case begins after so many seconds; those left out are named.
    #[arg(long)]
    limit: Option<f64>,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<(), Failure> {
    if args.ranks.ranks {
        return ranks::run(&args.bundle, &args.ranks);
    }
    let (kind, reference): (DeviceKind, DeviceKind) =
        (args.device.parse()?, args.reference.parse()?);
    let bundle = Bundle::read(&args.bundle)?;
    let simulated = kind == DeviceKind::Sim && reference == DeviceKind::Sim;
    let agreements: Vec<Agreement> = bundle
        .ptx
        .iter()
        .map(|ptx| Agreement::of(ptx, simulated))
        .collect();
    let subject = match kind {
        DeviceKind::Sim => args.simulated(),
        DeviceKind::Cuda(_) => open(kind, &bundle)?,
    };
    let load = |device: Box<dyn Device>| -> Result<Model, Failure> {
        let mut model = Model::load(device, bundle.clone())?;
        args.weights.load(&mut model)?;
        Ok(model)
    };
    let mut subject = load(subject)?;
    let mut reference = load(open(reference, &bundle)?)?;
    let options = CheckOptions {
        seeds: (0..args.seeds)
            .map(|n| args.first_seed.wrapping_add(n))
            .collect(),
        entries: args.entry.clone(),
        dims: args.dims.clone(),
        repeats: args.repeat,
        tokens: args.tokens,
        limit: args
            .limit
            .and_then(|limit| Duration::try_from_secs_f64(limit).ok()),
    };
    let mut progress = |entry: &mcc_bundle::Entry, dims: &DimValues, seed: u64| {
        let dims: Vec<String> = dims.iter().map(|(n, v)| format!("{n}={v}")).collect();
        eprintln!("{} {} seed {seed}", entry.name, dims.join(","));
    };
    let report = check(
        &mut reference,
        &mut subject,
        &agreements,
        &options,
        &mut progress,
    )?;
    if args.json {
        print_line(&format!("{:#}", serde_json::json!(report)));
    } else {
        print_line(report.to_string().trim_end());
    }
    if report.passed {
        Ok(())
    } else {
        Err(Failure::Disagree)
    }
}

impl Args {
    /// A simulated device unlike the reference: what depends on the order of asynchronous work, or on which SM has
    /// which blocks, shows as a difference.
    fn simulated(&self) -> Box<dyn Device> {
        let completion = match self.completion.as_str() {
            "early" => Completion::Early,
            "random" => Completion::Random(self.first_seed),
            _ => Completion::Late,
        };
        Box::new(SimDevice::with_config(GpuConfig {
            name: format!("H100 (simulated, {} completion)", self.completion),
            sms: self.sms,
            completion,
            ..GpuConfig::default()
        }))
    }
}

/// `T=64,C=129`.
fn parse_dims(text: &str) -> Result<DimValues, String> {
    text.split(',')
        .map(|part| {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not NAME=VALUE"))?;
            let value = value
                .parse()
                .map_err(|_| format!("`{value}` is not a number"))?;
            Ok((name.trim().to_owned(), value))
        })
        .collect()
}
