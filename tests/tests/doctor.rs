//! `mcc doctor` on machines with little on them: a child process of this test binary is such a machine.

use std::path::Path;
use std::process::{Command, Stdio};

use clap::Parser;
use mcc::cli::Cli;
use serde_json::Value;

/// Set in a child to what `mcc doctor` shall be told.
const ARGS: &str = "MCC_TEST_DOCTOR";

/// The child: prints what the command prints, and ends as it ends.
#[test]
fn child() {
    let Ok(args) = std::env::var(ARGS) else {
        return;
    };
    let line = ["mcc", "doctor"].into_iter().chain(args.split_whitespace());
    let cli = Cli::try_parse_from(line).expect("the flags parse");
    let code = match mcc::cli::run(cli) {
        Ok(()) => 0,
        Err(error) => error.exit_code(),
    };
    std::process::exit(code.into());
}

/// Findings by name, and the exit code, with nothing in the environment but these variables.
fn doctor(args: &str, environment: &[(&str, &str)]) -> (Value, i32) {
    let output = Command::new(std::env::current_exe().expect("a test binary"))
        .args(["doctor::child", "--exact", "--nocapture"])
        .env_clear()
        .env("PATH", "/nonexistent")
        .env(ARGS, args)
        .envs(environment.iter().copied())
        // Nothing of this checkout is above it.
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null())
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let json = text
        .lines()
        .find_map(|line| line.find("{\"ok\"").map(|at| &line[at..]))
        .unwrap_or_else(|| panic!("no JSON: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let value = serde_json::from_str(json).expect("JSON");
    (value, output.status.code().expect("it ended by itself"))
}

fn finding<'a>(diagnosis: &'a Value, name: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().expect("a list");
    let found = findings.iter().find(|finding| finding["name"] == name);
    found.unwrap_or_else(|| panic!("`{name}` is not in {diagnosis:#}"))
}

#[test]
fn a_stripped_path_costs_much_and_hinders_nothing() {
    let (diagnosis, code) = doctor("--json", &[]);
    assert_eq!((code, &diagnosis["ok"]), (0, &Value::Bool(true)));
    let llvm = finding(&diagnosis, "LLVM and MLIR");
    assert!(
        llvm["found"].as_str().expect("text").starts_with("22."),
        "{llvm}"
    );
    assert_eq!(finding(&diagnosis, "simulator")["state"], "ok");
    assert_eq!(finding(&diagnosis, "HiGHS")["state"], "ok");
    for name in ["cargo", "python3"] {
        let finding = finding(&diagnosis, name);
        assert_eq!(finding["state"], "missing", "{finding}");
        assert_ne!(finding["cost"], "");
        assert_ne!(finding["remedy"], "");
    }
}

#[test]
fn an_assembler_that_was_asked_for_must_work() {
    let (diagnosis, code) = doctor("--json", &[("MCC_PTXAS", "/nonexistent/ptxas")]);
    assert_eq!(code, 1);
    let ptxas = finding(&diagnosis, "ptxas");
    assert_eq!(
        (&ptxas["state"], &ptxas["required"]),
        (&"unusable".into(), &Value::Bool(true))
    );
    assert!(ptxas["cost"].as_str().expect("text").contains("--no-cubin"));
}

#[test]
fn a_pinned_assembler_tells_its_version_and_the_ptx_that_it_takes() {
    let pinned = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/cuda-12.9/bin/ptxas");
    if !Path::new(pinned).is_file() {
        println!("skipped: {pinned} is not there; cargo xtask setup --pinned-ptxas fetches it");
        return;
    }
    let (diagnosis, code) = doctor("--json", &[("MCC_PTXAS", pinned)]);
    assert_eq!(code, 0);
    let found = finding(&diagnosis, "ptxas")["found"]
        .as_str()
        .expect("text");
    assert!(
        found.contains("12.9.") && found.contains("PTX up to 8.8"),
        "{found}"
    );
}

#[test]
fn a_gpu_that_is_required_decides() {
    let (diagnosis, code) = doctor("--json --device cuda", &[]);
    let gpus = diagnosis["findings"].as_array().expect("a list").iter();
    let usable = gpus
        .filter(|finding| {
            finding["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("cuda:"))
        })
        .any(|finding| finding["state"] == "ok");
    assert_eq!(code, if usable { 0 } else { 1 });
    assert_eq!(diagnosis["ok"], Value::Bool(usable));
}
