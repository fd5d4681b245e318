#include "router/hygiene.h"

#include <stdlib.h>
#include <string.h>

#define BILLING "x-anthropic-billing-header:"
#define OPENS   "<total_tokens>"
#define CLOSES  " tokens left</total_tokens>"

#define MAX_REQUIRED 100 /* names that are sorted: one after the other */

/* ---- markers of one text */

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* Length of the billing line at the text's beginning, its line end included; 0: there is none. Its pairs end where something
 * else begins, also on the same line. */
static size_t billing_len(lm_str t) {
    size_t at = 0;
    while (at < t.len && is_blank(t.ptr[at])) at++;
    if (!lm_str_starts((lm_str){t.ptr + at, t.len - at}, LM_STR(BILLING))) return 0;
    at += strlen(BILLING);
    for (;;) {
        size_t i = at;
        while (i < t.len && t.ptr[i] == ' ') i++;
        size_t key = i;
        while (i < t.len && ((t.ptr[i] >= 'a' && t.ptr[i] <= 'z') || t.ptr[i] == '_')) i++;
        if (i == key || i == t.len || t.ptr[i] != '=') break;
        while (i < t.len && t.ptr[i] != ';' && t.ptr[i] != '\n') i++;
        at = i < t.len && t.ptr[i] == ';' ? i + 1 : i;
    }
    while (at < t.len && (t.ptr[at] == ' ' || t.ptr[at] == '\r')) at++;
    if (at < t.len && t.ptr[at] == '\n') at++;
    return at;
}

/* Length of the countdown that stands at t's beginning; 0: none. */
static size_t countdown_len(lm_str t) {
    size_t at = strlen(OPENS), digits;
    if (!lm_str_starts(t, LM_STR(OPENS))) return 0;
    for (digits = at; at < t.len && t.ptr[at] >= '0' && t.ptr[at] <= '9';) at++;
    if (at == digits || !lm_str_starts((lm_str){t.ptr + at, t.len - at}, LM_STR(CLOSES))) return 0;
    return at + strlen(CLOSES);
}

/* The text without its markers in out; *first: where the first one stood. A countdown goes when it has a line of its own, or
 * ends the text: in the middle of a line it is somebody's words. */
static uint32_t clean_text(lm_str t, lm_buf *out, size_t *first) {
    uint32_t n = 0;
    size_t at = billing_len(t);
    if (at) {
        n = 1;
        *first = 0;
    }
    for (size_t more; (more = billing_len((lm_str){t.ptr + at, t.len - at}));) at += more;
    bool line_begins = true;
    while (at < t.len) {
        lm_str rest = {t.ptr + at, t.len - at};
        size_t len = t.ptr[at] == '<' ? countdown_len(rest) : 0;
        if (!len) {
            if (t.ptr[at] == '\n')
                line_begins = true;
            else if (!is_blank(t.ptr[at]))
                line_begins = false;
            lm_buf_char(out, t.ptr[at++]);
            continue;
        }
        size_t end = at + len, next;
        while (end < t.len && (t.ptr[end] == ' ' || t.ptr[end] == '\t' || t.ptr[end] == '\r')) end++;
        for (next = end; next < t.len && is_blank(t.ptr[next]);) next++;
        bool another = next < t.len && countdown_len((lm_str){t.ptr + next, t.len - next});
        bool ends = next == t.len || another, alone = line_begins && (end == t.len || t.ptr[end] == '\n');
        if (!ends && !alone) {
            lm_buf_add(out, t.ptr + at, len);
            line_begins = false;
            at += len;
            continue;
        }
        if (!n++) *first = at;
        if (ends) {
            /* as it was before anything was put there */
            while (out->len && is_blank(out->ptr[out->len - 1])) out->len--;
            if (another) lm_buf_char(out, '\n'), line_begins = true;
            at = next;
        } else {
            at = end + 1;
        }
    }
    return n;
}

/* ---- texts of the system */

typedef struct cleaner {
    hygiene_report *report;
    uint64_t before; /* bytes of texts so far: is reset at the first marker */
} cleaner;

static void pass_text(cleaner *c, const json_t *text) {
    if (json_is_string(text)) c->before += json_string_length(text);
}

typedef enum cleaned { AS_IT_WAS, CHANGED, EMPTIED } cleaned;

