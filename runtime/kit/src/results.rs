//! What a run of the kit has found: one JSON document, kept beside the page that is made of it.
//!
//! In: the ends of steps. Out: `results.json`, and the exit code of the whole run.
//! Holds: a step has exactly one verdict; one that did not run is skipped with its reason, never passed.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the document's fields.
pub const RESULTS_FORMAT: u32 = 1;

/// Name of the document in a folder of results.
pub const RESULTS_FILE: &str = "results.json";

/// A run of the kit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// [`RESULTS_FORMAT`].
    pub format: u32,
    /// Commit that the kit was made from.
    pub commit: String,
    /// When the run began, UTC, `2026-01-31T12:00:00Z`.
    pub started: String,
    /// Seconds that it was given.
    pub budget_s: f64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Whether every step has been reached; false in what a run leaves that was itself killed.
    pub complete: bool,
    /// In the order in which they ran.
    pub steps: Vec<StepResult>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// Unique in a run.
    pub id: String,
    /// For people.
    pub title: String,
    /// What ran, as it would be typed.
    pub command: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Wall time.
    pub seconds: f64,
    /// Of the child process, when it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What it printed as JSON; an array when it printed a value a line.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// The end of what it said to standard error, for a step that did not pass.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log: String,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It ran, and all was right.
    Passed,
    /// It ran, and something was wrong; or it did not end.
    Failed,
    /// It did not run, or not to its end, for a reason that is no fault of what it checks.
    Skipped,
}

impl Verdict {
    /// As in the page.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

impl Results {
    /// Steps with this verdict.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = &StepResult> {
        self.steps
            .iter()
            .filter(move |step| step.verdict == verdict)
    }

    /// The step of this name.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<&StepResult> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// 0 all passed, 1 something failed, 3 nothing failed but something was skipped.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.with(Verdict::Failed).next().is_some() {
            1
        } else if self.with(Verdict::Skipped).next().is_some() || !self.complete {
            3
        } else {
            0
        }
    }

    /// Writes the document; a reader sees the old one or the new one, never a half.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let text = self.to_text().map_err(io::Error::other)?;
        let partial = dir.join(format!("{RESULTS_FILE}.partial"));
        std::fs::write(&partial, text)?;
        std::fs::rename(partial, dir.join(RESULTS_FILE))
    }

    /// JSON with a step a line: small, and a difference of two runs names the step.
    fn to_text(&self) -> serde_json::Result<String> {
        let steps: Vec<String> = self
            .steps
            .iter()
            .map(serde_json::to_string)
            .collect::<Result<_, _>>()?;
        let head = serde_json::to_string(&Self {
            steps: Vec::new(),
            ..self.clone()
        })?;
        // `steps` is the last field.
        let head = head.trim_end_matches("]}");
        Ok(format!("{head}\n{}\n]}}\n", steps.join(",\n")))
    }

    /// Reads the document.
    ///
    /// # Errors
    /// When there is none, or it is not of this format.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let text = std::fs::read_to_string(dir.join(RESULTS_FILE))?;
        let results: Self = serde_json::from_str(&text).map_err(io::Error::other)?;
        if results.format == RESULTS_FORMAT {
            return Ok(results);
        }
        Err(io::Error::other(format!(
            "format {} is not {RESULTS_FORMAT}: it was written by another version of the kit",
            results.format
        )))
    }
}
