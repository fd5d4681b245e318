//! JSON Schema as masks over the vocabulary: llguidance, over the tokenizer's own table of token bytes.

use crate::tokenizer::{Tok, FLAG_ADDED, FLAG_SPECIAL};
use crate::{guard, guard_value, text_of, ErrText, Fail, Outcome};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{json, Value};
use std::sync::Arc;

const NO_TOKEN: u32 = u32::MAX;

/// White space between the parts of a document. Bounded: a small model that may go on with blanks often does for ever.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,40})";

pub struct Factory {
    parsers: ParserFactory,
    stops: Vec<u32>,
}

pub struct Constraint {
    matcher: Matcher,
    stops: Vec<u32>,
}

/// Special tokens are no text, whatever they look like: a mark keeps them out of strings.
fn word(tok: &Tok, id: u32) -> Vec<u8> {
    let (bytes, flags) = tok.entry(id);
    let tag = flags & FLAG_SPECIAL != 0 || (flags & FLAG_ADDED != 0 && bytes.starts_with(b"<") && bytes.ends_with(b">"));
    let mut word = Vec::with_capacity(bytes.len() + 1);
    if tag {
        word.push(TokTrie::SPECIAL_TOKEN_MARKER);
    }
    word.extend_from_slice(bytes);
    word
}

impl Factory {
    fn open(tok: &Tok, n_vocab: u32, stops: &[i32]) -> Outcome<Factory> {
        if n_vocab == 0 || n_vocab > 1 << 22 {
            return Err(Fail::invalid(format!("a vocabulary of {n_vocab} tokens cannot be right")));
        }
        let stops: Vec<u32> = stops.iter().filter_map(|&id| u32::try_from(id).ok()).filter(|&id| id < n_vocab).collect();
        let words: Vec<Vec<u8>> = (0..n_vocab).map(|id| word(tok, id)).collect();
        let mut trie = TokTrie::from(&TokRxInfo::new(n_vocab, stops.first().copied().unwrap_or(NO_TOKEN)), &words);
        if stops.len() > 1 {
            trie = trie.with_eos_tokens(&stops);
        }
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut parsers = ParserFactory::new_simple(&env).map_err(|e| Fail::invalid(e.to_string()))?;
        parsers.quiet();
        parsers.limits_mut().verbose_errors = false;
        Ok(Factory { parsers, stops })
    }

    fn constrain(&self, schema: &str) -> Outcome<Constraint> {
        let mut schema: Value = match schema.trim() {
            "" => json!({"type": "object"}),
            text => serde_json::from_str(text).map_err(|e| Fail::invalid(format!("the schema is not JSON: {e}")))?,
        };
        match schema.as_object_mut() {
            Some(object) => object.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE})),
            None => return Err(Fail::invalid("the schema is not a JSON object")),
        };
        let grammar = TopLevelGrammar::from_json_schema(schema);
        let matcher = Matcher::new(self.parsers.create_parser(grammar));
        match matcher.get_error() {
            Some(text) => Err(Fail::invalid(format!("this JSON schema cannot be enforced: {text}"))),
            None => Ok(Constraint { matcher, stops: self.stops.clone() }),
        }
    }
}

impl Constraint {
    fn mask(&mut self, out: &mut [u32]) -> Outcome<()> {
        out.fill(0);
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            for &id in &self.stops {
                if let Some(word) = out.get_mut(id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
            return Ok(());
        }
        let mask = self.matcher.compute_mask().map_err(|e| Fail::invalid(format!("grammar: {e}")))?;
        let words = mask.as_slice();
        let n = words.len().min(out.len());
        out[..n].copy_from_slice(&words[..n]);
        Ok(())
    }
}

// ---- the border ------------------------------------------------------------------------------------------------

#[no_mangle]
pub extern "C" fn lmr_grammar_open(
    out: *mut *mut Factory, tok: &Tok, n_vocab: u32, stops: *const i32, n_stops: usize, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: n_stops ids of C's and a place for the result.
        let stops = if n_stops == 0 { &[] } else { unsafe { std::slice::from_raw_parts(stops, n_stops) } };
        let factory = Factory::open(tok, n_vocab, stops)?;
        unsafe { *out = Box::into_raw(Box::new(factory)) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_grammar_close(factory: *mut Factory) {
    guard_value((), || {
        if !factory.is_null() {
            // SAFETY: made by lmr_grammar_open, given back once.
            drop(unsafe { Box::from_raw(factory) });
        }
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_open(
    out: *mut *mut Constraint, factory: &Factory, schema: *const u8, len: usize, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's and a place for the result.
        let constraint = factory.constrain(unsafe { text_of(schema, len, "the schema") }?)?;
        unsafe { *out = Box::into_raw(Box::new(constraint)) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_close(constraint: *mut Constraint) {
    guard_value((), || {
        if !constraint.is_null() {
            // SAFETY: made by lmr_matcher_open, given back once.
            drop(unsafe { Box::from_raw(constraint) });
        }
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_mask(constraint: &mut Constraint, mask: *mut u32, n_words: usize, err: ErrText) -> i32 {
    // SAFETY: C's own memory of n_words words.
    guard(err, || constraint.mask(unsafe { std::slice::from_raw_parts_mut(mask, n_words) }))
}

#[no_mangle]
pub extern "C" fn lmr_matcher_take(constraint: &mut Constraint, id: i32, err: ErrText) -> i32 {
    guard(err, || {
        let id = u32::try_from(id).map_err(|_| Fail::invalid("grammar: not a token"))?;
        constraint.matcher.consume_token(id).map_err(|e| Fail::invalid(format!("grammar: {e}")))
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_done(constraint: &Constraint) -> bool {
    guard_value(false, || constraint.matcher.is_stopped() && !constraint.matcher.is_error())
}
