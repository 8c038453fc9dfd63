//! Source to bundle in memory, with progress on a terminal: `build` writes it, `run` and `eval` may use it at once.

use std::path::Path;

use mcc_bundle::Bundle;
use mcc_passes::target::Target;

use super::model::bar;
use crate::error::Error;
use crate::import::LimitOptions;
use crate::pack;
use crate::source::{self, Source};
use crate::stages::{self, BuildOptions, Built, Emit};

/// Runs the stages up to `last`, or all of them.
pub fn compile(
    path: &Path,
    limits: LimitOptions,
    options: &BuildOptions,
    last: Option<Emit>,
) -> Result<(Source, Built), Error> {
    let interval = Target::load(&options.target)?.promote;
    let limits = LimitOptions {
        promote: limits.promote.or(Some(interval)),
        ..limits
    };
    let source = source::read(path, limits)?;
    for warning in &source.warnings {
        eprintln!("warning: {warning}");
    }
    let bar = bar("");
    let built = stages::run(&source, options, last, &mut |what, done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
    });
    bar.finish_and_clear();
    Ok((source, built?))
}

/// The bundle of a complete build. A checkpoint's weights are checked by their headers, when they are there:
/// better now than at the first run.
pub fn bundle(source: &Source, built: &Built) -> Result<Bundle, Error> {
    let bundle = pack::pack(source, built)?;
    if let Some(dir) = &source.checkpoint {
        let files = ["model.safetensors", "model.safetensors.index.json"];
        if files.iter().any(|f| dir.join(f).exists()) {
            mcc_runtime::Checkpoint::open(dir)?.check(&bundle.manifest.params)?;
        }
    }
    Ok(bundle)
}
