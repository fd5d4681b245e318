//! JSON Schema as masks over the vocabulary: llguidance, over the tokenizer's own table of token bytes.

use crate::tokenizer::{Tok, FLAG_ADDED, FLAG_SPECIAL};
use crate::{guard, guard_value, text_of, ErrText, Fail, Outcome};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, Recognizer, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, TokenParser};
use serde_json::{json, Value};
use std::sync::{Arc, LazyLock};

const NO_TOKEN: u32 = u32::MAX;

/// White space between the parts of a document. Bounded: a small model that may go on with blanks often does for ever.
const WHITE_SPACE: &str = r"( |\n[ \t]{0,40})";

pub struct Factory {
    parsers: ParserFactory,
    stops: Vec<u32>,
}

pub struct Constraint {
    parser: TokenParser,
    stops: Vec<u32>,
    place: Place,
    closing: Option<Vec<u32>>, // the only tokens that may still come, the last one first
    closed: bool,              // what is complete ends with a tag or bracket
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

/// llguidance's words, where they are for people.
fn trouble(e: impl std::fmt::Display) -> Fail {
    let text = e.to_string();
    if text.contains("NoExtensionBias") {
        return Fail::invalid("no document can satisfy this JSON schema: does it refer to itself without an end?");
    }
    Fail::invalid(format!("grammar: {}", text.lines().next().unwrap_or_default()))
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

    /// A document of this schema, "" for any object.
    fn of_schema(&self, schema: &str) -> Outcome<Constraint> {
        let mut schema: Value = match schema.trim() {
            "" => json!({"type": "object"}),
            text => serde_json::from_str(text).map_err(|e| Fail::invalid(format!("the schema is not JSON: {e}")))?,
        };
        match schema.as_object_mut() {
            Some(object) => object.insert("x-guidance".into(), json!({"whitespace_pattern": WHITE_SPACE})),
            None => return Err(Fail::invalid("the schema is not a JSON object")),
        };
        self.constrain(TopLevelGrammar::from_json_schema(schema), "this JSON schema cannot be enforced")
    }

    fn constrain(&self, grammar: TopLevelGrammar, complaint: &str) -> Outcome<Constraint> {
        let mut parser = self.parsers.create_parser(grammar).map_err(|e| Fail::invalid(format!("{complaint}: {}", e.to_string().lines().next().unwrap_or_default())))?;
        parser.start_without_prompt();
        Ok(Constraint { parser, stops: self.stops.clone(), place: Place::default(), closing: None, closed: false })
    }
}

// ---- the way to the end ----------------------------------------------------------------------------------------

/// Where in a JSON text one is.
#[derive(Clone, Copy, Default)]
struct Place {
    depth: i32,
    string: bool,
    escaped: bool,
}

impl Place {
    fn after(mut self, bytes: &[u8]) -> Place {
        for &byte in bytes {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.string => self.escaped = true,
                b'"' => self.string = !self.string,
                b'{' | b'[' if !self.string => self.depth += 1,
                b'}' | b']' if !self.string => self.depth -= 1,
                _ => (),
            }
        }
        self
    }
}

/// What ends something comes first, whatever was written before.
const ENDS: &[u8] = b"}]:,";
/// Then what makes short values.
const SHORT: &[u8] = b"/01ntf\"[{-.<";
/// Within strings first the marks between the parts of addresses and dates, which a pattern seldom allows in vain.
const MARKS: &[u8] = b"@.:-/T";
/// What ends a value without quotes, in calls that are written as tags.
const VALUE_ENDS: [&[u8]; 2] = [b"</parameter>", b"</arg_value>"];

/// Text from here to the end of the document, by taking at each byte the one that is allowed and promises the shortest
/// way: a bracket or quote that closes, else the byte that was taken least often so far, so that a pattern such as
/// (ab)*c is left again. None: more than `most` bytes.
fn walk(parser: &mut TokenParser, place: Place, given: &[u8], most: usize, late: bool, closed: bool) -> Option<Vec<u8>> {
    parser.parser.with_recognizer(|r| {
        let mut way = given.to_vec();
        let mut used = [0u16; 256];
        let mut place = place.after(given);
        r.trie_started("end");
        let mut open = given.iter().all(|&b| r.try_push_byte(b));
        let mut done = false;
        while open && !done && way.len() < most {
            if let Some(end) = VALUE_ENDS.iter().find(|end| !place.string && push_all(r, end)) {
                way.extend_from_slice(end);
                continue;
            }
            let next = next_byte(r, place, &used, late);
            match next {
                Some(byte) => {
                    way.push(byte);
                    used[byte as usize] += 1;
                    place = place.after(&[byte]);
                    // whether it is complete is asked where it may be: behind any byte, or behind a tag or bracket
                    done = (!closed || matches!(byte, b'>' | b'}' | b']' | b'`')) && place.depth <= 0 && !place.string && way.len() > given.len();
                }
                None => open = false,
            }
        }
        r.trie_finished();
        (done || (!open && way.len() > given.len())).then_some(way)
    })
}

