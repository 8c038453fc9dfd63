//! Launch files against real kernels: what each kind of argument gives a
//! kernel, what each mistake is answered with, and the examples.

mod arguments;
mod examples;
mod mistakes;
mod schedules;

use std::path::Path;

use mcc_sim_run::{InputError, LaunchFile, Options, Report, run};

/// A module with one kernel `k`.
pub fn kernel(params: &str, body: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k({params})\n{{\n{body}\n}}\n"
    )
}

/// Copies `words` 32-bit words of parameter memory, from offset 8 on, to the
/// buffer that parameter 0 points to: what the kernel was given, bit for bit.
pub fn echo(params: &str, words: u32) -> String {
    let loads: String = (0..words)
        .map(|i| {
            format!(
                "ld.param.b32 %r1, [out+{}];\nst.global.b32 [%rd1+{}], %r1;\n",
                8 + 4 * i,
                4 * i
            )
        })
        .collect();
    kernel(
        &format!(".param .u64 out{params}"),
        &format!(".reg .b32 %r<2>; .reg .b64 %rd<2>;\nld.param.u64 %rd1, [out];\n{loads}ret;"),
    )
}

/// Adds one to each of the 32 words at parameter 0.
pub const INCREMENT: &str = ".reg .b32 %r<3>; .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [x]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd1, %rd1, %rd2; ld.global.u32 %r2, [%rd1]; add.u32 %r2, %r2, 1;
    st.global.u32 [%rd1], %r2; ret;";

pub fn increment() -> String {
    kernel(".param .u64 x", INCREMENT)
}

pub fn try_in(dir: &Path, ptx: &str, file: &str) -> Result<Report, InputError> {
    run(ptx, &LaunchFile::parse(file)?, dir, &options())
}

pub fn options() -> Options {
    Options {
        threads: 2,
        ..Options::default()
    }
}

/// Runs without files.
pub fn attempt(ptx: &str, file: &str) -> Result<Report, InputError> {
    try_in(Path::new(""), ptx, file)
}

pub fn passes(ptx: &str, file: &str) -> Report {
    let report = attempt(ptx, file).unwrap_or_else(|e| panic!("{e}\n{file}"));
    assert!(report.passed(), "{report}\n{file}");
    report
}

/// The message that a launch file is refused with.
pub fn refused(ptx: &str, file: &str) -> String {
    match attempt(ptx, file) {
        Err(e) => e.to_string(),
        Ok(report) => panic!("accepted:\n{report}\n{file}"),
    }
}
