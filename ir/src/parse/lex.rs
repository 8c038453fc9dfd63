//! Tokens of `.mir` text, each with its place, and the error that points at one.

use std::fmt;

use thiserror::Error;

use crate::types::Name;

/// Text that is not `.mir`; its author's fault. Shows the line with a caret under the place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ParseError {
    /// The text's file, empty when it has none.
    pub file: Name,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// What was expected, and what is there.
    pub message: String,
    /// The line itself.
    pub excerpt: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        let margin = self.line.to_string();
        let blank = " ".repeat(margin.len());
        // Tabs stay tabs, so that the caret lines up however wide they show.
        let indent: String = self
            .excerpt
            .chars()
            .take((self.column as usize).saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        writeln!(f, " {margin} | {}", self.excerpt)?;
        write!(f, " {blank} | {indent}^")
    }
}

/// Byte offset into the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos(usize);

/// A token without its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A bare name or keyword; may have dots inside.
    Word(String),
    /// A quoted string, unescaped.
    Str(String),
    /// Digits.
    Int(u64),
    /// A number with a sign, point or exponent, as written.
    Float(String),
    /// Punctuation.
    Punct(&'static str),
    /// End of the text.
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(s) | Self::Float(s) => write!(f, "`{s}`"),
            Self::Str(s) => write!(f, "the string {s:?}"),
            Self::Int(n) => write!(f, "`{n}`"),
            Self::Punct(p) => write!(f, "`{p}`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// Longest first, so that `..=` is one token.
const PUNCTUATION: [&str; 14] = [
    "..=", "@", "%", "(", ")", "{", "}", "[", "]", ",", ":", "=", "*", "/",
];

/// Reads tokens one after the other, always holding the next one.
pub(super) struct Lexer<'a> {
    text: &'a str,
    file: Name,
    /// Offsets at which lines begin.
    lines: Vec<usize>,
    /// Offset behind `next`.
    at: usize,
    next: Token,
    next_pos: Pos,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, file: Name) -> Result<Self, ParseError> {
        let lines = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(i, _)| i + 1))
            .collect();
        let mut lexer = Self {
            text,
            file,
            lines,
            at: 0,
            next: Token::End,
            next_pos: Pos(0),
        };
        lexer.advance()?;
        Ok(lexer)
    }

    pub(super) fn file(&self) -> &Name {
        &self.file
    }

    pub(super) fn peek(&self) -> &Token {
        &self.next
    }

    /// Place of the next token.
    pub(super) fn pos(&self) -> Pos {
        self.next_pos
    }

    /// The next token; the one behind it becomes next.
    pub(super) fn advance(&mut self) -> Result<Token, ParseError> {
        self.skip_blank();
        self.next_pos = Pos(self.at);
        let following = self.lex()?;
        Ok(std::mem::replace(&mut self.next, following))
    }

    /// Line and column, both from 1.
    pub(super) fn line_column(&self, pos: Pos) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= pos.0);
        let column = self.text[self.lines[line - 1]..pos.0].chars().count() + 1;
        (saturate(line), saturate(column))
    }

    pub(super) fn error(&self, pos: Pos, message: impl Into<String>) -> ParseError {
        let (line, column) = self.line_column(pos);
        let start = self.lines[self.lines.partition_point(|start| *start <= pos.0) - 1];
        let excerpt = self.text[start..]
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        ParseError {
            file: self.file.clone(),
            line,
            column,
            message: message.into(),
            excerpt,
        }
    }

    /// The error that something else should stand next.
    pub(super) fn expected(&self, what: impl fmt::Display) -> ParseError {
        self.error(self.next_pos, format!("expected {what}, got {}", self.next))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            let rest = self.rest();
            if !rest.starts_with("//") {
                return;
            }
            self.at += rest.find('\n').unwrap_or(rest.len());
        }
    }

    fn lex(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        if first == '"' {
            return self.lex_string();
        }
        if let Some(p) = PUNCTUATION.into_iter().find(|p| rest.starts_with(p)) {
            self.at += p.len();
            return Ok(Token::Punct(p));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let len = word_len(rest);
            self.at += len;
            return Ok(Token::Word(rest[..len].to_owned()));
        }
        if first.is_ascii_digit() || first == '-' {
            return self.lex_number();
        }
        Err(self.error(Pos(self.at), format!("unexpected character {first:?}")))
    }

    fn lex_number(&mut self) -> Result<Token, ParseError> {
        let rest = self.rest().as_bytes();
        let digits = |from: usize| {
            rest[from..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count()
        };
        let sign = usize::from(rest[0] == b'-');
        let whole = digits(sign);
        let mut len = sign + whole;
        if whole == 0 {
            return Err(self.error(Pos(self.at), "expected digits after `-`"));
        }
        let mut integer = sign == 0;
        if rest.get(len) == Some(&b'.') && digits(len + 1) > 0 {
            len += 1 + digits(len + 1);
            integer = false;
        }
        if rest.get(len) == Some(&b'e') {
            let signed = usize::from(matches!(rest.get(len + 1), Some(b'-' | b'+')));
            let from = (len + 1 + signed).min(rest.len());
            if digits(from) > 0 {
                len = from + digits(from);
                integer = false;
            }
        }
        let text = &self.rest()[..len];
        let token = if integer {
            let n = text
                .parse()
                .map_err(|_| self.error(Pos(self.at), "this integer does not fit in 64 bits"))?;
            Token::Int(n)
        } else {
            Token::Float(text.to_owned())
        };
        self.at += len;
        Ok(token)
    }

    fn lex_string(&mut self) -> Result<Token, ParseError> {
        let open = Pos(self.at);
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(Token::Str(text));
                }
                '\n' => break,
                '\\' => {
                    let here = Pos(self.at + i);
                    let escaped = match chars.next().map(|(_, c)| c) {
                        Some('n') => Some('\n'),
                        Some('t') => Some('\t'),
                        Some(c @ ('"' | '\\')) => Some(c),
                        Some('u') => {
                            let code: String = chars
                                .by_ref()
                                .map(|(_, c)| c)
                                .take_while(|c| *c != '}')
                                .take(9)
                                .collect();
                            code.strip_prefix('{')
                                .and_then(|hex| u32::from_str_radix(hex, 16).ok())
                                .and_then(char::from_u32)
                        }
                        _ => None,
                    };
                    let expected = r#"expected one of \" \\ \n \t \u{..}"#;
                    text.push(escaped.ok_or_else(|| self.error(here, expected))?);
                }
                c => text.push(c),
            }
        }
        Err(self.error(open, "this string has no closing quote on its line"))
    }
}

/// Length of the bare name that the text begins with; a dot counts when more of the name follows it.
pub(crate) fn word_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let part = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut len = 0;
    while part(bytes.get(len))
        || (len > 0 && bytes.get(len) == Some(&b'.') && part(bytes.get(len + 1)))
    {
        len += 1;
    }
    len
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
