//! The steps of a run, the most valuable first.
//!
//! In: the kit's list, what the machine has. Out: steps for [`crate::orchestrate`]. Holds: what a kit contains decides
//! what runs; no bundle's name is known here. The limits are for an H100 host with 16 cores; their sum may be more
//! than the budget, since most steps end long before theirs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::contents::{Kit, KitBundle};
use crate::orchestrate::{Step, no_review};
use crate::results::Verdict;
use serde_json::Value;

/// What the machine has, and what is asked for.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Folder of the kit.
    pub kit_dir: PathBuf,
    /// `cuda`, `cuda:1`; `sim` to rehearse.
    pub device: String,
    /// Of this run's random inputs.
    pub seed: u64,
    /// Where Python is.
    pub python: Option<PathBuf>,
    /// Where NVIDIA's compute-sanitizer is.
    pub sanitizer: Option<PathBuf>,
}

/// No case of a check begins later than that; the cases left out are in its report.
const CHECK_SECONDS: &str = "30";

/// Repeats that must give one hash.
const REPEATS: usize = 1000;

/// Peers' scripts: name, title, seconds after which no row is begun.
const PEERS: [(&str, &str, u64); 4] = [
    (
        "machine",
        "peers: copy bandwidth and matrix peak through torch",
        15,
    ),
    ("gemm", "peers: block-scaled FP8 and BF16 products", 35),
    ("attention", "peers: attention", 25),
    ("rows", "peers: norms, quantisation, routing, combine", 35),
];
/// A row that was begun may have to be compiled, after torch has taken its time to start.
const PEER_GRACE: u64 = 40;

/// All steps.
#[must_use]
pub fn steps(kit: &Kit, setting: &Setting) -> Vec<Step> {
    let plan = Plan { kit, setting };
    let mut steps = vec![
        plan.kit_step("facts", "machine facts", &["facts"], 40),
        plan.kit_step("files", "the kit's files", &["files"], 30),
    ];
    let mut device = plan.kit_step(
        "device",
        "a GPU that runs these kernels",
        &["device", "--device", &setting.device],
        40,
    );
    device.probes = true;
    steps.push(device);
    steps.extend(plan.text_steps());
    steps.extend(plan.checks());
    steps.push(plan.vectors());
    steps.extend(plan.repeats());
    steps.extend(plan.benchmarks());
    steps.extend(plan.peers());
    steps.extend(plan.sanitizers());
    steps
}

/// Keeps the steps whose names begin with one of `wanted`, and those that they need.
pub fn keep(steps: &mut Vec<Step>, wanted: &[String]) {
    let chosen = |step: &Step| wanted.iter().any(|name| step.id.starts_with(name.as_str()));
    let needed: Vec<String> = steps
        .iter()
        .filter(|step| chosen(step))
        .flat_map(|step| step.requires.clone())
        .collect();
    steps.retain(|step| chosen(step) || needed.contains(&step.id));
}

struct Plan<'a> {
    kit: &'a Kit,
    setting: &'a Setting,
}

