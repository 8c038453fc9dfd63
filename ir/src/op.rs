//! The op table: one row for each op, from which printing, parsing, inference, verification and docs start.
//!
//! A row gives the doc, the mnemonic, operands with the form of their types (`; xs` for any number), typed
//! attributes (`| word = value` where the text form writes a word for an integer), results, and the inference rule in
//! [`crate::infer`]. Rows marked `fused` are defined by their expansion into plain ops
//! ([`Op::expand`]). To add an op: a row in `op/table.rs`, its rule in `infer/`, its meaning in `eval/`.

use std::fmt;

use thiserror::Error;

use crate::attr::{AttrError, AttrKind, AttrReader, AttrValue};
use crate::exchange::ExpertGroup;
use crate::types::Name;

/// What the table says about an op.
#[derive(Debug)]
pub struct OpRow {
    /// Name in the text form.
    pub mnemonic: &'static str,
    /// What it computes; first line is a summary.
    pub doc: &'static str,
    /// The fixed operands.
    pub operands: &'static [ValueDecl],
    /// The operand that may repeat, after the fixed ones.
    pub variadic: Option<ValueDecl>,
    /// Attributes in the order of the text form.
    pub attrs: &'static [AttrDecl],
    /// The results.
    pub results: &'static [ValueDecl],
    /// Whether it is defined by its expansion into plain ops.
    pub fused: bool,
    build: fn(&mut AttrReader<'_>) -> Result<Op, AttrError>,
}

/// One operand or result of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueDecl {
    /// Name, for errors and docs.
    pub name: &'static str,
    /// Its type, with a letter for each extent that the op does not fix: `bf16[N, D]`; `..` stands for any axes.
    pub form: &'static str,
}

impl fmt::Display for ValueDecl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// One attribute of a row.
#[derive(Debug)]
pub struct AttrDecl {
    /// Name in the text form.
    pub name: &'static str,
    /// How its text is read.
    pub kind: AttrKind,
    /// A word of the text form that stands for an integer.
    pub word: Option<(&'static str, u64)>,
    /// What it means.
    pub doc: &'static str,
}

impl OpRow {
    /// The row of that mnemonic.
    #[must_use]
    pub fn find(mnemonic: &str) -> Option<&'static Self> {
        OPS.iter().find(|row| row.mnemonic == mnemonic)
    }

    /// The op of this row with those attributes.
    ///
    /// # Errors
    /// When an attribute is missing, unknown or of the wrong kind.
    pub fn build(&'static self, mut attrs: Vec<(Name, AttrValue)>) -> Result<Op, AttrError> {
        let op = (self.build)(&mut AttrReader {
            op: self.mnemonic,
            attrs: &mut attrs,
        })?;
        match attrs.into_iter().next() {
            Some((attr, _)) => Err(AttrError::Unknown {
                op: self.mnemonic,
                attr,
            }),
            None => Ok(op),
        }
    }

    /// Name of the operand at that position.
    #[must_use]
    pub fn operand_name(&self, index: usize) -> String {
        match (self.operands.get(index), self.variadic) {
            (Some(decl), _) => decl.name.to_owned(),
            (None, Some(decl)) => format!("{decl}[{}]", index - self.operands.len()),
            (None, None) => format!("#{index}"),
        }
    }
}

