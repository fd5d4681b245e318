/* The vocabulary of a GGUF file: tokens, their types and scores, and the ids that mean something. */
#include "store/import_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX (4u << 20)
#define STOPS_MAX  64

static uint32_t hash(lm_str s) { /* FNV-1a */
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < s.len; i++) h = (h ^ (uint8_t)s.ptr[i]) * 1099511628211u;
    return (uint32_t)(h ^ h >> 32);
}

static uint32_t *slot_of(const lm_vocab *v, lm_str token) {
    uint32_t i = hash(token) & v->mask;
    while (v->slots[i] && !lm_str_eq(v->tokens[v->slots[i] - 1], token)) i = (i + 1) & v->mask;
    return &v->slots[i];
}

int32_t lm_vocab_find(const lm_vocab *v, lm_str token) {
    return (int32_t)*slot_of(v, token) - 1;
}

static lm_status index_tokens(lm_vocab *v, lm_err *err) {
    uint32_t room = 16;
    bool bad = false;
    while (room < 2 * v->n) room *= 2;
    v->slots = lm_try_alloc(room, sizeof *v->slots);
    if (!v->slots) return lm_fail(err, LM_NO_MEMORY, "no memory to index %u tokens", v->n);
    v->mask = room - 1;
    for (uint32_t i = 0; i < v->n; i++) {
        if (lm_utf8_valid(v->tokens[i], &bad) != v->tokens[i].len) {
            return lm_fail(err, LM_CORRUPT, "tokenizer.ggml.tokens: token %u is not valid UTF-8", i);
        }
        uint32_t *slot = slot_of(v, v->tokens[i]);
        if (*slot)
            return lm_fail(err, LM_CORRUPT, "tokenizer.ggml.tokens: tokens %u and %u are the same", *slot - 1,
                           i);
        *slot = i + 1;
    }
    return LM_OK;
}

static lm_status read_id(const lm_gguf *g, const char *key, const lm_vocab *v, int32_t *out, lm_err *err) {
    uint32_t id = UINT32_MAX; /* what files write for "none" */
    lm_status st = lm_gguf_u32(g, key, &id, err);
    *out = -1;
    if (st != LM_OK || id == UINT32_MAX) return st;
    if (id >= v->n)
        return lm_fail(err, LM_CORRUPT, "metadata %s is %u, the vocabulary has %u tokens", key, id, v->n);
    *out = (int32_t)id;
    return LM_OK;
}

static void add_stop(lm_vocab *v, int32_t id) {
    for (uint32_t i = 0; i < v->n_stops; i++) {
        if (v->stops[i] == id) return;
    }
    if (id < 0) return;
    v->stops = lm_realloc(v->stops, (v->n_stops + 1) * sizeof *v->stops);
    v->stops[v->n_stops++] = id;
}

/* eos, the ends of a turn and of a message, and what follows a filled gap in the middle of code; then the
 * tokens that end a turn in every chat format that has them, because files made of a base model's tokenizer
 * name only the end of the text. The names are llama.cpp's. */
static const char *const stop_keys[] = {
    "tokenizer.ggml.eot_token_id",     "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
    "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id",
};
static const char *const stop_names[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "</s>",
    "<end_of_utterance>",
    "<|END_OF_TURN_TOKEN|>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
};

static bool has_token(const lm_vocab *v, const char *name) {
    return lm_vocab_find(v, lm_str_of(name)) >= 0;
}

