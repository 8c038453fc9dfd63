//! Inputs of an entry that are made up: values that its kernels can take.
//!
//! In: an entry, values of its named dims, a seed. Out: bytes for each input port, and for the caches.
//! Holds: what an integer means is read off the kernels that take it (`index` into a `table`, `positions` of a
//! cache, `experts`, `offsets`, `slots`), so that every index is in range and positions follow each other up to
//! the end of the context.

use mcc_bundle::{DType, DimValues, Entry, Manifest, Port, View};

use super::stream;
use super::tile::{Fill, Tiles};
use crate::sampling::SplitMix64;

/// Bytes for each input of `entry`, in the order of its ports; `None` when a dim has no value.
#[must_use]
pub fn inputs(
    manifest: &Manifest,
    entry: &Entry,
    dims: &DimValues,
    seed: u64,
) -> Option<Vec<(String, Vec<u8>)>> {
    let mut tiles = Tiles::new(seed);
    let port = |port: &Port| {
        let extents = port.ty.extents(dims)?;
        let elements = extents
            .iter()
            .try_fold(1_u64, |acc, n| acc.checked_mul(*n))?;
        let uses = uses(manifest, entry, port, dims);
        let bytes = if port.ty.dtype == DType::I32 {
            let width = extents.last().copied().unwrap_or(1);
            let random = SplitMix64::new(seed ^ stream(&port.name));
            let values = integers(&uses, elements, width, random);
            values.flat_map(|value| value.to_le_bytes()).collect()
        } else {
            let fill = float_fill(port.ty.dtype, &uses);
            tiles.bytes(fill, stream(&port.name), elements)
        };
        Some((port.name.clone(), bytes))
    };
    entry.inputs.iter().map(port).collect()
}

/// The first `bytes` bytes of a cache of `dtype` elements, as if tokens had been there before.
pub(crate) fn state_bytes(dtype: DType, name: &str, bytes: u64, seed: u64) -> Vec<u8> {
    let elements = bytes.div_ceil(dtype.bytes());
    let mut all = Tiles::new(seed).bytes(Fill::Normal(dtype, 1), stream(name), elements);
    all.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
    all
}

/// A kernel's operand that is an input: its name, and the extents of the operands beside it.
struct Use<'m> {
    name: &'m str,
    beside: Vec<(&'m str, Vec<u64>)>,
}

impl Use<'_> {
    /// An extent of one of the operands beside it.
    fn extent(&self, names: &[&str], axis: usize) -> Option<u64> {
        let found = self.beside.iter().filter(|(name, _)| names.contains(name));
        found
            .filter_map(|(_, extents)| extents.get(axis).copied())
            .min()
    }
}

fn uses<'m>(
    manifest: &'m Manifest,
    entry: &'m Entry,
    port: &Port,
    dims: &DimValues,
) -> Vec<Use<'m>> {
    let extents = |view: &View| {
        let shape = view.shape.iter().map(|dim| dim.resolve(dims));
        shape.collect::<Option<Vec<u64>>>().unwrap_or_default()
    };
    let mut uses = Vec::new();
    for step in &entry.steps {
        let operands = &manifest.kernels[step.kernel.0 as usize].operands;
        for (view, operand) in step.operands.iter().zip(operands) {
            if view.buffer == port.buffer && !operand.written {
                let beside = operands.iter().zip(&step.operands);
                uses.push(Use {
                    name: &operand.name,
                    beside: beside
                        .map(|(operand, view)| (operand.name.as_str(), extents(view)))
                        .collect(),
                });
            }
        }
    }
    uses
}

