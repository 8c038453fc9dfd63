//! What `run`, `eval` and `bench` share: a bundle, built if need be; for the first two on a device with its weights,
//! and its tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use mcc_bundle::Bundle;
use mcc_ir::Mesh;
use mcc_place::Placement;
use mcc_runtime::{
    Checkpoint, Device, DeviceKind, DeviceOptions, Model, RanksReport, RuntimeError, SimCluster,
    open_device, open_ranks,
};
use tokenizers::Tokenizer;

use super::compile;
use crate::error::Error;
use crate::import::LimitOptions;
use crate::stages::BuildOptions;

/// Flags that name a model.
#[derive(clap::Args, Debug)]
pub struct ModelArgs {
    /// The bundle; or anything that `mcc build` takes, which is then built first.
    bundle: PathBuf,
    /// The checkpoint directory with the weights [default: the one that is built].
    #[arg(long)]
    weights: Option<PathBuf>,
    /// The GPU to build for, when there is no bundle yet.
    #[arg(long, default_value = "h100")]
    target: String,
    /// `sim`, the simulated GPU, or `cuda`, an NVIDIA GPU (`cuda:1` for the second one).
    #[arg(long, default_value = "sim")]
    device: String,
    /// Lets the simulated device look for races, missing fences and uses of what nothing has written.
    #[arg(long)]
    check: bool,
    /// Tokens of a prefill step [default: the largest that the bundle allows].
    #[arg(long)]
    pub chunk: Option<usize>,
    /// Simulated GPUs that the model runs on, each a rank.
    #[arg(long, default_value_t = 1)]
    ranks: u32,
    /// Nodes that they are on; from node to node only NVSHMEM reaches.
    #[arg(long, default_value_t = 1)]
    nodes: u32,
    /// Which rank holds which experts, from `mcc place` [default: in order].
    #[arg(long, value_name = "FILE")]
    placement: Option<PathBuf>,
}

impl ModelArgs {
    /// What a source is built for: experts spread over all ranks.
    fn mesh(&self) -> Option<Mesh> {
        let gpus = self.ranks / self.nodes.max(1);
        let mesh = Mesh::new([self.nodes, gpus, self.ranks, 1, self.ranks]);
        mesh.ok().filter(|mesh| mesh.ranks() > 1)
    }
}

/// A model and where it runs.
pub enum Ready {
    /// On one device, loaded.
    One(Box<Loaded>),
    /// On several ranks, each of which loads it.
    Ranks(Box<Ranks>),
}

/// A model that several ranks load.
pub struct Ranks {
    /// The ranks.
    pub cluster: SimCluster,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub eos: Vec<i32>,
    bundle: Bundle,
    weights: PathBuf,
    placement: Option<Arc<Placement>>,
    /// How long the build took, when there was one.
    pub build: Option<Duration>,
}

impl Ranks {
    /// Loads the model of one rank, and of its experts those of the rank's share.
    ///
    /// # Errors
    /// When it does not fit the device, the checkpoint or the placement.
    pub fn load(&self, rank: usize, device: Box<dyn Device>) -> Result<Model, RuntimeError> {
        let mut model = Model::load(device, self.bundle.clone())?;
        let share = model.share_of(rank, self.placement.clone());
        model.load_share(&Checkpoint::open(&self.weights)?, &share, &mut |_| ())?;
        Ok(model)
    }
}

/// A model ready to run.
pub struct Loaded {
    /// On its device.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Tokens that end a text.
    pub eos: Vec<i32>,
    /// How long the build took, when there was one.
    pub build: Option<Duration>,
}

/// Loads bundle, tokenizer and weights.
pub fn load(args: &ModelArgs) -> Result<Ready, Error> {
    let kind: DeviceKind = args.device.parse().map_err(RuntimeError::from)?;
    let checked = |options| DeviceOptions {
        check: args.check,
        ..options
    };
    // Ranks that do not divide show before anything is built, too.
    open_ranks(kind, (args.ranks, args.nodes), &DeviceOptions::default())?;
    // A GPU that is not there shows before the time of a build is spent.
    let gpu = match kind {
        DeviceKind::Sim => None,
        DeviceKind::Cuda(_) => Some(open(kind, &checked(DeviceOptions::default()))?),
    };
    let placement = match &args.placement {
        Some(path) => {
            let placement = Placement::read(path).map_err(|e| Error::Usage(e.to_string()))?;
            Some(Arc::new(placement))
        }
        None => None,
    };
    let (bundle, build) = bundle(&args.bundle, &args.target, args.mesh())?;
    let weights = match &args.weights {
        Some(dir) => dir,
        None if args.bundle.is_dir() => &args.bundle,
        None => {
            return Err(Error::Usage(
                "--weights is missing: a bundle holds no weights, name the checkpoint's directory"
                    .to_owned(),
            ));
        }
    };
    let tokenizer = tokenizer(&bundle, weights)?;
    let eos = bundle.manifest.tokenizer.eos.clone();
    let options = checked(DeviceOptions::for_bundle(&bundle));
    if let Some(cluster) = open_ranks(kind, (args.ranks, args.nodes), &options)? {
        return Ok(Ready::Ranks(Box::new(Ranks {
            cluster,
            tokenizer,
            eos,
            bundle,
            weights: weights.clone(),
            placement,
            build,
        })));
    }
    let device = match gpu {
        Some(device) => device,
        None => open(kind, &options)?,
    };
    let mut model = Model::load(device, bundle)?;
    let bar = bar("loading weights");
    let loaded = model.load_weights(weights, &mut |p| {
        bar.set_length(p.total as u64);
        bar.set_position(p.done as u64);
    });
    bar.finish_and_clear();
    loaded?;
    Ok(Ready::One(Box::new(Loaded {
        model,
        tokenizer,
        eos,
        build,
    })))
}

