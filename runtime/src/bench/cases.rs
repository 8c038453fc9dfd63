//! What to measure: entries and values of their dims.
//!
//! In: a manifest, and what the user asked for. Out: [`Case`]s with a value for every named dim of the bundle.
//! Without a wish each entry runs at values that matter for it: of a bundle made of `bench/shapes.json` the upper
//! bounds, for which its kernels were chosen; of a text model one step of `decode` over a full context, and the
//! largest `prefill`.

use std::collections::{BTreeMap, BTreeSet};

use mcc_bundle::{Dim, DimValues, Entry, Manifest};
use serde::Deserialize;

use crate::error::RuntimeError;

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Index into the manifest's entries.
    pub entry: usize,
    /// Of every dim that the bundle declares.
    pub dims: DimValues,
    /// Those that the entry depends on.
    pub used: BTreeMap<String, u64>,
    /// Family of the kernel that the entry is about.
    pub subject: Option<String>,
}

/// The document that `bench/models/kernels.rs` and the peers read, too.
#[derive(Deserialize)]
struct Shapes {
    shapes: Vec<Shape>,
}

#[derive(Deserialize)]
struct Shape {
    name: String,
    kernel: String,
}

const SHAPES: &str = include_str!("../../../bench/shapes.json");

/// The cases of a bundle: entries whose name contains `only`, at `dims` where these are given.
pub(crate) fn cases(
    manifest: &Manifest,
    only: Option<&str>,
    dims: &DimValues,
) -> Result<Vec<Case>, RuntimeError> {
    for (name, value) in dims {
        let decl = manifest.dim(name);
        if !decl.is_some_and(|decl| (decl.min..=decl.max).contains(value)) {
            let known: Vec<&str> = manifest.dims.iter().map(|d| d.name.as_str()).collect();
            return Err(RuntimeError::DimOutOfRange {
                name: name.clone(),
                found: match decl {
                    Some(_) => value.to_string(),
                    None => format!("not of this bundle (it has {})", known.join(", ")),
                },
                min: decl.map_or(0, |decl| decl.min),
                max: decl.map_or(0, |decl| decl.max),
            });
        }
    }
    let shapes: Vec<Shape> = serde_json::from_str::<Shapes>(SHAPES)
        .map(|document| document.shapes)
        .unwrap_or_default();
    let mut cases = Vec::new();
    for (index, entry) in manifest.entries.iter().enumerate() {
        if only.is_some_and(|only| !entry.name.contains(only)) {
            continue;
        }
        let used = used_dims(entry);
        let value = |name: &str| {
            dims.get(name).copied().or_else(|| {
                let decl = manifest.dim(name)?;
                let decode = entry.name == "decode" && ["T", "R"].contains(&name);
                let logits = entry.name == "prefill" && name == "R";
                Some(if decode || logits { decl.min } else { decl.max })
            })
        };
        let all = manifest
            .dims
            .iter()
            .map(|decl| {
                let value = match used.contains(decl.name.as_str()) {
                    true => value(&decl.name),
                    false => dims.get(&decl.name).copied(),
                };
                (decl.name.clone(), value.unwrap_or(decl.min))
            })
            .collect::<DimValues>();
        cases.push(Case {
            entry: index,
            used: all
                .iter()
                .filter(|(name, _)| used.contains(name.as_str()))
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
            dims: all,
            subject: subject(&shapes, &entry.name),
        });
    }
    if cases.is_empty() {
        let known: Vec<&str> = manifest.entries.iter().map(|e| e.name.as_str()).collect();
        return Err(RuntimeError::NoEntry {
            name: only.unwrap_or_default().to_owned(),
            known: known.join(", "),
        });
    }
    Ok(cases)
}

/// The kernel family that the shape of this entry is about: `<shape>_m64` belongs to `<shape>`.
fn subject(shapes: &[Shape], entry: &str) -> Option<String> {
    let of_shape = |shape: &&Shape| {
        entry
            .strip_prefix(&shape.name)
            .is_some_and(|rest| rest.is_empty() || is_extents(rest))
    };
    let shape = shapes.iter().find(of_shape)?;
    Some(shape.kernel.clone())
}

/// `_m64`, `_t1_c4096`.
fn is_extents(text: &str) -> bool {
    let parts = text.strip_prefix('_').map(|rest| rest.split('_'));
    parts.is_some_and(|mut parts| {
        parts.all(|part| {
            let mut chars = part.chars();
            chars.next().is_some_and(|c| c.is_ascii_lowercase())
                && !chars.as_str().is_empty()
                && chars.all(|c| c.is_ascii_digit())
        })
    })
}

fn used_dims(entry: &Entry) -> BTreeSet<&str> {
    let ports = entry.inputs.iter().chain(&entry.outputs);
    let views = entry.steps.iter().flat_map(|step| &step.operands);
    ports
        .flat_map(|port| &port.ty.shape)
        .chain(views.flat_map(|view| &view.shape))
        .filter_map(|dim| match dim {
            Dim::Sym { name, .. } => Some(name.as_str()),
            Dim::Const(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_belongs_to_the_shape_that_it_extends_by_extents() {
        let shapes: Vec<Shape> = serde_json::from_str::<Shapes>(SHAPES)
            .expect("it parses")
            .shapes;
        let subject = |entry: &str| subject(&shapes, entry);
        assert_eq!(subject("add_t64").as_deref(), Some("add"));
        assert_eq!(
            subject("add_rms_norm_quantize_t64").as_deref(),
            Some("rms_norm")
        );
        assert_eq!(
            subject("fp8_gemm_2112x7168_m4096").as_deref(),
            Some("gemm_fp8")
        );
        assert_eq!(
            subject("mla_decode_t1_c4096").as_deref(),
            Some("attention_decode")
        );
        assert_eq!(subject("decode"), None);
        assert_eq!(subject("add_more"), None);
    }
}
