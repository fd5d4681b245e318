/* Rotary embedding: the scalings of config.json folded into one inverse frequency per pair and one factor.
 *
 * Written after mlx-lm's rope_utils, which divides positions by frequencies: its freqs are 1 / inv_freq.
 * Sources: RoPE arXiv 2104.09864, YaRN arXiv 2309.00071, LongRoPE arXiv 2402.13753, llama3: Llama 3.1's own
 * release. */
#include "model/config.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

/* ---- reading */

static lm_status read_factors(lm_rope_spec *spec, const json_t *scaling, lm_err *err) {
    const json_t *list = json_object_get(scaling, "long_factor");
    uint32_t n = spec->n_dims / 2;

    if (json_is_array(list) && json_array_size(list) != n)
        return lm_fail(err, LM_CORRUPT, "long_factor holds %zu numbers, the model needs %u",
                       json_array_size(list), n);
    for (uint32_t i = 0; i < n; i++) {
        const json_t *v = json_is_array(list) ? json_array_get(list, i) : list;
        double f = json_is_number(v) ? json_number_value(v) : NAN;
        if (!(f >= 1e-3 && f <= 1e6))
            return lm_fail(err, LM_CORRUPT, "long_factor must hold numbers between 0.001 and 1000000");
        spec->long_factor[i] = (float)f;
    }
    return LM_OK;
}

static lm_status kind_of(const json_t *scaling, lm_rope_kind *out, lm_err *err) {
    static const struct {
        const char *name;
        lm_rope_kind kind;
    } kinds[] = {
        {"default", LM_ROPE_PLAIN}, {"mrope", LM_ROPE_PLAIN},     {"linear", LM_ROPE_LINEAR},
        {"llama3", LM_ROPE_LLAMA3}, {"yarn", LM_ROPE_YARN},       {"longrope", LM_ROPE_LONG},
        {"su", LM_ROPE_LONG},       {"dynamic", LM_ROPE_DYNAMIC}, {"proportional", LM_ROPE_PROPORTIONAL},
    };
    const json_t *v = json_object_get(scaling, "type");
    if (!v || json_is_null(v)) v = json_object_get(scaling, "rope_type");
    if (!v || json_is_null(v)) {
        *out = LM_ROPE_PLAIN;
        return LM_OK;
    }
    if (!json_is_string(v)) return lm_fail(err, LM_CORRUPT, "rope_scaling: type must be a string");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(json_string_value(v), kinds[i].name)) {
            *out = kinds[i].kind;
            return LM_OK;
        }
    }
    return lm_fail(err, LM_UNSUPPORTED,
                   "rope scaling \"%.40s\" is not known; known are default, linear, dynamic, llama3, yarn, "
                   "longrope (su) and proportional",
                   json_string_value(v));
}

lm_status lm_rope_read(lm_rope_spec *spec, const json_t *scaling, uint32_t n_ctx_old, lm_err *err) {
    spec->kind = LM_ROPE_PLAIN;
    spec->n_ctx_old = n_ctx_old;
    if (!scaling) return LM_OK;
    lm_status st = kind_of(scaling, &spec->kind, err);
    if (st != LM_OK || spec->kind == LM_ROPE_PLAIN) return st;

    lm_reader r = {.o = scaling, .err = err};
    if (spec->kind != LM_ROPE_LONG) {
        double absent = spec->kind == LM_ROPE_PROPORTIONAL ? 1 : (double)NAN;
        spec->factor = lm_read_number(&r, "factor", 1e-3, 1e6, absent);
    }
    uint32_t old = spec->kind == LM_ROPE_LLAMA3 ? 8192 : spec->kind == LM_ROPE_YARN ? 4096 : n_ctx_old;
    spec->n_ctx_old = lm_read_u32(&r, "original_max_position_embeddings", 2, LM_MAX_CONTEXT, old);
    if (spec->kind == LM_ROPE_LLAMA3) {
        spec->low_freq = lm_read_number(&r, "low_freq_factor", 1e-3, 1e6, 1);
        spec->high_freq = lm_read_number(&r, "high_freq_factor", 1e-3, 1e6, 4);
        if (r.st == LM_OK && spec->high_freq <= spec->low_freq)
            r.st = lm_fail(err, LM_CORRUPT, "high_freq_factor must be above low_freq_factor");
    } else if (spec->kind == LM_ROPE_YARN) {
        spec->beta_fast = lm_read_number(&r, "beta_fast", 1e-3, 1e6, 32);
        spec->beta_slow = lm_read_number(&r, "beta_slow", 1e-3, 1e6, 1);
        spec->mscale = lm_read_number(&r, "mscale", 0, 1e3, 1);
        spec->mscale_all_dim = lm_read_number(&r, "mscale_all_dim", 0, 1e3, 0);
        if (r.st == LM_OK && spec->base <= 1) r.st = lm_fail(err, LM_CORRUPT, "rope_theta must be above 1");
    } else if (spec->kind == LM_ROPE_PROPORTIONAL) {
        double part = lm_read_number(&r, "partial_rotary_factor", 0, 1, 1);
        spec->n_rotated = (uint32_t)(part * spec->n_dims) & ~1u;
    } else if (spec->kind == LM_ROPE_LONG && r.st == LM_OK) {
        r.st = read_factors(spec, scaling, err);
    }
    if (r.st != LM_OK) return lm_fail_in(err, r.st, "rope_scaling");
    return LM_OK;
}

