//! The flags of `mccrt bench` and `mcc bench`, and what they do.
//!
//! In: flags, and a bundle unless only the machine is asked for. Out: a [`Report`].
//! Holds: a case that fails is in the report with its error and the others go on, as long as the device lives.

use std::path::PathBuf;

use mcc_bundle::{Bundle, DimValues, Manifest};

use super::cases::Case;
use super::report::{Failure, Kind, Machine, REPORT_VERSION, Report};
use super::{BenchOptions, LaunchFacts};
use crate::device::{Device, DeviceKind, DeviceOptions, DeviceProps, open_device};
use crate::error::RuntimeError;
use crate::model::Model;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct BenchFlags {
    /// Only entries whose name contains this.
    #[arg(long)]
    pub entry: Option<String>,
    /// Values of named dims, e.g. `T=64,C=4096`. Others are at their upper bounds; in `decode`, T and R are 1.
    #[arg(long, value_delimiter = ',', value_parser = dim)]
    pub dims: Vec<(String, u64)>,
    /// The machine's limits alone: copy bandwidth, matrix peak, launches. Needs no bundle. (On a GPU they are
    /// measured before every benchmark.)
    #[arg(long)]
    pub machine: bool,
    /// Holds times against the data sheet in place of measured limits, which take seconds to measure.
    #[arg(long, conflicts_with = "machine")]
    pub nominal: bool,
    /// `sim`, for predictions, or `cuda[:N]`.
    #[arg(long, default_value = "sim")]
    pub device: String,
    /// The checkpoint directory with the weights [default: made-up weights].
    #[arg(long)]
    pub weights: Option<PathBuf>,
    /// Seed of made-up weights and inputs.
    #[arg(long, default_value_t = 0)]
    pub synthetic: u64,
    /// Seconds to spend on one number.
    #[arg(long, default_value_t = BenchOptions::default().seconds)]
    pub seconds: f64,
    /// Where there is no GPU: lets the simulator run entries of up to so many operations and bytes together, and
    /// takes their instructions into the prediction; 0 for none.
    #[arg(long, default_value_t = 50_000_000)]
    pub simulate_below: u64,
    /// Prints JSON in place of tables.
    #[arg(long)]
    pub json: bool,
}

fn dim(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not a dim and its value, like `T=64`"))?;
    let value = value
        .parse()
        .map_err(|_| format!("`{value}` is not an extent"))?;
    Ok((name.to_owned(), value))
}

