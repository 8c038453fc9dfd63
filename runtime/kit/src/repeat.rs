//! The same work again and again: every result must be the same, bit for bit.
//!
//! In: a model, a prompt, how often and how long. Out: the hashes that came up, with the repeats that had them.
//! Holds: nothing of the arithmetic may depend on which block ends first; a race shows as a second hash.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mcc_bundle::sha256_hex;
use mcc_runtime::{Model, RuntimeError};
use serde::Serialize;

use crate::expected::{greedy, little_endian};

/// What came up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Repeats {
    /// Wanted.
    pub asked: usize,
    /// Done before the time was over.
    pub done: usize,
    /// Tokens generated in each.
    pub steps: usize,
    /// Of all.
    pub seconds: f64,
    /// In the order of their first repeat; one, when all is well.
    pub hashes: Vec<Seen>,
}

/// One hash of the logits and tokens of a repeat.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Seen {
    /// SHA-256.
    pub sha256: String,
    /// How often.
    pub count: usize,
    /// The first repeats that had it.
    pub repeats: Vec<usize>,
}

/// Repeats are listed up to this many a hash.
const LISTED: usize = 8;

impl Repeats {
    /// Counts what each repeat gave.
    #[must_use]
    pub fn of(hashes: &[String], asked: usize, steps: usize, wall: Duration) -> Self {
        let mut seen: Vec<Seen> = Vec::new();
        let mut index: BTreeMap<&str, usize> = BTreeMap::new();
        for (repeat, hash) in hashes.iter().enumerate() {
            let at = *index.entry(hash).or_insert_with(|| {
                seen.push(Seen {
                    sha256: hash.clone(),
                    count: 0,
                    repeats: Vec::new(),
                });
                seen.len() - 1
            });
            seen[at].count += 1;
            if seen[at].repeats.len() < LISTED {
                seen[at].repeats.push(repeat);
            }
        }
        Self {
            asked,
            done: hashes.len(),
            steps,
            seconds: wall.as_secs_f64(),
            hashes: seen,
        }
    }
}

/// Generates `steps` tokens after `prompt`, `asked` times or until `limit` is over.
///
/// # Errors
/// When the device fails.
pub fn run(
    model: &mut Model,
    prompt: &[i32],
    steps: usize,
    asked: usize,
    limit: Duration,
) -> Result<Repeats, RuntimeError> {
    let start = Instant::now();
    let mut hashes = Vec::with_capacity(asked);
    while hashes.len() < asked && (hashes.is_empty() || start.elapsed() < limit) {
        let mut bytes = Vec::new();
        greedy(model, prompt, steps, &mut |_, output, next| {
            bytes.extend(little_endian(&output.logits));
            bytes.extend(next.to_le_bytes());
            true
        })?;
        hashes.push(sha256_hex(&bytes));
    }
    Ok(Repeats::of(&hashes, asked, steps, start.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_hash_is_listed_with_its_repeats() {
        let hashes: Vec<String> = ["a", "a", "b", "a", "b"].map(str::to_owned).to_vec();
        let repeats = Repeats::of(&hashes, 10, 4, Duration::from_secs(1));
        assert_eq!(
            (repeats.done, repeats.asked, repeats.hashes.len()),
            (5, 10, 2)
        );
        assert_eq!(repeats.hashes[0].count, 3);
        assert_eq!(repeats.hashes[1].repeats, [2, 4]);
    }
}
