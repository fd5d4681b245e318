/* The tokenizer's files out of GGUF metadata. Two kinds of vocabulary are known: "gpt2" (byte-level BPE:
 * tokens, merges, and the name of a pre-tokenizer) and "llama" (SentencePiece BPE with byte fallback: tokens
 * and scores). tokenizer.json is written straight into a buffer, since its vocabulary and merges are most of
 * it. */
#include "store/import_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define JSON_MAX     (512u << 20) /* bytes of tokenizer.json; the largest real ones have 35 MB */
#define TOKENS_MAX   (4u << 20)
#define TEMPLATE_MAX (4u << 20)
#define STOPS_MAX    64

/* ---- vocabulary ------------------------------------------------------------------------------------------
 */

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

/* eos, the ends of a turn and of a message; then the tokens that end a turn in every chat format that has
 * them, because files made of a base model's tokenizer name only the end of the text. */
static lm_status read_stops(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    static const char *const keys[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    static const char *const ends[] = {
        "<|eot_id|>",      "<|im_end|>", "<|end|>",  "<end_of_turn>", "<|endoftext|>",        "<|eom_id|>",
        "<|end_of_text|>", "<|return|>", "<|call|>", "<EOT>",         "<|END_OF_TURN_TOKEN|>"};
    int32_t *more = NULL; /* Ollama's own list */
    uint32_t n_more = 0;
    add_stop(v, v->eos);
    lm_status st = lm_gguf_i32s(g, "tokenizer.ggml.eos_token_ids", &more, &n_more, err);
    if (st != LM_OK) return st;
    for (uint32_t i = 0; i < n_more && i < STOPS_MAX; i++) {
        if (more[i] >= 0 && (uint32_t)more[i] < v->n) add_stop(v, more[i]);
    }
    free(more);
    for (size_t i = 0; i < 2; i++) {
        int32_t id;
        st = read_id(g, keys[i], v, &id, err);
        if (st != LM_OK) return st;
        add_stop(v, id);
    }
    /* In gpt-oss's format <|end|> ends a message of several; the turn ends with <|return|> or <|call|>. */
    bool harmony = lm_vocab_find(v, LM_STR("<|return|>")) >= 0 && lm_vocab_find(v, LM_STR("<|call|>")) >= 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        int32_t id = lm_vocab_find(v, lm_str_of(ends[i]));
        if (id < 0 || (v->types[id] != LM_TOKEN_CONTROL && v->types[id] != LM_TOKEN_USER)) continue;
        if (!harmony || strcmp(ends[i], "<|end|>") != 0) add_stop(v, id);
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

lm_status lm_vocab_open(lm_vocab *v, const lm_gguf *g, lm_err *err) {
    static const char *const keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"};
    memset(v, 0, sizeof *v);
    int32_t *ids[] = {&v->bos, &v->eos, &v->unk, &v->pad};
    lm_status st = lm_gguf_strs(g, "tokenizer.ggml.tokens", &v->tokens, &v->n, err);
    if (st == LM_OK && (v->n == 0 || v->n > TOKENS_MAX)) {
        st = lm_fail(err, LM_CORRUPT, "tokenizer.ggml.tokens holds %u tokens", v->n);
    }
    if (st == LM_OK) st = read_types(g, v, err);
    if (st == LM_OK) st = index_tokens(v, err);
    for (int i = 0; i < 4 && st == LM_OK; i++) st = read_id(g, keys[i], v, ids[i], err);
    if (st == LM_OK) st = read_stops(g, v, err);
    if (st != LM_OK) lm_vocab_release(v);
    return st;
}

void lm_vocab_release(lm_vocab *v) {
    free(v->tokens);
    free(v->types);
    free(v->scores);
    free(v->slots);
    free(v->stops);
    memset(v, 0, sizeof *v);
}

/* ---- tokenizer.json --------------------------------------------------------------------------------------
 */

/* Rows of the embedding that no token uses are listed as [PAD151665] and so on: the model's own files don't
 * have them. */
static bool is_filler(const lm_vocab *v, uint32_t id) {
    char text[32];
    snprintf(text, sizeof text, "[PAD%u]", id);
    return v->types[id] == LM_TOKEN_UNUSED && lm_str_eq(v->tokens[id], lm_str_of(text));
}

static void write_added(lm_buf *b, const lm_vocab *v) {
    bool first = true;
    lm_buf_text(b, "\"added_tokens\":[");
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->types[i] != LM_TOKEN_CONTROL && v->types[i] != LM_TOKEN_USER &&
            v->types[i] != LM_TOKEN_UNKNOWN)
            continue;
        if (v->tokens[i].len == 0) continue;
        lm_buf_printf(b, "%s\n{\"id\":%u,\"content\":", first ? "" : ",", i);
        lm_json_write_string(b, v->tokens[i]);
        lm_buf_printf(
            b,
            ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":%s}",
            v->types[i] == LM_TOKEN_USER ? "false" : "true");
        first = false;
    }
    lm_buf_text(b, "],\n");
}

