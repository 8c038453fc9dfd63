//! One sequence of tokens on a model: prefill in chunks, then token by token.
//!
//! In: tokens. Out: logits and the next token. The model's entries `prefill` and `decode` have the inputs
//! `tokens`, `positions`, `rows`, `temperature`, `top_p`, `uniform` and the outputs `logits`, `next`, over the
//! dims `T` (tokens of a step), `C` (tokens so far with these) and `R` (rows that need logits).
//! Holds: the caches contain the first `len` tokens; a step that failed leaves `len` as it was, and the rows
//! that it may have written are written again by the next one.

use mcc_bundle::{DType, Dim, DimValues, Manifest};

use crate::error::RuntimeError;
use crate::model::Model;
use crate::sampling::Sampling;

const INPUTS: [(&str, DType, &str); 6] = [
    ("tokens", DType::I32, "T"),
    ("positions", DType::I32, "T"),
    ("rows", DType::I32, "R"),
    ("temperature", DType::F32, "R"),
    ("top_p", DType::F32, "R"),
    ("uniform", DType::F32, "R"),
];

/// Which tokens of a prompt need logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitRows {
    /// The last one.
    Last,
    /// Each one.
    All,
}

/// What a step computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepOutput {
    /// `[rows, vocab]`, row-major.
    pub logits: Vec<f32>,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// The sampled token of each row.
    pub next: Vec<i32>,
}

impl StepOutput {
    /// The logits row by row.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.logits.chunks_exact(self.vocab.max(1))
    }
}

/// Bounds of a text model, read from its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    context: u64,
    least_context: u64,
    chunk: u64,
    rows: u64,
    vocab: u64,
}

/// One sequence.
pub struct Session<'m> {
    model: &'m mut Model,
    limits: Limits,
    len: u64,
}

impl<'m> Session<'m> {
    pub(crate) fn new(model: &'m mut Model) -> Result<Self, RuntimeError> {
        let limits = Limits::of(model.manifest())?;
        let mut session = Self {
            model,
            limits,
            len: 0,
        };
        session.reset()?;
        Ok(session)
    }

    /// Forgets all tokens.
    ///
    /// # Errors
    /// When the device fails.
    pub fn reset(&mut self) -> Result<(), RuntimeError> {
        self.model.clear_states()?;
        self.len = 0;
        Ok(())
    }

    /// Forgets all tokens but the first `len`. What the caches hold of the others is written again before it is
    /// read: no step reads behind its own tokens.
    pub fn truncate(&mut self, len: u64) {
        self.len = self.len.min(len);
    }

    /// Tokens in the caches.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no token was processed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Most tokens that the sequence can have.
    #[must_use]
    pub fn context(&self) -> u64 {
        self.limits.context
    }

    /// Most tokens that one step takes.
    #[must_use]
    pub fn max_chunk(&self) -> u64 {
        self.limits.chunk
    }

    /// Size of the vocabulary.
    #[must_use]
    pub fn vocab(&self) -> u64 {
        self.limits.vocab
    }

    /// The model, for its statistics.
    #[must_use]
    pub fn model(&self) -> &Model {
        self.model
    }

