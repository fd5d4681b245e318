//! Byte-pair encoding over compact tables.
//!
//! Nearly every model's tokenizer is of this kind, and its 150,000 tokens and as many merges are what opening a model
//! waits for. The library reads them through generic values into maps of owned strings: half a second and 100 MB.
//! Here they go from the JSON text straight into three flat tables: the tokens' texts one after the other, a hash of
//! texts to ids, a hash of pairs to merges. Everything around the model (normalizer, pre-tokenizer, added tokens,
//! post-processor, decoder) stays the library's, and so do all other kinds of model. The tests hold the ids against
//! the library's own.

use ahash::RandomState;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use tokenizers::{AddedToken, Model, ModelWrapper, Result, Token, Trainer};

/// No vocabulary in use comes near; a file that names larger ids would only cost memory.
pub const MAX_ID: u32 = 1 << 22;

const NONE: u32 = u32::MAX;

// ---- texts to ids ----------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Span {
    at: u32,
    len: u32, // NONE: no token has this id
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    id: u32, // NONE: empty
}

/// Open addressing, at most two thirds full: the smaller the table, the more of it is in the cache while merges are read.
struct Vocab {
    texts: Vec<u8>,
    spans: Vec<Span>, // by id
    slots: Vec<Slot>,
    n: usize, // different texts
    hasher: RandomState,
}

impl Vocab {
    fn new() -> Vocab {
        Vocab {
            texts: Vec::new(),
            spans: Vec::new(),
            slots: vec![Slot { hash: 0, id: NONE }; 1 << 10],
            n: 0,
            hasher: seeds(),
        }
    }

    fn text(&self, id: u32) -> Option<&[u8]> {
        let span = self.spans.get(id as usize).filter(|s| s.len != NONE)?;
        Some(&self.texts[span.at as usize..][..span.len as usize])
    }

    /// The slot of text, or the empty one where it would go.
    fn find(&self, text: &[u8], hash: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.id == NONE || (slot.hash == hash && self.text(slot.id) == Some(text)) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn hash(&self, text: &[u8]) -> u32 {
        self.hasher.hash_one(text) as u32
    }

    fn get(&self, text: &[u8]) -> Option<u32> {
        let id = self.slots[self.find(text, self.hash(text))].id;
        (id != NONE).then_some(id)
    }

    fn grow(&mut self) {
        let n = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![Slot { hash: 0, id: NONE }; n]);
        for slot in old.into_iter().filter(|s| s.id != NONE) {
            let mut at = slot.hash as usize & (n - 1);
            while self.slots[at].id != NONE {
                at = (at + 1) & (n - 1);
            }
            self.slots[at] = slot;
        }
    }

    /// Of a text that is named twice the last id counts.
    fn add(&mut self, text: &str, id: u32) -> std::result::Result<(), String> {
        if id >= MAX_ID {
            return Err(format!("token id {id} cannot be right"));
        }
        let at = u32::try_from(self.texts.len()).map_err(|_| "tokens are too long")?;
        let len = u32::try_from(text.len()).map_err(|_| "a token is too long")?;
        if self.spans.len() <= id as usize {
            self.spans.resize(id as usize + 1, Span { at: 0, len: NONE });
        }
        if (self.n + 1) * 3 > self.slots.len() * 2 {
            self.grow();
        }
        let hash = self.hash(text.as_bytes());
        let slot = self.find(text.as_bytes(), hash);
        if self.slots[slot].id == NONE {
            self.n += 1;
        }
        self.texts.extend_from_slice(text.as_bytes());
        self.spans[id as usize] = Span { at, len };
        self.slots[slot] = Slot { hash, id };
        Ok(())
    }
}

/// Seeds that a file's author cannot know, so that no file can be made of colliding texts.
fn seeds() -> RandomState {
    let source = std::collections::hash_map::RandomState::new();
    RandomState::with_seeds(source.hash_one(1), source.hash_one(2), source.hash_one(3), source.hash_one(4))
}

// ---- pairs to merges -------------------------------------------------------------------------------------------

#[derive(Clone, Copy)]
struct Merge {
    pair: u64, // left << 32 | right; u64::MAX: empty
    rank: u32,
    id: u32,
}

const EMPTY: Merge = Merge { pair: u64::MAX, rank: 0, id: 0 };

/// Open addressing, at most two thirds full.
struct Merges {
    slots: Vec<Merge>,
    n: usize,
    seed: u64,
}

