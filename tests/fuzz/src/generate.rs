//! Random programs out of the instruction table.
//!
//! In: choices. Out: a module with one kernel whose body is instructions that
//! the table's rows allow, over registers that begin with addresses,
//! descriptors and small numbers, with branches between them.

use std::sync::OnceLock;

use mcc_ptx::{Form, Op};
use mcc_sim::Gpu;

use crate::launch;
use crate::source::Source;

#[path = "../../../codegen/ptx/tests/samples/mod.rs"]
mod samples;

/// Instructions of the longest program.
const MOST: usize = 40;

/// The samples of the table that the simulator runs; one that it refuses ends
/// a whole program.
fn supported() -> &'static [(&'static Form, String)] {
    static ALL: OnceLock<Vec<(&'static Form, String)>> = OnceLock::new();
    ALL.get_or_init(|| {
        let gpu = Gpu::new(launch::config());
        let forms = Op::ALL.iter().flat_map(|op| op.forms());
        let samples = forms.flat_map(|f| samples::of(f).into_iter().map(move |t| (f, t)));
        samples
            .filter(|(f, t)| gpu.load_module(&samples::module(f, t)).is_ok())
            .collect()
    })
}

/// A module with the kernel `k`, whose one parameter is a tensor map.
pub fn program(s: &mut Source<'_>) -> String {
    let mut body = prologue(s);
    let all = supported();
    for i in 0..=s.below(MOST) {
        let Some((_, text)) = all.get(s.below(all.len())) else {
            break;
        };
        body += &format!("L{i}:\n");
        if s.one_in(4) {
            body += if s.below(2) == 0 { "@%p1 " } else { "@!%p2 " };
        }
        // Labels of branches: somewhere in the program.
        let to = format!("L{}", s.below(i + 4));
        body += &text.replace(" end", &format!(" {to}"));
        body.push('\n');
        if s.one_in(3) {
            body += &varied(s);
        }
    }
    for i in 0..MOST + 4 {
        // Every label exists once: those that no instruction took stand last.
        if !body.contains(&format!("L{i}:\n")) {
            body += &format!("L{i}:\n");
        }
    }
    let Some((form, _)) = all.first() else {
        return String::new();
    };
    let module = samples::module(form, &body);
    match module.split_once('\n') {
        Some((_, rest)) => format!(".version 8.6\n{rest}"),
        None => module,
    }
}

/// Gives the registers something to begin with.
fn prologue(s: &mut Source<'_>) -> String {
    let mut t = String::from(
        "mov.u32 %r0, %tid.x;\nmov.u32 %r1, smem;\nmov.u64 %d1, gmem;\nmov.u64 %d7, tm;\n\
         setp.lt.u32 %p1, %r0, 7;\nsetp.eq.u32 %p2, %r0, 0;\nsetp.ne.u32 %p0, %r0, 3;\n",
    );
    for r in 2..8 {
        t += &match s.below(4) {
            0 => format!("mov.u32 %r{r}, {};\n", s.below(64)),
            1 => format!("add.u32 %r{r}, %r1, {};\n", s.below(80) * 8),
            2 => format!("mad.lo.u32 %r{r}, %r0, {}, %r1;\n", 1 << s.below(5)),
            _ => format!("mov.u32 %r{r}, {};\n", s.word() as u32),
        };
    }
    for d in 2..7 {
        t += &match s.below(5) {
            0 => format!("add.u64 %d{d}, %d1, {};\n", s.below(40) * 8),
            1 => format!("cvt.u64.u32 %d{d}, %r{};\n", 1 + s.below(7)),
            // A matrix descriptor with plausible fields.
            2 => format!(
                "mov.u64 %d{d}, {};\n",
                (s.word() & 0xc007_003f_003f_0000) | s.below(128) as u64
            ),
            3 => format!("mul.wide.u32 %d{d}, %r0, 16;\nadd.u64 %d{d}, %d{d}, %d1;\n"),
            _ => format!("mov.u64 %d{d}, {};\n", s.word()),
        };
    }
    if s.below(2) == 0 {
        t += "@%p2 mbarrier.init.shared.b64 [smem+16], 2;\nbar.sync 0;\n";
    }
    t
}

/// Small changes of the registers' values between instructions.
fn varied(s: &mut Source<'_>) -> String {
    let (a, b) = (2 + s.below(6), s.below(8));
    match s.below(6) {
        0 => format!("add.u32 %r{a}, %r{b}, {};\n", s.below(32)),
        1 => format!("and.b32 %r{a}, %r{b}, {};\n", s.below(1024)),
        2 => format!("add.u64 %d{a}, %d1, {};\n", s.below(64) * 16),
        3 => "bar.sync 0;\n".to_owned(),
        4 => format!("setp.gt.u32 %p{}, %r{a}, %r{b};\n", s.below(3)),
        _ => format!("ld.global.u32 %r{a}, [%d1+{}];\n", s.below(256) * 4),
    }
}
