//! The binary: exit codes, output, and how fast it starts.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/meeting.rs"]
mod meeting;
#[path = "support/parts.rs"]
mod parts;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The token that the model expects after `tokens`.
fn next(tokens: &[i32]) -> i32 {
    let sum: i32 = tokens
        .iter()
        .zip(1..)
        .map(|(token, place)| token * place)
        .sum();
    sum % counting::VOCAB as i32
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        counting::bundle()
            .write(dir.path().join("counting.mccb"))
            .expect("writes");
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mccrt"));
        command.args(args).current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().expect("starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (status.code(), text(stdout), text(stderr))
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|err| panic!("{err}: {text}"))
}

#[test]
fn exit_codes_say_whose_fault_it_is() {
    let bench = Bench::new();
    let code = |args: &[&str]| bench.run(args).0;
    assert_eq!(code(&["inspect", "counting.mccb"]), Some(0));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["frobnicate"]), Some(1));
    assert_eq!(
        code(&["run", "counting.mccb", "--tokens", "1"]),
        Some(1),
        "no weights are named"
    );
    assert_eq!(code(&["inspect", "missing.mccb"]), Some(1));
    let on = |device: &str| {
        bench.run(&[
            "run",
            "counting.mccb",
            "--synthetic",
            "0",
            "--tokens",
            "1",
            "--device",
            device,
        ])
    };
    // No machine has so many: either there is no driver, or no such GPU.
    for device in ["cuda:4000000000", "tpu"] {
        let (code, _, message) = on(device);
        assert_eq!(code, Some(2), "{message}");
        assert!(
            message.starts_with("error: ") && message.lines().count() == 1,
            "{message}"
        );
    }
}

