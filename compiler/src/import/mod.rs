//! Hugging Face checkpoints of `DeepseekV3ForCausalLM`.
//!
//! In: a directory with `config.json`, and optionally weights and a tokenizer. Out: the model's graph, the
//! tokenizer's text and its special tokens. Weights are not read here: their headers are checked against the
//! graph when they are there, and the runtime streams them.

mod config;
mod fields;

use std::path::Path;

use mcc_bundle::TokenizerInfo;
use mcc_dsl::models::deepseek_v3::{Limits, deepseek_v3};
use mcc_ir::Module;

pub use config::HfConfig;

use crate::error::Error;

/// What a checkpoint directory holds, weights apart.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The plain graph.
    pub module: Module,
    /// Text of `tokenizer.json`, when it is there.
    pub tokenizer: Option<String>,
    /// Special tokens.
    pub special: TokenizerInfo,
    /// Fields of the config that this compiler does not know, for a warning.
    pub unknown_fields: Vec<String>,
}

/// What the user may choose; the config's own otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct LimitOptions {
    /// Tokens of one step.
    pub max_step_tokens: Option<u64>,
    /// Positions of the cache.
    pub max_context: Option<u64>,
    /// Elements of K between promotions of FP8 products; 128 otherwise.
    pub promote: Option<u32>,
}

/// Tokens of one step when nobody says otherwise: enough to keep a GPU busy in prefill.
const DEFAULT_STEP_TOKENS: u64 = 256;

/// Imports a checkpoint directory.
///
/// # Errors
/// [`Error::Config`] for what this compiler does not build, [`Error::Io`] and [`Error::Dsl`] otherwise.
pub fn import(dir: &Path, name: &str, limits: LimitOptions) -> Result<Imported, Error> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    let config = HfConfig::parse(&text).map_err(|what| Error::Config {
        path: path.clone(),
        what,
    })?;
    let max_context = limits.max_context.unwrap_or(config.max_position_embeddings);
    if max_context > config.max_position_embeddings {
        return Err(Error::Usage(format!(
            "--max-context {max_context} is more than the model's max_position_embeddings, {}",
            config.max_position_embeddings
        )));
    }
    let promote = limits.promote;
    let limits = Limits {
        max_step_tokens: limits
            .max_step_tokens
            .unwrap_or(DEFAULT_STEP_TOKENS.min(max_context)),
        max_context,
    };
    let module = deepseek_v3(&config.model(name, limits, promote))?;

    let tokenizer_path = dir.join("tokenizer.json");
    let tokenizer = match std::fs::read_to_string(&tokenizer_path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io("read", tokenizer_path)(e)),
    };
    Ok(Imported {
        module,
        tokenizer,
        special: TokenizerInfo {
            bos: config.bos,
            eos: config.eos.clone(),
        },
        unknown_fields: config.unknown_fields,
    })
}
