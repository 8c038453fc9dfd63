//! What a machine can run bundles on, and what it lacks for it.
//!
//! In: this machine; a bundle, when the question is about one. Out: a [`Diagnosis`], a list of findings for people and
//! as JSON. `mccrt doctor` prints the run side; `mcc doctor` adds the compiler's.
//! Holds: asking changes nothing, takes no device memory, and never fails: what cannot be found out is a finding, too.

use std::fmt;

use mcc_bundle::Manifest;
use serde::Serialize;

use crate::device::probe_cuda;
use crate::error::DeviceError;
use crate::model::MemoryPlan;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Making bundles.
    Compile,
    /// Running them.
    Run,
    /// Holding them against others, and checking them.
    Compare,
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There and usable.
    Ok,
    /// Not there.
    Missing,
    /// There, and of no use.
    Unusable,
}

/// One thing that was looked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub side: Side,
    /// What was looked for.
    pub name: String,
    /// How it is.
    pub state: State,
    /// Whether what was asked for cannot be done without it.
    pub required: bool,
    /// What there is: path, version, sizes; or why it is of no use.
    pub found: String,
    /// What its lack costs; empty when it is there.
    pub cost: String,
    /// How to get it; empty when it is there.
    pub remedy: String,
}

impl Finding {
    /// Something that is there.
    #[must_use]
    pub fn ok(side: Side, name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            side,
            name: name.into(),
            state: State::Ok,
            required: false,
            found: found.into(),
            cost: String::new(),
            remedy: String::new(),
        }
    }

    /// Something that is not there.
    #[must_use]
    pub fn missing(
        side: Side,
        name: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Missing,
            cost: cost.into(),
            remedy: remedy.into(),
            ..Self::ok(side, name, "")
        }
    }

    /// Something that is there and of no use, and why.
    #[must_use]
    pub fn unusable(
        side: Side,
        name: impl Into<String>,
        why: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            state: State::Unusable,
            found: why.into(),
            ..Self::missing(side, name, cost, remedy)
        }
    }

    /// Without it, what was asked for cannot be done.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// All findings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether everything that is required is there.
    pub ok: bool,
    /// In the order of the way from a model to its results.
    pub findings: Vec<Finding>,
}

