/* The tokenizer's files out of GGUF metadata. tokenizer.json is written straight into a buffer, since its
 * vocabulary and merges are most of it. Byte-level BPE and SentencePiece BPE are here, the two kinds that
 * encoders have in import_wordpiece.c and import_unigram.c. */
#include "store/import_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

#define JSON_MAX      (512u << 20) /* bytes of tokenizer.json; the largest real ones have 35 MB */
#define TEMPLATE_MAX  (4u << 20)
#define TEMPLATES_MAX 16

lm_status lm_tokenizer_read_adds(const lm_gguf *g, lm_vocab *v, lm_err *err) {
    lm_status st = lm_gguf_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos, err);
    return st == LM_OK ? lm_gguf_bool(g, "tokenizer.ggml.add_eos_token", &v->add_eos, err) : st;
}

/* ---- tokenizer.json -------------------------------------------------------------------------------------- */

void lm_tokenizer_write_added(lm_buf *b, const lm_vocab *v) {
    bool first = true;
    lm_buf_text(b, "\"added_tokens\":[");
    for (uint32_t i = 0; i < v->n; i++) {
        if (v->types[i] != LM_TOKEN_CONTROL && v->types[i] != LM_TOKEN_USER &&
            v->types[i] != LM_TOKEN_UNKNOWN)
            continue;
        if (v->tokens[i].len == 0 || lm_vocab_is_filler(v, i)) continue;
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

void lm_tokenizer_write_vocab(lm_buf *b, const lm_vocab *v) {
    bool first = true;
    lm_buf_text(b, "\"vocab\":{");
    for (uint32_t i = 0; i < v->n; i++) {
        if (lm_vocab_is_filler(v, i)) continue;
        lm_buf_text(b, first ? "\n" : ",\n");
        lm_json_write_string(b, v->tokens[i]);
        lm_buf_printf(b, ":%u", i);
        first = false;
    }
    lm_buf_text(b, "},\n");
}

static void write_piece(lm_buf *b, const lm_vocab *v, int32_t id, int type_id) {
    lm_buf_text(b, "{\"SpecialToken\":{\"id\":");
    lm_json_write_string(b, v->tokens[id]);
    lm_buf_printf(b, ",\"type_id\":%d}}", type_id);
}

static void write_special(lm_buf *b, const lm_vocab *v, int32_t id) {
    lm_json_write_string(b, v->tokens[id]);
    lm_buf_text(b, ":{\"id\":");
    lm_json_write_string(b, v->tokens[id]);
    lm_buf_printf(b, ",\"ids\":[%d],\"tokens\":[", id);
    lm_json_write_string(b, v->tokens[id]);
    lm_buf_text(b, "]}");
}

void lm_tokenizer_write_template(lm_buf *b, const lm_vocab *v, const char *otherwise) {
    int32_t bos = v->add_bos ? v->bos : -1, eos = v->add_eos ? v->eos : -1;
    /* What comes before the second of two texts: BERT's pairs have one [CLS], RoBERTa's two ends between
     * them. */
    int32_t again = v->kind == LM_VOCAB_WORDPIECE ? -1 : v->kind == LM_VOCAB_UNIGRAM ? eos : bos;
    lm_buf_text(b, "\"post_processor\":");
    if (bos < 0 && eos < 0) {
        lm_buf_text(b, otherwise);
        lm_buf_text(b, ",\n");
        return;
    }
    lm_buf_text(b, "{\"type\":\"TemplateProcessing\"");
    for (int pair = 0; pair < 2; pair++) {
        lm_buf_text(b, pair ? ",\"pair\":[" : ",\"single\":[");
        for (int part = 0; part <= pair; part++) {
            int32_t first = part ? again : bos;
            int type_id = v->kind == LM_VOCAB_UNIGRAM ? 0 : part; /* RoBERTa has one token type */
            if (part) lm_buf_char(b, ',');
            if (first >= 0) write_piece(b, v, first, type_id);
            if (first >= 0) lm_buf_char(b, ',');
            lm_buf_printf(b, "{\"Sequence\":{\"id\":\"%c\",\"type_id\":%d}}", 'A' + part, type_id);
            if (eos >= 0) lm_buf_char(b, ',');
            if (eos >= 0) write_piece(b, v, eos, type_id);
        }
        lm_buf_char(b, ']');
    }
    lm_buf_text(b, ",\"special_tokens\":{");
    if (bos >= 0) write_special(b, v, bos);
    if (bos >= 0 && eos >= 0 && eos != bos) lm_buf_char(b, ',');
    if (eos >= 0 && eos != bos) write_special(b, v, eos);
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

/* Ollama's converter knows few pre-tokenizers by name and calls the others "default" or nothing; it reads
 * these architectures, which have one each, by their own. The first files of Llama 3 are as silent: its
 * tokens tell. */
static lm_status pretokens_of(const lm_gguf *g, const lm_vocab *v, lm_str *name, lm_err *err) {
    static const char *const own[][2] = {
        {"gptoss", "gpt-4o"}, {"gpt-oss", "gpt-4o"},   {"mistral3", "tekken"}, {"qwen2", "qwen2"},
        {"qwen3", "qwen2"},   {"qwen3moe", "qwen2"},   {"qwen2vl", "qwen2"},   {"qwen25vl", "qwen2"},
        {"qwen3vl", "qwen2"}, {"qwen3vlmoe", "qwen2"},
    };
    lm_str arch = {NULL, 0};
    lm_status st = lm_gguf_str(g, "general.architecture", &arch, err);
    if (st == LM_OK) st = lm_gguf_str(g, "tokenizer.ggml.pre", name, err);
    if (st != LM_OK || (name->len && !lm_str_eq(*name, LM_STR("default")))) return st;
    *name = LM_STR("default");
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (lm_str_eq(arch, lm_str_of(own[i][0]))) *name = lm_str_of(own[i][1]);
    }
    bool llama3 =
        lm_vocab_find(v, LM_STR("<|start_header_id|>")) >= 0 && lm_vocab_find(v, LM_STR("<|eot_id|>")) >= 0;
    if (lm_str_eq(arch, LM_STR("llama")) && llama3) *name = LM_STR("llama-bpe");
    return LM_OK;
}

static lm_status write_byte_level(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    lm_str name = {NULL, 0};
    lm_status st = pretokens_of(g, v, &name, err);
    if (st != LM_OK) return st;
    const lm_pretokens *pre = lm_pretokens_find(name);
    if (!pre) {
        return lm_fail(err, LM_UNSUPPORTED, "the pre-tokenizer '%.*s' (tokenizer.ggml.pre) is not known",
                       name.len > 60 ? 60 : (int)name.len, name.ptr);
    }
    v->add_bos = pre->add_bos;
    v->add_eos = pre->add_eos;
    st = lm_tokenizer_read_adds(g, v, err);
    if (st != LM_OK) return st;
    lm_tokenizer_write_added(b, v);
    write_splits(b, pre);
    lm_tokenizer_write_template(b, v,
                                "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":false,"
                                "\"use_regex\":true}");
    lm_buf_text(b, "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,"
                   "\"use_regex\":true},\n");
    lm_buf_printf(
        b,
        "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
        "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":%s,\n",
        pre->ignore_merges ? "true" : "false");
    lm_tokenizer_write_vocab(b, v);
    lm_buf_text(b, "\"merges\":[");
    st = write_merges(b, g, v, err);
    lm_buf_text(b, "]}}\n");
    return st;
}

/* ---- SentencePiece BPE */

static lm_status write_spm(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) {
    bool prefix = true;
    v->add_bos = true;
    lm_status st = lm_tokenizer_read_adds(g, v, err);
    if (st == LM_OK) st = lm_gguf_bool(g, "tokenizer.ggml.add_space_prefix", &prefix, err);
    if (st == LM_OK && !v->scores) st = lm_fail(err, LM_CORRUPT, "the file has no tokenizer.ggml.scores");
    if (st != LM_OK) return st;
    lm_tokenizer_write_added(b, v);
    lm_buf_text(b, "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    if (prefix) lm_buf_text(b, "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},");
    lm_buf_text(b, "{\"type\":\"Replace\",\"pattern\":{\"String\":\" "
                   "\"},\"content\":\"\u2581\"}]},\n\"pre_tokenizer\":null,\n");
    lm_tokenizer_write_template(b, v, "null");
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
    lm_tokenizer_write_vocab(b, v);
    lm_buf_text(b, "\"merges\":[");
    st = lm_spm_merges(v, b, err);
    lm_buf_text(b, "]}}\n");
    return st;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static lm_status write_buf(const lm_buf *b, const char *dir, const char *name, lm_err *err) {
    lm_status st = lm_buf_status(b, name, err);
    if (st != LM_OK) return st;
    char *path = lm_path_join(dir, name);
    st = lm_file_write(path, lm_buf_view(b), err);
    free(path);
    return st;
}

static void set_token(json_t *o, const char *key, const lm_vocab *v, int32_t id) {
    if (id >= 0 && !lm_vocab_is_filler(v, (uint32_t)id))
        json_object_set_new(o, key, json_stringn(v->tokens[id].ptr, v->tokens[id].len));
}

static lm_status read_template(const lm_gguf *g, const char *key, lm_str *out, lm_err *err) {
    lm_status st = lm_gguf_str(g, key, out, err);
    if (st == LM_OK && out->len > TEMPLATE_MAX)
        st = lm_fail(err, LM_CORRUPT, "the chat template has %zu bytes", out->len);
    return st;
}

/* A letter, a digit, - or _. */
static bool plain_name(lm_str s) {
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i], lower = (char)(c | 0x20);
        if (!((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) return false;
    }
    return s.len > 0 && s.len <= 40;
}

/* Further templates by name ("tool_use", "rag"): tokenizer_config.json then holds a list of all. */
static lm_status add_templates(const lm_gguf *g, lm_str chat, json_t *config, lm_err *err) {
    lm_str *names = NULL;
    uint32_t n = 0;
    lm_status st = lm_gguf_strs(g, "tokenizer.chat_templates", &names, &n, err);
    if (st == LM_OK && n > TEMPLATES_MAX)
        st = lm_fail(err, LM_CORRUPT, "tokenizer.chat_templates names %u templates", n);
    json_t *list = json_array();
    if (chat.len) {
        json_t *text = json_stringn(chat.ptr, chat.len);
        json_array_append_new(list, json_pack("{s:s, s:o}", "name", "default", "template", text));
    }
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        char key[80];
        lm_str text = {NULL, 0};
        if (!plain_name(names[i])) {
            st = lm_fail(err, LM_CORRUPT, "tokenizer.chat_templates: name %u is none", i);
            break;
        }
        snprintf(key, sizeof key, "tokenizer.chat_template." LM_STR_FMT, LM_STR_ARG(names[i]));
        st = read_template(g, key, &text, err);
        if (st == LM_OK && text.len) {
            json_array_append_new(list,
                                  json_pack("{s:o, s:o}", "name", json_stringn(names[i].ptr, names[i].len),
                                            "template", json_stringn(text.ptr, text.len)));
        }
    }
    if (n)
        json_object_set(config, "chat_template", list);
    else if (chat.len)
        json_object_set_new(config, "chat_template", json_stringn(chat.ptr, chat.len));
    json_decref(list);
    free(names);
    return st;
}

static lm_status write_settings(const lm_gguf *g, const lm_vocab *v, const char *dir, lm_err *err) {
    lm_str chat = {NULL, 0};
    lm_status st = read_template(g, "tokenizer.chat_template", &chat, err);
    if (st != LM_OK) return st;

    json_t *map = json_object();
    if (v->kind != LM_VOCAB_WORDPIECE) set_token(map, "bos_token", v, v->bos);
    if (v->kind != LM_VOCAB_WORDPIECE) set_token(map, "eos_token", v, v->eos);
    set_token(map, "unk_token", v, v->unk);
    set_token(map, "pad_token", v, v->pad);
    set_token(map, "cls_token", v, v->cls);
    set_token(map, "sep_token", v, v->sep);
    set_token(map, "mask_token", v, v->masked);
    json_t *config = json_copy(map);
    json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(config, "add_bos_token", json_boolean(v->add_bos));
    json_object_set_new(config, "add_eos_token", json_boolean(v->add_eos));
    json_object_set_new(config, "clean_up_tokenization_spaces", json_false());
    st = add_templates(g, chat, config, err);
    if (st == LM_OK) st = lm_import_json(map, dir, "special_tokens_map.json", err);
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
    static lm_status (*const writers[])(lm_buf *, const lm_gguf *, lm_vocab *, lm_err *) = {
        [LM_VOCAB_BYTES] = write_byte_level,
        [LM_VOCAB_SPM] = write_spm,
        [LM_VOCAB_WORDPIECE] = lm_wordpiece_write,
        [LM_VOCAB_UNIGRAM] = lm_unigram_write,
    };
    lm_vocab v;
    lm_buf b;
    lm_status st = lm_vocab_open(&v, g, err);
    if (st != LM_OK) return st;
    lm_buf_init(&b, JSON_MAX);
    lm_buf_text(&b, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\n");
    st = writers[v.kind](&b, g, &v, err);
    if (st == LM_OK) st = write_buf(&b, dir, "tokenizer.json", err);
    if (st == LM_OK) st = write_settings(g, &v, dir, err);
    lm_buf_release(&b);
    lm_vocab_release(&v);
    return st;
}