fn pair_of(left: u32, right: u32) -> u64 {
    (left as u64) << 32 | right as u64
}

impl Merges {
    fn new() -> Merges {
        Merges { slots: vec![EMPTY; 1 << 10], n: 0, seed: seeds().hash_one(5) | 1 }
    }

    fn find(&self, pair: u64) -> usize {
        let mask = self.slots.len() - 1;
        let product = (pair ^ self.seed) as u128 * (self.seed | 1 << 63) as u128;
        let mut at = (product as u64 ^ (product >> 64) as u64) as usize & mask;
        while self.slots[at].pair != pair && self.slots[at].pair != EMPTY.pair {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let slot = self.slots[self.find(pair_of(left, right))];
        (slot.pair != EMPTY.pair).then_some((slot.rank, slot.id))
    }

    /// Of a pair that is named twice the last rank counts.
    fn add(&mut self, left: u32, right: u32, rank: u32, id: u32) {
        if (self.n + 1) * 3 > self.slots.len() * 2 {
            let n = self.slots.len() * 2;
            let old = std::mem::replace(&mut self.slots, vec![EMPTY; n]);
            for merge in old.into_iter().filter(|m| m.pair != EMPTY.pair) {
                let at = self.find(merge.pair);
                self.slots[at] = merge;
            }
        }
        let at = self.find(pair_of(left, right));
        if self.slots[at].pair == EMPTY.pair {
            self.n += 1;
        }
        self.slots[at] = Merge { pair: pair_of(left, right), rank, id };
    }
}

// ---- the model -------------------------------------------------------------------------------------------------

pub struct Bpe {
    vocab: Vocab,
    merges: Merges,
    common: Vec<u32>, // ids of the one-character texts below U+0180, NONE for none
    unk: Option<String>,
    prefix: String, // of pieces that do not begin a word
    suffix: String, // of pieces that end a word
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
}

#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    len: u32, // bytes; 0: merged into the one before
    prev: u32,
    next: u32, // NONE: the last
}

impl Bpe {
    pub fn token(&self, id: u32) -> Option<&str> {
        self.vocab.text(id).and_then(|t| std::str::from_utf8(t).ok())
    }

    pub fn n_ids(&self) -> u32 {
        self.vocab.spans.len() as u32
    }

    fn id_of_char(&self, c: char, text: &str) -> Option<u32> {
        match self.common.get(c as usize) {
            Some(&id) => (id != NONE).then_some(id),
            None => self.vocab.get(text.as_bytes()),
        }
    }

    fn unk_id(&self, unk: &str) -> Result<u32> {
        self.vocab.get(unk.as_bytes()).ok_or_else(|| format!("the unknown token {unk} is not in the vocabulary").into())
    }

    /// The characters of a word as ids, before any merge. The order of the steps is the library's.
    fn symbols(&self, word: &str) -> Result<Vec<Symbol>> {
        let mut out: Vec<Symbol> = Vec::with_capacity(word.len());
        let mut unknown: Option<(u32, u32)> = None; // id, bytes
        let push = |out: &mut Vec<Symbol>, id: u32, len: u32| {
            let at = out.len() as u32;
            if let Some(last) = out.last_mut() {
                last.next = at;
            }
            out.push(Symbol { id, len, prev: at.wrapping_sub(1), next: NONE });
        };
        for (at, c) in word.char_indices() {
            let plain = &word[at..at + c.len_utf8()];
            let len = plain.len() as u32;
            let mut text = Cow::Borrowed(plain);
            if at > 0 && !self.prefix.is_empty() {
                text = format!("{}{text}", self.prefix).into();
            }
            if at + plain.len() == word.len() && !self.suffix.is_empty() {
                text = format!("{text}{}", self.suffix).into();
            }
            let id = match &text {
                Cow::Borrowed(text) => self.id_of_char(c, text),
                Cow::Owned(text) => self.vocab.get(text.as_bytes()),
            };
            if let Some(id) = id {
                if let Some((unk, n)) = unknown.take() {
                    push(&mut out, unk, n);
                }
                push(&mut out, id, len);
                continue;
            }
            if self.byte_fallback {
                let ids: Option<Vec<u32>> =
                    text.bytes().map(|b| self.vocab.get(format!("<0x{b:02X}>").as_bytes())).collect();
                if let Some(ids) = ids {
                    ids.into_iter().for_each(|id| push(&mut out, id, 1));
                    continue;
                }
            }
            if let Some(unk) = &self.unk {
                unknown = match unknown {
                    Some((id, n)) if self.fuse_unk => Some((id, n + len)),
                    before => {
                        if let Some((id, n)) = before {
                            push(&mut out, id, n);
                        }
                        Some((self.unk_id(unk)?, len))
                    }
                };
            }
        }
        if let Some((unk, n)) = unknown {
            push(&mut out, unk, n);
        }
        Ok(out)
    }

