//! Where the time went: loading, steps, kernels.

use std::collections::BTreeMap;
use std::time::Duration;

/// Counters of a model, from its loading on.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Reading modules and allocating.
    pub load: Duration,
    /// Reading, converting and copying weights.
    pub weights: Duration,
    /// Bytes of weights written to the device.
    pub weight_bytes: u64,
    /// Steps of each entry.
    pub phases: BTreeMap<String, PhaseStats>,
    /// Launches of each kernel.
    pub kernels: BTreeMap<String, KernelStats>,
}

/// Executions of one entry.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PhaseStats {
    /// Executions.
    pub steps: u64,
    /// Tokens that went in.
    pub tokens: u64,
    /// Host time from the first input to the last output.
    pub wall: Duration,
    /// Host time of the slowest execution.
    pub slowest: Duration,
}

impl PhaseStats {
    /// Tokens a second of host time; `None` before the first step.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.wall.as_secs_f64();
        (seconds > 0.0).then(|| self.tokens as f64 / seconds)
    }
}

/// Launches of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KernelStats {
    /// Launches.
    pub launches: u64,
    /// Launches left out because their grid was empty.
    pub skipped: u64,
    /// Time on the device where it tells, host time of the launch otherwise.
    pub time: Duration,
    /// Warp instructions, where the device counts them.
    pub instructions: u64,
}

impl Stats {
    /// All launches.
    #[must_use]
    pub fn launches(&self) -> u64 {
        self.kernels.values().map(|kernel| kernel.launches).sum()
    }

    /// As JSON, times in seconds.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let phases: serde_json::Map<_, _> = self
            .phases
            .iter()
            .map(|(name, phase)| {
                let value = serde_json::json!({
                    "steps": phase.steps,
                    "tokens": phase.tokens,
                    "seconds": phase.wall.as_secs_f64(),
                    "slowest_step_seconds": phase.slowest.as_secs_f64(),
                    "tokens_per_second": phase.tokens_per_second(),
                });
                (name.clone(), value)
            })
            .collect();
        let kernels: serde_json::Map<_, _> = self
            .kernels
            .iter()
            .map(|(name, kernel)| {
                let value = serde_json::json!({
                    "launches": kernel.launches,
                    "skipped": kernel.skipped,
                    "seconds": kernel.time.as_secs_f64(),
                    "instructions": kernel.instructions,
                });
                (name.clone(), value)
            })
            .collect();
        serde_json::json!({
            "load_seconds": self.load.as_secs_f64(),
            "weights_seconds": self.weights.as_secs_f64(),
            "weight_bytes": self.weight_bytes,
            "launches": self.launches(),
            "phases": phases,
            "kernels": kernels,
        })
    }
}