/* ---- making */

static double yarn_mscale(double scale, double mscale) {
    return scale <= 1 ? 1 : 0.1 * mscale * log(scale) + 1;
}

/* The dimension at which a position turns n_rotations times within the original context. */
static double yarn_dim(const lm_rope_spec *s, double n_rotations) {
    return s->n_dims * log(s->n_ctx_old / (n_rotations * 2 * PI)) / (2 * log(s->base));
}

static void make_yarn(const lm_rope_spec *s, float *inv_freq, lm_rope *out) {
    double low = fmax(floor(yarn_dim(s, s->beta_fast)), 0);
    double high = fmin(ceil(yarn_dim(s, s->beta_slow)), s->n_dims - 1);
    if (low == high) high += 0.001;

    for (uint32_t i = 0; i < s->n_dims / 2; i++) {
        double plain = pow(s->base, -2.0 * i / s->n_dims);
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1); /* 0: keep, 1: stretch by factor */
        inv_freq[i] = (float)(plain * (1 - ramp) + plain / s->factor * ramp);
    }
    out->mscale = (float)(yarn_mscale(s->factor, s->mscale) / yarn_mscale(s->factor, s->mscale_all_dim));
}

/* Low frequencies stretched by factor, high ones kept, a ramp between. */
static double llama3_freq(const lm_rope_spec *s, double inv_freq) {
    double wave = 2 * PI / inv_freq;
    if (wave > s->n_ctx_old / s->low_freq) return inv_freq / s->factor;
    if (wave <= s->n_ctx_old / s->high_freq) return inv_freq;
    double smooth = (s->n_ctx_old / wave - s->low_freq) / (s->high_freq - s->low_freq);
    return inv_freq * ((1 - smooth) / s->factor + smooth);
}

/* NTK-aware: beyond the trained context the base grows with the length; here with the longest that is asked
 * for. */
static double dynamic_base(const lm_rope_spec *s, uint32_t n_ctx) {
    if (n_ctx <= s->n_ctx || s->n_dims <= 2) return s->base;
    double grown = s->factor * n_ctx / s->n_ctx - (s->factor - 1);
    return s->base * pow(fmax(grown, 1), s->n_dims / (s->n_dims - 2.0));
}

void lm_rope_make(const lm_rope_spec *s, uint32_t n_ctx, float *inv_freq, lm_rope *out) {
    double base = s->kind == LM_ROPE_DYNAMIC ? dynamic_base(s, n_ctx) : s->base;
    *out = (lm_rope){.n_dims = s->n_dims, .interleaved = s->interleaved, .inv_freq = inv_freq, .mscale = 1};

    for (uint32_t i = 0; i < s->n_dims / 2; i++) {
        double f = pow(base, -2.0 * i / s->n_dims);
        if (s->kind == LM_ROPE_LINEAR) f /= s->factor;
        if (s->kind == LM_ROPE_LLAMA3) f = llama3_freq(s, f);
        if (s->kind == LM_ROPE_LONG) f /= s->long_factor[i];
        if (s->kind == LM_ROPE_PROPORTIONAL) f = i < s->n_rotated / 2 ? f / s->factor : 0;
        inv_freq[i] = (float)f;
    }
    if (s->kind == LM_ROPE_YARN) make_yarn(s, inv_freq, out);
    if (s->kind == LM_ROPE_LONG && s->n_ctx > s->n_ctx_old)
        out->mscale = (float)sqrt(1 + log((double)s->n_ctx / s->n_ctx_old) / log(s->n_ctx_old));
}
