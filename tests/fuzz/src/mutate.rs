//! Mutations of text, as bytes and as tokens of PTX or JSON.

use crate::source::Source;

/// Numbers at the edges of what fields can hold.
const EXTREMES: [&str; 14] = [
    "0",
    "1",
    "-1",
    "7",
    "31",
    "64",
    "127",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "-9223372036854775808",
];

/// Changes a text in up to eight places; `other` lends pieces.
pub fn mutate(text: &str, other: &str, s: &mut Source<'_>) -> String {
    let mut out = text.to_owned();
    for _ in 0..=s.below(8) {
        out = match s.below(3) {
            0 => bytes(&out, s),
            1 => tokens(&out, s),
            _ => lines(&out, other, s),
        };
    }
    out
}

/// Changes one to three numbers or lines, which mostly leaves PTX that loads.
pub fn gently(text: &str, _other: &str, s: &mut Source<'_>) -> String {
    let mut out = text.to_owned();
    for _ in 0..=s.below(3) {
        // The head of a file says little.
        let from = out.find('{').unwrap_or(0);
        let at = from + s.below(out.len() - from);
        out = match s.below(3) {
            0 => without_line(&out, at),
            _ => other_number(&out, at, s),
        };
    }
    out
}

/// Takes out the line around a place, unless a label or declaration is in it.
fn without_line(text: &str, at: usize) -> String {
    let mut from = 0;
    let kept = text.split_inclusive('\n').filter(|line| {
        let here = (from..from + line.len()).contains(&at);
        from += line.len();
        !here || line.contains([':', '{', '}']) || line.trim_start().starts_with('.')
    });
    kept.collect()
}

/// Changes the immediate or offset after a place.
fn other_number(text: &str, at: usize, s: &mut Source<'_>) -> String {
    let mut at = at;
    loop {
        let Some((start, end)) = word_at(text, at) else {
            return text.to_owned();
        };
        if let Ok(v) = text[start..end].parse::<u64>() {
            let new = match s.below(6) {
                0 => v.wrapping_add(1),
                1 => v.wrapping_sub(1),
                2 => v / 2,
                3 => v.wrapping_mul(2),
                4 => 0,
                _ => s.word() >> s.below(64),
            };
            return format!("{}{new}{}", &text[..start], &text[end..]);
        }
        at = end;
    }
}

fn bytes(text: &str, s: &mut Source<'_>) -> String {
    let mut b = text.as_bytes().to_vec();
    if b.is_empty() {
        return String::new();
    }
    let alphabet = b"{}()[]<>,;:@!|+-=._%$0123456789abfxrpLE\"/*\n \xc3\xa9";
    let at = s.below(b.len());
    let span = at..(at + s.below(24)).min(b.len());
    match s.below(6) {
        0 => drop(b.drain(span)),
        1 => {
            let copy = b[span].to_vec();
            let to = s.below(b.len());
            b.splice(to..to, copy);
        }
        2 => b[at] = alphabet[s.below(alphabet.len())],
        3 => b.insert(at, alphabet[s.below(alphabet.len())]),
        4 if s.one_in(8) => b.truncate(at),
        _ => b[at] = s.byte(),
    }
    String::from_utf8_lossy(&b).into_owned()
}

/// A word: what stands between separators.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || "._%$-".contains(c)
}

/// Start and end of a word at or after a place.
fn word_at(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut from = from.min(text.len());
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let start = from + text[from..].find(is_word)?;
    let end = text[start..]
        .find(|c| !is_word(c))
        .map_or(text.len(), |n| start + n);
    Some((start, end))
}

fn tokens(text: &str, s: &mut Source<'_>) -> String {
    let Some((start, end)) = word_at(text, s.below(text.len().max(1))) else {
        return text.to_owned();
    };
    let word = &text[start..end];
    let other = word_at(text, s.below(text.len())).map_or("", |(a, b)| &text[a..b]);
    let new = match s.below(5) {
        // Another word of the text: registers, labels, opcodes change places.
        0 => other.to_owned(),
        // A modifier goes, comes twice, or becomes one of another opcode.
        1 => match word.rsplit_once('.') {
            Some((head, tail)) => match s.below(3) {
                0 => head.to_owned(),
                1 => format!("{word}.{tail}"),
                _ => format!("{head}.{}", other.rsplit('.').next().unwrap_or("")),
            },
            None => format!("{word}.{other}"),
        },
        2 | 3 => match word.find(|c: char| c.is_ascii_digit()) {
            // A number becomes an extreme one, or a neighbour.
            Some(n) => {
                let digits = &word[n..];
                let rest = digits
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(digits.len());
                let number = match digits[..rest].parse::<u64>() {
                    Ok(v) if s.below(2) == 0 => match s.below(4) {
                        0 => v.wrapping_add(1),
                        1 => v.wrapping_sub(1),
                        2 => v.wrapping_mul(2),
                        _ => v / 2,
                    }
                    .to_string(),
                    _ => s.pick(&EXTREMES).to_owned(),
                };
                format!("{}{number}{}", &word[..n], &digits[rest..])
            }
            None => s.pick(&EXTREMES).to_owned(),
        },
        _ => String::new(),
    };
    format!("{}{new}{}", &text[..start], &text[end..])
}

fn lines(text: &str, other: &str, s: &mut Source<'_>) -> String {
    let mut all: Vec<&str> = text.lines().collect();
    if all.is_empty() {
        return text.to_owned();
    }
    let at = s.below(all.len());
    match s.below(5) {
        0 => drop(all.remove(at)),
        1 => all.insert(s.below(all.len()), all[at]),
        2 => {
            let to = s.below(all.len());
            all.swap(at, to);
        }
        3 => {
            let lent: Vec<&str> = other.lines().collect();
            if !lent.is_empty() {
                all.insert(at, lent[s.below(lent.len())]);
            }
        }
        _ => {
            let end = (at + s.below(6)).min(all.len());
            drop(all.drain(at..end));
        }
    }
    all.join("\n")
}
