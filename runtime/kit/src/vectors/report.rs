//! What the probe found, for people and programs.
//!
//! In: counts. Out: serialisable structs and a few lines of text. Holds: a mismatch carries all its inputs as hex
//! codes in the order of K, so that it can be run again by hand.

use std::fmt;

use serde::Serialize;

/// Results of [`super::run`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VectorReport {
    /// The device's name.
    pub device: String,
    /// Its driver, empty where there is none.
    pub driver: String,
    /// Seed of the inputs.
    pub seed: u64,
    /// Time of all of it, seconds.
    pub seconds: f64,
    /// Results compared.
    pub results: u64,
    /// Results that differ from the model.
    pub mismatches: u64,
    /// By types.
    pub types: Vec<TypeReport>,
    /// Published vectors, each through the instruction.
    pub published: Vec<PublishedReport>,
    /// What the probe knows no arithmetic of.
    pub not_modelled: Vec<&'static str>,
}

impl VectorReport {
    /// Whether everything that was compared agrees.
    #[must_use]
    pub const fn passed(&self) -> bool {
        self.mismatches == 0
    }
}

/// One combination of types.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TypeReport {
    /// The instruction.
    pub instruction: String,
    /// Results compared.
    pub results: u64,
    /// Results that differ.
    pub mismatches: u64,
    /// By class of inputs.
    pub classes: Vec<ClassReport>,
    /// Where results differ: what other adders would miss, nearest first. Empty where nothing differs.
    pub alternatives: Vec<AlternativeReport>,
}

/// An adder that differs from the model in one property, over some of the tiles.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlternativeReport {
    /// The property.
    pub what: String,
    /// Results compared.
    pub results: u64,
    /// Results of the device that it does not give.
    pub mismatches: u64,
}

/// One class of inputs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassReport {
    /// Its name.
    pub class: &'static str,
    /// What it holds.
    pub what: &'static str,
    /// Results compared.
    pub results: u64,
    /// Results that differ.
    pub mismatches: u64,
    /// By form, those with mismatches: where they are in one form alone, the layout is at fault, not the sum.
    pub forms: Vec<FormCount>,
    /// The largest distance of a mismatch, in units of the last place.
    pub max_ulps: u64,
    /// The first mismatches.
    pub first: Vec<Mismatch>,
}

/// Mismatches of one form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormCount {
    /// Which one.
    pub form: String,
    /// Results that differ.
    pub mismatches: u64,
}

/// One file of published vectors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedReport {
    /// Its name.
    pub file: String,
    /// Lines compared; 0 when the file is not there.
    pub lines: u64,
    /// Lines whose result the device does not give.
    pub mismatches: u64,
    /// Why it was skipped.
    pub skipped: Option<String>,
    /// The first mismatches; the model's result is the published one.
    pub first: Vec<Mismatch>,
}

/// One result that differs, with everything that went into it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Form of the instruction.
    pub form: String,
    /// Number of the tile in its class, row and column.
    pub tile: u64,
    /// Row of A and D.
    pub row: usize,
    /// Column of B and D.
    pub column: usize,
    /// Codes of A in the order of K, hex; one string a step.
    pub a: Vec<String>,
    /// Codes of B.
    pub b: Vec<String>,
    /// The accumulator, hex.
    pub c: String,
    /// What the device gave, hex.
    pub device: String,
    /// What the model gives, hex.
    pub model: String,
    /// Distance in units of the last place; absent for NaN.
    pub ulps: Option<u64>,
}

impl fmt::Display for VectorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "tensor core of {}: {} results, {} differ from the model ({:.1} s, seed {})",
            self.device, self.results, self.mismatches, self.seconds, self.seed
        )?;
        for types in &self.types {
            writeln!(
                f,
                "  {:<36} {:>10} results  {:>8} differ",
                types.instruction, types.results, types.mismatches
            )?;
            for class in types.classes.iter().filter(|c| c.mismatches > 0) {
                writeln!(
                    f,
                    "    {:<18} {:>8} of {} differ, by at most {} ulp: {}",
                    class.class, class.mismatches, class.results, class.max_ulps, class.what
                )?;
                for form in &class.forms {
                    writeln!(f, "      {:>8}  {}", form.mismatches, form.form)?;
                }
            }
            for other in &types.alternatives {
                writeln!(
                    f,
                    "    would miss {:>8} of {}: {}",
                    other.mismatches, other.results, other.what
                )?;
            }
        }
        for file in &self.published {
            match &file.skipped {
                Some(why) => writeln!(f, "  {:<36} skipped: {why}", file.file)?,
                None => writeln!(
                    f,
                    "  {:<36} {:>10} lines    {:>8} differ",
                    file.file, file.lines, file.mismatches
                )?,
            }
        }
        writeln!(f, "  not modelled: {}", self.not_modelled.join(", "))
    }
}

/// `device` against `model`, in units of the last place of a format of so many bits.
pub(super) fn distance(device: u32, model: u32, sign_bit: u32) -> u64 {
    let ordered = |bits: u32| {
        let magnitude = i64::from(bits & (sign_bit - 1));
        if bits & sign_bit == 0 {
            magnitude
        } else {
            -magnitude
        }
    };
    ordered(device).abs_diff(ordered(model))
}