fn open(kind: DeviceKind, options: &DeviceOptions) -> Result<Box<dyn Device>, Error> {
    Ok(open_device(kind, options).map_err(RuntimeError::from)?)
}

/// Reads the bundle, or builds one as `mcc build` would.
pub fn bundle(
    path: &Path,
    target: &str,
    mesh: Option<Mesh>,
) -> Result<(Bundle, Option<Duration>), Error> {
    let is_source = path.is_dir() || path.extension().is_some_and(|e| e == "mir" || e == "rs");
    if !is_source {
        let bundle = Bundle::read(path).map_err(Error::bundle(path))?;
        return Ok((bundle, None));
    }
    let start = Instant::now();
    let options = BuildOptions {
        target: target.to_owned(),
        mesh,
        ranks: mcc_passes::distribute::Options::default(),
        optimize: true,
        cubins: true,
        dump: None,
    };
    let (source, built) = compile::compile(path, LimitOptions::default(), &options, None)?;
    let bundle = compile::bundle(&source, &built)?;
    Ok((bundle, Some(start.elapsed())))
}

/// The bundle's tokenizer, or the checkpoint's.
fn tokenizer(bundle: &Bundle, weights: &Path) -> Result<Tokenizer, Error> {
    let (text, from) = match &bundle.tokenizer {
        Some(text) => (text.clone(), "the bundle's tokenizer".to_owned()),
        None => {
            let path = weights.join("tokenizer.json");
            let text = std::fs::read_to_string(&path).map_err(|e| Error::Tokenizer {
                what: format!(
                    "the bundle has no tokenizer, and {} cannot be read: {e}",
                    path.display()
                ),
            })?;
            (text, path.display().to_string())
        }
    };
    text.parse::<Tokenizer>().map_err(|e| Error::Tokenizer {
        what: format!("{from} cannot be used: {e}"),
    })
}

/// Text to ids, without special tokens.
pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i32>, Error> {
    let encoding = tokenizer
        .encode(text, false)
        .map_err(|e| Error::Tokenizer {
            what: format!("the text cannot be tokenised: {e}"),
        })?;
    encoding
        .get_ids()
        .iter()
        .map(|id| {
            i32::try_from(*id).map_err(|_| Error::Tokenizer {
                what: format!("token id {id} is too large"),
            })
        })
        .collect()
}

/// Ids to text, special tokens included.
pub fn decode(tokenizer: &Tokenizer, ids: &[i32]) -> Result<String, Error> {
    let ids: Vec<u32> = ids.iter().map(|id| id.cast_unsigned()).collect();
    tokenizer.decode(&ids, false).map_err(|e| Error::Tokenizer {
        what: format!("the tokens cannot be written as text: {e}"),
    })
}

/// A progress bar on a terminal, nothing elsewhere.
pub fn bar(message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{bar:24} {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_message(message);
    bar
}

/// Refuses a flag that shows one rank only.
pub fn one_rank(flag: &str, given: bool) -> Result<(), Error> {
    if given {
        return Err(Error::Usage(format!(
            "{flag} shows one rank: leave out --ranks or {flag}"
        )));
    }
    Ok(())
}

/// Where the time went on all ranks, and what they sent, for people, on standard error.
pub fn print_rank_stats(build: Option<Duration>, report: &RanksReport) {
    if let Some(build) = build {
        eprintln!("build    {:.2} s", build.as_secs_f64());
    }
    eprint!("{report}");
}

/// Where the time went, for people, on standard error.
pub fn print_stats(loaded: &Loaded) {
    if let Some(build) = loaded.build {
        eprintln!("build    {:.2} s", build.as_secs_f64());
    }
    eprint!("{}", loaded.model.stats_report());
}