static void write_vocab(lm_buf *b, const lm_vocab *v) {
    bool first = true;
    lm_buf_text(b, "\"vocab\":{");
    for (uint32_t i = 0; i < v->n; i++) {
        if (is_filler(v, i)) continue;
        lm_buf_text(b, first ? "\n" : ",\n");
        lm_json_write_string(b, v->tokens[i]);
        lm_buf_printf(b, ":%u", i);
        first = false;
    }
    lm_buf_text(b, "},\n");
}

/* The template adds BOS and EOS around a text, where the model wants them; byte-level alone when it wants
 * neither. */
static void write_post_processor(lm_buf *b, const lm_vocab *v, bool byte_level) {
    bool bos = v->add_bos && v->bos >= 0, eos = v->add_eos && v->eos >= 0;
    lm_buf_text(b, "\"post_processor\":");
    if (!bos && !eos) {
        lm_buf_text(b, byte_level ? "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":"
                                    "false,\"use_regex\":true},\n"
                                  : "null,\n");
        return;
    }
    lm_buf_text(b, "{\"type\":\"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        lm_buf_text(b, pair ? ",\"pair\":[" : ",\"single\":[");
        for (int part = 0; part <= pair; part++) {
            if (part) lm_buf_char(b, ',');
            if (bos) {
                lm_buf_text(b, "{\"SpecialToken\":{\"id\":");
                lm_json_write_string(b, v->tokens[v->bos]);
                lm_buf_printf(b, ",\"type_id\":%d}},", part);
            }
            lm_buf_printf(b, "{\"Sequence\":{\"id\":\"%c\",\"type_id\":%d}}", 'A' + part, part);
            if (eos) {
                lm_buf_text(b, ",{\"SpecialToken\":{\"id\":");
                lm_json_write_string(b, v->tokens[v->eos]);
                lm_buf_printf(b, ",\"type_id\":%d}}", part);
            }
        }
        lm_buf_char(b, ']');
    }
    lm_buf_text(b, ",\"special_tokens\":{");
    for (int i = 0; i < 2; i++) {
        int32_t id = i ? v->eos : v->bos;
        if (!(i ? eos : bos) || (i && bos && id == v->bos)) continue;
        if (i && bos) lm_buf_char(b, ',');
        lm_json_write_string(b, v->tokens[id]);
        lm_buf_text(b, ":{\"id\":");
        lm_json_write_string(b, v->tokens[id]);
        lm_buf_printf(b, ",\"ids\":[%d],\"tokens\":[", id);
        lm_json_write_string(b, v->tokens[id]);
        lm_buf_text(b, "]}");
    }
    lm_buf_text(b, "}},\n");
}

/* ---- byte-level BPE */

