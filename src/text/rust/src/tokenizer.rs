//! tokenizer.json: opening, encoding, decoding, and the table of what each token adds to a text.

use crate::bpe::{AnyModel, MAX_ID};
use crate::{bytes_of, guard, guard_value, text_of, ByteSink, ErrText, Fail, IdSink, Outcome};
use ahash::AHashMap;
use core::ffi::c_void;
use serde_json::Value;
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

type Tokenizer =
    TokenizerImpl<AnyModel, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

pub const FLAG_EXISTS: u8 = 1;
pub const FLAG_SPECIAL: u8 = 2;
pub const FLAG_ADDED: u8 = 4;

pub struct Tok {
    inner: Tokenizer,
    bytes: Vec<u8>,     // all tokens' bytes one after the other
    offsets: Vec<u32>,  // n + 1, into bytes
    flags: Vec<u8>,     // n
}

/// Borrowed view of the table, as rust.h declares it.
#[repr(C)]
pub struct Table {
    bytes: *const u8,
    offsets: *const u32,
    flags: *const u8,
    n: u32,
}

/// How the decoder turns one token's written form into bytes in the middle of a text.
enum Spelling {
    ByteLevel,
    Pieces { replace: Vec<(String, String)>, byte_fallback: bool, word_pieces: Option<String> },
}

fn spelling_of(decoder: &Value) -> Spelling {
    let mut replace = Vec::new();
    let mut byte_fallback = false;
    let mut word_pieces = None;
    let mut queue = vec![decoder];
    while let Some(d) = queue.pop() {
        match d["type"].as_str() {
            Some("ByteLevel") => return Spelling::ByteLevel,
            Some("ByteFallback") => byte_fallback = true,
            Some("Replace") => {
                if let (Some(from), Some(to)) = (d["pattern"]["String"].as_str(), d["content"].as_str()) {
                    if !from.is_empty() {
                        replace.push((from.to_string(), to.to_string()));
                    }
                }
            }
            Some("Metaspace") => {
                replace.push((d["replacement"].as_str().unwrap_or("\u{2581}").to_string(), " ".to_string()))
            }
            Some("BPEDecoder") => {
                if let Some(suffix) = d["suffix"].as_str().filter(|s| !s.is_empty()) {
                    replace.push((suffix.to_string(), " ".to_string()));
                }
            }
            Some("WordPiece") => word_pieces = Some(d["prefix"].as_str().unwrap_or("##").to_string()),
            Some("Sequence") => {
                // Popped from the end: pushed in reverse, so that replacements keep their order.
                queue.extend(d["decoders"].as_array().into_iter().flatten().rev());
            }
            _ => {}
        }
    }
    Spelling::Pieces { replace, byte_fallback, word_pieces }
}

/// The 256 characters with which byte-level vocabularies write bytes: printable Latin-1 stands for itself, the
/// others follow from U+0100 on.
fn byte_of_char() -> [Option<u8>; 0x144] {
    let mut table = [None; 0x144];
    let mut next = 0x100;
    for b in 0..=255u8 {
        let itself = matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let c = if itself {
            b as usize
        } else {
            next += 1;
            next - 1
        };
        table[c] = Some(b);
    }
    table
}

impl Spelling {
    fn add(&self, token: &str, chars: &[Option<u8>; 0x144], out: &mut Vec<u8>) {
        match self {
            Spelling::ByteLevel => {
                let start = out.len();
                for c in token.chars() {
                    match chars.get(c as usize).copied().flatten() {
                        Some(b) => out.push(b),
                        None => {
                            // Not in the byte alphabet: such a token stands for its own text, as the decoder has it.
                            out.truncate(start);
                            out.extend_from_slice(token.as_bytes());
                            return;
                        }
                    }
                }
            }
            Spelling::Pieces { replace, byte_fallback, word_pieces } => {
                if *byte_fallback && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>') {
                    if let Ok(b) = u8::from_str_radix(&token[3..5], 16) {
                        out.push(b);
                        return;
                    }
                }
                if let Some(prefix) = word_pieces {
                    match token.strip_prefix(prefix.as_str()) {
                        Some(rest) => out.extend_from_slice(rest.as_bytes()),
                        None => {
                            out.push(b' ');
                            out.extend_from_slice(token.as_bytes());
                        }
                    }
                    return;
                }
                if replace.iter().any(|(from, _)| token.contains(from.as_str())) {
                    let mut text = token.to_string();
                    for (from, to) in replace {
                        text = text.replace(from.as_str(), to);
                    }
                    out.extend_from_slice(text.as_bytes());
                } else {
                    out.extend_from_slice(token.as_bytes());
                }
            }
        }
    }
}

impl Tok {
    /// A token's bytes and FLAG_*; empty for an id that does not exist.
    pub fn entry(&self, id: u32) -> (&[u8], u8) {
        match self.flags.get(id as usize) {
            Some(&flags) => {
                let at = id as usize;
                (&self.bytes[self.offsets[at] as usize..self.offsets[at + 1] as usize], flags)
            }
            None => (&[], 0),
        }
    }

