/* convert_plan.c - from the makers' names to those that mlx-lm has after loading (its models' `sanitize`),
 * and the shapes that go with them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/model.h"
#include "store/convert.h"

#define MAX_CONFIG  (8u << 20)
#define MAX_TENSORS (1u << 18)
#define MAX_EXPERTS 4096
#define MAX_COLS    (1u << 22) /* a row fits the buffers of convert_write.c; copies may have longer ones */
#define NAME_BYTES  256

typedef struct planner {
    lm_convert_plan *p;
    lm_convert_rules rules;
    bool tied, cast;
    lm_dtype dtype;            /* of cast */
    uint64_t experts, stacked; /* tensors of single experts: seen, and found a place for */
    lm_err *err;
} planner;

static bool is_float(lm_dtype t) {
    return t == LM_F32 || t == LM_F16 || t == LM_BF16;
}

static bool starts(const char *name, const char *prefix) {
    return !strncmp(name, prefix, strlen(prefix));
}

static bool ends(const char *name, const char *suffix) {
    return lm_str_ends(lm_str_of(name), lm_str_of(suffix));
}

/* ---- config.json */

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static bool dtype_named(const char *name, lm_dtype *out) {
    if (!strcmp(name, "float32"))
        *out = LM_F32;
    else if (!strcmp(name, "float16"))
        *out = LM_F16;
    else if (!strcmp(name, "bfloat16"))
        *out = LM_BF16;
    else
        return false;
    return true;
}

static const char *dtype_config_name(lm_dtype t) {
    return t == LM_F32 ? "float32" : t == LM_F16 ? "float16" : "bfloat16";
}

/* Weights that another tool has packed. gpt-oss's own MXFP4 is MLX's, in other words. */
static lm_status check_method(const json_t *config, bool *packed, lm_err *err) {
    const json_t *q = json_object_get(config, "quantization_config");
    if (json_object_get(config, "quantization")) return LM_OK; /* MLX's: it counts */
    if (!q) q = json_object_get(json_object_get(config, "text_config"), "quantization_config");
    const char *method = text_of(q, "quant_method");
    *packed = !strcmp(method, "mxfp4");
    if (!method[0] || *packed) return LM_OK;
    return lm_fail(err, LM_UNSUPPORTED,
                   "the weights are quantised by %.40s, which has no exact form for MLX: take the "
                   "unquantised release of "
                   "the model",
                   method);
}

/* What mlx_lm.convert casts to: what it was asked for, else what config.json says the numbers are. */
static void choose_dtype(planner *b, const json_t *config, const lm_conversion *how) {
    if (how && how->quant.kind == LM_QUANT_NONE) {
        b->cast = true;
        b->dtype = how->dtype;
    } else if (!b->p->quantised) {
        b->cast = dtype_named(text_of(config, "torch_dtype"), &b->dtype) ||
                  (!text_of(config, "torch_dtype")[0] &&
                   dtype_named(text_of(json_object_get(config, "text_config"), "dtype"), &b->dtype));
    }
}

static void set_dtype(json_t *config, lm_dtype t) {
    static const char *const keys[] = {"torch_dtype", "dtype"};
    json_t *inner = json_object_get(config, "text_config");
    json_object_set_new(config, "torch_dtype", json_string(dtype_config_name(t)));
    for (int k = 0; k < 2; k++) {
        if (json_object_get(config, keys[k]))
            json_object_set_new(config, keys[k], json_string(dtype_config_name(t)));
        if (json_object_get(inner, keys[k]))
            json_object_set_new(inner, keys[k], json_string(dtype_config_name(t)));
    }
}

/* ---- names */

/* False: MLX's model has no place for it. */
static bool rename_tensor(const planner *b, const char *name, char out[NAME_BYTES]) {
    const char *type = b->rules.type;
    bool gemma3 = !strcmp(type, "gemma3");
    snprintf(out, NAME_BYTES, "%s", name);
    if (strstr(name, "rotary_emb.inv_freq")) return false; /* config.json says the same */
    if (gemma3) { /* its text only; newer releases have the parts the other way round */
        if (starts(name, "vision_tower.") || starts(name, "multi_modal_projector.") ||
            starts(name, "model.vision_tower.") || starts(name, "model.multi_modal_projector."))
            return false;
        if (starts(name, "model.language_model."))
            snprintf(out, NAME_BYTES, "language_model.model.%.200s", name + 21);
        else if (starts(name, "lm_head."))
            snprintf(out, NAME_BYTES, "language_model.%.200s", name);
        return true;
    }
    bool head = starts(name, "lm_head.") || starts(name, "language_model.lm_head.");
    return !head || (!b->tied && strcmp(type, "gemma2") != 0);
}

