//! Generating text and measuring how well a model predicts it, in tokens.
//!
//! In: token ids. Out: token ids, or a mean negative log-likelihood.
//! Holds: the same ids, options and bundle give the same result.

use crate::error::RuntimeError;
use crate::sampling::Sampling;
use crate::session::{LogitRows, Session};

/// How to generate.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens of a prefill step; `None` for the largest.
    pub chunk: Option<usize>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Any of these ends the text.
    pub eos: Vec<i32>,
    /// Which logits of the prompt to keep.
    pub prompt_logits: LogitRows,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A token of [`GenerateOptions::eos`] was generated; it is not part of the text.
    EndOfText,
    /// [`GenerateOptions::max_tokens`] were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
}

/// A generated text.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Generated tokens, without the prompt.
    pub tokens: Vec<i32>,
    /// Why it ended.
    pub stop: StopReason,
    /// `[rows, vocab]` of the prompt.
    pub prompt_logits: Vec<f32>,
}

/// Appends `prompt` to the session and generates on from there; `on_token` sees each token as it comes.
///
/// # Errors
/// As [`Session::prefill`] and [`Session::decode`].
pub fn generate(
    session: &mut Session<'_>,
    prompt: &[i32],
    options: &GenerateOptions,
    on_token: &mut dyn FnMut(i32),
) -> Result<Generation, RuntimeError> {
    let step = session.prefill(
        prompt,
        options.chunk,
        options.prompt_logits,
        &options.sampling,
    )?;
    let mut generation = Generation {
        tokens: Vec::new(),
        stop: StopReason::MaxTokens,
        prompt_logits: step.logits,
    };
    let mut next = step.next.last().copied();
    while let Some(token) = next {
        if options.eos.contains(&token) {
            generation.stop = StopReason::EndOfText;
            break;
        }
        if generation.tokens.len() == options.max_tokens {
            break;
        }
        generation.tokens.push(token);
        on_token(token);
        if generation.tokens.len() == options.max_tokens {
            break;
        }
        if session.len() == session.context() {
            generation.stop = StopReason::ContextFull;
            break;
        }
        next = session
            .decode(token, &options.sampling)?
            .next
            .last()
            .copied();
    }
    Ok(generation)
}

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct EvalReport {
    /// Mean negative log-likelihood of a scored token, in nats.
    pub nll: f64,
    /// Scored tokens.
    pub tokens: usize,
}

/// Consecutive windows of `context` tokens plus the next token, which the following window begins with.
/// The last window is as long as the text allows; every token but the first of the text is scored once.
pub fn eval_windows(tokens: &[i32], context: usize) -> impl Iterator<Item = &[i32]> {
    let context = context.max(1);
    (0..tokens.len().saturating_sub(1))
        .step_by(context)
        .map(move |start| &tokens[start..tokens.len().min(start + context + 1)])
}

/// Mean negative log-likelihood of `tokens` in windows of `context`; `progress` sees scored and all tokens.
///
/// # Errors
/// When the text is too short or the context too long, and as [`Session::prefill`].
pub fn evaluate(
    session: &mut Session<'_>,
    tokens: &[i32],
    context: usize,
    chunk: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<EvalReport, RuntimeError> {
    check_eval(session, tokens, context)?;
    let mut scores = Vec::with_capacity(tokens.len());
    for window in eval_windows(tokens, context) {
        progress(scores.len(), tokens.len() - 1);
        scores.extend(score_window(session, window, chunk)?);
    }
    progress(scores.len(), tokens.len() - 1);
    Ok(EvalReport::of(scores.iter()))
}

/// Whether a text can be evaluated in windows of `context` tokens.
pub(crate) fn check_eval(
    session: &Session<'_>,
    tokens: &[i32],
    context: usize,
) -> Result<(), RuntimeError> {
    if tokens.len() < 2 {
        return Err(RuntimeError::TextTooShort {
            tokens: tokens.len(),
        });
    }
    if context == 0 || context as u64 > session.context() {
        return Err(RuntimeError::ContextExceeded {
            needed: context as u64,
            context: session.context(),
        });
    }
    Ok(())
}

/// Negative log-likelihoods of a window's tokens but the first, in nats.
pub(crate) fn score_window(
    session: &mut Session<'_>,
    window: &[i32],
    chunk: Option<usize>,
) -> Result<Vec<f64>, RuntimeError> {
    session.reset()?;
    let (inputs, targets) = (&window[..window.len() - 1], &window[1..]);
    let output = session.prefill(inputs, chunk, LogitRows::All, &Sampling::default())?;
    let scored = output.rows().zip(targets).enumerate();
    scored
        .map(|(position, (row, &target))| {
            // The last target of a window is no input of it, so it has not been checked yet.
            usize::try_from(target)
                .ok()
                .and_then(|target| token_nll(row, target))
                .ok_or(RuntimeError::TokenOutOfRange {
                    token: target,
                    position: position as u64 + 1,
                    vocab: output.vocab as u64,
                })
        })
        .collect()
}

impl EvalReport {
    /// The mean of all scores, added up in their order.
    pub(crate) fn of<'s>(scores: impl Iterator<Item = &'s f64>) -> Self {
        let (total, tokens) = scores.fold((0.0, 0_u32), |(sum, n), nll| (sum + nll, n + 1));
        Self {
            nll: total / f64::from(tokens),
            tokens: tokens as usize,
        }
    }
}

/// `-ln softmax(logits)[target]` in FP64; `None` when there is no such logit.
#[must_use]
pub fn token_nll(logits: &[f32], target: usize) -> Option<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let target = f64::from(*logits.get(target)?);
    let sum: f64 = logits
        .iter()
        .map(|&logit| (f64::from(logit) - f64::from(max)).exp())
        .sum();
    Some(f64::from(max) + sum.ln() - target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_every_token_once() {
        let tokens: Vec<i32> = (0..1988).collect();
        let windows: Vec<&[i32]> = eval_windows(&tokens, 256).collect();
        assert_eq!(windows.len(), 8);
        assert_eq!((windows[0][0], windows[0].len()), (0, 257));
        assert_eq!((windows[1][0], windows[1].len()), (256, 257));
        assert_eq!((windows[7][0], windows[7].len()), (1792, 196));
        assert_eq!(
            windows.iter().map(|window| window.len() - 1).sum::<usize>(),
            1987
        );
        // No window of one token at the end: it would score nothing.
        assert_eq!(eval_windows(&tokens[..257], 256).count(), 1);
        assert_eq!(eval_windows(&tokens[..1], 256).count(), 0);
    }

    #[test]
    fn nll_of_known_distributions() {
        assert!((token_nll(&[0.0; 8], 3).expect("in range") - 8_f64.ln()).abs() < 1e-12);
        // A shift of all logits changes nothing, even a large one.
        let far = token_nll(&[1000.0, 1001.0], 0).expect("in range");
        let near = token_nll(&[0.0, 1.0], 0).expect("in range");
        assert!((far - near).abs() < 1e-12 && (near - (1.0 + 1_f64.exp()).ln()).abs() < 1e-12);
        assert_eq!(token_nll(&[0.0], 1), None);
    }
}
