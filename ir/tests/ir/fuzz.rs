//! Arbitrary text never panics the parser, and whatever parses prints and parses again to the same.

use mcc_ir::{Module, verify};

use crate::sample::EVERYTHING;

/// xorshift64*: the same mutations on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

/// Pieces that mean something to the lexer, and some that never do.
const PIECES: [&str; 34] = [
    "%",
    "@",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    ":",
    "=",
    "..=",
    "*",
    "/",
    "\"",
    "\\",
    "//",
    "\n",
    "-",
    "1e999",
    "18446744073709551615",
    "99999999999999999999",
    "0",
    "1",
    "e4m3",
    "f32",
    "x128",
    "T",
    "return",
    "update",
    "\u{0}",
    "é",
    "𝄞",
    "\u{2028}",
];

fn mutate(text: &str, random: &mut Random) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=random.below(3) {
        let at = random.below(chars.len() + 1);
        let len = random.below(12).min(chars.len() - at);
        match random.below(4) {
            0 => drop(chars.drain(at..at + len)),
            1 => {
                let piece = PIECES[random.below(PIECES.len())];
                chars.splice(at..at, piece.chars());
            }
            2 => {
                let piece = PIECES[random.below(PIECES.len())];
                chars.splice(at..at + len, piece.chars());
            }
            _ => {
                // A piece of the text itself, from elsewhere.
                let from = random.below(chars.len() + 1);
                let len = random.below(40).min(chars.len() - from);
                let piece = chars[from..from + len].to_vec();
                chars.splice(at..at, piece);
            }
        }
    }
    chars.into_iter().collect()
}

#[test]
fn mutated_text_never_panics_and_what_parses_round_trips() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut parsed, mut refused) = (0, 0);
    for _ in 0..6000 {
        let text = mutate(EVERYTHING, &mut random);
        match text.parse::<Module>() {
            Ok(module) => {
                parsed += 1;
                let printed = module.to_string();
                let again: Module = printed.parse().unwrap_or_else(|e| panic!("{e}\n{printed}"));
                assert_eq!(again, module);
                assert_eq!(again.to_string(), printed);
                let _ = verify(&module);
            }
            Err(error) => {
                refused += 1;
                let shown = error.to_string();
                assert!(
                    error.line >= 1 && error.column >= 1 && shown.ends_with('^'),
                    "{shown}"
                );
            }
        }
    }
    // Both sides of the property were really seen.
    assert!(
        parsed > 100 && refused > 1000,
        "{parsed} parsed, {refused} refused"
    );
}

#[test]
fn every_prefix_is_refused_without_a_panic() {
    let last_entry = EVERYTHING.find("entry @idle").unwrap();
    for (end, _) in EVERYTHING
        .char_indices()
        .filter(|(i, _)| i % 7 == 0 && *i < last_entry)
    {
        if let Ok(module) = EVERYTHING[..end].parse::<Module>() {
            assert!(module.entries.len() < 2);
        }
    }
}
