#include "doctor/frames.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "doctor/foreign.h"

json_t *frames_of_lines(lm_str body, char wrong[200]) {
    json_t *all = json_array();
    lm_str line;
    bool whole = true;
    wrong[0] = '\0';
    for (unsigned n = 1; !wrong[0] && foreign_line(&body, &line, &whole); n++) {
        json_t *value = NULL;
        if (!line.len)
            snprintf(wrong, 200, "line %u is empty", n);
        else if (!whole)
            snprintf(wrong, 200, "line %u, the last, has no end", n);
        else if (lm_json_parse(line, &value, NULL) != LM_OK)
            snprintf(wrong, 200, "line %u is no JSON: %.*s", n, (int)(line.len < 100 ? line.len : 100),
                     line.ptr);
        else
            json_array_append_new(all, value);
    }
    return all;
}

/* ---- server-sent events */

typedef struct gathering {
    json_t *all;
    char event[100];
    lm_buf data;
    bool begun; /* there is a line of data */
} gathering;

static void end_event(gathering *g) {
    json_t *one = json_object(), *value = NULL;
    if (lm_json_parse(lm_buf_view(&g->data), &value, NULL) != LM_OK)
        value = json_stringn(g->data.ptr ? g->data.ptr : "", g->data.len);
    if (g->event[0]) json_object_set_new(one, "event", json_string(g->event));
    json_object_set_new(one, "data", value ? value : json_string("(not UTF-8)"));
    json_array_append_new(g->all, one);
    lm_buf_clear(&g->data);
    g->event[0] = '\0';
    g->begun = false;
}

/* "data: x", the blank may be missing; false: it is another field. */
static bool field(lm_str line, lm_str name, lm_str *value) {
    if (!lm_str_starts(line, name)) return false;
    *value = (lm_str){line.ptr + name.len, line.len - name.len};
    if (value->len && value->ptr[0] == ' ') *value = (lm_str){value->ptr + 1, value->len - 1};
    return true;
}

static bool take(gathering *g, lm_str line) {
    lm_str value;
    if (!line.len) {
        if (g->begun) end_event(g);
        return true;
    }
    if (field(line, LM_STR("data:"), &value)) {
        if (g->begun) lm_buf_char(&g->data, '\n');
        lm_buf_str(&g->data, value);
        g->begun = true;
        return true;
    }
    if (!field(line, LM_STR("event:"), &value)) return line.ptr[0] == ':';
    snprintf(g->event, sizeof g->event, "%.*s", (int)(value.len < 99 ? value.len : 99), value.ptr);
    return true;
}

json_t *frames_of_events(lm_str body, char wrong[200]) {
    gathering g = {.all = json_array()};
    lm_str line;
    bool whole = true;
    lm_buf_init(&g.data, SIZE_MAX);
    wrong[0] = '\0';
    for (unsigned n = 1; !wrong[0] && foreign_line(&body, &line, &whole); n++) {
        if (line.len && line.ptr[line.len - 1] == '\r') line.len--;
        if (!take(&g, line))
            snprintf(wrong, 200, "line %u is no field of an event: %.*s", n,
                     (int)(line.len < 100 ? line.len : 100), line.ptr);
    }
    if (!wrong[0] && g.begun) snprintf(wrong, 200, "the last event has no empty line behind it");
    lm_buf_release(&g.data);
    return g.all;
}
