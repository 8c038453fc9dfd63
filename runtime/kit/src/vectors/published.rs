//! Published measurements of the tensor core, each through a real `wgmma`.
//!
//! In: a folder with files of the format below. Out: for each how many lines agree.
//! Holds: a file that is not there is skipped by name. The data is not part of the project.
//!
//! A line is one dot product in hex: codes of A, codes of B, C, D; big-endian digits, codes in the order of K. 64
//! lines make a tile: line i is row i of A and column i of B, its result lies on the diagonal.

use std::path::Path;

use mcc_runtime::Device;
use mcc_sim::numerics::wgmma::Element;

use super::VectorError;
use super::form::{Form, K_BYTES, Layout, M};
use super::inputs::Tile;
use super::probe::Probe;
use super::report::PublishedReport;
use super::types::{Accumulator, Types};

/// Files that are looked for, and their operand type.
const FILES: [(&str, Element); 4] = [
    ("h100_wgmma_e4m3_k32.txt", Element::E4m3),
    ("h100_wgmma_e5m2_k32.txt", Element::E5m2),
    ("h100_mma_bf16_k16.txt", Element::Bf16),
    ("h100_mma_fp16_k16.txt", Element::F16),
];

/// One tile of one `wgmma`.
const FORM: Form = Form {
    n: 64,
    steps: 1,
    layout: Layout::Swizzled(128),
    a_in_registers: false,
    scale_d: true,
};

/// Runs every line of every file of `folder`.
pub(super) fn run(
    device: &mut dyn Device,
    folder: Option<&Path>,
    keep: usize,
) -> Result<Vec<PublishedReport>, VectorError> {
    FILES
        .iter()
        .map(|&(name, element)| {
            let skipped = |why: String| PublishedReport {
                file: name.to_owned(),
                lines: 0,
                mismatches: 0,
                skipped: Some(why),
                first: Vec::new(),
            };
            let Some(folder) = folder else {
                return Ok(skipped("no folder of vectors was given".to_owned()));
            };
            let path = folder.join(name);
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(err) => return Ok(skipped(format!("{}: {err}", path.display()))),
            };
            let lines: Option<Vec<Line>> = text
                .lines()
                .filter(|line| !line.trim().is_empty())
                .map(|line| Line::parse(line, element))
                .collect();
            match lines {
                Some(lines) => compare(device, name, element, &lines, keep),
                None => Ok(skipped(format!(
                    "{}: a line is not four numbers of {} codes",
                    path.display(),
                    element.k()
                ))),
            }
        })
        .collect()
}

struct Line {
    a: Vec<u8>,
    b: Vec<u8>,
    c: u32,
    d: u32,
}

impl Line {
    fn parse(line: &str, element: Element) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let mut codes = || codes(fields.next()?, element.bytes());
        let (a, b) = (codes()?, codes()?);
        let mut word = || u32::from_str_radix(fields.next()?, 16).ok();
        let (c, d) = (word()?, word()?);
        fields.next().is_none().then_some(Self { a, b, c, d })
    }
}

/// 32 bytes of codes, little-endian.
fn codes(hex: &str, width: usize) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * K_BYTES || !hex.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = digits
        .chunks_exact(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    let mut bytes = bytes?;
    bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
    Some(bytes)
}

fn compare(
    device: &mut dyn Device,
    name: &str,
    element: Element,
    lines: &[Line],
    keep: usize,
) -> Result<PublishedReport, VectorError> {
    let types = Types {
        a: element,
        b: element,
        accumulator: Accumulator::F32,
    };
    let probe = Probe::load(device, types, FORM)?;
    let tiles: Vec<Tile> = lines.chunks(M).map(tile).collect();
    let mut report = PublishedReport {
        file: name.to_owned(),
        lines: lines.len() as u64,
        mismatches: 0,
        skipped: None,
        first: Vec::new(),
    };
    for (number, batch) in tiles.chunks(probe.batch()).enumerate() {
        let first_tile = number * probe.batch();
        let results = probe.run(device, batch)?;
        for (i, (tile, results)) in batch.iter().zip(&results).enumerate() {
            let number = first_tile + i;
            for (row, line) in lines
                .chunks(M)
                .nth(number)
                .unwrap_or_default()
                .iter()
                .enumerate()
            {
                let at = row * FORM.n + row;
                if probe.agrees(results[at], line.d, false) {
                    continue;
                }
                report.mismatches += 1;
                if report.first.len() < keep {
                    let mismatch = probe.describe(tile, number as u64, at, results[at], line.d);
                    report.first.push(mismatch);
                }
            }
        }
    }
    Ok(report)
}

fn tile(lines: &[Line]) -> Tile {
    let mut tile = Tile {
        a: vec![0; M * K_BYTES],
        b: vec![0; FORM.n * K_BYTES],
        c: vec![0; FORM.results()],
    };
    for (i, line) in lines.iter().enumerate() {
        tile.a[i * K_BYTES..(i + 1) * K_BYTES].copy_from_slice(&line.a);
        tile.b[i * K_BYTES..(i + 1) * K_BYTES].copy_from_slice(&line.b);
        tile.c[i * FORM.n + i] = line.c;
    }
    tile
}