/// All of the bytes, or none.
fn push_all(r: &mut impl Recognizer, bytes: &[u8]) -> bool {
    let pushed = bytes.iter().take_while(|&&b| r.try_push_byte(b)).count();
    if pushed < bytes.len() {
        r.pop_bytes(pushed);
    }
    pushed == bytes.len()
}

fn next_byte(r: &mut impl Recognizer, place: Place, used: &[u16; 256], late: bool) -> Option<u8> {
    if place.string && !place.escaped {
        if r.try_push_byte(b'"') {
            return Some(b'"');
        }
    } else if let Some(&end) = ENDS.iter().find(|&&b| !place.string && r.try_push_byte(b)) {
        return Some(end);
    }
    (0..=used.iter().copied().max().unwrap_or(0)).find_map(|level| {
        let order = ORDER[usize::from(place.string) * 2 + usize::from(late)].iter();
        order.copied().find(|&b| used[b as usize] == level && r.try_push_byte(b))
    })
}

/// All bytes by how much they promise: outside of strings and within, and each the other way round among its like.
static ORDER: LazyLock<[Vec<u8>; 4]> = LazyLock::new(|| {
    [false, true].map(|string| [false, true].map(|late| order_of(string, late))).concat().try_into().expect("four")
});

fn order_of(string: bool, late: bool) -> Vec<u8> {
    let mut order: Vec<u8> = (0..=255u8).collect();
    order.sort_by_key(|&b| {
        let first = if string { MARKS } else { SHORT };
        let rank = match first.iter().position(|&s| s == b) {
            Some(at) => at,
            None if b.is_ascii_alphanumeric() => 20,
            None if b.is_ascii_punctuation() => 21,
            None if b >= 0x80 => 22,
            None => 23,
        };
        (rank, if late { 255 - b } else { b })
    });
    order
}

impl Constraint {
    /// Tokens that end the document from here, the last one first. None: no way of at most `most` tokens was found.
    fn ending(&mut self, most: usize) -> Option<Vec<u32>> {
        if self.parser.stopped() || self.parser.is_accepting() {
            return Some(Vec::new());
        }
        self.ending_by(most, false).or_else(|| self.ending_by(most, true))
    }

    fn ending_by(&mut self, most: usize, late: bool) -> Option<Vec<u32>> {
        let room = most.saturating_mul(16).saturating_add(16).min(1 << 14);
        let mut way = Vec::new();
        loop {
            way = walk(&mut self.parser, self.place, &way, room, late, self.closed)?;
            let mut tokens = self.parser.token_env.tok_trie().greedy_tokenize(&way);
            if self.accepts_after(&tokens) {
                tokens.reverse();
                return (tokens.len() <= most).then_some(tokens);
            }
        }
    }

    fn accepts_after(&mut self, tokens: &[u32]) -> bool {
        if !matches!(self.parser.validate_tokens_raw(tokens), Ok(n) if n == tokens.len()) {
            return false;
        }
        let mut taken = 0;
        while taken < tokens.len() && self.parser.consume_token(tokens[taken]).is_ok() {
            taken += 1;
        }
        let accepts = taken == tokens.len() && self.parser.is_accepting();
        self.parser.rollback(taken).is_ok() && accepts
    }

    fn take(&mut self, id: u32) -> Outcome<()> {
        self.parser.consume_token(id).map_err(trouble)?;
        self.parser.check_stop().map_err(trouble)?;
        self.place = self.place.after(self.parser.token_env.tok_trie().token(id));
        if let Some(way) = &mut self.closing {
            if way.pop() != Some(id) {
                return Err(Fail::invalid("grammar: this token does not end the document"));
            }
        }
        Ok(())
    }

