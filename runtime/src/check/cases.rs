//! Sizes under which an entry is checked.
//!
//! In: the bounds of the named dims. Out: values for them, the most telling ones first.
//! Holds: every value lies within its bounds; no two cases of an entry are alike in the dims that it uses.

use std::collections::BTreeSet;

use mcc_bundle::{Dim, DimDecl, DimValues, Entry, Manifest};

/// Numbers of rows: one, a whole tile, one more, an odd few, two tiles, two, one less than a tile.
const SIZES: [u64; 7] = [1, 64, 65, 7, 128, 2, 63];

/// Tokens that a context has before those of the step, in every second case: a tile and one.
const EARLIER: u64 = 65;

/// Cases of an entry.
///
/// Dims are known by their first letter: `T` tokens are the last of a context of `C`, of which `R` rows are wanted;
/// all others are sizes of their own.
#[must_use]
pub fn cases(manifest: &Manifest, entry: &Entry) -> Vec<DimValues> {
    let used = used_dims(entry);
    let mut seen = BTreeSet::new();
    let mut cases = Vec::new();
    for size in SIZES {
        for later in [true, false] {
            let case = case(manifest, &used, size, later);
            let largest = |letter| of(&used, letter).map(|name| case[name]).max();
            let fits = largest('T').zip(largest('C')).is_none_or(|(t, c)| t <= c);
            if fits && seen.insert(case.clone()) {
                cases.push(case);
            }
        }
    }
    cases
}

/// Used dims that begin with this letter.
fn of(used: &BTreeSet<String>, letter: char) -> impl Iterator<Item = &String> {
    used.iter().filter(move |name| name.starts_with(letter))
}

fn case(manifest: &Manifest, used: &BTreeSet<String>, size: u64, later: bool) -> DimValues {
    let clamp = |dim: &DimDecl, value: u64| value.clamp(dim.min, dim.max);
    let tokens = manifest.dims.iter().filter(|dim| used.contains(&dim.name));
    let tokens = tokens.filter(|dim| dim.name.starts_with('T'));
    let tokens = tokens.map(|dim| clamp(dim, size)).max();
    let value = |dim: &DimDecl| match (tokens, dim.name.chars().next()) {
        _ if !used.contains(&dim.name) => dim.min,
        (Some(tokens), Some('C')) => clamp(dim, if later { tokens + EARLIER } else { tokens }),
        (Some(tokens), Some('R')) => clamp(dim, if later { tokens } else { 1 }),
        _ => clamp(dim, size),
    };
    let dims = manifest.dims.iter();
    dims.map(|dim| (dim.name.clone(), value(dim))).collect()
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