/* *out: the new string. */
static cleaned clean_string(cleaner *c, const json_t *text, json_t **out) {
    lm_str t = {json_string_value(text), json_string_length(text)};
    lm_buf b;
    size_t first = 0;
    lm_buf_init(&b, t.len + 1);
    uint32_t n = clean_text(t, &b, &first);
    /* A billing line may have stood behind a countdown. */
    for (uint32_t more = n; more && billing_len(lm_buf_view(&b)); n += more) {
        lm_buf once;
        lm_buf_init(&once, t.len + 1);
        more = clean_text(lm_buf_view(&b), &once, &first);
        lm_buf_release(&b);
        b = once;
    }
    cleaned done = AS_IT_WAS;
    if (!n || b.failed || !(*out = json_stringn(b.len ? b.ptr : "", b.len))) {
        pass_text(c, text);
    } else {
        if (!c->report->n_markers)
            c->before = first < b.len ? b.len - first : 0;
        else
            c->before += b.len;
        c->report->n_markers += n;
        c->report->changed = true;
        done = b.len ? CHANGED : EMPTIED;
    }
    lm_buf_release(&b);
    return done;
}

/* The member `key` of object: a text, or a list of parts with texts. EMPTIED: nothing is left of it. */
static cleaned clean_member(cleaner *c, json_t *object, const char *key) {
    json_t *value = key ? json_object_get(object, key) : NULL, *text = NULL;
    if (json_is_string(value)) {
        cleaned done = clean_string(c, value, &text);
        if (done != AS_IT_WAS) json_object_set_new(object, key, text);
        return done;
    }
    cleaned all = AS_IT_WAS;
    for (size_t i = 0; i < json_array_size(value);) {
        json_t *part = json_array_get(value, i), *old = json_object_get(part, "text");
        cleaned done = json_is_string(old) ? clean_string(c, old, &text) : AS_IT_WAS;
        if (done != AS_IT_WAS) all = CHANGED;
        if (done == CHANGED) json_object_set_new(part, "text", text);
        if (done == EMPTIED) {
            json_decref(text);
            json_array_remove(value, i);
        } else {
            i++;
        }
    }
    return all == CHANGED && !json_array_size(value) ? EMPTIED : all;
}

static void pass_content(cleaner *c, const json_t *content) {
    size_t i;
    json_t *part;
    pass_text(c, content);
    json_array_foreach(content, i, part) pass_text(c, json_object_get(part, "text"));
}

static void clean_messages(cleaner *c, json_t *messages) {
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i), *role = facts_member(m, "role");
        const char *who = json_is_string(role) ? json_string_value(role) : "";
        if (strcmp(who, "system") && strcmp(who, "developer")) {
            pass_content(c, facts_member(m, "content"));
            continue;
        }
        cleaned done = clean_member(c, m, facts_key(m, "content"));
        /* A message without words stays only where it is the only one: no messages would mean something else. */
        if (done == EMPTIED && json_array_size(messages) > 1) json_array_remove(messages, i--);
    }
}

/* ---- tools */

/* As people write schemas, and as models have seen them: what it is first, then what it consists of. */
static int rank(const char *word) {
    static const char *const first[] = {"type",  "title",      "description", "enum",
                                        "items", "properties", "required"};
    const int n = sizeof first / sizeof *first;
    for (int i = 0; i < n; i++)
        if (!strcmp(first[i], word)) return i;
    return n;
}

static int compare_words(const char *a, const char *b) {
    int by_rank = rank(a) - rank(b);
    return by_rank ? by_rank : strcmp(a, b);
}

static int by_word(const void *a, const void *b) {
    return compare_words(*(const char *const *)a, *(const char *const *)b);
}

static bool sorted_keys(const json_t *object) {
    const char *key, *last = NULL;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        if (last && compare_words(last, key) > 0) return false;
        last = key;
    }
    return true;
}

/* Keys in order; false: they were. */
static bool sort_keys(json_t *object) {
    if (sorted_keys(object)) return false;
    size_t n = json_object_size(object), i = 0;
    const char **keys = lm_try_alloc(n, sizeof *keys), *key;
    json_t *copy = json_copy(object), *value;
    if (keys && copy) {
        json_object_foreach(copy, key, value) keys[i++] = key;
        qsort(keys, n, sizeof *keys, by_word);
        json_object_clear(object);
        for (i = 0; i < n; i++) json_object_set(object, keys[i], json_object_get(copy, keys[i]));
    }
    free(keys);
    json_decref(copy);
    return true;
}