static lm_status read_stops(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    int32_t *more = NULL; /* Ollama's own list */
    uint32_t n_more = 0;
    add_stop(v, v->eos);
    lm_status st = lm_gguf_i32s(g, "tokenizer.ggml.eos_token_ids", &more, &n_more, err);
    if (st != LM_OK) return st;
    for (uint32_t i = 0; i < n_more && i < STOPS_MAX; i++) {
        if (more[i] >= 0 && (uint32_t)more[i] < v->n) add_stop(v, more[i]);
    }
    free(more);
    for (size_t i = 0; i < sizeof stop_keys / sizeof *stop_keys; i++) {
        int32_t id;
        st = read_id(g, stop_keys[i], v, &id, err);
        if (st != LM_OK) return st;
        add_stop(v, id);
    }
    /* In gpt-oss's format <|end|> ends a message of several; the turn ends with <|return|> or <|call|>. */
    bool harmony = has_token(v, "<|return|>") && has_token(v, "<|call|>");
    bool solar = has_token(v, "<|calls|>") && has_token(v, "<|flush|>");
    for (size_t i = 0; i < sizeof stop_names / sizeof *stop_names; i++) {
        int32_t id = lm_vocab_find(v, lm_str_of(stop_names[i]));
        if (id < 0) continue;
        /* some converters took it for a word: then text would never hold it */
        if (v->types[id] == LM_TOKEN_NORMAL) v->types[id] = LM_TOKEN_CONTROL;
        if ((harmony || solar) && strcmp(stop_names[i], "<|end|>") == 0) continue;
        add_stop(v, id);
    }
    return LM_OK;
}

static lm_status read_types(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    uint32_t n = 0;
    lm_status st = lm_gguf_i32s(g, "tokenizer.ggml.token_type", &v->types, &n, err);
    if (st != LM_OK) return st;
    if (!v->types) {
        v->types = lm_try_alloc(v->n, sizeof *v->types);
        if (!v->types) return lm_fail(err, LM_NO_MEMORY, "no memory for %u token types", v->n);
        for (uint32_t i = 0; i < v->n; i++) v->types[i] = LM_TOKEN_NORMAL;
    } else if (n != v->n) {
        return lm_fail(err, LM_CORRUPT, "tokenizer.ggml.token_type has %u entries for %u tokens", n, v->n);
    }
    st = lm_gguf_floats(g, "tokenizer.ggml.scores", &v->scores, &n, err);
    if (st == LM_OK && v->scores && n != v->n) {
        st = lm_fail(err, LM_CORRUPT, "tokenizer.ggml.scores has %u entries for %u tokens", n, v->n);
    }
    return st;
}

static lm_status read_kind(const lm_gguf *g, lm_vocab_kind *out, lm_err *err) {
    static const char *const names[] = {[LM_VOCAB_BYTES] = "gpt2",
                                        [LM_VOCAB_SPM] = "llama",
                                        [LM_VOCAB_WORDPIECE] = "bert",
                                        [LM_VOCAB_UNIGRAM] = "t5"};
    lm_str name = {NULL, 0};
    lm_status st = lm_gguf_str(g, "tokenizer.ggml.model", &name, err);
    if (st != LM_OK) return st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!lm_str_eq(name, lm_str_of(names[i]))) continue;
        *out = (lm_vocab_kind)i;
        return LM_OK;
    }
    return lm_fail(
        err, LM_UNSUPPORTED,
        "a vocabulary of type '%.*s' (tokenizer.ggml.model) is not supported; known are gpt2, llama, "
        "bert and t5",
        name.len > 60 ? 60 : (int)name.len, name.ptr ? name.ptr : "");
}

static lm_status read_ids(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    const struct {
        const char *key;
        int32_t *id;
    } keys[] = {
        {"tokenizer.ggml.bos_token_id", &v->bos},     {"tokenizer.ggml.eos_token_id", &v->eos},
        {"tokenizer.ggml.unknown_token_id", &v->unk}, {"tokenizer.ggml.padding_token_id", &v->pad},
        {"tokenizer.ggml.cls_token_id", &v->cls},     {"tokenizer.ggml.seperator_token_id", &v->sep},
        {"tokenizer.ggml.mask_token_id", &v->masked},
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        lm_status st = read_id(g, keys[i].key, v, keys[i].id, err);
        if (st != LM_OK) return st;
    }
    /* the key is misspelt in the format; some write it right */
    return v->sep < 0 ? read_id(g, "tokenizer.ggml.separator_token_id", v, &v->sep, err) : LM_OK;
}