impl Plan<'_> {
    fn program(&self, name: &str) -> String {
        self.setting.kit_dir.join(name).display().to_string()
    }

    fn step(&self, id: String, title: String, argv: Vec<String>, limit: u64) -> Step {
        Step {
            id,
            title,
            argv,
            limit: Duration::from_secs(limit),
            least: Duration::from_secs((limit / 8).clamp(1, 10)),
            requires: Vec::new(),
            skip: None,
            probes: false,
            review: no_review,
        }
    }

    /// A step of this program.
    fn kit_step(&self, id: &str, title: &str, args: &[&str], limit: u64) -> Step {
        let mut argv = vec![self.program("mcckit")];
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.step(id.to_owned(), title.to_owned(), argv, limit)
    }

    /// A step of the runtime that needs the device.
    fn runtime_step(&self, id: String, title: String, args: &[&str], limit: u64) -> Step {
        let mut argv = vec![self.program("mccrt")];
        argv.extend(args.iter().map(|arg| (*arg).to_owned()));
        let mut step = self.step(id, title, argv, limit);
        step.requires.push("device".to_owned());
        step
    }

    /// Where a bundle's weights come from, as arguments.
    fn weights(&self, bundle: &KitBundle) -> Vec<String> {
        if bundle.weights {
            vec!["--weights".to_owned(), format!("weights/{}", bundle.name)]
        } else {
            vec!["--synthetic".to_owned(), self.setting.seed.to_string()]
        }
    }

    /// The bundle that the expectations are of.
    fn text_bundle(&self) -> Option<&KitBundle> {
        self.kit
            .bundles
            .iter()
            .find(|bundle| bundle.weights && bundle.text)
    }

    fn text_steps(&self) -> Vec<Step> {
        if self.text_bundle().is_none() {
            return Vec::new();
        }
        let sim = self.kit_step(
            "text-sim",
            "the simulated device gives what it gave when the kit was packed",
            &["text", "--device", "sim", "--prompts", "1", "--steps", "6"],
            60,
        );
        let mut gpu = self.kit_step(
            "text-device",
            "the checkpoint end to end: the simulator's tokens",
            &["text", "--device", &self.setting.device],
            60,
        );
        gpu.requires.push("device".to_owned());
        vec![gpu, sim]
    }

    /// Bundles with a checkpoint first: they are the small ones.
    fn checks(&self) -> Vec<Step> {
        let mut bundles: Vec<&KitBundle> = self.kit.bundles.iter().collect();
        bundles.sort_by_key(|bundle| (!bundle.weights, bundle.text));
        let check = |bundle: &&KitBundle| {
            let path = format!("bundles/{}.mccb", bundle.name);
            let weights = self.weights(bundle);
            let seed = self.setting.seed.to_string();
            let args = [
                "check",
                &path,
                "--device",
                &self.setting.device,
                "--first-seed",
                &seed,
                "--limit",
                CHECK_SECONDS,
                "--json",
            ];
            let args: Vec<&str> = args
                .into_iter()
                .chain(weights.iter().map(String::as_str))
                .collect();
            let mut step = self.runtime_step(
                format!("check-{}", bundle.name),
                format!("every kernel of `{}` against the simulator", bundle.name),
                &args,
                100,
            );
            step.review = never_launched;
            step
        };
        bundles.iter().map(check).collect()
    }

    fn vectors(&self) -> Step {
        let seed = self.setting.seed.to_string();
        let args = ["vectors", "--device", &self.setting.device, "--seed", &seed];
        let mut step = self.kit_step(
            "vectors",
            "tensor-core vectors against the simulator's arithmetic",
            &args,
            60,
        );
        step.requires.push("device".to_owned());
        step
    }

    fn repeats(&self) -> Option<Step> {
        self.text_bundle()?;
        let count = REPEATS.to_string();
        let args = [
            "repeat",
            "--device",
            &self.setting.device,
            "--count",
            &count,
            "--seconds",
            "40",
        ];
        let mut step = self.kit_step(
            "repeat",
            "1,000 repeats of prefill and decode, one hash",
            &args,
            60,
        );
        step.requires.push("device".to_owned());
        Some(step)
    }

    fn benchmarks(&self) -> Vec<Step> {
        let device = self.setting.device.as_str();
        let mut args = vec!["bench", "--machine", "--device", device, "--json"];
        // Where there is no clock, the data sheet's figures are those of a bundle's target.
        let any = self.kit.bundles.first();
        let any = any.map(|bundle| format!("bundles/{}.mccb", bundle.name));
        args.extend(any.as_deref());
        let mut steps = vec![self.runtime_step(
            "bench-machine".to_owned(),
            "measured copy bandwidth and matrix peak".to_owned(),
            &args,
            30,
        )];
        let mut bundles: Vec<&KitBundle> = self.kit.bundles.iter().collect();
        bundles.sort_by_key(|bundle| (bundle.text, !bundle.weights));
        for bundle in bundles {
            let path = format!("bundles/{}.mccb", bundle.name);
            let weights = self.weights(bundle);
            let args = ["bench", &path, "--device", device, "--nominal", "--json"];
            let args: Vec<&str> = args
                .into_iter()
                .chain(weights.iter().map(String::as_str))
                .collect();
            steps.push(self.runtime_step(
                format!("bench-{}", bundle.name),
                format!("benchmarks of `{}`", bundle.name),
                &args,
                90,
            ));
        }
        steps
    }

    fn peers(&self) -> Vec<Step> {
        let python = self.setting.python.as_deref();
        let one = |(name, title, seconds): (&str, &str, u64)| {
            let argv = vec![
                python.unwrap_or(Path::new("python3")).display().to_string(),
                // The kit's folder stays as it was packed.
                "-B".to_owned(),
                format!("peers/{name}.py"),
                "--seconds".to_owned(),
                seconds.to_string(),
            ];
            let limit = seconds + PEER_GRACE;
            let mut step = self.step(format!("peers-{name}"), title.to_owned(), argv, limit);
            step.requires.push("device".to_owned());
            if python.is_none() {
                step.skip = Some("python3 was not found".to_owned());
            }
            step
        };
        PEERS.into_iter().map(one).collect()
    }

    fn sanitizers(&self) -> Vec<Step> {
        let Some(bundle) = self.text_bundle() else {
            return Vec::new();
        };
        let one = |tool: &str| {
            let args = [
                "sanitize",
                "--tool",
                tool,
                "--device",
                &self.setting.device,
                "--bundle",
                &bundle.name,
            ];
            let mut step = self.kit_step(
                &format!("sanitizer-{tool}"),
                &format!("compute-sanitizer {tool}"),
                &args,
                60,
            );
            step.requires.push("device".to_owned());
            if self.setting.sanitizer.is_none() {
                step.skip = Some("compute-sanitizer was not found".to_owned());
            }
            step
        };
        ["memcheck", "initcheck", "synccheck"].map(one).to_vec()
    }
}

