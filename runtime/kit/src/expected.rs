//! Text that the simulated device generated when the kit was packed, and the comparison with any device.
//!
//! In: a bundle, its checkpoint, prompts. Out: tokens, a hash of each step's logits, and the logits themselves.
//! Holds: on the simulated device everything must be equal, bit for bit, on every host. On a GPU the tokens must be:
//! `ex2.approx` and its like may differ in their last bits (PTX ISA, "Floating Point Instructions"), so equal hashes
//! are reported and the largest difference of a logit is, too, but do not decide.

use std::io;
use std::path::Path;

use mcc_bundle::sha256_hex;
use mcc_runtime::{LogitRows, Model, RuntimeError, Sampling, StepOutput};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::contents::KitError;

/// Name of the list of expectations in `expected/`.
pub const EXPECTED_FILE: &str = "expected/expected.json";

/// What one bundle should say to some prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Name of the bundle.
    pub bundle: String,
    /// One each.
    pub prompts: Vec<Prompt>,
}

/// A prompt and its continuation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// For people.
    pub text: String,
    /// Token ids.
    pub tokens: Vec<i32>,
    /// The most probable token after each step; the first step is the prompt.
    pub next: Vec<i32>,
    /// How far each of them is above the second.
    pub margins: Vec<f32>,
    /// SHA-256 of each step's logits, as little-endian F32.
    pub logits_sha256: Vec<String>,
    /// File with the logits of all steps, from the kit's folder.
    pub logits: String,
}

/// How a device compares.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Comparison {
    /// `sim`, or a GPU's name.
    pub device: String,
    /// One each.
    pub prompts: Vec<PromptComparison>,
    /// Prompts with any other token.
    pub mismatches: usize,
    /// Whether every logit was the same, bit for bit.
    pub bit_equal: bool,
    /// The largest difference of a logit, over steps with equal tokens before them.
    pub max_abs_difference: f32,
}

/// How a device continued one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PromptComparison {
    /// The prompt.
    pub text: String,
    /// Tokens generated.
    pub steps: usize,
    /// The first step with another token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_mismatch: Option<TokenMismatch>,
    /// Steps whose logits are the same, bit for bit.
    pub bit_equal_steps: usize,
    /// The largest difference of a logit.
    pub max_abs_difference: f32,
}

/// Another token than expected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenMismatch {
    /// Counted from 0, the prompt's own.
    pub step: usize,
    /// The simulated device's.
    pub expected: i32,
    /// This device's.
    pub found: i32,
    /// How far the expected one was above the second.
    pub margin: f32,
}

/// What can go wrong but a mismatch.
#[derive(Debug, Error)]
pub enum ExpectedError {
    /// The device or the bundle.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The kit's files.
    #[error(transparent)]
    Kit(#[from] KitError),
}

/// Generates `steps` tokens after `tokens`, always the most probable one; `each` sees every step's logits and token.
///
/// # Errors
/// When the device fails.
pub fn greedy(
    model: &mut Model,
    tokens: &[i32],
    steps: usize,
    each: &mut dyn FnMut(usize, &StepOutput, i32) -> bool,
) -> Result<(), RuntimeError> {
    let sampling = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
    };
    let mut session = model.session()?;
    let mut output = session.prefill(tokens, None, LogitRows::Last, &sampling)?;
    for step in 0..steps {
        let Some(&next) = output.next.last() else {
            break;
        };
        let go_on = each(step, &output, next);
        if !go_on || step + 1 == steps || session.len() == session.context() {
            break;
        }
        output = session.decode(next, &sampling)?;
    }
    Ok(())
}

/// Runs `prompts` (text and token ids) and writes what comes out below `dir`.
///
/// # Errors
/// When the device fails, or the folder cannot be written.
pub fn record(
    dir: &Path,
    bundle: &str,
    model: &mut Model,
    prompts: &[(String, Vec<i32>)],
    steps: usize,
) -> Result<Expected, ExpectedError> {
    let mut expected = Expected {
        bundle: bundle.to_owned(),
        prompts: Vec::new(),
    };
    let folder = dir.join("expected");
    std::fs::create_dir_all(&folder).map_err(KitError::io(&folder))?;
    for (index, (text, tokens)) in prompts.iter().enumerate() {
        let mut prompt = Prompt {
            text: text.clone(),
            tokens: tokens.clone(),
            next: Vec::new(),
            margins: Vec::new(),
            logits_sha256: Vec::new(),
            logits: format!("expected/logits-{index}.f32"),
        };
        let mut all = Vec::new();
        greedy(model, tokens, steps, &mut |_, output, next| {
            let bytes = little_endian(&output.logits);
            prompt.next.push(next);
            prompt.margins.push(margin(&output.logits));
            prompt.logits_sha256.push(sha256_hex(&bytes));
            all.extend(bytes);
            true
        })?;
        let path = dir.join(&prompt.logits);
        std::fs::write(&path, all).map_err(KitError::io(&path))?;
        expected.prompts.push(prompt);
    }
    let path = dir.join(EXPECTED_FILE);
    serde_json::to_string_pretty(&expected)
        .map_err(io::Error::other)
        .and_then(|text| std::fs::write(&path, text + "\n"))
        .map_err(KitError::io(&path))?;
    Ok(expected)
}

