/* convert_rules.c - what the forms are called, and which matrix gets which: as mlx_lm.convert decides.
 *
 * Every linear layer and embedding whose rows are whole groups is quantised. What a family's quant_predicate
 * in mlx-lm keeps wider is wider here, too. Q4_K_M is mlx-lm's recipe mixed_4_6, which follows llama.cpp's
 * Q4_K_M: 6 bits for the head, and for v_proj and down_proj in the first and the last eighth of the layers
 * and in every third between. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/convert.h"

#define AFFINE(bits)                                                                                         \
    { LM_QUANT_AFFINE, bits, 64 }

static const lm_conversion forms[] = {
    {.name = "F32", .dtype = LM_F32},
    {.name = "F16", .dtype = LM_F16},
    {.name = "BF16", .dtype = LM_BF16},
    {.name = "Q4_K_S", .quant = AFFINE(4)},
    {.name = "Q4_K_M", .quant = AFFINE(4), .mixed = true},
    {.name = "Q4_K", .quant = AFFINE(4), .mixed = true},
    {.name = "Q8_0", .quant = AFFINE(8)},
    {.name = "INT4", .quant = AFFINE(4)},
    {.name = "INT8", .quant = AFFINE(8)},
    {.name = "2BIT", .quant = AFFINE(2)},
    {.name = "3BIT", .quant = AFFINE(3)},
    {.name = "4BIT", .quant = AFFINE(4)},
    {.name = "5BIT", .quant = AFFINE(5)},
    {.name = "6BIT", .quant = AFFINE(6)},
    {.name = "8BIT", .quant = AFFINE(8)},
    {.name = "MXFP4", .quant = {LM_QUANT_MXFP4, 4, 32}},
    {.name = "MXFP8", .quant = {LM_QUANT_MXFP8, 8, 32}},
    {.name = "NVFP4", .quant = {LM_QUANT_NVFP4, 4, 16}},
};
#define N_FORMS (sizeof forms / sizeof *forms)

lm_status lm_conversion_parse(const char *name, lm_conversion *out, lm_err *err) {
    lm_buf known;
    char upper[40];
    size_t n = 0;
    for (size_t i = 0; i < N_FORMS; i++) {
        if (!lm_str_eq_nocase(lm_str_of(name), lm_str_of(forms[i].name))) continue;
        *out = forms[i];
        return LM_OK;
    }
    for (; name[n] && n + 1 < sizeof upper; n++) upper[n] = (char)toupper((unsigned char)name[n]);
    upper[n] = '\0';
    lm_buf_init(&known, 400);
    for (size_t i = 0; i < N_FORMS; i++) lm_buf_printf(&known, i ? ", %s" : "%s", forms[i].name);
    lm_status st = lm_fail(err, LM_INVALID, "unsupported quantization type %s - supported types are %s",
                           upper, known.ptr);
    lm_buf_release(&known);
    return st;
}

json_t *lm_convert_spec_json(lm_quant_spec q) {
    return json_pack("{s:i, s:i, s:s}", "group_size", (int)q.group, "bits", (int)q.bits, "mode",
                     lm_quant_mode(q.kind));
}

/* ---- which matrix gets which */

static bool ends(const char *path, const char *suffix) {
    return lm_str_ends(lm_str_of(path), lm_str_of(suffix));
}

/* Where fewer bits would spoil the model: routers choose the experts, Granite's numbers are too small. */
static bool family_keeps_wide(const char *type, const char *path) {
    if (!strcmp(type, "qwen3_moe")) return ends(path, "mlp.gate");
    if (!strcmp(type, "gpt_oss")) return ends(path, "router");
    if (strcmp(type, "granite") != 0) return false;
    return ends(path, "self_attn.o_proj") || ends(path, "mlp.down_proj") || !strcmp(path, "lm_head");
}

/* Small tables of encoders that are looked up and added: Ollama keeps them as they are, too. */
static bool is_small_table(const char *path) {
    return ends(path, "position_embeddings") || ends(path, "token_type_embeddings");
}

static uint32_t layer_of(const char *path) {
    const char *at = strstr(path, "layers.");
    return at ? (uint32_t)strtoul(at + 7, NULL, 10) : 0;
}

static bool recipe_widens(const char *path, uint32_t n_layers) {
    if (strstr(path, "lm_head")) return true;
    if (!strstr(path, "v_proj") && !strstr(path, "down_proj")) return false;
    uint32_t layer = layer_of(path), eighth = n_layers / 8;
    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

lm_quant_spec lm_convert_rule(const lm_convert_rules *r, const char *name, uint64_t cols) {
    const lm_quant_spec none = {0}, wide = AFFINE(8), usual = r->how->quant;
    lm_quant_spec q = usual;
    char path[256];
    int n = snprintf(path, sizeof path, "%s", name);
    if (n < 7 || n >= (int)sizeof path || usual.kind == LM_QUANT_NONE) return none;
    path[n - 7] = '\0'; /* ".weight" */
    if (cols % usual.group || is_small_table(path)) return none;
    if (family_keeps_wide(r->type, path))
        q = wide;
    else if (r->how->mixed && recipe_widens(path, r->n_layers))
        q.bits = 6;
    if (cols % q.group) return none;
    if (r->every || q.kind != usual.kind || q.bits != usual.bits || q.group != usual.group)
        json_object_set_new(r->quantization, path, lm_convert_spec_json(q));
    return q;
}