impl BenchFlags {
    /// Runs what the flags say; `progress` hears the name of each entry, how many are done, and how many there are.
    ///
    /// # Errors
    /// When there is no such device, no such entry or dim, or nothing to measure; a case's own failure is in the
    /// report.
    pub fn run(
        &self,
        bundle: Option<Bundle>,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Report, RuntimeError> {
        let kind: DeviceKind = self.device.parse()?;
        let options = bundle
            .as_ref()
            .map_or_else(DeviceOptions::default, DeviceOptions::for_bundle);
        let device = open_device(kind, &options)?;
        match bundle {
            Some(bundle) if self.machine => self.machine_only(device, Some(&bundle.manifest)),
            Some(bundle) if super::has_clock(device.props()) => {
                self.measured(device, bundle, progress)
            }
            Some(bundle) => self.predicted(device, bundle, progress),
            None if self.machine => self.machine_only(device, None),
            None => Err(RuntimeError::NothingToMeasure(
                "name a bundle, or ask for the machine's limits with --machine",
            )),
        }
    }

    fn options(&self) -> BenchOptions {
        BenchOptions {
            seed: self.synthetic,
            seconds: self.seconds.max(0.0),
            simulate_below: self.simulate_below,
        }
    }

    fn cases(&self, manifest: &Manifest) -> Result<Vec<Case>, RuntimeError> {
        let dims: DimValues = self.dims.iter().cloned().collect();
        super::cases(manifest, self.entry.as_deref(), &dims)
    }

    fn machine_only(
        &self,
        mut device: Box<dyn Device>,
        manifest: Option<&Manifest>,
    ) -> Result<Report, RuntimeError> {
        let props = device.props().clone();
        let machine = if super::has_clock(&props) {
            super::machine(device.as_mut())?
        } else {
            let manifest = manifest.ok_or(RuntimeError::NothingToMeasure(
                "this device has no clock, and without a bundle there are no figures of its target: name a bundle",
            ))?;
            super::nominal(&manifest.target.hardware)
        };
        Ok(report(&props, machine.kind, manifest, Some(machine)))
    }

    fn measured(
        &self,
        mut device: Box<dyn Device>,
        bundle: Bundle,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Report, RuntimeError> {
        let cases = self.cases(&bundle.manifest)?;
        let props = device.props().clone();
        let nominal = super::nominal(&bundle.manifest.target.hardware);
        let machine = if self.nominal {
            nominal
        } else {
            match super::machine(device.as_mut()) {
                // A device with too little memory left for the probes is still worth measuring.
                Err(err) if super::goes_on(&err) => nominal,
                machine => machine?,
            }
        };
        let mut model = Model::load(device, bundle)?;
        self.load_weights(&mut model)?;
        let mut report = report(
            &props,
            Kind::Measured,
            Some(&model.manifest),
            Some(machine.clone()),
        );
        for (done, case) in cases.iter().enumerate() {
            let name = model.manifest.entries[case.entry].name.clone();
            progress(&name, done, cases.len());
            match super::measure(&mut model, case, &self.options(), &machine) {
                Ok(entry) => report.entries.push(entry),
                Err(err) => {
                    let last = !super::goes_on(&err);
                    report.failures.push(Failure {
                        entry: name,
                        error: err.to_string(),
                    });
                    if last {
                        break;
                    }
                }
            }
        }
        Ok(report)
    }

    fn predicted(
        &self,
        device: Box<dyn Device>,
        bundle: Bundle,
        progress: &mut dyn FnMut(&str, usize, usize),
    ) -> Result<Report, RuntimeError> {
        let cases = self.cases(&bundle.manifest)?;
        let props = device.props().clone();
        let manifest = bundle.manifest.clone();
        let machine = super::nominal(&manifest.target.hardware);
        let mut report = report(&props, Kind::Prediction, Some(&manifest), Some(machine));
        let small = cases
            .iter()
            .map(|case| Ok(work(&manifest, case)? <= self.simulate_below))
            .collect::<Result<Vec<bool>, RuntimeError>>()?;
        let mut model = None;
        if small.contains(&true) && self.simulate_below > 0 {
            let mut loaded = Model::load(device, bundle)?;
            self.load_weights(&mut loaded)?;
            model = Some(loaded);
        }
        for (done, (case, small)) in cases.iter().zip(small).enumerate() {
            let name = manifest.entries[case.entry].name.clone();
            progress(&name, done, cases.len());
            let counts = match &mut model {
                Some(model) if small => super::count(model, case, &self.options()),
                _ => Ok(Vec::new()),
            };
            match counts {
                Ok(counts) => report
                    .entries
                    .push(super::predict(&manifest, case, &counts)?),
                Err(err) => report.failures.push(Failure {
                    entry: name,
                    error: err.to_string(),
                }),
            }
        }
        Ok(report)
    }

    fn load_weights(&self, model: &mut Model) -> Result<(), RuntimeError> {
        match &self.weights {
            Some(dir) => model.load_weights(dir, &mut |_| ()),
            None => model.load_synthetic(self.synthetic, &mut |_| ()),
        }
    }
}

/// Operations and bytes of a case.
fn work(manifest: &Manifest, case: &Case) -> Result<u64, RuntimeError> {
    let mut sum = 0_u64;
    for step in &manifest.entries[case.entry].steps {
        let facts = LaunchFacts::of(manifest, step, &case.dims, manifest.target.sms)?;
        if let Some(facts) = facts {
            sum = sum.saturating_add(facts.flops).saturating_add(facts.bytes);
        }
    }
    Ok(sum)
}

fn report(
    props: &DeviceProps,
    kind: Kind,
    manifest: Option<&Manifest>,
    machine: Option<Machine>,
) -> Report {
    Report {
        version: REPORT_VERSION,
        kind,
        device: props.name.clone(),
        driver: props.driver.clone(),
        sms: props.sms,
        target: manifest.map_or_else(String::new, |m| m.target.name.clone()),
        model: manifest.map_or_else(String::new, |m| m.model.clone()),
        machine,
        entries: Vec::new(),
        failures: Vec::new(),
    }
}