/* "P.experts.7.w1.weight": the number, "P" and "weight", what the stack of all of them is called. */
static bool expert_of(const char *name, uint32_t *number, lm_str *before, lm_str *after,
                      char stack[NAME_BYTES]) {
    static const char *const names[][2] = {{"w1.", "gate_proj."}, {"w2.", "down_proj."}, {"w3.", "up_proj."}};
    const char *at = strstr(name, ".experts.");
    size_t digits = at ? strspn(at + 9, "0123456789") : 0;
    if (digits == 0 || digits > 5 || at[9 + digits] != '.') return false;
    const char *rest = at + 9 + digits + 1, *proj = "";
    *number = (uint32_t)strtoul(at + 9, NULL, 10);
    *before = (lm_str){name, (size_t)(at + 9 - name)};
    *after = lm_str_of(rest - 1);
    for (int i = 0; i < 3; i++) {
        if (!starts(rest, names[i][0])) continue;
        proj = names[i][1];
        rest += strlen(names[i][0]);
        break;
    }
    int n = snprintf(stack, NAME_BYTES, "%.*s.switch_mlp.%s%s", (int)(at - name), name, proj, rest);
    return n < NAME_BYTES;
}

/* ---- items */

static lm_convert_item *add_item(planner *b, const char *name, uint32_t n_parts) {
    lm_convert_item *it = &b->p->items[b->p->n++];
    it->name = lm_strdup(name);
    it->parts = lm_alloc(n_parts * sizeof *it->parts);
    it->n_parts = n_parts;
    it->step = 1;
    return it;
}

/* A matrix that a quantised form is chosen for: (rows, cols), or a stack of experts. */
static bool is_matrix(const lm_convert_item *it) {
    bool stack = strstr(it->name, ".switch_mlp.") || strstr(it->name, ".experts.");
    return is_float(it->from) && ends(it->name, ".weight") && (it->n_dims == 2 || (it->n_dims == 3 && stack));
}

/* The shape and, from it, the form of an item whose parts, names and dims are known. */
static lm_status finish_item(planner *b, lm_convert_item *it) {
    it->from = it->parts[0].dtype;
    if (it->from == LM_F8)
        return lm_fail(b->err, LM_UNSUPPORTED,
                       "tensor %s holds FP8 numbers, which have no exact form for MLX: take the BF16 release "
                       "of the model",
                       it->name);
    it->to = b->cast && is_float(it->from) ? b->dtype : it->from;
    if (it->written == LM_F32) it->written = it->to; /* not said otherwise */
    if (it->parts[0].bytes == 0) return LM_OK; /* nothing: (0, 5), which has rows of no number or no rows */
    it->rows = 1;
    it->cols = it->n_dims ? it->dims[it->n_dims - 1] : 1;
    for (uint32_t d = 0; d + 1 < it->n_dims; d++) it->rows *= it->dims[d];
    if (b->rules.how && is_matrix(it)) it->quant = lm_convert_rule(&b->rules, it->name, it->cols);
    if ((it->quant.kind != LM_QUANT_NONE || it->step > 1) && it->cols > MAX_COLS)
        return lm_fail(b->err, LM_UNSUPPORTED,
                       "tensor %s has rows of %llu numbers: more than any known model", it->name,
                       (unsigned long long)it->cols);
    return LM_OK;
}

static void take_shape(lm_convert_item *it, const lm_view *v, uint64_t leading) {
    it->n_dims = v->n_dims + (leading ? 1 : 0);
    if (leading) it->dims[0] = leading;
    memcpy(it->dims + (leading ? 1 : 0), v->dims, v->n_dims * sizeof *v->dims);
}

static lm_status plan_plain(planner *b, const char *name, const lm_view *v) {
    lm_convert_item *it = add_item(b, name, 1);
    it->parts[0] = *v;
    take_shape(it, v, 0);
    return finish_item(b, it);
}

static bool same_shape(const lm_view *a, const lm_view *b) {
    return a->dtype == b->dtype && a->n_dims == b->n_dims &&
           !memcmp(a->dims, b->dims, a->n_dims * sizeof *a->dims);
}

