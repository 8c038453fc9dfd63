//! The peers' scripts, as far as a machine without a GPU can judge them. Nothing happens where python3 is not there.

use std::path::{Path, PathBuf};
use std::process::Command;

fn scripts() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peers");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "py"))
        .collect();
    scripts.sort();
    scripts
}

fn python() -> Option<Command> {
    if mcc_kit::facts::find_tool("python3").is_none() {
        println!("python3 was not found: nothing was tested");
        return None;
    }
    let mut python = Command::new("python3");
    python.arg("-B");
    Some(python)
}

#[test]
fn every_script_compiles() {
    let Some(mut python) = python() else { return };
    let scripts = scripts();
    assert!(scripts.len() >= 5);
    let program = "import sys\nfor path in sys.argv[1:]: compile(open(path).read(), path, 'exec')";
    let output = python
        .arg("-c")
        .arg(program)
        .args(&scripts)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// `import torch` fails in the child, whatever is installed here.
#[test]
fn a_script_without_its_library_says_so_and_skips() {
    for script in scripts() {
        let Some(mut python) = python() else { return };
        let text = std::fs::read_to_string(&script).unwrap();
        // What compiles with Triton alone does without torch.
        if !text.contains("__main__") || !text.contains("torch") {
            continue;
        }
        let program = "import runpy, sys\nsys.modules['torch'] = None\nsys.argv = sys.argv[1:]\n\
                       import os; sys.path.insert(0, os.path.dirname(sys.argv[0]))\n\
                       runpy.run_path(sys.argv[0], run_name='__main__')";
        let output = python.arg("-c").arg(program).arg(&script).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.code(),
            Some(3),
            "{}: {said}",
            script.display()
        );
        assert!(
            said.contains("torch is not installed"),
            "{}: {said}",
            script.display()
        );
    }
}

/// Every op of the shapes either has a peer or stands here as having none.
#[test]
fn ops_without_a_peer_are_known() {
    const NONE: [&str; 2] = ["sample", "cache_write"];
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench");
    let shapes: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(dir.join("shapes.json")).unwrap()).unwrap();
    let all: String = scripts()
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for shape in shapes["shapes"].as_array().unwrap() {
        let op = shape["op"].as_str().unwrap();
        let has_peer = all.contains(&format!("\"{op}\""));
        assert_eq!(has_peer, !NONE.contains(&op), "{op}");
    }
}
