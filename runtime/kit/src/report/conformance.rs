//! What each step compared, how much of it differs, and the names of what does.
//!
//! In: the `data` of one step. Out: rows of the page's table. Holds: a step whose data is not understood gives no row;
//! its verdict stands in the table of steps all the same.

use serde_json::Value;

use crate::results::StepResult;

/// Names of one row at most; the rest is counted.
const NAMED: usize = 12;

/// What, how much was compared, how much of it differs, notes.
pub type Cells = Vec<String>;

/// Rows of a step.
pub fn rows(step: &StepResult) -> Vec<Cells> {
    let data = &step.data;
    match step.id.as_str() {
        "text-sim" | "text-device" if data["prompts"].is_array() => vec![text(data)],
        "repeat" if data["hashes"].is_array() => vec![repeats(data)],
        "vectors" => vectors(data),
        id if id.starts_with("check-") && data["kernels"].is_array() => vec![check(id, data)],
        id if id.starts_with("sanitizer-") && data["tool"].is_string() => vec![sanitizer(data)],
        _ => Vec::new(),
    }
}

fn text(data: &Value) -> Cells {
    let mut notes = vec![match data["bit_equal"].as_bool() {
        Some(true) => "every logit bit for bit".to_owned(),
        _ => format!(
            "largest difference of a logit {}",
            data["max_abs_difference"]
        ),
    }];
    for prompt in list(&data["prompts"]) {
        let first = &prompt["first_mismatch"];
        if first.is_object() {
            notes.push(format!(
                "\"{}\": step {} gave {} for {} (margin {})",
                show(&prompt["text"]),
                first["step"],
                first["found"],
                first["expected"],
                first["margin"]
            ));
        }
    }
    vec![
        format!("tokens, {}", show(&data["device"])),
        format!("{} prompts", list(&data["prompts"]).len()),
        show(&data["mismatches"]),
        notes.join("; "),
    ]
}

fn repeats(data: &Value) -> Cells {
    let hashes = list(&data["hashes"]).len();
    vec![
        "repeats".to_owned(),
        format!("{} of {}", data["done"], data["asked"]),
        hashes.saturating_sub(1).to_string(),
        if hashes == 1 {
            "one hash".to_owned()
        } else {
            format!("{hashes} different results")
        },
    ]
}

/// `mccrt check --json`.
fn check(id: &str, data: &Value) -> Cells {
    let kernels = list(&data["kernels"]);
    let sum = |field: &str| {
        kernels
            .iter()
            .filter_map(|kernel| kernel[field].as_u64())
            .sum::<u64>()
    };
    let ran = kernels
        .iter()
        .filter(|kernel| kernel["launches"].as_u64() > Some(0))
        .count();
    let mut notes = vec![format!(
        "{ran} of {} kernels, {} launches",
        kernels.len(),
        sum("launches")
    )];
    let within = sum("mismatches").saturating_sub(sum("outside"));
    if within > 0 {
        notes.push(format!("{within} more differ within the documented error"));
    }
    let outside = kernels
        .iter()
        .filter(|kernel| kernel["outside"].as_u64() > Some(0));
    notes.extend(named(outside.map(|kernel| {
        let first = &kernel["first"];
        format!(
            "{}: {} of {}, first in {} at {} (operand {}, {}, seed {})",
            show(&kernel["kernel"]),
            kernel["outside"],
            kernel["elements"],
            show(&first["step"]),
            first["element"]["index"],
            show(&first["operand"]),
            first["dims"],
            first["seed"]
        )
    })));
    notes.extend(named(list(&data["failures"]).iter().map(|failure| {
        format!(
            "{} did not run: {}",
            show(&failure["case"]["entry"]),
            show(&failure["error"])
        )
    })));
    let weights = list(&data["weights"]["differing"]);
    if !weights.is_empty() {
        let names = named(weights.iter().map(show)).join(", ");
        notes.push(format!("weights arrived differently: {names}"));
    }
    if data["tokens"]["equal"] == Value::Bool(false) {
        notes.push(format!(
            "whole model: tokens part at {}",
            data["tokens"]["first_difference"]
        ));
    }
    let skipped = list(&data["skipped"]).len();
    if skipped > 0 {
        notes.push(format!("{skipped} cases left out for time"));
    }
    vec![
        format!("kernels of {}", id.trim_start_matches("check-")),
        format!("{} elements", sum("elements")),
        sum("outside").to_string(),
        notes.join("; "),
    ]
}

/// `mcckit vectors`: one row for each combination of types, and one for each instruction that converts.
fn vectors(data: &Value) -> Vec<Cells> {
    let mut rows = Vec::new();
    for types in list(&data["products"]["types"]) {
        let wrong = list(&types["classes"])
            .iter()
            .filter(|class| class["mismatches"].as_u64() > Some(0));
        let notes = wrong.map(|class| {
            format!(
                "{}: {} of {}, up to {} ulp",
                show(&class["class"]),
                class["mismatches"],
                class["results"],
                class["max_ulps"]
            )
        });
        rows.push(vec![
            show(&types["instruction"]),
            show(&types["results"]),
            show(&types["mismatches"]),
            named(notes).join("; "),
        ]);
    }
    for file in list(&data["products"]["published"]) {
        rows.push(vec![
            format!("published {}", show(&file["file"])),
            show(&file["lines"]),
            show(&file["mismatches"]),
            file["skipped"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    for instruction in list(&data["conversions"]["instructions"]) {
        let mut notes = Vec::new();
        if instruction["exhaustive"] == Value::Bool(true) {
            notes.push("every input".to_owned());
        }
        if instruction["error"].is_object() {
            notes.push(format!(
                "at most {} ulp from the true value, documented {}",
                instruction["error"]["max_ulps"],
                show(&instruction["error"]["bound"])
            ));
        }
        rows.push(vec![
            show(&instruction["instruction"]),
            show(&instruction["results"]),
            show(&instruction["mismatches"]),
            notes.join("; "),
        ]);
    }
    rows
}

fn sanitizer(data: &Value) -> Cells {
    vec![
        format!("compute-sanitizer {}", show(&data["tool"])),
        "one generation".to_owned(),
        show(&data["errors"]),
        data["lines"][0].as_str().unwrap_or_default().to_owned(),
    ]
}

/// The first of them, and how many more there are.
fn named(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = names.collect();
    if all.len() > NAMED {
        let more = all.len() - NAMED;
        all.truncate(NAMED);
        all.push(format!("and {more} more"));
    }
    all
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