impl Expected {
    /// Reads what [`record`] wrote.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(dir: &Path) -> Result<Self, KitError> {
        let path = dir.join(EXPECTED_FILE);
        let text = std::fs::read_to_string(&path).map_err(KitError::io(&path))?;
        serde_json::from_str(&text).map_err(|err| KitError::BadList {
            path,
            what: err.to_string(),
        })
    }

    /// Runs the first `prompts` prompts for at most `steps` steps each and compares.
    ///
    /// # Errors
    /// When the device fails or the kit's files do not read.
    pub fn compare(
        &self,
        dir: &Path,
        device: &str,
        model: &mut Model,
        prompts: usize,
        steps: usize,
    ) -> Result<Comparison, ExpectedError> {
        let mut all = Comparison {
            device: device.to_owned(),
            bit_equal: true,
            ..Comparison::default()
        };
        for prompt in self.prompts.iter().take(prompts) {
            let path = dir.join(&prompt.logits);
            let logits = std::fs::read(&path).map_err(KitError::io(&path))?;
            let mut seen = PromptComparison {
                text: prompt.text.clone(),
                steps: 0,
                first_mismatch: None,
                bit_equal_steps: 0,
                max_abs_difference: 0.0,
            };
            let steps = steps.min(prompt.next.len());
            greedy(model, &prompt.tokens, steps, &mut |step, output, next| {
                seen.steps += 1;
                let bytes = little_endian(&output.logits);
                seen.bit_equal_steps +=
                    usize::from(sha256_hex(&bytes) == prompt.logits_sha256[step]);
                let row = logits.get(step * bytes.len()..(step + 1) * bytes.len());
                let difference = row.map_or(f32::INFINITY, |row| difference(row, &output.logits));
                seen.max_abs_difference = seen.max_abs_difference.max(difference);
                if next == prompt.next[step] {
                    return true;
                }
                seen.first_mismatch = Some(TokenMismatch {
                    step,
                    expected: prompt.next[step],
                    found: next,
                    margin: prompt.margins[step],
                });
                false
            })?;
            all.mismatches += usize::from(seen.first_mismatch.is_some() || seen.steps != steps);
            all.bit_equal &= seen.bit_equal_steps == steps;
            all.max_abs_difference = all.max_abs_difference.max(seen.max_abs_difference);
            all.prompts.push(seen);
        }
        Ok(all)
    }
}

pub(crate) fn little_endian(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// A NaN where there was none, or the other way round, is an infinite difference.
fn difference(row: &[u8], found: &[f32]) -> f32 {
    let expected = row
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes));
    let one = |(a, b): (f32, &f32)| match (a.is_nan(), b.is_nan()) {
        (true, true) => 0.0,
        (false, false) if a == *b => 0.0,
        (false, false) => (a - b).abs(),
        _ => f32::INFINITY,
    };
    expected.zip(found).map(one).fold(0.0, f32::max)
}

fn margin(logits: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &value in logits {
        if value > first {
            (first, second) = (value, first);
        } else if value > second {
            second = value;
        }
    }
    first - second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_of_logits_sees_nans_and_signs() {
        let row = little_endian(&[1.0, -2.0, f32::NAN, f32::INFINITY]);
        assert_eq!(difference(&row, &[1.0, -2.0, f32::NAN, f32::INFINITY]), 0.0);
        assert_eq!(difference(&row, &[1.5, -2.0, f32::NAN, f32::INFINITY]), 0.5);
        assert_eq!(
            difference(&row, &[1.0, -2.0, 0.0, f32::INFINITY]),
            f32::INFINITY
        );
    }

    #[test]
    fn the_margin_is_that_of_the_first_two() {
        assert_eq!(margin(&[0.5, 3.0, -1.0, 2.25]), 0.75);
        assert_eq!(margin(&[3.0, 3.0]), 0.0);
    }
}