/// Of a check: a kernel that no case has launched is not a kernel that agrees.
fn never_launched(report: &Value) -> Option<(Verdict, String)> {
    let kernels = report["kernels"].as_array()?;
    let missing: Vec<&str> = kernels
        .iter()
        .filter(|kernel| kernel["launches"].as_u64() == Some(0))
        .filter_map(|kernel| kernel["kernel"].as_str())
        .collect();
    let (some, more) = (
        &missing[..missing.len().min(NAMED)],
        missing.len().saturating_sub(NAMED),
    );
    (!missing.is_empty()).then(|| {
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let why = format!(
            "{} of {} kernels were never launched: {}{more}",
            missing.len(),
            kernels.len(),
            some.join(", ")
        );
        (Verdict::Skipped, why)
    })
}

/// Names in one reason at most.
const NAMED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn kit() -> Kit {
        let bundle = |name: &str, weights, text| KitBundle {
            name: name.to_owned(),
            arch: "sm_90a".to_owned(),
            cubins: true,
            weights,
            text,
        };
        Kit {
            format: 1,
            commit: "0123456".to_owned(),
            bundles: vec![
                bundle("kernels", false, false),
                bundle("tiny", true, true),
                bundle("v3-slice", false, true),
            ],
            files: Vec::new(),
        }
    }

    fn setting() -> Setting {
        Setting {
            kit_dir: PathBuf::from("/kit"),
            device: "cuda".to_owned(),
            seed: 7,
            python: None,
            sanitizer: None,
        }
    }

    #[test]
    fn ids_are_unique_and_requirements_stand_before() {
        let steps = steps(&kit(), &setting());
        let mut seen = BTreeSet::new();
        for step in &steps {
            for needed in &step.requires {
                assert!(seen.contains(needed), "{} before {needed}", step.id);
            }
            assert!(seen.insert(step.id.clone()), "{} twice", step.id);
        }
        for id in [
            "check-kernels",
            "check-tiny",
            "check-v3-slice",
            "bench-v3-slice",
            "peers-gemm",
            "sanitizer-memcheck",
        ] {
            assert!(seen.contains(id), "no {id} in {seen:?}");
        }
    }

    #[test]
    fn everything_but_facts_files_and_the_simulator_needs_the_device() {
        let free: Vec<String> = steps(&kit(), &setting())
            .into_iter()
            .filter(|step| step.requires.is_empty())
            .map(|step| step.id)
            .collect();
        assert_eq!(free, ["facts", "files", "device", "text-sim"]);
    }

    #[test]
    fn a_checkpoint_is_used_where_there_is_one() {
        let steps = steps(&kit(), &setting());
        let argv = |id: &str| {
            steps
                .iter()
                .find(|step| step.id == id)
                .unwrap()
                .argv
                .join(" ")
        };
        assert!(argv("check-tiny").ends_with("--weights weights/tiny"));
        assert!(argv("check-kernels").ends_with("--synthetic 7"));
    }

    #[test]
    fn a_check_that_left_kernels_out_has_not_passed() {
        let report = |launches: u64| {
            serde_json::json!({ "kernels": [
            { "kernel": "gemm_0", "launches": 3 }, { "kernel": "route_0", "launches": launches } ] })
        };
        assert_eq!(never_launched(&report(1)), None);
        let (verdict, why) = never_launched(&report(0)).unwrap();
        assert_eq!(verdict, Verdict::Skipped);
        assert_eq!(why, "1 of 2 kernels were never launched: route_0");
    }

    #[test]
    fn a_missing_tool_is_the_reason() {
        let steps = steps(&kit(), &setting());
        let skip = |id: &str| {
            steps
                .iter()
                .find(|step| step.id == id)
                .unwrap()
                .skip
                .clone()
        };
        assert_eq!(skip("peers-rows").as_deref(), Some("python3 was not found"));
        assert_eq!(
            skip("sanitizer-initcheck").as_deref(),
            Some("compute-sanitizer was not found")
        );
    }
}
