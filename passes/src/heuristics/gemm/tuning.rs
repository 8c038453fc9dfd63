//! Measured winners: `passes/tuning/<target>.json`, committed and embedded.
//!
//! In: the file of a target. Out: the entry of a problem, and the model's calibration. Holds: entries are unique by
//! key and sorted, so that a file changes only where measurements do; what machine and driver a time comes from is
//! text beside it and decides nothing.
//!
//! `mcc gemm tune` writes the bundle to measure, and the entries from what was measured.

use std::sync::LazyLock;

use mcc_ir::kernel::{Epilogue, GemmForm, GemmTile};
use mcc_ir::types::DType;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{GemmProblem, Params};

/// Measured winners of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Name of the target.
    pub target: String,
    /// Figures of the model, fitted to measured times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Params>,
    /// One a problem.
    pub entries: Vec<Entry>,
}

/// The fastest tile that was measured for a problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which problem.
    pub problem: Key,
    /// The winner.
    pub tile: GemmTile,
    /// Its time, nothing in the L2 at the start.
    pub measured_ns: u64,
    /// Machine, driver and date.
    pub source: String,
}

/// What decides about a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Which product.
    pub form: GemmForm,
    /// Of both factors.
    pub input: DType,
    /// Of the product.
    pub out: DType,
    /// What becomes of the sums.
    pub epilogue: Epilogue,
    /// Promotion interval.
    pub promote: u32,
    /// Columns.
    pub n: u64,
    /// Depth.
    pub k: u64,
    /// The bucket of rows: `2^(b-1) < rows <= 2^b`.
    pub rows_log2: u32,
}

/// Why a database cannot be read.
#[derive(Debug, Error)]
pub enum TuningError {
    /// Not the JSON of a database.
    #[error("the tuning database is not valid: {0}")]
    Invalid(#[from] serde_json::Error),
    /// Written for another target.
    #[error("the tuning database is of the target `{found}`, not `{wanted}`")]
    Target {
        /// What the file says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Two winners.
    #[error(
        "the tuning database has two entries for n = {}, k = {}, rows up to {}; keep the faster one",
        .0.n, .0.k, 1_u64 << .0.rows_log2.min(63)
    )]
    Twice(Box<Key>),
}

/// The embedded files, by target.
const FILES: [(&str, &str); 3] = [
    ("h100", include_str!("../../../tuning/h100.json")),
    ("h200", include_str!("../../../tuning/h200.json")),
    ("h800", include_str!("../../../tuning/h800.json")),
];

/// Parsed once. A test holds that every embedded file is valid; a file that is not would have no entries here.
static EMBEDDED: LazyLock<Vec<Database>> = LazyLock::new(|| {
    let parse = |(target, text): (&str, &str)| {
        Database::parse(target, text).unwrap_or_else(|_| Database::empty(target))
    };
    FILES.into_iter().map(parse).collect()
});
static NONE: LazyLock<Database> = LazyLock::new(|| Database::empty(""));

impl Key {
    /// Of a problem.
    #[must_use]
    pub fn of(problem: &GemmProblem) -> Self {
        Self {
            form: problem.form,
            input: problem.input,
            out: problem.out,
            epilogue: problem.epilogue,
            // Of no meaning without block scales.
            promote: if problem.input == DType::E4M3 {
                problem.promote
            } else {
                0
            },
            n: problem.n,
            k: problem.k,
            rows_log2: u64::BITS - problem.rows.max(1).saturating_sub(1).leading_zeros(),
        }
    }

    /// Sorted for people: by element type and form, then by size.
    fn order(&self) -> impl Ord + use<> {
        let Self {
            form,
            input,
            out,
            epilogue,
            promote,
            n,
            k,
            rows_log2,
        } = *self;
        (
            format!("{input:?} {form:?} {epilogue:?} {out:?}"),
            promote,
            n,
            k,
            rows_log2,
        )
    }
}

impl Database {
    /// Without entries.
    #[must_use]
    pub fn empty(target: &str) -> Self {
        Self {
            target: target.to_owned(),
            calibration: None,
            entries: Vec::new(),
        }
    }