/* What a schema requires is a set. */
static bool sort_names(json_t *list) {
    size_t n = json_array_size(list), i;
    bool sorted = true;
    if (n > MAX_REQUIRED) return false;
    for (i = 0; i < n; i++) {
        if (!json_is_string(json_array_get(list, i))) return false;
        if (i && strcmp(json_string_value(json_array_get(list, i - 1)),
                        json_string_value(json_array_get(list, i))) > 0)
            sorted = false;
    }
    for (size_t a = 1; !sorted && a < n; a++) {
        for (size_t b = a; b; b--) {
            json_t *x = json_array_get(list, b - 1), *y = json_array_get(list, b);
            if (strcmp(json_string_value(x), json_string_value(y)) <= 0) break;
            json_incref(x);
            json_array_set(list, b - 1, y);
            json_array_set_new(list, b, x);
        }
    }
    return !sorted;
}

/* The words of a schema, as deep as schemas nest; what stands in properties keeps its order, and values that are no
 * schemas (enum, const, default, examples) stay as they are. */
static bool sort_schema(json_t *schema, unsigned depth) {
    static const char *const nested[] = {"items",   "additionalProperties", "not", "if", "then", "else",
                                         "contains"};
    static const char *const lists[] = {"anyOf", "oneOf", "allOf", "prefixItems"};
    static const char *const tables[] = {"properties", "$defs", "definitions"};
    size_t i, at;
    const char *key;
    json_t *one;
    if (!json_is_object(schema) || depth > 64) return false;
    bool changed = sort_keys(schema);
    changed |= sort_names(json_object_get(schema, "required"));
    for (i = 0; i < sizeof nested / sizeof *nested; i++)
        changed |= sort_schema(json_object_get(schema, nested[i]), depth + 1);
    for (i = 0; i < sizeof lists / sizeof *lists; i++)
        json_array_foreach(json_object_get(schema, lists[i]), at, one) changed |= sort_schema(one, depth + 1);
    for (i = 0; i < sizeof tables / sizeof *tables; i++)
        json_object_foreach(json_object_get(schema, tables[i]), key, one) changed |=
            sort_schema(one, depth + 1);
    return changed;
}

static const char *tool_name(const json_t *tool) {
    const json_t *function = json_object_get(tool, "function");
    return json_string_value(json_object_get(json_is_object(function) ? function : tool, "name"));
}

static int by_tool(const void *a, const void *b) {
    return strcmp(tool_name(*(json_t *const *)a), tool_name(*(json_t *const *)b));
}

/* Only when each has a name of its own: nothing could be said about the others. */
static bool sort_tools(json_t *tools) {
    size_t n = json_array_size(tools), i;
    json_t **list = lm_try_alloc(n ? n : 1, sizeof *list);
    bool ok = list != NULL, changed = false;
    for (i = 0; ok && i < n; i++) {
        list[i] = json_array_get(tools, i);
        ok = tool_name(list[i]) != NULL;
    }
    if (ok) qsort(list, n, sizeof *list, by_tool);
    for (i = 1; ok && i < n; i++) ok = strcmp(tool_name(list[i - 1]), tool_name(list[i])) != 0;
    for (i = 0; ok && i < n; i++) changed |= list[i] != json_array_get(tools, i);
    for (i = 0; ok && i < n; i++) json_incref(list[i]);
    if (ok) json_array_clear(tools);
    for (i = 0; ok && i < n; i++) json_array_append_new(tools, list[i]);
    free(list);
    return changed;
}

static void clean_tools(hygiene_report *report, json_t *tools) {
    size_t i;
    json_t *tool;
    report->changed |= sort_tools(tools);
    json_array_foreach(tools, i, tool) {
        json_t *function = json_object_get(tool, "function");
        if (!json_is_object(function)) function = tool;
        report->changed |= sort_schema(json_object_get(function, "parameters"), 0);
        report->changed |= sort_schema(json_object_get(function, "input_schema"), 0);
    }
}

void hygiene_clean(json_t *body, router_wire wire, hygiene_report *out) {
    *out = (hygiene_report){0};
    if (!json_is_object(body)) return;
    cleaner c = {.report = out};
    const char *head = facts_key(body, wire == WIRE_RESPONSES ? "instructions" : "system");
    if (clean_member(&c, body, head) == EMPTIED) json_object_del(body, head);
    clean_messages(&c, facts_member(body, wire == WIRE_RESPONSES ? "input" : "messages"));
    clean_tools(out, facts_member(body, "tools"));
    pass_text(&c, facts_member(body, "prompt"));
    if (out->n_markers) out->bytes_behind = c.before > UINT32_MAX ? UINT32_MAX : (uint32_t)c.before;
}
