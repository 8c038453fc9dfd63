//! `mccrt check --ranks`: whether the ranks that a launcher started find each other and fit together. Needs no GPU.

use std::path::Path;
use std::time::{Duration, Instant};

use mcc_bundle::{Bundle, sha256_hex};
use mcc_ranks::{Identity, Options, Terms, meet};

use crate::{Failure, print_line};

/// Flags of the check.
#[derive(clap::Args)]
pub struct RankArgs {
    /// Only lets the ranks of a launcher (torchrun, srun, mpirun) find each other, and compares their bundles and
    /// meshes.
    // No weights are needed then: the flag takes their place.
    #[arg(long, group = "WeightArgs")]
    pub ranks: bool,
    /// The mesh that the ranks are to form, such as `nodes=4,gpus=8,ep=32`; all must name the same.
    #[arg(long, requires = "ranks")]
    mesh: Option<String>,
    /// Seconds that ranks wait for each other.
    #[arg(long, requires = "ranks", default_value_t = 10.0)]
    timeout: f64,
}

/// Runs the check.
pub fn run(bundle: &Path, args: &RankArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let identity = Identity::from_environment()?;
    let ranks = identity.ranks;
    if let Some(mesh) = &args.mesh {
        check_mesh(mesh, ranks)?;
    }
    let bytes = std::fs::read(bundle).map_err(|source| Failure::Io {
        verb: "read",
        path: bundle.to_owned(),
        source,
    })?;
    // A file that is no bundle is this rank's own fault, and said before the others are kept waiting.
    Bundle::from_bytes(&bytes)?;
    let terms = Terms {
        mesh: args
            .mesh
            .clone()
            .unwrap_or_else(|| format!("{ranks} ranks")),
        bundle: sha256_hex(&bytes),
    };
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .ok()
        .filter(|timeout| !timeout.is_zero())
        .ok_or_else(|| Failure::Usage(format!("--timeout {}: no time", args.timeout)))?;
    let mut party = meet(&identity, &terms, Vec::new, Options { timeout })?;
    party.barrier("check")?;
    if identity.rank > 0 {
        return Ok(());
    }
    print_line(&format!(
        "{ranks} ranks of {} met at {} in {:.2} s, with one bundle ({}) and one mesh ({})",
        identity.launcher,
        identity.place,
        start.elapsed().as_secs_f64(),
        &terms.bundle[..12],
        terms.mesh
    ));
    for peer in party.peers() {
        print_line(&format!(
            "rank {:>4}  {}  GPU {}",
            peer.rank, peer.host, peer.local_rank
        ));
    }
    Ok(())
}

/// Holds the mesh's nodes and GPUs against the ranks that there are; its other axes are the bundle's.
fn check_mesh(mesh: &str, ranks: u32) -> Result<(), Failure> {
    let wrong = |why: String| Failure::Usage(format!("--mesh {mesh}: {why}"));
    let mut product = 1u64;
    for name in ["nodes", "gpus"] {
        let axes = mesh.split(',').filter_map(|axis| axis.split_once('='));
        let value = axes.into_iter().find(|(axis, _)| axis.trim() == name);
        let (_, value) = value.ok_or_else(|| wrong(format!("`{name}` is missing")))?;
        let value: u32 = value
            .trim()
            .parse()
            .map_err(|_| wrong(format!("`{name}` is no number")))?;
        product *= u64::from(value);
    }
    if product == u64::from(ranks) {
        return Ok(());
    }
    Err(wrong(format!(
        "that is {product} GPUs, and the launcher started {ranks} ranks"
    )))
}