macro_rules! op_table {
    (
        $(
            $(#[doc = $doc:literal])+
            $mnemonic:literal $variant:ident ( $($operand:ident : $form:literal),* $(; $variadic:ident : $variadic_form:literal)? )
            $( { $( $(#[doc = $attr_doc:literal])+ $attr:ident : $attr_ty:ty $(| $word:ident = $value:expr)? ),* $(,)? } )?
            -> ( $($result:ident : $result_form:literal),+ ) $($fused:ident)? = $infer:ident ( $($arg:expr),* );
        )*
    ) => {
        /// An op with its attributes. Leaves (`Input`, `Param`, `State`) have no operands and name what they stand for.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Op {
            /// An input of the entry.
            Input {
                /// Name on the entry.
                name: Name,
            },
            /// A parameter of the module.
            Param {
                /// Name on the module.
                name: Name,
            },
            /// The value that a state of the module has when the entry starts.
            State {
                /// Name on the module.
                name: Name,
            },
            $(
                $(#[doc = $doc])+
                $variant $( { $( $(#[doc = $attr_doc])+ $attr: $attr_ty ),* } )?,
            )*
        }

        /// Every row, in the order of the docs.
        pub static OPS: &[OpRow] = &[
            $( OpRow {
                mnemonic: $mnemonic,
                doc: concat!($($doc, "\n"),+),
                operands: &[ $(ValueDecl { name: stringify!($operand), form: $form }),* ],
                variadic: op_table!(@option $($variadic $variadic_form)?),
                attrs: &[ $($( AttrDecl {
                    name: stringify!($attr),
                    kind: <$attr_ty as Attr>::KIND,
                    word: op_table!(@word $($word $value)?),
                    doc: concat!($($attr_doc),+),
                } ),*)? ],
                results: &[ $(ValueDecl { name: stringify!($result), form: $result_form }),+ ],
                fused: op_table!(@flag $($fused)?),
                build: |_reader| Ok(Op::$variant { $($( $attr: _reader.take(stringify!($attr))? ),*)? }),
            } ),*
        ];

        impl Op {
            /// The row of this op; `None` for leaves.
            #[must_use]
            pub fn row(&self) -> Option<&'static OpRow> {
                let mnemonic = match self {
                    Self::Input { .. } | Self::Param { .. } | Self::State { .. } => return None,
                    $( Self::$variant { .. } => $mnemonic, )*
                };
                OpRow::find(mnemonic)
            }

            /// Attributes in the order of the text form.
            #[must_use]
            pub fn attrs(&self) -> Vec<(&'static str, AttrValue)> {
                match self {
                    Self::Input { .. } | Self::Param { .. } | Self::State { .. } => Vec::new(),
                    $( Self::$variant { $($($attr),*)? } =>
                        vec![ $($( (stringify!($attr), $attr.to_value()) ),*)? ], )*
                }
            }

            /// Result types for those operand types.
            ///
            /// # Errors
            /// When operands or attributes do not fit the op. Leaves have no rule: their type is declared.
            pub fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
                let row = self.row().ok_or_else(|| TypeError {
                    op: self.mnemonic(),
                    at: Place::Op,
                    expected: "an op with an inference rule".into(),
                    got: "a leaf, whose type is declared".into(),
                })?;
                let sig = Signature::new(row, operands)?;
                match self {
                    Self::Input { .. } | Self::Param { .. } | Self::State { .. } => Ok(Vec::new()),
                    $( Self::$variant { $($($attr),*)? } => {
                        // A rule need not look at every attribute: a flag has no wrong value.
                        $($( let _ = $attr; )*)?
                        infer::$infer(&sig, $($arg),*)
                    } )*
                }
            }

            /// Name in the text form; of leaves, what they are.
            #[must_use]
            pub fn mnemonic(&self) -> &'static str {
                match self {
                    Self::Input { .. } => "input",
                    Self::Param { .. } => "param",
                    Self::State { .. } => "state",
                    $( Self::$variant { .. } => $mnemonic, )*
                }
            }
        }
    };
    (@option) => { None };
    (@option $name:ident $form:literal) => { Some(ValueDecl { name: stringify!($name), form: $form }) };
    (@word) => { None };
    (@word $word:ident $value:expr) => { Some((stringify!($word), $value as u64)) };
    (@flag) => { false };
    (@flag fused) => { true };
}

mod table;

pub use self::table::{OPS, Op};

impl Op {
    /// Whether this is an input, parameter or state.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        matches!(
            self,
            Self::Input { .. } | Self::Param { .. } | Self::State { .. }
        )
    }

    /// The ranks that an op between ranks goes over, with its experts a token; `None` for an op that each rank does
    /// by itself.
    #[must_use]
    pub fn expert_group(&self, top_k: u32) -> Option<ExpertGroup> {
        let (experts, nodes, gpus, tokens) = match *self {
            Self::DispatchTwoHop {
                n_experts,
                nodes,
                gpus,
                tokens,
                ..
            }
            | Self::CombineTwoHop {
                n_experts,
                nodes,
                gpus,
                tokens,
                ..
            }
            | Self::DispatchDirect {
                n_experts,
                nodes,
                gpus,
                tokens,
            }
            | Self::CombineDirect {
                n_experts,
                nodes,
                gpus,
                tokens,
                ..
            } => (n_experts, nodes, gpus, tokens),
            _ => return None,
        };
        Some(ExpertGroup {
            experts,
            top_k,
            nodes,
            gpus,
            tokens,
        })
    }

    /// Whether the table defines it by its expansion into plain ops.
    #[must_use]
    pub fn is_fused(&self) -> bool {
        self.row().is_some_and(|row| row.fused)
    }
}

/// The text form without operands: `rms_norm {eps = 1e-6}`, `@embed`, `%tokens`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input { name } => {
                f.write_str("%")?;
                crate::print::write_name(f, name)
            }
            Self::Param { name } | Self::State { name } => {
                f.write_str("@")?;
                crate::print::write_name(f, name)
            }
            op => {
                f.write_str(op.mnemonic())?;
                crate::print::write_attrs(f, op)
            }
        }
    }
}

/// Where on an op a type rule failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The op as a whole, e.g. the number of its operands.
    Op,
    /// An operand, by its name in the table.
    Operand(String),
    /// An attribute, by its name in the table.
    Attr(&'static str),
}

/// Operands or attributes that do not fit an op; the graph author's fault.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{op}`{at}: expected {expected}, got {got}")]
pub struct TypeError {
    /// The op's mnemonic.
    pub op: &'static str,
    /// Where on the op.
    pub at: Place,
    /// What the rule wants there.
    pub expected: String,
    /// What is there.
    pub got: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Op => Ok(()),
            Self::Operand(name) => write!(f, ", operand `{name}`"),
            Self::Attr(name) => write!(f, ", attribute `{name}`"),
        }
    }
}