    /// Takes id when the document can then be ended within `left` tokens: how many that takes. Else the end is begun
    /// instead of it, and the result is None; where there is no end in time either, id is taken: u32::MAX.
    fn take_within(&mut self, id: u32, left: usize) -> Outcome<Option<u32>> {
        let before = self.place;
        self.take(id)?;
        if let Some(way) = &self.closing {
            return Ok(Some(way.len() as u32));
        }
        if let Some(way) = self.ending(left) {
            return Ok(Some(way.len() as u32));
        }
        let after = std::mem::replace(&mut self.place, before);
        self.parser.rollback(1).map_err(trouble)?;
        self.closing = self.ending(left + 1);
        if self.closing.is_some() {
            return Ok(None);
        }
        self.place = after;
        self.take(id)?;
        Ok(Some(u32::MAX))
    }

    fn reset(&mut self) -> Outcome<()> {
        self.closing = None;
        self.place = Place::default();
        self.parser.reset().map_err(trouble)
    }

    /// Takes text that was written before the grammar ruled. False, with nothing taken: it does not fit.
    fn feed(&mut self, text: &[u8]) -> Outcome<bool> {
        let tokens = self.parser.token_env.tok_trie().greedy_tokenize(text);
        let fits = self.parser.validate_tokens_raw(&tokens).map_err(trouble)?;
        if fits < tokens.len() {
            return Ok(false);
        }
        for id in tokens {
            self.take(id)?;
        }
        Ok(true)
    }

    fn mask(&mut self, out: &mut [u32]) -> Outcome<()> {
        out.fill(0);
        let mut allow = |id: u32| {
            if let Some(word) = out.get_mut(id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        };
        if let Some(&id) = self.closing.as_ref().and_then(|way| way.last()) {
            allow(id);
            return Ok(());
        }
        if self.closing.is_some() || self.done() {
            self.stops.iter().for_each(|&id| allow(id));
            return Ok(());
        }
        let mask = self.parser.compute_mask().map_err(trouble)?;
        let words = mask.as_slice();
        let n = words.len().min(out.len());
        out[..n].copy_from_slice(&words[..n]);
        Ok(())
    }

    fn done(&self) -> bool {
        self.parser.stopped() && self.parser.stop_reason().is_ok()
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
        let constraint = factory.of_schema(unsafe { text_of(schema, len, "the schema") }?)?;
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
pub extern "C" fn lmr_matcher_open_lark(
    out: *mut *mut Constraint, factory: &Factory, grammar: *const u8, len: usize, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's and a place for the result.
        let text = unsafe { text_of(grammar, len, "the grammar") }?;
        let mut constraint = factory.constrain(TopLevelGrammar::from_lark(text.into()), "this grammar cannot be enforced")?;
        constraint.closed = true;
        unsafe { *out = Box::into_raw(Box::new(constraint)) };
        Ok(())
    })
}

fn token(id: i32) -> Outcome<u32> {
    u32::try_from(id).map_err(|_| Fail::invalid("grammar: not a token"))
}

#[no_mangle]
pub extern "C" fn lmr_matcher_take(constraint: &mut Constraint, id: i32, err: ErrText) -> i32 {
    guard(err, || constraint.take(token(id)?))
}

#[no_mangle]
pub extern "C" fn lmr_matcher_take_within(
    constraint: &mut Constraint, id: i32, left: u32, taken: &mut bool, ending: &mut u32, err: ErrText,
) -> i32 {
    guard(err, || {
        let end = constraint.take_within(token(id)?, left as usize)?;
        *taken = end.is_some();
        *ending = end.unwrap_or(left);
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_ending(constraint: &mut Constraint, most: u32) -> u32 {
    guard_value(u32::MAX, || constraint.ending(most as usize).map_or(u32::MAX, |way| way.len() as u32))
}

#[no_mangle]
pub extern "C" fn lmr_matcher_reset(constraint: &mut Constraint, err: ErrText) -> i32 {
    guard(err, || constraint.reset())
}

#[no_mangle]
pub extern "C" fn lmr_matcher_feed(
    constraint: &mut Constraint, text: *const u8, len: usize, fits: &mut bool, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's.
        let bytes = if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(text, len) } };
        *fits = constraint.feed(bytes)?;
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_matcher_done(constraint: &Constraint) -> bool {
    guard_value(false, || constraint.done())
}

#[no_mangle]
pub extern "C" fn lmr_matcher_accepts(constraint: &mut Constraint) -> bool {
    guard_value(false, || constraint.done() || (!constraint.parser.stopped() && constraint.parser.is_accepting()))
}