/* An encoder's text stands between [CLS] and [SEP], or what takes their places: old files call them bos and
 * eos, or leave them to the architecture, as SentencePiece's do with its first three. */
static void name_ends(lm_vocab *v) {
    if (v->kind == LM_VOCAB_SPM && v->n > 2) {
        if (v->unk < 0 && v->types[0] == LM_TOKEN_UNKNOWN) v->unk = 0;
        if (v->bos < 0 && v->types[1] == LM_TOKEN_CONTROL) v->bos = 1;
        if (v->eos < 0 && v->types[2] == LM_TOKEN_CONTROL) v->eos = 2;
    }
    if (v->kind == LM_VOCAB_WORDPIECE) {
        if (v->unk < 0) v->unk = lm_vocab_find(v, LM_STR("[UNK]"));
        if (v->pad < 0) v->pad = lm_vocab_find(v, LM_STR("[PAD]"));
        if (v->masked < 0) v->masked = lm_vocab_find(v, LM_STR("[MASK]"));
        if (v->cls < 0) v->cls = v->bos >= 0 ? v->bos : lm_vocab_find(v, LM_STR("[CLS]"));
        if (v->sep < 0) v->sep = v->eos >= 0 ? v->eos : lm_vocab_find(v, LM_STR("[SEP]"));
        v->bos = v->cls;
        v->eos = v->sep;
    } else if (v->kind == LM_VOCAB_UNIGRAM) {
        if (v->bos < 0) v->bos = v->cls;
        if (v->eos < 0) v->eos = v->sep;
    }
}

/* Ollama's own Gemma 3 lists a token for pictures that the embedding has no row for. */
static lm_status cut_vocab(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    const lm_gguf_tensor *words = lm_gguf_find(g, "token_embd.weight");
    lm_str arch = {NULL, 0};
    lm_status st = lm_gguf_str(g, "general.architecture", &arch, err);
    if (st == LM_OK && words && lm_str_eq(arch, LM_STR("gemma3")) && words->dims[1] < v->n)
        v->n = (uint32_t)words->dims[1];
    return st;
}

lm_status lm_vocab_open(lm_vocab *v, const lm_gguf *g, lm_err *err) {
    memset(v, 0, sizeof *v);
    lm_status st = read_kind(g, &v->kind, err);
    if (st == LM_OK) st = lm_gguf_strs(g, "tokenizer.ggml.tokens", &v->tokens, &v->n, err);
    if (st == LM_OK && (v->n == 0 || v->n > TOKENS_MAX)) {
        st = lm_fail(err, LM_CORRUPT, "tokenizer.ggml.tokens holds %u tokens", v->n);
    }
    if (st == LM_OK) st = read_types(g, v, err);
    if (st == LM_OK) st = cut_vocab(g, v, err);
    if (st == LM_OK && v->kind == LM_VOCAB_WORDPIECE) st = lm_wordpiece_restore(v, err);
    if (st == LM_OK) st = index_tokens(v, err);
    if (st == LM_OK) st = read_ids(g, v, err);
    if (st == LM_OK) name_ends(v);
    if (st == LM_OK) st = read_stops(g, v, err);
    if (st != LM_OK) lm_vocab_release(v);
    return st;
}

bool lm_vocab_is_filler(const lm_vocab *v, uint32_t id) {
    lm_str s = v->tokens[id];
    if (v->types[id] != LM_TOKEN_UNUSED && v->types[id] != LM_TOKEN_USER) return false;
    if (!lm_str_starts(s, LM_STR("[PAD")) || !lm_str_ends(s, LM_STR("]")) || s.len < 6) return false;
    for (size_t i = 4; i + 1 < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9') return false;
    }
    return true;
}

void lm_vocab_release(lm_vocab *v) {
    free(v->tokens);
    free(v->texts);
    free(v->types);
    free(v->scores);
    free(v->slots);
    free(v->stops);
    memset(v, 0, sizeof *v);
}
