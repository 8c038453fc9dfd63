//! Text to tokens.
//!
//! An opcode with its modifiers is one word (`ld.shared::cta.b32`), as is a
//! special register (`%tid.x`); a directive is a dot with one name. Tokens are
//! ranges of the source; comments and white space leave none.

use crate::error::{ParseError, ParseErrorKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tok {
    /// A name, an opcode or `_`.
    Word,
    /// `.name`, with its dot.
    Directive,
    /// A number without sign.
    Number,
    /// A string with its quotes.
    Str,
    /// One character of punctuation.
    Punct(u8),
    End,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub tok: Tok,
    pub start: u32,
    pub end: u32,
    pub line: u32,
}

/// The position of a byte offset, as the error that stands there.
pub(crate) fn error_at(source: &str, offset: usize, kind: ParseErrorKind) -> ParseError {
    let before = &source.as_bytes()[..offset.min(source.len())];
    let line_start = before
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |n| n + 1);
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    ParseError {
        line: line as u32,
        column: (before.len() - line_start + 1) as u32,
        kind,
    }
}

fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'$'
}

/// The end of a run of name characters and `::` that starts at `at`.
fn qualified(bytes: &[u8], mut at: usize) -> usize {
    loop {
        while bytes.get(at).is_some_and(|b| is_name(*b)) {
            at += 1;
        }
        let joined =
            bytes.get(at..at + 2) == Some(b"::") && bytes.get(at + 2).is_some_and(|b| is_name(*b));
        if !joined {
            return at;
        }
        at += 2;
    }
}

/// Splits the whole source. The last token is `End`.
pub(crate) fn lex(source: &str) -> Result<Vec<Token>, ParseError> {
    let bytes = source.as_bytes();
    // Offsets are 32 bits; no PTX comes near that.
    if bytes.len() >= u32::MAX as usize {
        return Err(error_at(
            source,
            0,
            ParseErrorKind::Unterminated("source of over 4 GiB"),
        ));
    }
    let mut tokens = Vec::with_capacity(bytes.len() / 4 + 1);
    let (mut at, mut line) = (0usize, 1u32);
    while let Some(&b) = bytes.get(at) {
        let start = at;
        let tok = match b {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while bytes.get(at).is_some_and(|b| *b != b'\n') {
                    at += 1;
                }
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let Some(len) = source[at + 2..].find("*/") else {
                    return Err(error_at(
                        source,
                        at,
                        ParseErrorKind::Unterminated("comment"),
                    ));
                };
                let end = at + 2 + len + 2;
                line += bytes[at..end].iter().filter(|b| **b == b'\n').count() as u32;
                at = end;
                continue;
            }
            b'"' => {
                let Some(len) = source[at + 1..].find(['"', '\n']) else {
                    return Err(error_at(source, at, ParseErrorKind::Unterminated("string")));
                };
                at += len + 2;
                if bytes[at - 1] == b'\n' {
                    return Err(error_at(
                        source,
                        start,
                        ParseErrorKind::Unterminated("string"),
                    ));
                }
                Tok::Str
            }
            b'.' if bytes.get(at + 1).is_some_and(|b| is_name(*b)) => {
                at = qualified(bytes, at + 1);
                Tok::Directive
            }
            b'0'..=b'9' => {
                at = number_end(bytes, at);
                Tok::Number
            }
            b'%' | b'_' | b'$' | b'a'..=b'z' | b'A'..=b'Z' => {
                at += 1;
                while bytes.get(at).is_some_and(|b| is_name(*b)) {
                    at += 1;
                }
                while bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(|b| is_name(*b))
                {
                    at = qualified(bytes, at + 1);
                }
                Tok::Word
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':' | b'@'
            | b'!' | b'|' | b'+' | b'-' | b'=' => {
                at += 1;
                Tok::Punct(b)
            }
            _ => {
                let c = source[at..].chars().next().unwrap_or('\u{fffd}');
                return Err(error_at(source, at, ParseErrorKind::Character(c)));
            }
        };
        tokens.push(Token {
            tok,
            start: start as u32,
            end: at as u32,
            line,
        });
    }
    let end = bytes.len() as u32;
    tokens.push(Token {
        tok: Tok::End,
        start: end,
        end,
        line,
    });
    Ok(tokens)
}