    /// The committed one of this target; an empty one of a target that has none.
    #[must_use]
    pub fn embedded(target: &str) -> &'static Self {
        EMBEDDED
            .iter()
            .find(|database| database.target == target)
            .unwrap_or(&NONE)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// When it is none, belongs to another target, or has two entries for one problem.
    pub fn parse(target: &str, text: &str) -> Result<Self, TuningError> {
        let database: Self = serde_json::from_str(text)?;
        if database.target != target {
            return Err(TuningError::Target {
                found: database.target,
                wanted: target.to_owned(),
            });
        }
        for (i, entry) in database.entries.iter().enumerate() {
            if database.entries[..i]
                .iter()
                .any(|e| e.problem == entry.problem)
            {
                return Err(TuningError::Twice(Box::new(entry.problem)));
            }
        }
        Ok(database)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never for a database that was parsed or recorded.
    pub fn to_json(&self) -> Result<String, TuningError> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        Ok(text)
    }

    /// The entry of a problem.
    #[must_use]
    pub fn entry(&self, problem: &GemmProblem) -> Option<&Entry> {
        let key = Key::of(problem);
        self.entries.iter().find(|entry| entry.problem == key)
    }

    /// Enters a measured winner; a new measurement replaces an old one.
    pub fn record(
        &mut self,
        problem: &GemmProblem,
        tile: GemmTile,
        measured_ns: u64,
        source: &str,
    ) {
        let key = Key::of(problem);
        self.entries.retain(|entry| entry.problem != key);
        self.entries.push(Entry {
            problem: key,
            tile,
            measured_ns,
            source: source.to_owned(),
        });
        self.entries
            .sort_by_cached_key(|entry| entry.problem.order());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{dense, problem};
    use super::*;
    use crate::target::Target;

    #[test]
    fn every_target_has_a_valid_file() {
        for name in Target::names() {
            let text = FILES.iter().find(|(target, _)| *target == name);
            let text = text
                .unwrap_or_else(|| panic!("no tuning database of {name}"))
                .1;
            let database = Database::parse(name, text).unwrap();
            assert_eq!(&database, Database::embedded(name));
            assert_eq!(database.to_json().unwrap(), text, "{name}: not as written");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut database = Database::empty("h100");
        database.calibration = Some(Params {
            hbm_percent: 93,
            ..Params::default()
        });
        let swapped = GemmTile {
            swap: true,
            split_k: 4,
            ..GemmTile::new(16, 64, 8)
        };
        database.record(&dense(16, 7168, 2048), swapped, 6_100, "a test");
        let grouped = problem(GemmForm::Grouped { groups: 8 }, 32768, 4096, 7168);
        database.record(&grouped, GemmTile::new(128, 160, 4), 1_400_000, "a test");
        let text = database.to_json().unwrap();
        assert_eq!(Database::parse("h100", &text).unwrap(), database);
        // A file may give some of the figures; the others are the model's own.
        let partial = r#"{"target": "h100", "calibration": {"hbm_percent": 93}, "entries": []}"#;
        assert_eq!(
            Database::parse("h100", partial).unwrap().calibration,
            database.calibration
        );
    }

    #[test]
    fn a_new_measurement_replaces_the_old_one_and_order_does_not_depend_on_time() {
        let (a, b) = (dense(64, 512, 512), dense(64, 256, 512));
        let tile = GemmTile::new(64, 64, 4);
        let mut one = Database::empty("h100");
        one.record(&a, tile, 3, "first");
        one.record(&b, tile, 2, "x");
        one.record(&a, tile, 1, "second");
        let mut two = Database::empty("h100");
        two.record(&b, tile, 2, "x");
        two.record(&a, tile, 1, "second");
        assert_eq!(one, two);
        assert_eq!(one.entries.len(), 2);
    }

    #[test]
    fn rows_fall_into_buckets_that_end_at_powers_of_two() {
        let bucket = |rows| Key::of(&dense(rows, 512, 512)).rows_log2;
        let buckets = [0, 1, 2, 3, 4, 5, 64, 65, 128, 4096].map(bucket);
        assert_eq!(buckets, [0, 0, 1, 2, 2, 3, 6, 7, 7, 12]);
    }

    #[test]
    fn files_with_mistakes_are_refused() {
        let parse = |text: &str| Database::parse("h100", text).unwrap_err().to_string();
        assert!(parse("{").contains("not valid"));
        assert!(parse(r#"{"target": "h100", "entries": [], "more": 1}"#).contains("more"));
        assert!(parse(r#"{"target": "h200", "entries": []}"#).contains("`h200`"));
        let mut twice = Database::empty("h100");
        twice.record(&dense(64, 512, 512), GemmTile::new(64, 64, 4), 3, "x");
        twice.entries.push(twice.entries[0].clone());
        assert!(parse(&twice.to_json().unwrap()).contains("two entries"));
    }
}
