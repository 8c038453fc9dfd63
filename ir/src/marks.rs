//! What the author of a graph lets the optimiser do, and what he takes out of its hands.
//!
//! Without any of this the optimiser changes no bit of a result. [`Freedom`] says how far it may go: of the module,
//! of an entry, or of single ops, the innermost counts. [`Marks`] pins single ops:
//!
//! ```text
//! model "careful"
//! allow reassociate
//!
//! entry @decode(x: bf16[T, 256]) allow exact {
//!   %0 = rms_norm %x, @w {eps = 1e-6} : bf16[T, 256] keep
//!   %1 = quantize %0 : e4m3[T, 256]/f32[1x128] allow(reassociate, round) never("quantize-dispatch")
//! ```

use std::fmt;

use crate::types::Name;

/// How the numbers of a model may differ from those of its graph; nothing by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Freedom {
    /// The order of sums may change.
    pub reassociate: bool,
    /// Values may be rounded elsewhere, or less often; what is rounded elsewhere may also be summed in another order.
    pub round: bool,
}

impl Freedom {
    /// Every bit stays.
    pub const EXACT: Self = Self {
        reassociate: false,
        round: false,
    };
    /// Another order of sums.
    pub const REASSOCIATE: Self = Self {
        reassociate: true,
        round: false,
    };
    /// Another order of sums, and roundings in other places.
    pub const ALL: Self = Self {
        reassociate: true,
        round: true,
    };

    /// The freedom of that word of the text form; `exact` is none.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        match word {
            "exact" => Some(Self::EXACT),
            "reassociate" => Some(Self::REASSOCIATE),
            "round" => Some(Self {
                round: true,
                ..Self::EXACT
            }),
            _ => None,
        }
    }

    /// What either allows.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            reassociate: self.reassociate || other.reassociate,
            round: self.round || other.round,
        }
    }

    /// What both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            reassociate: self.reassociate && other.reassociate,
            round: self.round && other.round,
        }
    }
}

/// `exact`, or what is allowed: `reassociate, round`.
impl fmt::Display for Freedom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.reassociate, self.round) {
            (false, false) => "exact",
            (true, false) => "reassociate",
            (false, true) => "round",
            (true, true) => "reassociate, round",
        })
    }
}

/// The author's word on one op.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Freedom of this op, where it differs from the entry's.
    pub allow: Option<Freedom>,
    /// The op stays: its value is computed by this op as written, and no rule looks through it.
    pub keep: bool,
    /// Rules that are not to be applied to this op, nor to what others made of it; sorted.
    pub never: Vec<Name>,
}

impl Marks {
    /// Whether the author said nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Forbids a rule.
    pub fn never(&mut self, rule: impl Into<Name>) {
        let rule = rule.into();
        if let Err(at) = self.never.binary_search(&rule) {
            self.never.insert(at, rule);
        }
    }
}