/* Expert 0 brings all of its kind along. */
static lm_status plan_stack(planner *b, const char *stack, lm_str before, lm_str after) {
    char name[2 * NAME_BYTES];
    lm_view v, first = {0};
    uint32_t n = 0;
    for (;; n++) {
        snprintf(name, sizeof name, LM_STR_FMT "%u" LM_STR_FMT, LM_STR_ARG(before), n, LM_STR_ARG(after));
        if (n > MAX_EXPERTS || !lm_weights_find(b->p->source, name, &v)) break;
        if (n == 0) first = v;
        if (!same_shape(&first, &v) || v.n_dims + 1 > LM_MAX_DIMS)
            return lm_fail(b->err, LM_CORRUPT, "tensor %s has another shape than expert 0's", name);
    }
    if (n == 0) /* "experts.00": a number, but written otherwise than anybody does */
        return lm_fail(b->err, LM_CORRUPT, "there is no tensor %s", name);
    lm_convert_item *it = add_item(b, stack, n);
    for (uint32_t e = 0; e < n; e++) {
        snprintf(name, sizeof name, LM_STR_FMT "%u" LM_STR_FMT, LM_STR_ARG(before), e, LM_STR_ARG(after));
        LM_ASSERT(lm_weights_find(b->p->source, name, &it->parts[e]));
    }
    take_shape(it, &first, n);
    b->stacked += n;
    b->p->needed = true;
    return finish_item(b, it);
}

/* ---- gpt-oss: (experts, rows, groups, 16) bytes of two codes each, gate and up row by row */

typedef struct oss_part {
    const char *from, *to; /* after "experts." */
    uint32_t step, phase, dims;
    bool codes;
} oss_part;

static const oss_part oss_parts[] = {
    {"gate_up_proj_blocks", "gate_proj.weight", 2, 0, 4, true},
    {"gate_up_proj_blocks", "up_proj.weight", 2, 1, 4, true},
    {"gate_up_proj_scales", "gate_proj.scales", 2, 0, 3, false},
    {"gate_up_proj_scales", "up_proj.scales", 2, 1, 3, false},
    {"gate_up_proj_bias", "gate_proj.bias", 2, 0, 2, false},
    {"gate_up_proj_bias", "up_proj.bias", 2, 1, 2, false},
    {"down_proj_blocks", "down_proj.weight", 1, 0, 4, true},
    {"down_proj_scales", "down_proj.scales", 1, 0, 3, false},
    {"down_proj_bias", "down_proj.bias", 1, 0, 2, false},
};
#define N_OSS_PARTS (sizeof oss_parts / sizeof *oss_parts)

static lm_status plan_oss_part(planner *b, const oss_part *part, const char *name, size_t stem,
                               const lm_view *v) {
    char out[NAME_BYTES];
    bool fits = v->n_dims == part->dims && v->dims[1] % part->step == 0 && v->dims[1] > 0 &&
                (part->dims == 2 ? is_float(v->dtype) : v->dtype == LM_U8) &&
                (!part->codes || v->dims[3] == 16);
    if (!fits) return lm_fail(b->err, LM_CORRUPT, "tensor %s is not of the shape that gpt-oss has", name);
    snprintf(out, sizeof out, "%.*s%s", (int)stem, name, part->to);
    lm_convert_item *it = add_item(b, out, 1);
    it->parts[0] = *v;
    it->step = part->step;
    it->phase = part->phase;
    take_shape(it, v, 0);
    it->dims[1] /= part->step;
    if (part->codes) { /* the groups of a row lie behind each other: a row of words */
        it->n_dims = 3;
        it->dims[2] = v->dims[2] * v->dims[3];
        it->written = LM_U32;
    }
    lm_status st = finish_item(b, it);
    if (part->dims == 2) { /* a bias: its numbers are taken apart, not its rows */
        it->rows *= it->cols;
        it->cols = 1;
    }
    b->p->needed = true;
    return st;
}

/* *known: it is one of those. */
static lm_status plan_oss(planner *b, const char *name, const lm_view *v, bool *known) {
    const char *at = strstr(name, ".mlp.experts.");
    lm_status st = LM_OK;
    *known = false;
    for (size_t i = 0; at && st == LM_OK && i < N_OSS_PARTS; i++) {
        if (strcmp(at + 13, oss_parts[i].from) != 0) continue;
        *known = true;
        st = plan_oss_part(b, &oss_parts[i], name, (size_t)(at + 13 - name), v);
    }
    if (at && !*known && (!strcmp(at + 13, "gate_up_proj") || !strcmp(at + 13, "down_proj")))
        return lm_fail(
            b->err, LM_UNSUPPORTED,
            "tensor %s: gpt-oss's experts are known as they were released, packed as MXFP4, not as numbers",
            name);
    return st;
}

