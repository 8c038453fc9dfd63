//! Answers requests line by line while the weights stay loaded.
//!
//! In: one request a line, either JSON or the prompt's token ids with commas between them. Out: one JSON object a
//! line for each request, in their order; with [`ServeOptions::stream`] one more for each token as it comes.
//! Holds: a request that cannot be answered gets a line with `error`, and the next one is served; only a device
//! that failed, or an output that is closed, ends the loop before the input does.
//!
//! ```text
//! {"id": 7, "tokens": [42, 79], "max_tokens": 8}      ──► {"id":7,"tokens":[…],"stop":"max_tokens","reused":0}
//! 42,79,260                                           ──► {"tokens":[…],"stop":"end_of_text","reused":2}
//! ```
//!
//! The caches keep what the last request left: the longest prefix that the next one shares with it is not computed
//! again. Its keys and values may stem from decode steps, whose sums have another order than those of a prefill;
//! [`ServeOptions::reuse`] turns that off.

use std::io::{self, BufRead, Read as _, Write};

use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use crate::error::RuntimeError;
use crate::model::Model;
use crate::sampling::Sampling;
use crate::session::{LogitRows, Session};
use crate::text::{GenerateOptions, generate};

/// Longest request, bytes.
const MAX_LINE: u64 = 16 << 20;

/// How to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Tokens to generate when a request does not say.
    pub max_tokens: usize,
    /// Tokens of a prefill step; `None` for the largest.
    pub chunk: Option<usize>,
    /// Whether each token is written as it comes.
    pub stream: bool,
    /// Whether the caches of a shared prefix are used again.
    pub reuse: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_tokens: 64,
            chunk: None,
            stream: false,
            reuse: true,
        }
    }
}

/// What was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Requests that were answered.
    pub answers: u64,
    /// Requests that got an error.
    pub errors: u64,
}

/// Why serving ended before the requests did.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The model cannot be used at all, or its device failed.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Requests cannot be read, or answers not be written.
    #[error("requests and answers: {0}")]
    Io(#[from] io::Error),
}

/// A request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    #[serde(default)]
    id: Option<Value>,
    tokens: Vec<i32>,
    max_tokens: Option<usize>,
    #[serde(default)]
    temperature: f32,
    #[serde(default = "one")]
    top_p: f32,
    #[serde(default)]
    seed: u64,
}

const fn one() -> f32 {
    1.0
}

/// Serves until `input` ends.
///
/// # Errors
/// When the bundle is not a text model, the device fails, or `input` or `output` does.
pub fn serve(
    model: &mut Model,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    options: &ServeOptions,
) -> Result<Served, ServeError> {
    let eos = model.manifest().tokenizer.eos.clone();
    let mut server = Server {
        session: model.session()?,
        history: Vec::new(),
        eos,
        options,
    };
    let mut served = Served::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut *input).take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            return Ok(served);
        }
        let whole = line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE;
        if line.iter().all(u8::is_ascii_whitespace) && whole {
            continue;
        }
        let request = if whole {
            parse(&line)
        } else {
            skip_line(input)?;
            Err((None, format!("a request has at most {MAX_LINE} bytes")))
        };
        let refused = match request {
            Err(refused) => refused,
            Ok(request) => {
                let id = request.id.clone();
                match server.answer(&request, output) {
                    Ok(answer) => {
                        served.answers += 1;
                        write_line(output, id, answer)?;
                        continue;
                    }
                    Err(ServeError::Runtime(err)) => {
                        let lost =
                            matches!(err, RuntimeError::Device(_) | RuntimeError::Step { .. });
                        if lost {
                            write_line(output, id, json!({ "error": err.to_string() }))?;
                            return Err(err.into());
                        }
                        (id, err.to_string())
                    }
                    Err(err) => return Err(err),
                }
            }
        };
        served.errors += 1;
        write_line(output, refused.0, json!({ "error": refused.1 }))?;
    }
}

