/* A Modelfile from anywhere: commands are whole, in the order of their lines, text that a request can hold; an error names what is
 * wrong; and what was read means the same when it is written down and read again.
 *
 * Input: the file. */
#include <stdlib.h>
#include <string.h>

#include "cli/modelfile.h"
#include "cli/parameter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *s) {
    if (!s || lm_utf8_valid(lm_str_of(s), NULL) != strlen(s)) abort();
    for (; *s; s++)
        if (((unsigned char)*s < 0x20 && !strchr("\t\r\n", *s)) || *s == 0x7f) abort();
}

static void check_command(const modelfile_command *c) {
    if (c->kind > MODELFILE_MESSAGE || (c->name != NULL) != (c->kind >= MODELFILE_PARAMETER)) abort();
    check_text(c->value);
    if (c->name) check_text(c->name);
    if (c->kind != MODELFILE_PARAMETER) return;
    json_t *v = NULL;
    const char *word = c->value;
    lm_err err = {0};
    if (parameter_read(c->name, &word, 1, &v, &err) != LM_OK && !err.text[0]) abort();
    json_decref(v);
}

/* Quotes that a value needs; a value that three quotes cannot hold has none. */
static bool write_down(const modelfile *m, lm_buf *out) {
    for (uint32_t i = 0; i < m->n; i++) {
        const modelfile_command *c = &m->commands[i];
        if (strstr(c->value, "\"\"\"")) return false;
        lm_buf_printf(out, "%s %s%s\"\"\"%s\"\"\"\n", modelfile_word(c->kind), c->name ? c->name : "",
                      c->name ? " " : "", c->value);
    }
    return !out->failed;
}

static void read_again(const modelfile *m) {
    lm_buf b;
    modelfile again = {0};
    lm_buf_init(&b, MODELFILE_MAX_BYTES - 1);
    if (write_down(m, &b)) {
        if (modelfile_parse(lm_buf_view(&b), &again, NULL) != LM_OK || again.n != m->n) abort();
        for (uint32_t i = 0; i < m->n; i++) {
            const modelfile_command *x = &m->commands[i], *y = &again.commands[i];
            if (x->kind != y->kind || strcmp(x->value, y->value)) abort();
            if (x->name && strcmp(x->name, y->name)) abort();
        }
        modelfile_release(&again);
    }
    lm_buf_release(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    modelfile m = {0};
    lm_err err = {0};
    if (modelfile_parse((lm_str){(const char *)data, size}, &m, &err) != LM_OK) {
        if (!err.text[0] || m.commands) abort();
        return 0;
    }
    uint32_t line = 1;
    for (uint32_t i = 0; i < m.n; i++) {
        check_command(&m.commands[i]);
        if (m.commands[i].line < line) abort();
        line = m.commands[i].line;
    }
    if (!m.n) abort();
    read_again(&m);
    modelfile_release(&m);
    return 0;
}