    /// Merges the pair of lowest rank, the leftmost of equals, until there is none. Short words, which nearly all are,
    /// keep the ranks in a row and look for the least.
    fn merge_short(&self, symbols: &mut Vec<Symbol>) {
        let rank = |s: &[Symbol], i: usize| self.merges.get(s[i].id, s[i + 1].id).unwrap_or((NONE, NONE));
        let mut ranks: Vec<(u32, u32)> = (0..symbols.len().saturating_sub(1)).map(|i| rank(symbols, i)).collect();
        while let Some(at) = (0..ranks.len()).min_by_key(|&i| ranks[i].0).filter(|&i| ranks[i].0 != NONE) {
            symbols[at].id = ranks[at].1;
            symbols[at].len += symbols[at + 1].len;
            symbols.remove(at + 1);
            ranks.remove(at);
            if at < ranks.len() {
                ranks[at] = rank(symbols, at);
            }
            if at > 0 {
                ranks[at - 1] = rank(symbols, at - 1);
            }
        }
    }

    /// The same with a heap, for models that do not split the text into words.
    fn merge_long(&self, symbols: &mut Vec<Symbol>) {
        let mut queue: BinaryHeap<Reverse<(u32, u32, u32)>> = BinaryHeap::new(); // rank, position, new id
        for i in 1..symbols.len() {
            if let Some((rank, id)) = self.merges.get(symbols[i - 1].id, symbols[i].id) {
                queue.push(Reverse((rank, i as u32 - 1, id)));
            }
        }
        while let Some(Reverse((_, at, id))) = queue.pop() {
            let left = symbols[at as usize];
            if left.len == 0 || left.next == NONE {
                continue;
            }
            let right = symbols[left.next as usize];
            // An entry whose symbols have changed since is out of date.
            if self.merges.get(left.id, right.id).is_none_or(|(_, now)| now != id) {
                continue;
            }
            symbols[left.next as usize].len = 0;
            symbols[at as usize] = Symbol { id, len: left.len + right.len, prev: left.prev, next: right.next };
            if right.next != NONE {
                symbols[right.next as usize].prev = at;
                if let Some((rank, new)) = self.merges.get(id, symbols[right.next as usize].id) {
                    queue.push(Reverse((rank, at, new)));
                }
            }
            if left.prev != NONE {
                if let Some((rank, new)) = self.merges.get(symbols[left.prev as usize].id, id) {
                    queue.push(Reverse((rank, left.prev, new)));
                }
            }
        }
        symbols.retain(|s| s.len != 0);
    }

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        if word.is_empty() {
            return Ok(Vec::new());
        }
        if u32::try_from(word.len()).is_err() {
            return Err("a text of more than 4 GB".into());
        }
        if self.ignore_merges {
            if let Some(id) = self.vocab.get(word.as_bytes()) {
                return Ok(vec![Token::new(id, String::new(), (0, word.len()))]);
            }
        }
        let mut symbols = self.symbols(word)?;
        if symbols.len() <= 64 {
            self.merge_short(&mut symbols);
        } else {
            self.merge_long(&mut symbols);
        }
        let mut at = 0;
        let token = |s: &Symbol| {
            let from = at;
            at += s.len as usize;
            // Nobody here reads a token's text.
            Token::new(s.id, String::new(), (from, at))
        };
        Ok(symbols.iter().map(token).collect())
    }
}

// ---- from JSON -------------------------------------------------------------------------------------------------

/// A string that is borrowed from the file where it holds no escape.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, v: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v)))
            }
            fn visit_str<E: Error>(self, v: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v.to_string())))
            }
        }
        d.deserialize_str(V)
    }
}

struct VocabVisitor;

impl<'de> Visitor<'de> for VocabVisitor {
    type Value = Vocab;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map of tokens to ids")
    }
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<Vocab, M::Error> {
        let mut vocab = Vocab::new();
        while let Some((text, id)) = map.next_entry::<Text, u32>()? {
            vocab.add(&text.0, id).map_err(M::Error::custom)?;
        }
        Ok(vocab)
    }
}

