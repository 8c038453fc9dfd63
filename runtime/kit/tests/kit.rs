//! A kit without bundles, unpacked in an empty folder and run as a user runs it.
//!
//! The GPU that it asks for exists nowhere, so that the outcome is the same on every machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mcc_kit::contents::{KIT_FILE, Kit};
use mcc_kit::results::{Results, Verdict};

const NO_GPU: &str = "cuda:4000";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn kit() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_mcckit"), dir.path().join("mcckit")).unwrap();
    std::fs::copy(root().join("runtime/kit/run.sh"), dir.path().join("run")).unwrap();
    Kit::seal(dir.path(), "0123456789abcdef").unwrap();
    dir
}

fn run(dir: &Path, args: &[&str]) -> Output {
    Command::new(dir.join("run"))
        .args(args)
        .current_dir("/")
        .output()
        .unwrap()
}

#[test]
fn without_a_gpu_it_does_what_it_can_and_says_what_it_skipped() {
    let kit = kit();
    let out = kit.path().join("results/here");
    let output = run(
        kit.path(),
        &["--device", NO_GPU, "--out", out.to_str().unwrap()],
    );
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(3),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let results = Results::read(&out).unwrap();
    assert!(results.complete);
    for id in ["facts", "files"] {
        assert_eq!(results.step(id).unwrap().verdict, Verdict::Passed, "{id}");
    }
    for id in ["device", "vectors", "bench-machine", "peers-gemm"] {
        let step = results.step(id).unwrap();
        assert_eq!(step.verdict, Verdict::Skipped, "{id}: {:?}", step.reason);
        assert!(step.reason.is_some(), "{id}");
        let summary = text
            .rsplit(
                "

",
            )
            .next()
            .unwrap_or_default();
        assert!(summary.contains(id), "{id} is not named:\n{text}");
    }
    let page = std::fs::read_to_string(out.join("results.md")).unwrap();
    assert!(page.contains("No GPU was used"), "{page}");
}

#[test]
fn a_damaged_kit_fails_and_names_the_file() {
    let kit = kit();
    std::fs::OpenOptions::new()
        .append(true)
        .open(kit.path().join("run"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"# changed\n"))
        .unwrap();
    let out = kit.path().join("results/here");
    let args = [
        "--device",
        NO_GPU,
        "--only",
        "files",
        "--out",
        out.to_str().unwrap(),
    ];
    assert_eq!(run(kit.path(), &args).status.code(), Some(1));
    let results = Results::read(&out).unwrap();
    let reason = results.steps[0].reason.clone().unwrap();
    assert!(reason.contains("run: its content has changed"), "{reason}");
}

#[test]
fn results_are_named_and_a_second_run_does_not_overwrite_them() {
    let kit = kit();
    for _ in 0..2 {
        let output = run(kit.path(), &["--device", NO_GPU, "--only", "files"]);
        assert_eq!(output.status.code(), Some(0));
    }
    let mut names: Vec<String> = std::fs::read_dir(kit.path().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    assert!(names[0].ends_with("-no-gpu-0123456789"), "{names:?}");
    assert!(names[1].ends_with("-no-gpu-0123456789-2"), "{names:?}");
    let again = Command::new(kit.path().join("mcckit"))
        .arg("report")
        .arg(kit.path().join("results").join(&names[0]))
        .output()
        .unwrap();
    assert!(again.status.success());
}

#[test]
fn a_folder_that_is_no_kit_is_named() {
    let kit = kit();
    std::fs::remove_file(kit.path().join(KIT_FILE)).unwrap();
    let output = run(kit.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(KIT_FILE));
}