    /// Appends `tokens` in chunks of at most `chunk` tokens; `None` takes the largest chunks.
    ///
    /// With [`LogitRows::Last`] the output has one row, that of the last token.
    ///
    /// # Errors
    /// When there are no tokens or too many, a token is not in the vocabulary, or the device fails.
    pub fn prefill(
        &mut self,
        tokens: &[i32],
        chunk: Option<usize>,
        want: LogitRows,
        sampling: &Sampling,
    ) -> Result<StepOutput, RuntimeError> {
        let largest = match want {
            LogitRows::Last => self.limits.chunk,
            LogitRows::All => self.limits.chunk.min(self.limits.rows),
        };
        let chunk = match chunk {
            None => usize::try_from(largest).unwrap_or(usize::MAX),
            Some(chunk) if chunk >= 1 && chunk as u64 <= largest => chunk,
            Some(chunk) => {
                return Err(RuntimeError::ChunkTooLarge {
                    chunk,
                    max: largest,
                });
            }
        };
        self.check_tokens(tokens, sampling)?;
        let mut output = StepOutput {
            vocab: self.limits.vocab as usize,
            ..StepOutput::default()
        };
        let chunks = tokens.chunks(chunk);
        let last = chunks.len() - 1;
        for (i, tokens) in chunks.enumerate() {
            let rows = match want {
                LogitRows::All => 0..tokens.len(),
                LogitRows::Last => tokens.len() - 1..tokens.len(),
            };
            let read = want == LogitRows::All || i == last;
            let step = self.step("prefill", tokens, rows, sampling, read)?;
            output.logits.extend(step.logits);
            output.next.extend(step.next);
        }
        Ok(output)
    }

    /// Appends one token.
    ///
    /// # Errors
    /// When the context is full, the token is not in the vocabulary, or the device fails.
    pub fn decode(&mut self, token: i32, sampling: &Sampling) -> Result<StepOutput, RuntimeError> {
        self.check_tokens(&[token], sampling)?;
        self.step("decode", &[token], 0..1, sampling, true)
    }

