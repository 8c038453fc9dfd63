//! What a run found, for people and for programs.
//!
//! The JSON form is these types; the text form is their `Display`.

use std::fmt;

use mcc_sim::{LaunchTrace, SimError};
use serde::Serialize;

use crate::approx::Approximation;
use crate::compare::{Comparison, Difference};
use crate::output::Written;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Of the first schedule that ran to its end.
    pub launches: Vec<LaunchReport>,
    pub approximate: Vec<Approximation>,
    pub runs: Vec<Run>,
    /// Buffers that depend on the schedule.
    pub differences: Vec<Difference>,
    pub outputs: Vec<Written>,
    pub expected: Vec<Comparison>,
    /// What is legal and looks like a mistake, and what a trace leaves out.
    pub notes: Vec<String>,
    /// What the warps, barriers and engines did under the first schedule.
    #[serde(skip)]
    pub timeline: Vec<LaunchTrace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchReport {
    pub kernel: String,
    pub grid: [u32; 3],
    pub cluster: [u32; 3],
    pub block: [u32; 3],
    /// Bytes of shared memory that the kernel declares.
    pub static_shared: u32,
    pub dynamic_shared: u32,
    pub blocks: u64,
    pub warp_instructions: u64,
    pub wgmma: u64,
    pub wgmma_multiply_adds: u64,
    pub bulk_copy_bytes: u64,
}

/// One schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// `early`, `late` or `seed 3`.
    pub schedule: String,
    pub finding: Option<Finding>,
}

/// What a kernel did wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `fault` or `dead-lock`.
    pub kind: &'static str,
    pub kernel: String,
    /// Of the PTX text, and what stands there; that of the first warp in a
    /// dead-lock.
    pub line: u32,
    pub text: String,
    pub block: [u32; 3],
    pub warp: u32,
    pub message: String,
}

impl Finding {
    pub fn of(e: &SimError) -> Finding {
        let mut out = Finding {
            kind: "fault",
            kernel: String::new(),
            line: 0,
            text: String::new(),
            block: [0; 3],
            warp: 0,
            message: e.to_string(),
        };
        match e {
            SimError::Deadlock(d) => {
                out.kind = "dead-lock";
                out.kernel.clone_from(&d.kernel);
                if let Some(w) = d.waits.first() {
                    (out.line, out.text) = (w.line, w.text.clone());
                    (out.block, out.warp) = (w.block, w.warp);
                }
            }
            SimError::Fault(f) => {
                out.kernel.clone_from(&f.kernel);
                (out.line, out.text) = (f.line, f.text.clone());
                (out.block, out.warp) = (f.block, f.warp);
            }
            // Nothing else happens while a kernel runs.
            _ => {}
        }
        out
    }
}

impl Report {
    /// No finding, no difference, and all that was expected.
    pub fn passed(&self) -> bool {
        self.runs.iter().all(|r| r.finding.is_none())
            && self.differences.is_empty()
            && self.expected.iter().all(|c| c.mismatches == 0)
    }

    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Whole<'a> {
            passed: bool,
            #[serde(flatten)]
            report: &'a Report,
        }
        let whole = Whole {
            passed: self.passed(),
            report: self,
        };
        // Strings, numbers and lists always serialise.
        serde_json::to_string_pretty(&whole).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for l in &self.launches {
            writeln!(f, "{l}")?;
        }
        for a in &self.approximate {
            let lines: Vec<String> = a.lines.iter().take(8).map(u32::to_string).collect();
            let more = if a.lines.len() > 8 { ", …" } else { "" };
            writeln!(
                f,
                "approximate: {} (`{}`, PTX line {}{more}): rounded correctly here; a GPU may differ by {}",
                a.instruction,
                a.kernel,
                lines.join(", "),
                a.bound
            )?;
        }
        self.write_runs(f)?;
        for d in &self.differences {
            writeln!(
                f,
                "the result depends on the schedule: {} elements of `{}` differ between {} and {}, first element {}: {} and {}",
                number(d.elements as u64),
                d.buffer,
                d.schedules[0],
                d.schedules[1],
                d.element,
                d.values[0],
                d.values[1]
            )?;
        }
        for c in &self.expected {
            match &c.first {
                None => writeln!(
                    f,
                    "expected `{}`: all {} elements match; largest difference {}",
                    c.buffer,
                    number(c.elements as u64),
                    c.largest_difference
                )?,
                Some(m) => writeln!(
                    f,
                    "expected `{}`: {} of {} elements do not match, first element {}: {} in place of {}; largest difference {}",
                    c.buffer,
                    number(c.mismatches as u64),
                    number(c.elements as u64),
                    m.element,
                    m.got,
                    m.want,
                    c.largest_difference
                )?,
            }
        }
        for w in &self.outputs {
            write!(
                f,
                "output `{}`: {} {:?} in {}",
                w.buffer,
                w.dtype,
                w.shape,
                w.path.display()
            )?;
            if let Some(tensor) = &w.tensor {
                write!(f, " as `{tensor}`")?;
            }
            writeln!(f, ": {}, …", w.first.join(", "))?;
        }
        for n in &self.notes {
            writeln!(f, "note: {n}")?;
        }
        write!(f, "{}", if self.passed() { "passed" } else { "failed" })
    }
}

impl Report {
    /// Schedules with one outcome are told together.
    fn write_runs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
        for run in &self.runs {
            let outcome = run.finding.as_ref().map(|f| f.message.as_str());
            match groups.iter_mut().find(|(o, _)| *o == outcome) {
                Some((_, schedules)) => schedules.push(&run.schedule),
                None => groups.push((outcome, vec![&run.schedule])),
            }
        }
        for (outcome, schedules) in groups {
            let text = match outcome {
                Some(message) => message.to_owned(),
                None if schedules.len() > 1 && self.differences.is_empty() => {
                    "no finding, and the same bits in every buffer".into()
                }
                None => "no finding".into(),
            };
            writeln!(f, "{}: {text}", shorten(&schedules))?;
        }
        Ok(())
    }
}

/// `early, late, seed 1 and 29 more`.
fn shorten(schedules: &[&str]) -> String {
    match schedules.len() {
        0..=4 => schedules.join(", "),
        n => format!("{} and {} more schedules", schedules[..3].join(", "), n - 3),
    }
}

impl fmt::Display for LaunchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let triple = |v: [u32; 3]| format!("{}x{}x{}", v[0], v[1], v[2]);
        write!(f, "kernel `{}`: grid {}", self.kernel, triple(self.grid))?;
        if self.cluster != [1; 3] {
            write!(f, " in clusters of {}", triple(self.cluster))?;
        }
        write!(f, ", blocks of {}", triple(self.block))?;
        let shared = u64::from(self.static_shared) + u64::from(self.dynamic_shared);
        if shared > 0 {
            write!(f, ", {} bytes of shared memory", number(shared))?;
        }
        write!(
            f,
            "\n  {} warp instructions",
            number(self.warp_instructions)
        )?;
        if self.wgmma > 0 {
            write!(
                f,
                ", {} wgmma ({} multiply-adds)",
                number(self.wgmma),
                number(self.wgmma_multiply_adds)
            )?;
        }
        if self.bulk_copy_bytes > 0 {
            write!(f, ", {} bytes by bulk copies", number(self.bulk_copy_bytes))?;
        }
        Ok(())
    }
}

/// Digits in groups of three.
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
