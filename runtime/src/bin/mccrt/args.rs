//! What commands share: the model on its device, and where statistics and traces go.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use mcc_bundle::Bundle;
use mcc_place::Placement;
use mcc_runtime::{
    Checkpoint, Device, DeviceKind, DeviceOptions, Model, RanksReport, RuntimeError, SimCluster,
    open_device, open_ranks,
};

use crate::Failure;

/// Flags that name a model.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// The bundle.
    pub bundle: PathBuf,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// `sim`, the simulated GPU, or `cuda` or `cuda:N`, an NVIDIA GPU.
    #[arg(long, default_value = "sim")]
    pub device: String,
    /// Lets the simulated device look for races, missing fences and uses of what nothing has written.
    #[arg(long)]
    pub check: bool,
    /// Tokens of a prefill step; the largest that the bundle allows when absent.
    #[arg(long)]
    pub chunk: Option<usize>,
}

/// Where weights come from.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub struct WeightArgs {
    /// The checkpoint directory.
    #[arg(long, value_name = "DIR")]
    weights: Option<PathBuf>,
    /// Makes weights up, the same for the same seed.
    #[arg(long, value_name = "SEED")]
    synthetic: Option<u64>,
}

/// Flags that spread a model over ranks.
#[derive(clap::Args)]
pub struct RankArgs {
    /// Simulated GPUs that the model runs on, each a rank.
    #[arg(long, default_value_t = 1)]
    ranks: u32,
    /// Nodes that they are on; from node to node only NVSHMEM reaches.
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// Which rank holds which experts, from `mccrt place`; in order when absent.
    #[arg(long, value_name = "FILE")]
    placement: Option<PathBuf>,
}

/// A bundle and who runs it.
pub struct Cluster {
    /// The ranks.
    pub ranks: SimCluster,
    /// What they load.
    pub bundle: Bundle,
    placement: Option<Arc<Placement>>,
}

/// Flags of what is told about a run.
#[derive(clap::Args)]
pub struct ReportArgs {
    /// Prints times and memory to standard error, as text or JSON.
    #[arg(
        long,
        value_name = "FORMAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text"
    )]
    stats: Option<StatsFormat>,
    /// Writes a time line for Perfetto (ui.perfetto.dev). Launches are timed one by one, without graphs.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum StatsFormat {
    Text,
    Json,
}

impl ModelArgs {
    /// Opens the device and loads bundle and weights.
    pub fn load(&self) -> Result<Model, Failure> {
        let kind: DeviceKind = self.device.parse()?;
        let bundle = Bundle::read(&self.bundle)?;
        let options = DeviceOptions {
            check: self.check,
            ..DeviceOptions::for_bundle(&bundle)
        };
        let device = open_device(kind, &options)?;
        let mut model = Model::load(device, bundle)?;
        self.weights.load(&mut model)?;
        Ok(model)
    }
}

impl ModelArgs {
    /// The ranks that are asked for, if there are several, and what each loads.
    pub fn cluster(&self, ranks: &RankArgs) -> Result<Option<Cluster>, Failure> {
        let kind: DeviceKind = self.device.parse()?;
        let bundle = Bundle::read(&self.bundle)?;
        let options = DeviceOptions {
            check: self.check,
            ..DeviceOptions::for_bundle(&bundle)
        };
        let cluster = open_ranks(kind, (ranks.ranks, ranks.nodes), &options)?;
        let placement = match &ranks.placement {
            Some(path) => {
                let placement = Placement::read(path).map_err(|e| Failure::Usage(e.to_string()))?;
                Some(Arc::new(placement))
            }
            None => None,
        };
        Ok(cluster.map(|ranks| Cluster {
            ranks,
            bundle,
            placement,
        }))
    }

    /// Loads the model of one rank, and of its experts those of the rank's share.
    pub fn load_rank(
        &self,
        rank: usize,
        device: Box<dyn Device>,
        cluster: &Cluster,
    ) -> Result<Model, RuntimeError> {
        let mut model = Model::load(device, cluster.bundle.clone())?;
        match &self.weights.weights {
            Some(dir) => {
                let share = model.share_of(rank, cluster.placement.clone());
                model.load_share(&Checkpoint::open(dir)?, &share, &mut |_| ())?;
            }
            None => self.weights.load(&mut model)?,
        }
        Ok(model)
    }
}

/// A device for a bundle.
pub fn open(kind: DeviceKind, bundle: &Bundle) -> Result<Box<dyn Device>, Failure> {
    Ok(open_device(kind, &DeviceOptions::for_bundle(bundle))?)
}

impl WeightArgs {
    /// Fills the weight buffers.
    pub fn load(&self, model: &mut Model) -> Result<(), RuntimeError> {
        match (&self.weights, self.synthetic) {
            (Some(dir), _) => model.load_weights(dir, &mut |_| ()),
            (None, seed) => model.load_synthetic(seed.unwrap_or_default(), &mut |_| ()),
        }
    }
}

impl ReportArgs {
    /// Before the first step.
    pub fn begin(&self, model: &mut Model) -> Result<(), Failure> {
        if let Some(path) = &self.trace {
            model.start_trace_to(path)?;
        }
        Ok(())
    }

    /// Refuses what only one rank can tell.
    pub fn check_ranks(&self) -> Result<(), Failure> {
        match &self.trace {
            Some(_) => Err(Failure::Usage(
                "--trace shows one rank: leave out --ranks or --trace".to_owned(),
            )),
            None => Ok(()),
        }
    }

    /// After the last step of all ranks.
    pub fn end_ranks(&self, report: &RanksReport) {
        match self.stats {
            Some(StatsFormat::Text) => eprint!("{report}"),
            Some(StatsFormat::Json) => eprintln!("{:#}", report.to_json()),
            None => {}
        }
    }

    /// After the last step.
    pub fn end(&self, model: &mut Model) -> Result<(), Failure> {
        if let Some(path) = &self.trace {
            model.write_trace(path)?;
        }
        match self.stats {
            Some(StatsFormat::Text) => eprint!("{}", model.stats_report()),
            Some(StatsFormat::Json) => eprintln!("{:#}", model.stats_report().to_json()),
            None => {}
        }
        Ok(())
    }
}