    fn check_tokens(&self, tokens: &[i32], sampling: &Sampling) -> Result<(), RuntimeError> {
        sampling.check()?;
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        let needed = self.len + tokens.len() as u64;
        if needed > self.limits.context {
            return Err(RuntimeError::ContextExceeded {
                needed,
                context: self.limits.context,
            });
        }
        let vocab = self.limits.vocab;
        for (i, &token) in tokens.iter().enumerate() {
            if !u64::try_from(token).is_ok_and(|token| token < vocab) {
                return Err(RuntimeError::TokenOutOfRange {
                    token,
                    position: self.len + i as u64,
                    vocab,
                });
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        entry: &str,
        tokens: &[i32],
        rows: std::ops::Range<usize>,
        sampling: &Sampling,
        read: bool,
    ) -> Result<StepOutput, RuntimeError> {
        while let Some(agreed) = self.model.agree(Some(entry)).filter(|e| e != entry) {
            self.idle(&agreed)?;
        }
        self.own_step(entry, tokens, rows, sampling, read)
    }

    /// Takes part in what other ranks do, with no tokens, until none of them wants anything any more.
    ///
    /// # Errors
    /// When the bundle was not built for steps of no tokens, or the device fails.
    pub fn finish(&mut self) -> Result<(), RuntimeError> {
        while let Some(agreed) = self.model.agree(None) {
            self.idle(&agreed)?;
        }
        Ok(())
    }

    fn idle(&mut self, entry: &str) -> Result<(), RuntimeError> {
        self.own_step(entry, &[], 0..0, &Sampling::default(), false)?;
        Ok(())
    }

    fn own_step(
        &mut self,
        entry: &str,
        tokens: &[i32],
        rows: std::ops::Range<usize>,
        sampling: &Sampling,
        read: bool,
    ) -> Result<StepOutput, RuntimeError> {
        let len = self.len + tokens.len() as u64;
        let dims: DimValues = [
            ("T", tokens.len() as u64),
            // Without any token yet an idle rank has the shortest context that there can be.
            ("C", len.max(self.limits.least_context)),
            ("R", rows.len() as u64),
        ]
        .map(|(n, v)| (n.to_owned(), v))
        .into();
        // The context is bounded by an `i32`, see `Limits::of`.
        let ints = |values: &mut dyn Iterator<Item = i32>| -> Vec<u8> {
            values.flat_map(i32::to_le_bytes).collect()
        };
        let floats = |value: &dyn Fn(usize) -> f32| -> Vec<u8> {
            rows.clone()
                .flat_map(|row| value(row).to_le_bytes())
                .collect()
        };
        let inputs: [(&str, &[u8]); 6] = [
            ("tokens", &ints(&mut tokens.iter().copied())),
            (
                "positions",
                &ints(&mut (self.len..len).map(|position| position as i32)),
            ),
            ("rows", &ints(&mut rows.clone().map(|row| row as i32))),
            ("temperature", &floats(&|_| sampling.temperature)),
            ("top_p", &floats(&|_| sampling.top_p)),
            (
                "uniform",
                &floats(&|row| sampling.uniform(self.len + row as u64)),
            ),
        ];
        let outputs: &[&str] = if read { &["logits", "next"] } else { &[] };
        let read = self
            .model
            .execute(entry, &dims, &inputs, outputs, tokens.len() as u64)?;
        self.len = len;
        let mut read = read.into_iter();
        let (logits, next) = (
            read.next().unwrap_or_default(),
            read.next().unwrap_or_default(),
        );
        Ok(StepOutput {
            logits: logits
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            vocab: self.limits.vocab as usize,
            next: next
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| i32::from_le_bytes(*bytes))
                .collect(),
        })
    }
}

impl Limits {
    /// Checks that the manifest has the entries of a text model.
    fn of(manifest: &Manifest) -> Result<Self, RuntimeError> {
        let wrong = |what: String| RuntimeError::NotATextModel {
            model: manifest.model.clone(),
            what,
        };
        let mut bounds = [0; 3];
        let least_context = manifest.dim("C").map_or(0, |decl| decl.min);
        for (bound, name) in bounds.iter_mut().zip(["T", "C", "R"]) {
            let decl = manifest
                .dim(name)
                .ok_or_else(|| wrong(format!("it has no dim `{name}`")))?;
            if decl.min > 1 || decl.max == 0 || decl.max > i32::MAX as u64 {
                return Err(wrong(format!(
                    "dim `{name}` is {} to {}, not from 1",
                    decl.min, decl.max
                )));
            }
            *bound = decl.max;
        }
        let mut vocab = None;
        for name in ["prefill", "decode"] {
            let entry = manifest
                .entry(name)
                .ok_or_else(|| wrong(format!("it has no entry `{name}`")))?;
            let sym = |name: &str| Dim::Sym {
                factor: 1,
                name: name.to_owned(),
            };
            for (input, dtype, dim) in INPUTS {
                let fits = entry.inputs.iter().any(|port| {
                    port.name == input
                        && port.ty.dtype == dtype
                        && port.ty.shape.as_slice() == [sym(dim)].as_slice()
                });
                if !fits {
                    return Err(wrong(format!(
                        "entry `{name}` has no input `{input}: {dtype}[{dim}]`"
                    )));
                }
            }
            if entry.inputs.len() != INPUTS.len() {
                return Err(wrong(format!(
                    "entry `{name}` has {} inputs, not 6",
                    entry.inputs.len()
                )));
            }
            let output = |name: &str| {
                entry
                    .outputs
                    .iter()
                    .find(|port| port.name == name)
                    .map(|port| &port.ty)
            };
            let width = output("logits")
                .filter(|ty| ty.dtype == DType::F32)
                .and_then(|ty| match ty.shape.as_slice() {
                    [rows, Dim::Const(width)] if *rows == sym("R") => Some(*width),
                    _ => None,
                });
            if width.is_none_or(|width| vocab.is_some_and(|vocab| vocab != width)) {
                return Err(wrong(format!(
                    "entry `{name}` has no output `logits: f32[R, vocabulary]`"
                )));
            }
            vocab = width;
            let next =
                output("next").is_some_and(|ty| ty.dtype == DType::I32 && ty.shape == [sym("R")]);
            if !next {
                return Err(wrong(format!(
                    "entry `{name}` has no output `next: i32[R]`"
                )));
            }
        }
        let [chunk, context, rows] = bounds;
        let vocab = vocab
            .filter(|&vocab| vocab > 0)
            .ok_or_else(|| wrong("its vocabulary is empty".to_owned()))?;
        Ok(Self {
            context,
            least_context,
            chunk,
            rows,
            vocab,
        })
    }
}
