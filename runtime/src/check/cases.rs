//! Sizes under which an entry is checked.
//!
//! In: the bounds of the named dims. Out: values for them, the most telling ones first.
//! Holds: every value lies within its bounds; no two cases of an entry are alike in the dims that it uses.

use std::collections::BTreeSet;

use mcc_bundle::{Dim, DimValues, Entry, Manifest};

/// Numbers of rows: one, a whole tile, one more, an odd few, two tiles, two, one less than a tile.
const SIZES: [u64; 7] = [1, 64, 65, 7, 128, 2, 63];

/// Tokens that a context has before those of the step, in every second case: a tile and one.
const EARLIER: u64 = 65;

/// Cases of an entry.
///
/// `T` tokens are the last of a context of `C`, of which `R` rows are wanted; all other dims are sizes of their own.
#[must_use]
pub fn cases(manifest: &Manifest, entry: &Entry) -> Vec<DimValues> {
    let used = used_dims(entry);
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for size in SIZES {
        for later in [true, false] {
            let case = case(manifest, &used, size, later);
            let fits = case.get("T").zip(case.get("C")).is_none_or(|(t, c)| t <= c);
            if fits && seen.insert(case.clone()) {
                cases.push(case);
            }
        }
    }
    cases
}

fn case(manifest: &Manifest, used: &BTreeSet<String>, size: u64, later: bool) -> DimValues {
    let bounds = |name: &str| manifest.dim(name).map_or((0, u64::MAX), |d| (d.min, d.max));
    let clamp = |name: &str, value: u64| {
        let (min, max) = bounds(name);
        value.clamp(min, max)
    };
    let tokens = clamp("T", size);
    let value = |name: &str| match name {
        _ if !used.contains(name) => bounds(name).0,
        "C" if used.contains("T") => clamp(name, if later { tokens + EARLIER } else { tokens }),
        "R" if used.contains("T") => clamp(name, if later { tokens } else { 1 }),
        _ => clamp(name, size),
    };
    let dims = manifest.dims.iter().map(|dim| &dim.name);
    dims.map(|name| (name.clone(), value(name))).collect()
}

/// Names in the entry's ports and views.
fn used_dims(entry: &Entry) -> BTreeSet<String> {
    let ports = entry.inputs.iter().chain(&entry.outputs);
    let ports = ports.flat_map(|port| &port.ty.shape);
    let views = entry.steps.iter().flat_map(|step| &step.operands);
    let views = views.flat_map(|view| &view.shape);
    ports
        .chain(views)
        .filter_map(|dim| match dim {
            Dim::Sym { name, .. } => Some(name.clone()),
            Dim::Const(_) => None,
        })
        .collect()
}