impl<'de> DeserializeSeed<'de> for VocabVisitor {
    type Value = Vocab;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Vocab, D::Error> {
        d.deserialize_map(self)
    }
}

/// Turns each merge into ids as it is read; before the vocabulary is known, keeps the texts.
struct MergeReader<'a> {
    vocab: Option<&'a Vocab>,
    prefix_len: usize,
    merges: Merges,
    kept: Vec<(String, String)>,
    rank: u32,
    joined: Vec<u8>,
    last: u32, // the id of the merge before: the next one's is often one more
}

impl<'a> MergeReader<'a> {
    fn new(vocab: Option<&'a Vocab>, prefix_len: usize) -> MergeReader<'a> {
        MergeReader { vocab, prefix_len, merges: Merges::new(), kept: Vec::new(), rank: 0, joined: Vec::new(), last: 0 }
    }

    fn take(&mut self, left: &str, right: &str) -> std::result::Result<(), String> {
        let Some(vocab) = self.vocab else {
            self.kept.push((left.to_string(), right.to_string()));
            return Ok(());
        };
        let id = |text: &str| {
            vocab.get(text.as_bytes()).ok_or_else(|| format!("the merge's token {text:?} is not in the vocabulary"))
        };
        let (l, r) = (id(left)?, id(right)?);
        let rest = right.as_bytes().get(self.prefix_len..).ok_or("a merge without the prefix of inner pieces")?;
        self.joined.clear();
        self.joined.extend_from_slice(left.as_bytes());
        self.joined.extend_from_slice(rest);
        let whole = if vocab.text(self.last + 1) == Some(&self.joined[..]) {
            self.last + 1
        } else {
            vocab.get(&self.joined).ok_or_else(|| {
                format!("the merge's result {:?} is not in the vocabulary", String::from_utf8_lossy(&self.joined))
            })?
        };
        self.last = whole;
        self.merges.add(l, r, self.rank, whole);
        self.rank += 1;
        Ok(())
    }
}

/// One merge: ["a", "b"] or "a b".
struct OneMerge<'r, 'a>(&'r mut MergeReader<'a>);

impl<'de> Visitor<'de> for OneMerge<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a merge: two tokens")
    }
    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> std::result::Result<(), S::Error> {
        let short = || S::Error::custom("a merge of less than two tokens");
        let left = seq.next_element::<Text>()?.ok_or_else(short)?;
        let right = seq.next_element::<Text>()?.ok_or_else(short)?;
        if seq.next_element::<Text>()?.is_some() {
            return Err(S::Error::custom("a merge of more than two tokens"));
        }
        self.0.take(&left.0, &right.0).map_err(S::Error::custom)
    }
    fn visit_str<E: Error>(self, v: &str) -> std::result::Result<(), E> {
        if v.starts_with("#version") {
            return Ok(());
        }
        match v.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => self.0.take(left, right).map_err(E::custom),
            _ => Err(E::custom(format!("{v:?} is not a merge"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for OneMerge<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MergeReader<'_> {
    type Value = Self;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }
    fn visit_seq<S: SeqAccess<'de>>(mut self, mut seq: S) -> std::result::Result<Self, S::Error> {
        while seq.next_element_seed(OneMerge(&mut self))?.is_some() {}
        Ok(self)
    }
}

impl<'de> DeserializeSeed<'de> for MergeReader<'_> {
    type Value = Self;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_seq(self)
    }
}

