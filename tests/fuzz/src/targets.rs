//! The fuzz targets. Each takes any bytes; a panic is a finding.

use std::path::Path;
use std::sync::OnceLock;

use mcc_sim::{Completion, Gpu};
use mcc_sim_run::{LaunchFile, Options, Schedules};

use crate::source::Source;
use crate::{corpus, generate, launch, mutate};

/// Parses bytes as PTX. What is accepted prints to text that parses to the
/// same module.
pub fn ptx_parse(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(module) = mcc_ptx::parse(&text) {
        let printed = module.to_string();
        match mcc_ptx::parse(&printed) {
            Ok(again) => assert!(again == module, "printed differently:\n{printed}"),
            Err(e) => panic!("{e}\n{printed}"),
        }
    }
}

/// Decodes bytes as PTX for the simulator.
pub fn sim_decode(data: &[u8]) {
    let gpu = Gpu::new(launch::config());
    // A refusal is an answer.
    let _ = gpu.load_module(&String::from_utf8_lossy(data));
}

/// Makes a program from the instruction table, or mutates a real kernel, and
/// runs it under random schedules, with and without the checkers.
pub fn sim_run(data: &[u8]) {
    let mut s = Source::new(data);
    let text = program(&mut s);
    let gpu = launch::device(&mut s);
    if let Ok(module) = gpu.load_module(&text) {
        launch::all(&gpu, &module, &mut s);
    }
}

/// The PTX that [`sim_run`] runs for some bytes: for the report of a finding.
pub fn sim_run_text(data: &[u8]) -> String {
    program(&mut Source::new(data))
}

fn program(s: &mut Source<'_>) -> String {
    match s.below(3) {
        0 => mutant(s, mutate::mutate),
        1 => mutant(s, mutate::gently),
        _ => generate::program(s),
    }
}

/// A mutant of a real kernel.
pub fn mutant(s: &mut Source<'_>, mutate: fn(&str, &str, &mut Source<'_>) -> String) -> String {
    static CORPUS: OnceLock<Vec<String>> = OnceLock::new();
    let all = CORPUS.get_or_init(corpus::ptx);
    if all.is_empty() {
        return String::new();
    }
    let (text, other) = (&all[s.below(all.len())], &all[s.below(all.len())]);
    mutate(text, other, s)
}

/// The kernel of [`launch_file`].
pub const KERNEL: &str = ".version 8.0\n.target sm_90a\n.address_size 64\n\
    .visible .entry copy(.param .u64 a, .param .u64 b, .param .u32 n, .param .f32 x, .param .align 64 .b8 t[128])\n{\n\
    .reg .pred %p;\n.reg .b32 %r<4>;\n.reg .b64 %d<4>;\n\
    ld.param.u64 %d0, [a];\nld.param.u64 %d1, [b];\nld.param.u32 %r0, [n];\n\
    mov.u32 %r1, %tid.x;\nsetp.ge.u32 %p, %r1, %r0;\n@%p exit;\n\
    mul.wide.u32 %d2, %r1, 4;\nadd.s64 %d0, %d0, %d2;\nadd.s64 %d1, %d1, %d2;\n\
    ld.global.u32 %r2, [%d0];\nst.global.u32 [%d1], %r2;\nexit;\n}\n";

/// Legal launch files for [`KERNEL`], to start from.
pub const LAUNCHES: [&str; 2] = [
    r#"{
  "device": { "sms": 4, "memory": "16MiB" },
  "buffers": {
    "a": { "dtype": "f32", "shape": [64, 4], "fill": { "uniform": { "low": -1, "high": 1 } }, "seed": 3 },
    "b": { "dtype": "f32", "shape": [8, 8], "fill": "zeros" }
  },
  "launch": { "kernel": "copy", "grid": [2, 1, 1], "block": [32, 1, 1], "cluster": [1, 1, 1], "shared": 128,
    "args": ["a", "b", 16, 1.5,
      { "tensor_map": { "buffer": "a", "type": "f32", "dims": [4, 64], "box": [4, 16], "swizzle": "none" } }] },
  "outputs": [ { "buffer": "b", "file": "b.bin" } ],
  "expect": [ { "buffer": "b", "fill": { "constant": 0 }, "abs": 1e3, "rel": 0.5 } ]
}"#,
    r#"{ "buffers": { "a": { "bytes": "1KiB", "fill": { "constant": 1 } },
    "b": { "dtype": "u32", "shape": [4], "values": [1, 2, "0x3", -0] } },
  "launch": [ { "grid": 1, "block": 4, "programmatic": false, "args": [ { "buffer": "a", "offset": 4 }, "b",
    { "u32": 4 }, { "f32": "nan" }, { "bytes": "00ff" } ] } ] }"#,
];

/// Reads bytes as a launch file and runs what it says, but for files: nothing
/// is written.
pub fn launch_file(data: &[u8]) {
    let Ok(mut file) = LaunchFile::parse(&String::from_utf8_lossy(data)) else {
        return;
    };
    file.outputs.clear();
    let options = Options {
        check: true,
        schedules: Schedules::One(Completion::Late),
        threads: 1,
        memory_limit: launch::MEMORY,
        instruction_limit: launch::INSTRUCTIONS,
        ..Options::default()
    };
    // Paths in the file lead nowhere: the folder does not exist.
    let nowhere = Path::new("/nonexistent/fuzz");
    let _ = mcc_sim_run::run(KERNEL, &file, nowhere, &options);
}

/// # Panics
/// When a text is not a launch file: then its mutants test little.
pub fn check_launch_file(text: &str) {
    if let Err(e) = LaunchFile::parse(text) {
        panic!("{e}\n{text}");
    }
}
