//! What can be wrong with a PTX text. Every error is the fault of the text (or
//! of a row that the table lacks) and names its line and column.

use thiserror::Error;

/// An error at a place of the source; line and column are 1-based, columns
/// count bytes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line}:{column}: {kind}")]
pub struct ParseError {
    pub line: u32,
    pub column: u32,
    pub kind: ParseErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseErrorKind {
    #[error("unexpected character {0:?}")]
    Character(char),
    #[error("unterminated {0}")]
    Unterminated(&'static str),
    #[error("expected {expected}, found {found}")]
    Expected { expected: String, found: String },
    #[error("malformed number `{0}`")]
    Number(String),
    #[error("unknown instruction `{0}`; if PTX has it, add a row to the instruction table")]
    UnknownInstruction(String),
    #[error("modifier `.{modifier}` does not fit here in `{mnemonic}`; it takes {forms}")]
    Modifier {
        mnemonic: &'static str,
        modifier: String,
        forms: String,
    },
    #[error("`{opcode}` lacks a modifier; it takes {forms}")]
    MissingModifier { opcode: String, forms: String },
    #[error("`{opcode}` takes {expected}; found {found} operands")]
    OperandCount {
        opcode: String,
        expected: String,
        found: usize,
    },
    #[error("operand {index} of `{opcode}` does not fit; it takes {expected}")]
    OperandKind {
        opcode: String,
        index: usize,
        expected: String,
    },
    #[error("`{0}` is not declared")]
    Undeclared(String),
    #[error("label `{0}` is not defined in this scope")]
    UndefinedLabel(String),
    #[error("`{0}` is declared twice in one scope")]
    Duplicate(String),
    #[error("guard `{0}` is not a predicate register")]
    GuardType(String),
    #[error("unknown type `.{0}`")]
    UnknownType(String),
    #[error("directive `.{0}` is not supported here")]
    Directive(String),
    #[error("too many registers: a function may declare {0}")]
    TooManyRegisters(u32),
    #[error("operands, lists or scopes are nested deeper than {0}")]
    TooDeep(usize),
}
