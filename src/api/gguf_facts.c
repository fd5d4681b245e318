/* What a GGUF file that has not been imported says about itself: its place's word for lists, its header for
 * /api/show. */
#include "api/gguf_facts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "weights/gguf.h"

#define MAX_TEMPLATE (1u << 20) /* bytes */

/* general.file_type, with llama.cpp's numbers (its llama_ftype) */
static const char *const file_types[] = {
    [0] = "F32",     [1] = "F16",     [2] = "Q4_0",    [3] = "Q4_1",    [7] = "Q8_0",    [8] = "Q5_0",
    [9] = "Q5_1",    [10] = "Q2_K",   [11] = "Q3_K_S", [12] = "Q3_K_M", [13] = "Q3_K_L", [14] = "Q4_K_S",
    [15] = "Q4_K_M", [16] = "Q5_K_S", [17] = "Q5_K_M", [18] = "Q6_K",   [32] = "BF16",   [38] = "MXFP4",
};

bool lm_gguf_facts_known(const lm_entry *model) {
    return model->family[0] != '\0';
}

void lm_gguf_facts_brief(const lm_entry *model, lm_facts *f) {
    f->gguf = true;
    f->sampling = (lm_text_sampling){NAN, NAN, NAN, NAN, NAN, NAN};
    snprintf(f->family, sizeof f->family, "%s", model->family[0] ? model->family : "unknown");
    snprintf(f->parameter_size, sizeof f->parameter_size, "%s", model->parameters);
    snprintf(f->quantization, sizeof f->quantization, "%s", model->quantization);
    f->embeds = strstr(f->family, "bert") != NULL; /* Ollama's embedders of the kind that are encoders */
}

static uint32_t number(const lm_gguf *g, const char *arch, const char *key) {
    char name[160];
    uint32_t n = 0;
    snprintf(name, sizeof name, "%s.%s", arch, key);
    return lm_gguf_u32(g, name, &n, NULL) == LM_OK ? n : 0;
}

static uint64_t count_parameters(const lm_gguf *g) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < lm_gguf_count(g); i++) {
        const lm_gguf_tensor *t = lm_gguf_tensor_at(g, i);
        sum += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]; /* all of it lies in the file */
    }
    return sum;
}

/* Which variables the template that comes with the model asks for: Ollama's, else the file's own. */
static void read_abilities(const lm_entry *model, const lm_gguf *g, lm_facts *f) {
    char *path = lm_path_join(model->dir, "template");
    lm_go_template *t = NULL;
    lm_str own = {0};
    lm_buf text;
    lm_buf_init(&text, MAX_TEMPLATE);
    bool there = lm_file_read(path, MAX_TEMPLATE - 1, &text, NULL) == LM_OK;
    if (there && lm_go_template_open(&t, lm_buf_view(&text), NULL) == LM_OK) {
        f->tools = lm_go_template_uses(t, "Tools");
        f->inserts = lm_go_template_uses(t, "Suffix");
    } else if (lm_gguf_str(g, "tokenizer.chat_template", &own, NULL) == LM_OK && own.len) {
        char *source = lm_str_dup(own);
        f->tools = strstr(source, "tools") != NULL;
        f->thinking = strstr(source, "<think>") != NULL;
        free(source);
    }
    lm_go_template_close(t);
    lm_buf_release(&text);
    free(path);
}

void lm_gguf_facts_read(const lm_entry *model, lm_facts *f) {
    lm_gguf *g = NULL;
    lm_str arch = {0};
    uint32_t type = UINT32_MAX;
    lm_gguf_facts_brief(model, f);
    if (lm_gguf_open(&g, model->file, NULL) != LM_OK) return;
    if (lm_gguf_str(g, "general.architecture", &arch, NULL) == LM_OK && arch.len)
        snprintf(f->family, sizeof f->family, "%.*s", LM_STR_ARG(arch));
    f->n_params = count_parameters(g);
    if (!f->parameter_size[0]) lm_facts_human(f->n_params, f->parameter_size);
    if (!f->quantization[0] && lm_gguf_u32(g, "general.file_type", &type, NULL) == LM_OK &&
        type < sizeof file_types / sizeof *file_types && file_types[type])
        snprintf(f->quantization, sizeof f->quantization, "%s", file_types[type]);
    f->n_ctx = number(g, f->family, "context_length");
    f->width = number(g, f->family, "embedding_length");
    f->embeds = strstr(f->family, "bert") != NULL;
    read_abilities(model, g, f);
    lm_gguf_close(g);
}

void lm_gguf_facts_number(const lm_gguf *g, const char *key, json_t *out) {
    uint32_t n = 0;
    double d = 0;
    if (!lm_gguf_has(g, key)) return;
    if (lm_gguf_u32(g, key, &n, NULL) == LM_OK)
        json_object_set_new(out, key, json_integer(n));
    else if (lm_gguf_float(g, key, &d, NULL) == LM_OK)
        json_object_set_new(out, key, json_real(d));
}