    fn open(json: &[u8]) -> Outcome<Tok> {
        let json = std::str::from_utf8(json).map_err(|_| Fail::corrupt("tokenizer.json: not UTF-8"))?;
        let mut inner: Tokenizer =
            serde_json::from_str(json).map_err(|e| Fail::corrupt(format!("tokenizer.json: {e}")))?;
        // A file may carry the settings of somebody's training run.
        inner.with_truncation(None).map_err(|e| Fail::corrupt(e.to_string()))?;
        inner.with_padding(None);

        let decoder = match inner.get_decoder() {
            Some(d) => serde_json::to_value(d).map_err(|e| Fail::corrupt(e.to_string()))?,
            None => Value::Null,
        };
        let spelling = spelling_of(&decoder);
        let chars = byte_of_char();
        let added = inner.get_added_tokens_decoder();
        // The library's models are small or rare: a map of all their tokens is good enough there.
        let by_name = match inner.get_model() {
            AnyModel::Bpe(_) => Default::default(),
            AnyModel::Other(m) => m.get_vocab(),
        };
        let by_id: AHashMap<u32, &str> = by_name.iter().map(|(token, &id)| (id, token.as_str())).collect();
        let token_of = |id: u32| match inner.get_model() {
            AnyModel::Bpe(m) => m.token(id),
            AnyModel::Other(_) => by_id.get(&id).copied(),
        };
        let in_model = match inner.get_model() {
            AnyModel::Bpe(m) => m.n_ids(),
            AnyModel::Other(_) => by_id.keys().max().map_or(0, |&id| id.saturating_add(1)),
        };
        let n = added.keys().map(|&id| id.saturating_add(1)).max().unwrap_or(0).max(in_model);
        if n == 0 || n > MAX_ID {
            return Err(Fail::corrupt(format!("tokenizer.json: a vocabulary of {n} ids cannot be right")));
        }
        let mut bytes = Vec::with_capacity(n as usize * 8);
        let mut offsets = Vec::with_capacity(n as usize + 1);
        let mut flags = Vec::with_capacity(n as usize);
        for id in 0..n {
            offsets.push(bytes.len() as u32);
            let mut flag = 0;
            if let Some(token) = added.get(&id) {
                flag |= FLAG_EXISTS | FLAG_ADDED | if token.special { FLAG_SPECIAL } else { 0 };
                bytes.extend_from_slice(token.content.as_bytes());
            } else if let Some(token) = token_of(id) {
                flag |= FLAG_EXISTS;
                spelling.add(token, &chars, &mut bytes);
            }
            flags.push(flag);
        }
        offsets.push(u32::try_from(bytes.len()).map_err(|_| Fail::corrupt("tokenizer.json: tokens are too long"))?);
        Ok(Tok { inner, bytes, offsets, flags })
    }
}

#[no_mangle]
pub extern "C" fn lmr_tok_open(out: *mut *mut Tok, json: *const u8, len: usize, err: ErrText) -> i32 {
    guard(err, || {
        // SAFETY: C passes a file's bytes and a place for the result.
        let tok = Tok::open(unsafe { bytes_of(json, len) })?;
        unsafe { *out = Box::into_raw(Box::new(tok)) };
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_tok_close(tok: *mut Tok) {
    guard_value((), || {
        if !tok.is_null() {
            // SAFETY: made by lmr_tok_open, given back once.
            drop(unsafe { Box::from_raw(tok) });
        }
    })
}

#[no_mangle]
pub extern "C" fn lmr_tok_table(tok: &Tok) -> Table {
    Table {
        bytes: tok.bytes.as_ptr(),
        offsets: tok.offsets.as_ptr(),
        flags: tok.flags.as_ptr(),
        n: tok.flags.len() as u32,
    }
}

#[no_mangle]
pub extern "C" fn lmr_tok_id(tok: &Tok, token: *const u8, len: usize) -> i32 {
    // SAFETY: a view of C's.
    guard_value(-1, || match std::str::from_utf8(unsafe { bytes_of(token, len) }) {
        Ok(token) => tok.inner.token_to_id(token).map_or(-1, |id| id as i32),
        Err(_) => -1,
    })
}

#[no_mangle]
pub extern "C" fn lmr_tok_encode(
    tok: &Tok, text: *const u8, len: usize, add_special: bool, sink: IdSink, ctx: *mut c_void, err: ErrText,
) -> i32 {
    guard(err, || {
        // SAFETY: a view of C's.
        let text = unsafe { text_of(text, len, "the prompt") }?;
        let encoding = tok.inner.encode_fast(text, add_special).map_err(|e| Fail::invalid(format!("tokenizer: {e}")))?;
        let ids = encoding.get_ids();
        sink(ctx, ids.as_ptr(), ids.len());
        Ok(())
    })
}

#[no_mangle]
pub extern "C" fn lmr_tok_decode(
    tok: &Tok, ids: *const i32, n: usize, skip_special: bool, sink: ByteSink, ctx: *mut c_void, err: ErrText,
) -> i32 {
    guard(err, || {
        let ids = if n == 0 { &[] } else { unsafe { std::slice::from_raw_parts(ids, n) } };
        let known: Vec<u32> = ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
        let text = tok.inner.decode(&known, skip_special).map_err(|e| Fail::invalid(format!("tokenizer: {e}")))?;
        sink(ctx, text.as_ptr(), text.len());
        Ok(())
    })
}
