//! Where the time and the memory went: loading, steps, kernels.
//!
//! In: durations as they are measured. Out: sums, medians and tails, as text for people and as JSON.
//! Holds: medians and 90th percentiles are those of the latest [`SAMPLES`] steps of an entry; all else counts
//! from the loading on.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use crate::model::MemoryPlan;

/// Steps of one entry whose times are kept: enough for tails, little enough for a server that never ends.
pub const SAMPLES: usize = 1 << 14;

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PhaseStats {
    /// Executions.
    pub steps: u64,
    /// Tokens that went in.
    pub tokens: u64,
    /// Host time from the first input to the last output.
    pub wall: Duration,
    /// Host time of the slowest execution.
    pub slowest: Duration,
    /// Host times of the latest executions.
    samples: VecDeque<Duration>,
}

impl PhaseStats {
    /// Counts an execution.
    pub(crate) fn record(&mut self, tokens: u64, wall: Duration) {
        self.steps += 1;
        self.tokens += tokens;
        self.wall += wall;
        self.slowest = self.slowest.max(wall);
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(wall);
    }

    /// Tokens a second of host time; `None` before the first step.
    #[must_use]
    pub fn tokens_per_second(&self) -> Option<f64> {
        let seconds = self.wall.as_secs_f64();
        (seconds > 0.0).then(|| self.tokens as f64 / seconds)
    }

    /// The time that `percent` of the latest steps did not exceed (nearest rank); zero before the first step.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted: Vec<Duration> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100)).div_ceil(100);
        sorted
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.wall.as_secs_f64(),
            "median_step_seconds": self.percentile(50).as_secs_f64(),
            "p90_step_seconds": self.percentile(90).as_secs_f64(),
            "slowest_step_seconds": self.slowest.as_secs_f64(),
            "tokens_per_second": self.tokens_per_second(),
        })
    }
}

/// Launches of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KernelStats {
    /// Launches.
    pub launches: u64,
    /// Launches left out because their grid was empty.
    pub skipped: u64,
    /// Time on the device, where it was measured.
    pub time: Duration,
    /// Warp instructions, where the device counts them.
    pub instructions: u64,
}

impl Stats {
    /// Counts something of a kernel. Called for each launch of a step: no string is made for a known kernel.
    pub(crate) fn count(&mut self, kernel: &str, count: impl FnOnce(&mut KernelStats)) {
        if let Some(known) = self.kernels.get_mut(kernel) {
            return count(known);
        }
        count(self.kernels.entry(kernel.to_owned()).or_default());
    }

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
            .map(|(name, phase)| (name.clone(), phase.to_json()))
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

/// Times and memory of a model, to print: `{}` is for people.
#[derive(Clone, Copy, Debug)]
pub struct StatsReport<'m> {
    /// Times and counts.
    pub stats: &'m Stats,
    /// Device memory by use.
    pub memory: MemoryPlan,
    /// Bytes of the caches that are backed by memory now.
    pub states_committed: u64,
}

impl StatsReport<'_> {
    /// [`Stats::to_json`], and the memory under `memory`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = self.stats.to_json();
        let mut memory = serde_json::json!(self.memory);
        memory["states_committed"] = self.states_committed.into();
        memory["sharing_saved"] = self.memory.sharing_saved().into();
        json["memory"] = memory;
        json
    }
}

impl fmt::Display for StatsReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (stats, memory) = (self.stats, &self.memory);
        writeln!(
            f,
            "load     {}, weights {} ({})",
            Time(stats.load),
            Time(stats.weights),
            Size(stats.weight_bytes)
        )?;
        writeln!(
            f,
            "memory   weights {}, inputs and outputs {}",
            Size(memory.weights),
            Size(memory.ports)
        )?;
        writeln!(
            f,
            "         temporaries {} ({} saved by sharing)",
            Size(memory.arena),
            Size(memory.sharing_saved())
        )?;
        writeln!(
            f,
            "         caches {} committed of {} reserved",
            Size(self.states_committed),
            Size(memory.states)
        )?;
        for (name, phase) in &stats.phases {
            writeln!(
                f,
                "{name:8} {} steps, {} tokens, {}, {:.1} tokens/s",
                phase.steps,
                phase.tokens,
                Time(phase.wall),
                phase.tokens_per_second().unwrap_or(0.0)
            )?;
            writeln!(
                f,
                "         a step: median {}, 90 % within {}, slowest {}",
                Time(phase.percentile(50)),
                Time(phase.percentile(90)),
                Time(phase.slowest)
            )?;
        }
        let mut kernels: Vec<_> = stats.kernels.iter().collect();
        kernels.sort_by(|a, b| b.1.time.cmp(&a.1.time).then(a.0.cmp(b.0)));
        if !kernels.is_empty() {
            writeln!(f, "kernels  launches       time  instructions")?;
        }
        for (name, kernel) in kernels {
            writeln!(
                f,
                "         {:>8} {:>10}  {:>12}  {name}",
                kernel.launches,
                Time(kernel.time).to_string(),
                kernel.instructions
            )?;
        }
        Ok(())
    }
}

/// A time with a unit that suits it.
pub(crate) struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        if seconds >= 1.0 {
            write!(f, "{seconds:.2} s")
        } else if seconds >= 1e-3 {
            write!(f, "{:.2} ms", seconds * 1e3)
        } else {
            write!(f, "{:.1} us", seconds * 1e6)
        }
    }
}

/// Bytes with a unit that suits them.
pub(crate) struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0 as f64;
        match self.0 {
            0..10_000 => write!(f, "{} B", self.0),
            10_000..10_000_000 => write!(f, "{:.1} kB", bytes / 1e3),
            10_000_000..10_000_000_000 => write!(f, "{:.1} MB", bytes / 1e6),
            _ => write!(f, "{:.2} GB", bytes / 1e9),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let mut phase = PhaseStats::default();
        assert_eq!(phase.percentile(50), Duration::ZERO);
        for ms in [5, 1, 4, 2, 3, 6, 7, 8, 9, 10] {
            phase.record(1, Duration::from_millis(ms));
        }
        let ms = |percent| phase.percentile(percent).as_millis();
        assert_eq!((ms(50), ms(90), ms(91), ms(100)), (5, 9, 10, 10));
        assert_eq!(phase.slowest, Duration::from_millis(10));
    }

    #[test]
    fn a_long_run_keeps_the_latest_steps() {
        let mut phase = PhaseStats::default();
        phase.record(1, Duration::from_secs(9));
        (0..SAMPLES).for_each(|_| phase.record(1, Duration::from_secs(1)));
        assert_eq!(phase.percentile(100), Duration::from_secs(1));
        assert_eq!(phase.slowest, Duration::from_secs(9));
        assert_eq!(phase.steps, SAMPLES as u64 + 1);
    }

    #[test]
    fn sizes_and_times() {
        let sizes = [0, 9_999, 10_000, 12_345_678, 98_765_432_100].map(|n| Size(n).to_string());
        assert_eq!(sizes, ["0 B", "9999 B", "10.0 kB", "12.3 MB", "98.77 GB"]);
        let times =
            [1_500_000_000, 2_500_000, 900].map(|n| Time(Duration::from_nanos(n)).to_string());
        assert_eq!(times, ["1.50 s", "2.50 ms", "0.9 us"]);
    }
}