impl Diagnosis {
    /// Of these findings.
    #[must_use]
    pub fn of(findings: Vec<Finding>) -> Self {
        Self {
            ok: findings
                .iter()
                .all(|finding| !finding.required || finding.state == State::Ok),
            findings,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = [
            (Side::Compile, "to compile"),
            (Side::Run, "to run"),
            (Side::Compare, "to check and compare"),
        ];
        for (side, title) in sides {
            let mut of_side = self.findings.iter().filter(|f| f.side == side).peekable();
            if of_side.peek().is_some() {
                writeln!(f, "{title}")?;
            }
            for finding in of_side {
                let mark = match (finding.state, finding.required) {
                    (State::Ok, _) => "ok     ",
                    (State::Missing, true) => "MISSING",
                    (State::Missing, false) => "missing",
                    (State::Unusable, true) => "UNUSABLE",
                    (State::Unusable, false) => "unusable",
                };
                write!(f, "  {mark:<8}  {:<18}", finding.name)?;
                writeln!(f, " {}", finding.found)?;
                for (word, text) in [("costs", &finding.cost), ("remedy", &finding.remedy)] {
                    if !text.is_empty() {
                        writeln!(f, "            {word:<6} {text}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks for what runs bundles. With a manifest each GPU is held against what that bundle needs; `gpu` says that a
/// GPU is required.
#[must_use]
pub fn run_side(manifest: Option<&Manifest>, gpu: bool) -> Vec<Finding> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let simulator =
        format!("built in; runs the PTX of every bundle on {cores} cores, bit-true and slowly");
    let mut findings = vec![Finding::ok(Side::Run, "simulator", simulator).required()];
    findings.extend(gpus(manifest, gpu));
    findings
}

fn gpus(manifest: Option<&Manifest>, required: bool) -> Vec<Finding> {
    let with = |finding: Finding| {
        if required {
            finding.required()
        } else {
            finding
        }
    };
    let cost = "no GPU can be used: bundles run on the simulator only, times are predictions";
    let probe = match probe_cuda() {
        Ok(probe) => probe,
        Err(err) => {
            let driver = match &err {
                DeviceError::NoDriver => Finding::missing(
                    Side::Run,
                    "NVIDIA driver",
                    cost,
                    "install the driver package of this system (Debian: nvidia-driver; its libcuda.so.1 must be found)",
                ),
                DeviceError::NoGpu => Finding::unusable(
                    Side::Run,
                    "NVIDIA driver",
                    err.to_string(),
                    cost,
                    "install a Hopper GPU, or make it visible (CUDA_VISIBLE_DEVICES, the container's devices)",
                ),
                _ => Finding::unusable(
                    Side::Run,
                    "NVIDIA driver",
                    err.to_string(),
                    cost,
                    "update the driver package of this system",
                ),
            };
            return vec![with(driver)];
        }
    };
    let driver = format!("CUDA {}", probe.driver);
    let mut findings = vec![with(Finding::ok(Side::Run, "NVIDIA driver", driver))];
    let needed = manifest.map_or("sm_90a", |manifest| manifest.target.arch.as_str());
    let bytes = manifest.map(|manifest| {
        let plan = MemoryPlan::of(manifest);
        let parts = [plan.weights, plan.states, plan.ports, plan.arena];
        parts.into_iter().fold(0_u64, u64::saturating_add)
    });
    let mut any = false;
    for gpu in &probe.gpus {
        let name = format!("cuda:{}", gpu.ordinal);
        let (major, minor) = gpu.compute_capability;
        let about = format!(
            "{}, compute capability {major}.{minor}, {} SMs, {:.1} GB, {:.0} MB of L2",
            gpu.name,
            gpu.sms,
            gpu.memory_bytes as f64 / 1e9,
            gpu.l2_bytes as f64 / 1e6
        );
        let finding = if gpu.arch != needed {
            Finding::unusable(
                Side::Run,
                name,
                format!("{about}: runs {}, and kernels are for {needed}", gpu.arch),
                "this GPU cannot run them",
                "use an H100, H200 or H800",
            )
        } else if let Some(bytes) = bytes.filter(|bytes| *bytes > gpu.memory_bytes) {
            Finding::unusable(
                Side::Run,
                name,
                format!(
                    "{about}: the bundle needs {:.1} GB at its longest context",
                    bytes as f64 / 1e9
                ),
                "the model does not fit this GPU",
                "build with a smaller --max-context or --max-step-tokens, or use a GPU with more memory",
            )
        } else {
            any = true;
            Finding::ok(Side::Run, name, about)
        };
        findings.push(finding);
    }
    if required && !any {
        findings.push(
            Finding::missing(Side::Run, "a usable GPU", cost, "use an H100, H200 or H800")
                .required(),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_decides() {
        let found = Finding::ok(Side::Run, "simulator", "built in").required();
        let lacking = || Finding::missing(Side::Run, "driver", "slow", "install it");
        assert!(Diagnosis::of(vec![found.clone(), lacking()]).ok);
        let bad = Diagnosis::of(vec![found, lacking().required()]);
        assert!(!bad.ok);
        let text = bad.to_string();
        assert!(text.contains("MISSING   driver"), "{text}");
        assert!(text.contains("remedy install it"), "{text}");
        assert!(!text.contains("to compile"), "{text}");
    }

    #[test]
    fn the_simulator_is_always_there_and_a_gpu_is_named_or_its_lack_explained() {
        let findings = run_side(None, true);
        assert_eq!(findings[0].name, "simulator");
        assert_eq!(findings[0].state, State::Ok);
        assert!(findings.len() > 1);
        for finding in &findings {
            assert_eq!(
                finding.state == State::Ok,
                finding.remedy.is_empty(),
                "{finding:?}"
            );
        }
        // Whether there is a GPU depends on the machine; that the verdict follows it does not.
        let usable = findings
            .iter()
            .any(|f| f.name.starts_with("cuda:") && f.state == State::Ok);
        assert_eq!(Diagnosis::of(findings).ok, usable);
    }
}