/// The smallest bound that the uses of one name give.
fn bound(uses: &[Use<'_>], name: &str, beside: &[&str]) -> Option<u64> {
    let uses = uses.iter().filter(|used| used.name == name);
    uses.filter_map(|used| used.extent(beside, 0)).min()
}

/// Values of an `i32` input of rows of `width`; zeros when nothing is known of it, which are an index of anything.
fn integers(
    uses: &[Use<'_>],
    elements: u64,
    width: u64,
    random: SplitMix64,
) -> Box<dyn Iterator<Item = i32>> {
    // Extents of a bundle are below 2^32; what does not fit an `i32` wraps to a value that kernels refuse.
    let ints = move |value: &dyn Fn(u64) -> u64| -> Box<dyn Iterator<Item = i32>> {
        let values: Vec<i32> = (0..elements).map(|n| value(n) as i32).collect();
        Box::new(values.into_iter())
    };
    if let Some(end) = bound(uses, "positions", &["k", "k_rope", "cache", "table"]) {
        let end = end.max(1);
        let first = end.saturating_sub(elements);
        return ints(&|n| (first + n) % end);
    }
    if let Some(rows) = bound(uses, "index", &["table", "table_codes"]) {
        return ints(&|n| random.bits(n) % rows.max(1));
    }
    if let Some(rows) = bound(uses, "row_token", &["x", "codes"]) {
        return ints(&|n| random.bits(n) % rows.max(1));
    }
    if let Some(offsets) = bound(uses, "experts", &["offsets"]) {
        // A token's experts differ: they follow each other, from a random first one.
        let experts = offsets.saturating_sub(1).max(1);
        let width = width.max(1);
        return ints(&|n| (random.bits(n / width) + n % width) % experts);
    }
    if let Some(rows) = offset_end(uses) {
        return offsets(elements, rows, random);
    }
    // The first rows of each expert; their capacity is an axis of the operand beside it.
    let capacity = uses.iter().filter(|used| used.name == "counts");
    if let Some(rows) = capacity.filter_map(|used| used.extent(&["a"], 1)).min() {
        return ints(&|n| random.bits(n) % (rows + 1));
    }
    if let Some(rows) = bound(uses, "slots", &["y", "row_weights"]) {
        // Each row of the experts' results belongs to one token: the last of a shuffled deck.
        let mut deck: Vec<u64> = (0..rows.max(elements)).collect();
        for n in (1..deck.len() as u64).rev() {
            deck.swap(n as usize, (random.bits(n) % (n + 1)) as usize);
        }
        return ints(&|n| deck[n as usize] % rows.max(1));
    }
    ints(&|_| 0)
}

/// What groups divide: rows of `a`, or where both factors are matrices the depth that they share.
fn offset_end(uses: &[Use<'_>]) -> Option<u64> {
    let of = |used: &Use<'_>| {
        let axis = match used.extent(&["b"], 2) {
            Some(_) => 0,
            None => usize::from(used.extent(&["b"], 1).is_some()),
        };
        used.extent(&["a"], axis)
    };
    uses.iter()
        .filter(|used| used.name == "offsets")
        .filter_map(of)
        .min()
}

/// Where each group's rows begin, from 0 to `rows`: uneven groups, some of them empty.
fn offsets(elements: u64, rows: u64, random: SplitMix64) -> Box<dyn Iterator<Item = i32>> {
    let mut cuts: Vec<u64> = (0..elements).map(|n| random.bits(n) % (rows + 1)).collect();
    cuts.sort_unstable();
    if let Some(first) = cuts.first_mut() {
        *first = 0;
    }
    if let Some(last) = cuts.last_mut() {
        *last = rows;
    }
    Box::new(cuts.into_iter().map(|cut| cut as i32))
}

/// What the kernels that take a floating-point input expect of it.
fn float_fill(dtype: DType, uses: &[Use<'_>]) -> Fill {
    let named = |wanted: &[&str]| uses.iter().any(|used| wanted.contains(&used.name));
    if dtype == DType::E4m3 {
        Fill::Codes
    } else if dtype == DType::F32 && named(&["uniform", "temperature"]) {
        Fill::Uniform
    } else if dtype == DType::F32 && named(&["top_p", "weights"]) {
        Fill::Positive
    } else if dtype == DType::F32 && named(&["scales", "a_scales"]) {
        Fill::Scales(1)
    } else {
        Fill::Normal(dtype, 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(name: &'static str, elements: u64, beside: &[(&'static str, &[u64])]) -> Vec<i32> {
        let beside = beside.iter().map(|(name, e)| (*name, e.to_vec())).collect();
        let uses = [Use { name, beside }];
        integers(&uses, elements, elements, SplitMix64::new(7)).collect()
    }

    #[test]
    fn offsets_divide_rows_or_where_both_factors_are_matrices_the_depth() {
        let grouped = drawn("offsets", 5, &[("a", &[300, 512]), ("b", &[4, 64, 512])]);
        assert!(grouped.is_sorted(), "{grouped:?}");
        assert_eq!((grouped[0], grouped[4]), (0, 300));
        let gradient = drawn("offsets", 5, &[("a", &[300, 512]), ("b", &[64, 512])]);
        assert_eq!((gradient[0], gradient[4]), (0, 512));
    }

    #[test]
    fn counts_stay_within_the_room_of_a_group() {
        let counts = drawn(
            "counts",
            64,
            &[("a", &[64, 20, 512]), ("b", &[64, 64, 512])],
        );
        assert!(counts.iter().all(|c| (0..=20).contains(c)), "{counts:?}");
        assert!(counts.iter().any(|c| *c > 0), "{counts:?}");
    }
}