/* "left right": the blank that parts them is the first one after the first byte, as llama.cpp reads it. */
static lm_status write_merges(lm_buf *b, const lm_gguf *g, const lm_vocab *v, lm_err *err) {
    lm_str *merges = NULL;
    uint32_t n = 0;
    lm_status st = lm_gguf_strs(g, "tokenizer.ggml.merges", &merges, &n, err);
    if (st == LM_OK && !merges) st = lm_fail(err, LM_CORRUPT, "the file has no tokenizer.ggml.merges");
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        lm_str m = merges[i];
        const char *blank = m.len > 2 ? memchr(m.ptr + 1, ' ', m.len - 2) : NULL;
        size_t cut = blank ? (size_t)(blank - m.ptr) : 0;
        lm_str left = {m.ptr, cut}, right = {m.ptr + cut + 1, blank ? m.len - cut - 1 : 0};
        if (!blank || lm_vocab_find(v, left) < 0 || lm_vocab_find(v, right) < 0) {
            st = lm_fail(err, LM_CORRUPT, "tokenizer.ggml.merges: merge %u is not of two tokens", i);
            break;
        }
        lm_buf_text(b, i ? ",\n[" : "\n[");
        lm_json_write_string(b, left);
        lm_buf_char(b, ',');
        lm_json_write_string(b, right);
        lm_buf_char(b, ']');
    }
    free(merges);
    return st;
}

static void write_splits(lm_buf *b, const lm_pretokens *pre) {
    lm_buf_text(b, pre->nfc ? "\"normalizer\":{\"type\":\"NFC\"},\n" : "\"normalizer\":null,\n");
    lm_buf_text(b, "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    for (int i = 0; i < 6 && pre->regexes[i]; i++) {
        lm_buf_text(b, "\n{\"type\":\"Split\",\"pattern\":{\"Regex\":");
        lm_json_write_string(b, lm_str_of(pre->regexes[i]));
        lm_buf_text(b, "},\"behavior\":\"Isolated\",\"invert\":false},");
    }
    lm_buf_text(b, "\n{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"
                   "false}]},\n");
}

static lm_status write_byte_level(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    lm_str name = LM_STR("default");
    lm_status st = lm_gguf_str(g, "tokenizer.ggml.pre", &name, err);
    if (st != LM_OK) return st;
    const lm_pretokens *pre = lm_pretokens_find(name);
    if (!pre) {
        return lm_fail(err, LM_UNSUPPORTED, "the pre-tokenizer '%.*s' (tokenizer.ggml.pre) is not known",
                       name.len > 60 ? 60 : (int)name.len, name.ptr);
    }
    v->add_bos = pre->add_bos;
    st = lm_gguf_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos, err);
    if (st != LM_OK) return st;
    write_added(b, v);
    write_splits(b, pre);
    write_post_processor(b, v, true);
    lm_buf_text(b, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
                   "\"use_regex\":true},\n");
    lm_buf_printf(
        b,
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
        "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,\n",
        pre->ignore_merges ? "true" : "false");
    write_vocab(b, v);
    lm_buf_text(b, "\"merges\":[");
    st = write_merges(b, g, v, err);
    lm_buf_text(b, "]}}\n");
    return st;
}

/* ---- SentencePiece BPE */

