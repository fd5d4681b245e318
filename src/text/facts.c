/* lm_text_facts: what lm_text_open would find, without the tokenizer. Of tokenizer.json only the list of
 * added tokens is parsed, which stands before the vocabulary in every file that the tokenizers library
 * writes; the way there is a walk over the text that trusts nothing. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "text/private.h"

#define MAX_TOKENIZER_BYTES (192u << 20)
#define MAX_ADDED_BYTES     (32u << 20)
#define MAX_ENDS            64

/* ---- one member of a JSON text -------------------------------------------------------------------------- */

static void skip_space(lm_str *s) {
    while (s->len && strchr(" \t\r\n", s->ptr[0]) && s->ptr[0]) s->ptr++, s->len--;
}

/* Length of the value (or the string) that s begins with: up to the end of s when it has none. */
static size_t value_length(lm_str s) {
    size_t depth = 0, i = 0;
    bool in_string = false;
    for (; i < s.len; i++) {
        char c = s.ptr[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
            if (!in_string && !depth) return i + 1;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth) return i;
            if (!--depth) return i + 1;
        } else if (c == ',' && !depth) {
            return i;
        }
    }
    return s.len;
}

static lm_str cut(lm_str *s, size_t n) {
    lm_str head = {s->ptr, n < s->len ? n : s->len};
    s->ptr += head.len;
    s->len -= head.len;
    return head;
}

/* The text of a member of the outermost object; empty when it is not there. */
static lm_str member(lm_str json, lm_str quoted_name) {
    skip_space(&json);
    if (!lm_str_starts(json, LM_STR("{"))) return (lm_str){0};
    for (;;) {
        cut(&json, 1); /* the bracket, or a comma */
        skip_space(&json);
        if (!lm_str_starts(json, LM_STR("\""))) return (lm_str){0};
        lm_str name = cut(&json, value_length(json));
        skip_space(&json);
        if (!lm_str_starts(json, LM_STR(":"))) return (lm_str){0};
        cut(&json, 1);
        skip_space(&json);
        lm_str value = cut(&json, value_length(json));
        if (lm_str_eq(name, quoted_name)) return value;
        skip_space(&json);
        if (!lm_str_starts(json, LM_STR(","))) return (lm_str){0};
    }
}

/* The added tokens of DIR/tokenizer.json, an array. */
static lm_status read_added(const char *dir, json_t **out, lm_err *err) {
    lm_map map = {0};
    char *path = lm_path_join(dir, "tokenizer.json");
    lm_status st = lm_map_open(&map, path, err);
    if (st == LM_OK && map.size > MAX_TOKENIZER_BYTES)
        st = lm_fail(err, LM_CORRUPT, "%s is larger than %u MB", path, MAX_TOKENIZER_BYTES >> 20);
    if (st == LM_OK) {
        lm_str added = member((lm_str){(const char *)map.data, (size_t)map.size}, LM_STR("\"added_tokens\""));
        if (added.len > MAX_ADDED_BYTES)
            st = lm_fail(err, LM_CORRUPT, "%s: more than %u MB of added tokens", path, MAX_ADDED_BYTES >> 20);
        else if (added.len && lm_json_parse(added, out, err) != LM_OK)
            st = lm_fail_in(err, LM_CORRUPT, "%s: added_tokens", path);
    }
    lm_map_close(&map);
    free(path);
    return st;
}

/* ---- facts ---------------------------------------------------------------------------------------------- */

typedef struct collector {
    lm_text_facts *facts;
    const json_t *added;
} collector;

/* NULL: none that could be a token's name. */
static const char *content_of(const json_t *token) {
    const json_t *v = json_object_get(token, "content");
    const char *text = json_string_value(v);
    return text && strlen(text) == json_string_length(v) ? text : NULL;
}

static bool has_added(const void *added, const char *token) {
    const json_t *list = added;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *content = content_of(json_array_get(list, i));
        if (content && !strcmp(content, token)) return true;
    }
    return false;
}

static void end_by_token(void *ctx, const char *token) {
    collector *c = ctx;
    lm_text_facts *f = c->facts;
    if (f->n_ends == MAX_ENDS || !has_added(c->added, token)) return;
    for (uint32_t i = 0; i < f->n_ends; i++)
        if (!strcmp(f->ends[i], token)) return;
    f->ends[f->n_ends++] = lm_strdup(token);
}

static void end_by_id(void *ctx, int64_t id) {
    collector *c = ctx;
    for (size_t i = 0; i < json_array_size(c->added); i++) {
        const json_t *token = json_array_get(c->added, i), *its = json_object_get(token, "id");
        if (json_is_integer(its) && json_integer_value(its) == id && content_of(token)) {
            end_by_token(ctx, content_of(token));
            return;
        }
    }
}

lm_status lm_text_facts_read(lm_text_facts *out, const char *dir, lm_err *err) {
    lm_text_files files = {0};
    lm_template *chat = NULL;
    lm_go_template *go = NULL;
    json_t *added = NULL;
    lm_status st = lm_text_files_read(&files, dir, err);
    if (st == LM_OK) st = lm_text_files_compile(&files, dir, &chat, &go, err);
    if (st == LM_OK) st = read_added(dir, &added, err);
    if (st != LM_OK) goto done;

    lm_text_abilities can = lm_text_can(chat, go, has_added, added);
    lm_text_facts f = {
        .tools = can.tools, .thinks = can.thinks, .inserts = can.inserts, .channels = can.channels};
    f.sampling = lm_text_files_sampling(&files);
    f.ends = lm_alloc(MAX_ENDS * sizeof *f.ends);
    collector c = {&f, added};
    lm_text_files_ends(&files, has_added, added, &(lm_text_ends){&c, end_by_id, end_by_token});
    f.chat = files.chat;
    files.chat = (lm_buf){0};
    *out = f;
done:
    json_decref(added);
    lm_template_close(chat);
    lm_go_template_close(go);
    lm_text_files_release(&files);
    return st;
}

void lm_text_facts_release(lm_text_facts *f) {
    lm_buf_release(&f->chat);
    for (uint32_t i = 0; i < f->n_ends; i++) free(f->ends[i]);
    free(f->ends);
    *f = (lm_text_facts){0};
}