/* ---- all of them */

static lm_status plan_tensor(planner *b, const char *name, const lm_view *v) {
    char out[NAME_BYTES], stack[NAME_BYTES];
    lm_str before, after;
    uint32_t number;
    if (strlen(name) >= NAME_BYTES)
        return lm_fail(b->err, LM_UNSUPPORTED, "tensor %.60s...: the name is longer than any known model's",
                       name);
    if (!rename_tensor(b, name, out)) return LM_OK;
    if (!strcmp(b->rules.type, "gpt_oss")) {
        bool known;
        lm_status st = plan_oss(b, name, v, &known);
        if (known || st != LM_OK) return st;
    }
    if (expert_of(out, &number, &before, &after, stack)) {
        b->experts++;
        return number == 0 ? plan_stack(b, stack, before, after) : LM_OK;
    }
    if (strcmp(out, name) != 0) b->p->needed = true;
    return plan_plain(b, out, v);
}

static void note_type(uint64_t numbers[3], const lm_view *v) {
    if (is_float(v->dtype)) numbers[v->dtype] += v->bytes / lm_dtype_size(v->dtype);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Two tensors may have one name in MLX. */
static lm_status names_differ(const lm_convert_plan *p, lm_err *err) {
    lm_status st = LM_OK;
    const char **names = lm_try_alloc(p->n + 1, sizeof *names);
    if (!names) return lm_fail(err, LM_NO_MEMORY, "no memory for %u names", p->n);
    for (uint32_t i = 0; i < p->n; i++) names[i] = p->items[i].name;
    qsort(names, p->n, sizeof *names, by_text);
    for (uint32_t i = 1; i < p->n && st == LM_OK; i++)
        if (!strcmp(names[i - 1], names[i]))
            st = lm_fail(err, LM_CORRUPT, "two tensors would both become %s", names[i]);
    free(names);
    return st;
}

static lm_status plan_all(planner *b) {
    lm_convert_plan *p = b->p;
    uint64_t numbers[3] = {0}; /* LM_F32, LM_F16, LM_BF16 */
    uint32_t n = lm_weights_count(p->source);
    lm_status st = n <= MAX_TENSORS
                       ? LM_OK
                       : lm_fail(b->err, LM_UNSUPPORTED, "%u tensors are more than any known model has", n);
    if (st == LM_OK)
        p->items = lm_try_alloc(2 * (size_t)n + 1, sizeof *p->items); /* gate and up come from one */
    if (st == LM_OK && !p->items) st = lm_fail(b->err, LM_NO_MEMORY, "no memory for %u tensors", n);
    for (uint32_t i = 0; i < n && st == LM_OK; i++) {
        lm_view v;
        const char *name = lm_weights_name(p->source, i, &v);
        note_type(numbers, &v);
        st = plan_tensor(b, name, &v);
    }
    if (st == LM_OK && b->experts != b->stacked)
        st = lm_fail(
            b->err, LM_CORRUPT,
            "%llu tensors belong to single experts, %llu of them to experts numbered from 0 without gaps",
            (unsigned long long)b->experts, (unsigned long long)b->stacked);
    if (st == LM_OK) st = names_differ(p, b->err);
    for (lm_dtype t = LM_F32; t <= LM_BF16; t++)
        if (numbers[t] > numbers[p->mostly]) p->mostly = t;
    return st;
}

static bool has_scales(const lm_weights *w) {
    for (uint32_t i = 0; i < lm_weights_count(w); i++)
        if (ends(lm_weights_name(w, i, NULL), ".scales")) return true;
    return false;
}

/* Ollama's words first. */
static lm_status refuse_quantised(const char *name, lm_err *err) {
    return lm_fail(err, LM_INVALID,
                   "quantization is only supported for F16 and F32 models (and BF16): this one is quantised "
                   "already, %s would "
                   "lose twice. Create from the unquantised model",
                   name);
}

/* What MLX has to read where config.json says nothing: the shapes say it, as with Ollama's models in tensors.
 * mlx-lm takes each matrix's form from its shapes then, but only where there is a "quantization" at all. */
static lm_status name_quantization(const planner *b, const char *dir) {
    lm_model_info info;
    lm_quant_spec q = {LM_QUANT_AFFINE, 0, 0};
    lm_status st = lm_model_inspect(dir, &info, b->err);
    if (st != LM_OK) return st;
    if (sscanf(info.quantization, "Q%u_G%u", &q.bits, &q.group) != 2)
        for (lm_quant k = LM_QUANT_MXFP4; k < LM_QUANT_KINDS; k++)
            if (lm_str_eq_nocase(lm_str_of(info.quantization), lm_str_of(lm_quant_mode(k))))
                q = lm_quant_float_spec(k);
    if (!lm_quant_known(q)) return LM_OK; /* most of it is not quantised: nothing to be named by */
    json_object_set_new(b->p->config, "quantization", lm_convert_spec_json(q));
    return LM_OK;
}

static lm_status read_config(planner *b, const char *dir, const lm_conversion *how) {
    lm_convert_plan *p = b->p;
    bool packed = false;
    char *path = lm_path_join(dir, "config.json");
    lm_status st = lm_json_load(path, MAX_CONFIG, &p->config, b->err);
    free(path);
    if (st == LM_OK && !json_is_object(p->config))
        st = lm_fail(b->err, LM_CORRUPT, "%s: config.json is not an object", dir);
    if (st == LM_OK) st = check_method(p->config, &packed, b->err);
    if (st != LM_OK) return st;

    const json_t *inner = json_object_get(p->config, "text_config");
    const json_t *tied = json_object_get(p->config, "tie_word_embeddings");
    const json_t *layers = json_object_get(p->config, "num_hidden_layers");
    if (!layers) layers = json_object_get(inner, "num_hidden_layers");
    if (!tied) tied = json_object_get(inner, "tie_word_embeddings");
    b->tied = json_is_true(tied) && !starts(text_of(p->config, "model_type"), "gemma3");
    b->rules = (lm_convert_rules){.how = how, .type = text_of(p->config, "model_type"), .every = packed};
    if (json_is_integer(layers) && json_integer_value(layers) > 0 && json_integer_value(layers) < 65536)
        b->rules.n_layers = (uint32_t)json_integer_value(layers);
    p->quantised = !packed && (json_object_get(p->config, "quantization") || has_scales(p->source));
    if (how && (p->quantised || (packed && how->quant.kind == LM_QUANT_NONE)))
        return refuse_quantised(how->name, b->err);
    choose_dtype(b, p->config, how);
    if (p->quantised && !json_object_get(p->config, "quantization")) return name_quantization(b, dir);

    lm_quant_spec usual = packed ? lm_quant_float_spec(LM_QUANT_MXFP4)
                          : how  ? how->quant
                                 : (lm_quant_spec){0};
    if (packed) json_object_del(p->config, "quantization_config");
    if (usual.kind != LM_QUANT_NONE) {
        b->rules.quantization = lm_convert_spec_json(usual);
        json_object_set_new(p->config, "quantization", b->rules.quantization);
    }
    return LM_OK;
}

/* What mlx-lm leaves out of it or adds to it. */
static void finish_config(planner *b, const lm_conversion *how) {
    json_t *config = b->p->config;
    json_object_del(config, "_name_or_path");
    json_object_del(config, "vision_config");
    if (how && how->quant.kind == LM_QUANT_NONE) set_dtype(config, how->dtype);
    if (b->rules.quantization)
        json_object_set(config, "quantization_config",
                        b->rules.quantization); /* the older name, for the hub */
}

lm_status lm_convert_plan_open(lm_convert_plan **out, const char *dir, const lm_conversion *how,
                               lm_err *err) {
    lm_convert_plan *p = lm_alloc(sizeof *p);
    planner b = {.p = p, .err = err};
    p->shard_max = UINT64_C(5) << 30; /* mlx-lm's */
    lm_status st = lm_weights_open(&p->source, dir, err);
    if (st == LM_OK) st = read_config(&b, dir, how);
    if (st == LM_OK) st = plan_all(&b);
    if (st != LM_OK) {
        lm_convert_plan_close(p);
        return st;
    }
    finish_config(&b, how);
    *out = p;
    return LM_OK;
}

void lm_convert_plan_close(lm_convert_plan *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->n; i++) {
        free(p->items[i].name);
        free(p->items[i].parts);
    }
    free(p->items);
    json_decref(p->config);
    lm_weights_close(p->source);
    free(p);
}