#[test]
fn several_ranks_continue_several_prompts() {
    let bench = Bench::new();
    meeting::bundle(4)
        .write(bench.path("meeting.mccb"))
        .expect("writes");
    let run = |bundle: &str, more: &[&str]| {
        let args = ["run", bundle, "--synthetic", "0", "--max-tokens", "3"];
        let prompts = ["--tokens", "1,2,3", "--tokens", "4", "--tokens", "5,6"];
        bench.run(&[&args[..], &prompts, more].concat())
    };
    let (code, alone, err) = run("counting.mccb", &[]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(alone.lines().count(), 3);
    let (code, out, err) = run("meeting.mccb", &["--ranks", "4", "--nodes", "2", "--stats"]);
    assert_eq!((code, out), (Some(0), alone), "{err}");
    assert!(
        err.contains("rank 0 of 4") && err.contains("messages"),
        "{err}"
    );
    for (more, message) in [
        (
            &["--ranks", "2"][..],
            "groups of 4 ranks, and 2 run together",
        ),
        (&["--ranks", "4", "--nodes", "3"], "4 ranks on 3 nodes"),
        (
            &["--ranks", "4", "--trace", "x.json"],
            "--trace shows one rank",
        ),
    ] {
        let (code, _, err) = run("meeting.mccb", more);
        assert!(code == Some(1) && err.contains(message), "{err}");
    }
    let (code, _, err) = run("meeting.mccb", &["--ranks", "4", "--device", "cuda"]);
    assert!(code == Some(2) && err.contains("simulated ones"), "{err}");
    std::fs::write(bench.path("text.ids"), "1 2 3 4 5 6 7 8 9 10").expect("writes");
    let eval = |bundle: &str, more: &[&str]| {
        let args = [
            "eval",
            bundle,
            "--synthetic",
            "0",
            "--tokens",
            "text.ids",
            "--context",
            "2",
        ];
        bench.run(&[&args[..], more].concat())
    };
    let (_, alone, _) = eval("counting.mccb", &[]);
    let (code, out, err) = eval("meeting.mccb", &["--ranks", "4"]);
    assert_eq!((code, out), (Some(0), alone), "{err}");
}

#[test]
fn run_prints_tokens_and_tells_where_the_time_went() {
    let bench = Bench::new();
    let args = [
        "run",
        "counting.mccb",
        "--synthetic",
        "0",
        "--tokens",
        "1,2,3",
        "--max-tokens",
        "3",
    ];
    let (code, out, err) = bench.run(&[&args[..], &["--trace", "trace.json", "--stats"]].concat());
    assert_eq!(code, Some(0), "{err}");
    let mut text = vec![1, 2, 3];
    for _ in 0..3 {
        text.push(next(&text));
    }
    assert_eq!(json(&out)["tokens"], serde_json::json!(text[3..]));
    assert!(err.contains("median") && err.contains("caches"), "{err}");
    let trace = std::fs::read_to_string(bench.path("trace.json")).expect("written");
    assert!(
        json(&trace)["traceEvents"]
            .as_array()
            .is_some_and(|events| events.len() > 10)
    );

    let (_, _, err) = bench.run(&[&args[..], &["--stats=json"]].concat());
    let stats = json(&err);
    assert_eq!(stats["phases"]["decode"]["steps"], 2);
    for field in [
        "states",
        "states_committed",
        "sharing_saved",
        "arena",
        "weights",
        "ports",
    ] {
        assert!(stats["memory"][field].is_u64(), "{field}: {stats}");
    }
    // A trace that cannot be written is found before anything runs.
    let (code, out, _) = bench.run(&[&args[..], &["--trace", "no/such/folder.json"]].concat());
    assert_eq!((code, out.as_str()), (Some(1), ""));
}

#[test]
fn eval_scores_a_text() {
    let bench = Bench::new();
    std::fs::write(bench.path("text"), "1 2, 3\n4").expect("writes");
    let args = [
        "eval",
        "counting.mccb",
        "--synthetic",
        "0",
        "--context",
        "3",
        "--tokens",
    ];
    let (code, out, err) = bench.run(&[&args[..], &["text"]].concat());
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(json(&out)["tokens"], 3);
    std::fs::write(bench.path("text"), "1 two").expect("writes");
    let (code, _, err) = bench.run(&[&args[..], &["text"]].concat());
    assert_eq!(code, Some(1));
    assert!(err.contains("`two`"), "{err}");
}

#[test]
fn serve_reads_to_the_end_of_its_input() {
    let bench = Bench::new();
    let mut child = bench
        .command(&[
            "serve",
            "counting.mccb",
            "--synthetic",
            "0",
            "--max-tokens",
            "2",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut input = child.stdin.take().expect("piped");
    input
        .write_all(b"1,2\nnonsense\n{\"id\": 3, \"tokens\": [1, 2, 5]}\n")
        .expect("writes");
    drop(input);
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> = text.lines().map(json).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["tokens"][0], next(&[1, 2]));
    assert!(lines[1]["error"].is_string());
    assert_eq!(
        (&lines[2]["id"], &lines[2]["tokens"][0]),
        (&3.into(), &next(&[1, 2, 5]).into())
    );
}

#[test]
fn check_of_two_simulated_devices() {
    let bench = Bench::new();
    let args = [
        "check",
        "counting.mccb",
        "--synthetic",
        "0",
        "--dims",
        "T=7,C=9,R=2",
        "--tokens",
        "3",
    ];
    let (code, out, err) =
        bench.run(&[&args[..], &["--json", "--seeds", "2", "--repeat", "2"]].concat());
    assert_eq!(code, Some(0), "{err}");
    let report = json(&out);
    assert_eq!(report["passed"], true);
    assert_eq!(report["cases"].as_array().map(Vec::len), Some(4));
    assert_eq!(report["repeat"]["steps"], 4);
    assert_eq!(report["tokens"]["equal"], true);
    let (code, out, _) = bench.run(&args);
    assert_eq!(code, Some(0));
    assert!(out.contains("passed: 2 cases"), "{out}");
    let (code, _, err) = bench.run(&[&args[..], &["--device", "cuda:4000000000"]].concat());
    assert_eq!(code, Some(2), "{err}");
    // Nothing was compared, which is no pass.
    assert_eq!(
        bench.run(&[&args[..], &["--limit", "0"]].concat()).0,
        Some(1)
    );
}

/// Start-up is what a script pays for each call. The best of a few tries, because the machine has other work.
#[test]
fn it_starts_at_once() {
    let bench = Bench::new();
    for args in [&["--version"][..], &["inspect", "counting.mccb"]] {
        let time = |_| {
            let start = Instant::now();
            assert_eq!(bench.run(args).0, Some(0));
            start.elapsed()
        };
        let best = (0..10).map(time).min().unwrap_or_default();
        assert!(best < Duration::from_millis(50), "{args:?} took {best:?}");
    }
}