static lm_status write_spm(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    bool prefix = true;
    v->add_bos = true;
    lm_status st = lm_gguf_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos, err);
    if (st == LM_OK) st = lm_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (st == LM_OK && !v->scores) st = lm_fail(err, LM_CORRUPT, "the file has no tokenizer.ggml.scores");
    if (st != LM_OK) return st;
    write_added(b, v);
    lm_buf_text(b, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    if (prefix) lm_buf_text(b, "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},");
    lm_buf_text(b, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
                   "\"},\"content\":\"\u2581\"}]},\n\"pre_tokenizer\":null,\n");
    write_post_processor(b, v, false);
    lm_buf_text(b, "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
                   "\"String\":\"\u2581\"},"
                   "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}");
    if (prefix) lm_buf_text(b, ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}");
    lm_buf_text(b, "]},\n\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":");
    if (v->unk >= 0)
        lm_json_write_string(b, v->tokens[v->unk]);
    else
        lm_buf_text(b, "null");
    lm_buf_text(b, ",\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":true,\"byte_"
                   "fallback\":true,"
                   "\"ignore_merges\":false,\n");
    write_vocab(b, v);
    lm_buf_text(b, "\"merges\":[");
    st = lm_spm_merges(v, b, err);
    lm_buf_text(b, "]}}\n");
    return st;
}

/* ---- files -----------------------------------------------------------------------------------------------
 */

static lm_status write_buf(const lm_buf *b, const char *dir, const char *name, lm_err *err) {
    lm_status st = lm_buf_status(b, name, err);
    if (st != LM_OK) return st;
    char *path = lm_path_join(dir, name);
    st = lm_file_write(path, lm_buf_view(b), err);
    free(path);
    return st;
}

static void set_token(json_t *o, const char *key, const lm_vocab *v, int32_t id) {
    if (id >= 0) json_object_set_new(o, key, json_stringn(v->tokens[id].ptr, v->tokens[id].len));
}

static lm_status write_settings(const lm_gguf *g, const lm_vocab *v, const char *dir, lm_err *err) {
    lm_str chat = {NULL, 0};
    lm_status st = lm_gguf_str(g, "tokenizer.chat_template", &chat, err);
    if (st != LM_OK) return st;
    if (chat.len > TEMPLATE_MAX) return lm_fail(err, LM_CORRUPT, "the chat template has %zu bytes", chat.len);

    json_t *map = json_object();
    set_token(map, "bos_token", v, v->bos);
    set_token(map, "eos_token", v, v->eos);
    set_token(map, "unk_token", v, v->unk);
    set_token(map, "pad_token", v, v->pad);
    json_t *config = json_copy(map);
    json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(config, "add_bos_token", json_boolean(v->add_bos));
    json_object_set_new(config, "add_eos_token", json_boolean(v->add_eos));
    json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
    if (chat.len) json_object_set_new(config, "chat_template", json_stringn(chat.ptr, chat.len));
    st = lm_import_json(map, dir, "special_tokens_map.json", err);
    if (st == LM_OK) st = lm_import_json(config, dir, "tokenizer_config.json", err);
    json_decref(config);
    json_decref(map);
    if (st != LM_OK || chat.len == 0) return st;
    char *path = lm_path_join(dir, "chat_template.jinja");
    st = lm_file_write(path, chat, err);
    free(path);
    return st;
}

lm_status lm_import_tokenizer(const lm_gguf *g, const char *dir, lm_err *err) {
    lm_vocab v;
    lm_buf b;
    lm_str model = {NULL, 0};
    lm_status st = lm_gguf_str(g, "tokenizer.ggml.model", &model, err);
    if (st != LM_OK) return st;
    st = lm_vocab_open(&v, g, err);
    if (st != LM_OK) return st;
    lm_buf_init(&b, JSON_MAX);
    st = lm_gguf_bool(g, "tokenizer.ggml.add_eos_token", &v.add_eos, err);
    lm_buf_text(&b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    if (st != LM_OK) {
        /* falls through to the end */
    } else if (lm_str_eq(model, LM_STR("gpt2"))) {
        st = write_byte_level(&b, g, &v, err);
    } else if (lm_str_eq(model, LM_STR("llama"))) {
        st = write_spm(&b, g, &v, err);
    } else {
        st = lm_fail(err, LM_UNSUPPORTED,
                     "a vocabulary of type '%.*s' (tokenizer.ggml.model) is not supported",
                     model.len > 60 ? 60 : (int)model.len, model.ptr ? model.ptr : "");
    }
    if (st == LM_OK) st = write_buf(&b, dir, "tokenizer.json", err);
    if (st == LM_OK) st = write_settings(g, &v, dir, err);
    lm_buf_release(&b);
    lm_vocab_release(&v);
    return st;
}