fn read_bpe<'de, M: MapAccess<'de>>(mut map: M) -> std::result::Result<Bpe, M::Error> {
    let mut vocab: Option<Vocab> = None;
    let mut merges: Option<(Merges, usize)> = None; // with the length of the prefix that was known then
    let mut kept: Option<Vec<(String, String)>> = None;
    let (mut unk, mut prefix, mut suffix) = (None, String::new(), String::new());
    let (mut fuse_unk, mut byte_fallback, mut ignore_merges) = (false, false, false);
    while let Some(key) = map.next_key::<Text>()? {
        match key.0.as_ref() {
            "unk_token" => unk = map.next_value::<Option<String>>()?,
            "continuing_subword_prefix" => prefix = map.next_value::<Option<String>>()?.unwrap_or_default(),
            "end_of_word_suffix" => suffix = map.next_value::<Option<String>>()?.unwrap_or_default(),
            "fuse_unk" => fuse_unk = map.next_value::<Option<bool>>()?.unwrap_or(false),
            "byte_fallback" => byte_fallback = map.next_value::<Option<bool>>()?.unwrap_or(false),
            "ignore_merges" => ignore_merges = map.next_value::<Option<bool>>()?.unwrap_or(false),
            "vocab" => vocab = Some(map.next_value_seed(VocabVisitor)?),
            "merges" => {
                let read = map.next_value_seed(MergeReader::new(vocab.as_ref(), prefix.len()))?;
                match vocab {
                    Some(_) => merges = Some((read.merges, prefix.len())),
                    None => kept = Some(read.kept),
                }
            }
            // "dropout" too: it is for training, where chance is wanted.
            _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
        }
    }
    let vocab = vocab.ok_or_else(|| M::Error::missing_field("vocab"))?;
    if let Some(kept) = kept {
        let mut reader = MergeReader::new(Some(&vocab), prefix.len());
        for (left, right) in &kept {
            reader.take(left, right).map_err(M::Error::custom)?;
        }
        merges = Some((reader.merges, prefix.len()));
    }
    let (merges, prefix_len) = merges.ok_or_else(|| M::Error::missing_field("merges"))?;
    if prefix_len != prefix.len() {
        return Err(M::Error::custom("continuing_subword_prefix has to stand before merges"));
    }
    let common = (0u32..0x180).map(|c| {
        let text = char::from_u32(c).map(String::from).unwrap_or_default();
        vocab.get(text.as_bytes()).unwrap_or(NONE)
    });
    let common = common.collect();
    Ok(Bpe { vocab, merges, common, unk, prefix, suffix, fuse_unk, byte_fallback, ignore_merges })
}

// ---- any model -------------------------------------------------------------------------------------------------

/// The model of a tokenizer.json: ours for byte-pair encoding, the library's for everything else.
pub enum AnyModel {
    Bpe(Box<Bpe>),
    Other(Box<ModelWrapper>),
}

impl<'de> Deserialize<'de> for AnyModel {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = AnyModel;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a tokenizer model")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> std::result::Result<AnyModel, M::Error> {
                let mut rest = serde_json::Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let value = map.next_value::<serde_json::Value>()?;
                    // The type stands first in every file of today; older ones without it take the library's way.
                    if rest.is_empty() && key == "type" && value == "BPE" {
                        return read_bpe(map).map(|b| AnyModel::Bpe(Box::new(b)));
                    }
                    rest.insert(key, value);
                }
                let model = ModelWrapper::deserialize(serde_json::Value::Object(rest)).map_err(M::Error::custom)?;
                Ok(AnyModel::Other(Box::new(model)))
            }
        }
        d.deserialize_map(V)
    }
}

/// Nothing is trained here; the library's types want the name of a trainer.
pub struct NoTrainer;

impl Trainer for NoTrainer {
    type Model = AnyModel;
    fn should_show_progress(&self) -> bool {
        false
    }
    fn train(&self, _: &mut AnyModel) -> Result<Vec<AddedToken>> {
        Err("models are not trained here".into())
    }
    fn feed<I, S, F>(&mut self, _: I, _: F) -> Result<()>
    where
        I: Iterator<Item = S> + Send,
        S: AsRef<str> + Send,
        F: Fn(&str) -> Result<Vec<String>> + Sync,
    {
        Err("models are not trained here".into())
    }
}

impl Model for AnyModel {
    type Trainer = NoTrainer;

    fn tokenize(&self, sequence: &str) -> Result<Vec<Token>> {
        match self {
            AnyModel::Bpe(m) => m.tokenize(sequence),
            AnyModel::Other(m) => m.tokenize(sequence),
        }
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            AnyModel::Bpe(m) => m.vocab.get(token.as_bytes()),
            AnyModel::Other(m) => m.token_to_id(token),
        }
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            AnyModel::Bpe(m) => m.token(id).map(str::to_string),
            AnyModel::Other(m) => m.id_to_token(id),
        }
    }
    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            AnyModel::Bpe(m) => (0..m.n_ids()).filter_map(|id| Some((m.token(id)?.to_string(), id))).collect(),
            AnyModel::Other(m) => m.get_vocab(),
        }
    }
    fn get_vocab_size(&self) -> usize {
        match self {
            AnyModel::Bpe(m) => m.vocab.n,
            AnyModel::Other(m) => m.get_vocab_size(),
        }
    }
    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("models are not written here".into())
    }
    fn get_trainer(&self) -> NoTrainer {
        NoTrainer
    }
}