/// The end of a number: digits of any base, one decimal point and a signed
/// exponent. [`number`] judges what is in it.
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    let based = bytes[at] == b'0' && bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic);
    while let Some(b) = bytes.get(at) {
        let exponent_sign = !based
            && matches!(b, b'+' | b'-')
            && matches!(bytes[at - 1], b'e' | b'E')
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        let point = !based && *b == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !(b.is_ascii_alphanumeric() || exponent_sign || point) {
            break;
        }
        at += 1;
    }
    at
}

/// A number's value: 64 bits for an integer, the bits for floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    Int(u64),
    F32(u32),
    F64(u64),
}

/// PTX ISA 4.5: integer and floating-point constants.
pub(crate) fn number(text: &str) -> Option<Number> {
    let bytes = text.as_bytes();
    let digits = text.get(2..).unwrap_or("");
    let float_bits = |len: usize| {
        let hex = digits.len() == len && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if hex {
            u64::from_str_radix(digits, 16).ok()
        } else {
            None
        }
    };
    match (bytes.first(), bytes.get(1)) {
        (Some(b'0'), Some(b'f' | b'F')) => float_bits(8).map(|v| Number::F32(v as u32)),
        (Some(b'0'), Some(b'd' | b'D')) => float_bits(16).map(Number::F64),
        (Some(b'0'), Some(b'x' | b'X')) => integer(digits, 16),
        (Some(b'0'), Some(b'b' | b'B')) => integer(digits, 2),
        (Some(b'0'), Some(b'0'..=b'9')) if !text.contains('.') => integer(&text[1..], 8),
        _ if text.contains(['.', 'e', 'E']) => {
            let value: f64 = text.parse().ok()?;
            value.is_finite().then(|| Number::F64(value.to_bits()))
        }
        _ => integer(text, 10),
    }
}

fn integer(digits: &str, radix: u32) -> Option<Number> {
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    // `from_str_radix` would take a sign, but the lexer leaves none here.
    u64::from_str_radix(digits, radix).ok().map(Number::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        let tokens = lex(source).expect("the source has valid tokens");
        tokens
            .iter()
            .map(|t| &source[t.start as usize..t.end as usize])
            .collect()
    }

    #[test]
    fn opcodes_and_special_registers_are_one_word() {
        assert_eq!(
            texts("ld.shared::cta.L2::128B.b32 %r1, [%tid.x+-4]; // c\nL: _|p"),
            [
                "ld.shared::cta.L2::128B.b32",
                "%r1",
                ",",
                "[",
                "%tid.x",
                "+",
                "-",
                "4",
                "]",
                ";",
                "L",
                ":",
                "_",
                "|",
                "p",
                ""
            ]
        );
        assert_eq!(
            texts(".reg.b32 a<2>"),
            [".reg", ".b32", "a", "<", "2", ">", ""]
        );
    }

    #[test]
    fn numbers_of_every_kind() {
        assert_eq!(number("0x1F"), Some(Number::Int(31)));
        assert_eq!(number("017U"), Some(Number::Int(15)));
        assert_eq!(number("0b101"), Some(Number::Int(5)));
        assert_eq!(number("0f3F800000"), Some(Number::F32(0x3f80_0000)));
        assert_eq!(
            number("0d3FF0000000000000"),
            Some(Number::F64(1f64.to_bits()))
        );
        assert_eq!(number("2.5e-1"), Some(Number::F64(0.25f64.to_bits())));
        assert_eq!(number("18446744073709551615"), Some(Number::Int(u64::MAX)));
        for bad in ["0f3F8", "08", "1x", "18446744073709551616", "1e999"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