/// A request, or its id where that much can be read and what is wrong with it.
fn parse(line: &[u8]) -> Result<Request, (Option<Value>, String)> {
    let text = std::str::from_utf8(line)
        .map_err(|_| (None, "the request is not UTF-8".to_owned()))?
        .trim();
    if text.starts_with('{') {
        return serde_json::from_str(text).map_err(|err| {
            let value = serde_json::from_str::<Value>(text).ok();
            let id = value.and_then(|value| value.get("id").cloned());
            (id, format!("the request is not understood: {err}"))
        });
    }
    let tokens = text.split(',').map(|word| {
        let word = word.trim();
        word.parse().map_err(|_| {
            let what = format!("`{word}` is neither a token id nor a JSON object");
            (None, what)
        })
    });
    Ok(Request {
        id: None,
        tokens: tokens.collect::<Result<_, _>>()?,
        max_tokens: None,
        temperature: 0.0,
        top_p: 1.0,
        seed: 0,
    })
}

/// Reads on to the end of a line that is too long.
fn skip_line(input: &mut dyn BufRead) -> io::Result<()> {
    let mut rest = Vec::new();
    loop {
        rest.clear();
        let n = (&mut *input).take(MAX_LINE).read_until(b'\n', &mut rest)?;
        if n == 0 || rest.ends_with(b"\n") {
            return Ok(());
        }
    }
}

/// One line, which the reader gets at once.
fn write_line(output: &mut dyn Write, id: Option<Value>, mut line: Value) -> io::Result<()> {
    if let Some(id) = id {
        line["id"] = id;
    }
    writeln!(output, "{line}")?;
    output.flush()
}

struct Server<'m, 'o> {
    session: Session<'m>,
    /// Tokens whose keys and values are in the caches.
    history: Vec<i32>,
    eos: Vec<i32>,
    options: &'o ServeOptions,
}

impl Server<'_, '_> {
    fn answer(&mut self, request: &Request, output: &mut dyn Write) -> Result<Value, ServeError> {
        let reused = self.keep_prefix(&request.tokens)?;
        let options = GenerateOptions {
            max_tokens: request.max_tokens.unwrap_or(self.options.max_tokens),
            chunk: self.options.chunk,
            sampling: Sampling {
                temperature: request.temperature,
                top_p: request.top_p,
                seed: request.seed,
            },
            eos: self.eos.clone(),
            prompt_logits: LogitRows::Last,
        };
        let mut tokens = request.tokens.clone();
        let mut broken = None;
        let generation = generate(
            &mut self.session,
            &request.tokens[reused..],
            &options,
            &mut |token| {
                tokens.push(token);
                if self.options.stream && broken.is_none() {
                    let line = json!({ "token": token });
                    broken = write_line(output, request.id.clone(), line).err();
                }
            },
        );
        // Also after a failure: the caches hold the first tokens of it.
        tokens.truncate(usize::try_from(self.session.len()).unwrap_or(usize::MAX));
        self.history = tokens;
        if let Some(err) = broken {
            return Err(err.into());
        }
        let generation = generation?;
        Ok(json!({ "tokens": generation.tokens, "stop": generation.stop, "reused": reused }))
    }

    /// Leaves in the caches what `tokens` begins with; how many tokens that is.
    fn keep_prefix(&mut self, tokens: &[i32]) -> Result<usize, RuntimeError> {
        let shared = self.history.iter().zip(tokens);
        let shared = shared.take_while(|(old, new)| old == new).count();
        // The last token is computed in any case: its logits are wanted.
        let keep = match self.options.reuse {
            true => shared.min(tokens.len().saturating_sub(1)),
            false => 0,
        };
        if keep == 0 {
            self.session.reset()?;
        } else {
            self.session.truncate(keep as u64);
        }
        self.history.truncate(keep);
        Ok(keep)
    }
}
