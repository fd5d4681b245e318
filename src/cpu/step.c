/* A step and its plain ops. An op on little data runs on the calling thread: starting the others costs about
 * as much as a few thousand multiplications. */
#include "device.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define SMALL_FLOATS 8192 /* below this, one thread */
#define PIECE_FLOATS 4096

void lm_step_fail(lm_step *s, lm_status st, const char *format, ...) {
    if (s->failed) return;
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    s->failed = true;
    (void)lm_fail(&s->err, st, "%s", text);
}

static void *take(lm_step *s, lm_arena *arena, size_t bytes) {
    if (s->failed) return NULL;
    void *p = lm_arena_take(arena, bytes);
    if (!p)
        lm_step_fail(s, LM_NO_MEMORY, "no memory for %zu bytes of a step of %u rows; lower the batch", bytes,
                     s->n_rows);
    return p;
}

void *lm_step_take(lm_step *s, size_t bytes) {
    return take(s, &s->dev->layer_arena, bytes);
}
void *lm_step_take_kept(lm_step *s, size_t bytes) {
    return take(s, &s->dev->step_arena, bytes);
}

/* An activation's handle with what hangs on it, one block of memory. */
typedef struct handle {
    lm_tensor t;
    uint32_t version;
    lm_act *acts;
} handle;

static lm_tensor *tensor_in(lm_step *s, lm_arena *arena, uint32_t n_rows, uint32_t width) {
    handle *h = take(s, arena, sizeof *h);
    if (!h) return NULL;
    *h = (handle){.t = {.n_rows = n_rows, .width = width, .stride = width}};
    h->t.data = take(s, arena, (size_t)n_rows * width * sizeof(float));
    h->t.version = &h->version;
    h->t.acts = &h->acts;
    return h->t.data ? &h->t : NULL;
}

lm_tensor *lm_step_tensor(lm_step *s, uint32_t n_rows, uint32_t width) {
    return tensor_in(s, &s->dev->layer_arena, n_rows, width);
}

/* ---- begin and end --------------------------------------------------------------------------------------- */

lm_status lm_op_begin(lm_device *dev, const lm_slice *slices, uint32_t n_slices, const lm_flight *before,
                      lm_step **out, lm_err *err) {
    (void)before; /* this backend has none: everything is computed at once */
    if (dev->in_step) return lm_fail(err, LM_INTERNAL, "a step begins inside another");
    uint64_t n_rows = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        const lm_seq *seq = slices[i].seq;
        if (seq->kv != &dev->kv) return lm_fail(err, LM_INTERNAL, "a sequence of another device");
        if (!lm_kv_seq_ready(seq, slices[i].n_tokens))
            return lm_fail(
                err, LM_INVALID,
                "a step adds %u tokens to a sequence of %u that has no room for them: reserve first",
                slices[i].n_tokens, seq->len);
        for (uint32_t j = 0; j < i; j++)
            if (slices[j].seq == seq)
                return lm_fail(err, LM_INVALID, "a sequence takes part twice in a step");
        n_rows += slices[i].n_tokens;
    }
    if (n_rows > dev->max_batch)
        return lm_fail(err, LM_TOO_LARGE, "a step of %llu rows, the device was opened for %u",
                       (unsigned long long)n_rows, dev->max_batch);
    if (n_rows == 0) return lm_fail(err, LM_INVALID, "a step without tokens");

    lm_arena_reset(&dev->step_arena);
    lm_arena_reset(&dev->layer_arena);
    lm_step *s = &dev->step;
    *s = (lm_step){.dev = dev, .k = dev->k, .n_slices = n_slices, .n_rows = (uint32_t)n_rows};
    s->slices = lm_step_take_kept(s, n_slices * sizeof *s->slices);
    s->first_row = lm_step_take_kept(s, n_slices * sizeof *s->first_row);
    s->rows = lm_step_take_kept(s, n_rows * sizeof *s->rows);
    if (s->failed) return lm_fail(err, s->err.status, "%s", s->err.text);
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        s->slices[i] = slices[i];
        s->first_row[i] = row;
        slices[i].seq->in_step = true;
        for (uint32_t t = 0; t < slices[i].n_tokens; t++)
            s->rows[row++] = (lm_row){i, slices[i].seq->len + t};
    }
    dev->in_step = true;
    *out = s;
    return LM_OK;
}

lm_status lm_op_end(lm_step *s, bool abandon, lm_err *err) {
    for (uint32_t i = 0; i < s->n_slices; i++) {
        s->slices[i].seq->in_step = false;
        if (!s->failed && !abandon) s->slices[i].seq->len += s->slices[i].n_tokens;
    }
    s->dev->in_step = false;
    return s->failed ? lm_fail(err, s->err.status, "%s", s->err.text) : LM_OK;
}

/* ---- running over rows ----------------------------------------------------------------------------------- */

typedef struct rows_run {
    lm_rows_job *job;
    void *arg;
    uint32_t n_rows, per_piece;
} rows_run;

static void rows_piece(void *arg, uint32_t chunk, uint32_t thread) {
    const rows_run *r = arg;
    uint32_t row0 = chunk * r->per_piece;
    uint32_t row1 = r->n_rows - row0 < r->per_piece ? r->n_rows : row0 + r->per_piece;
    r->job(r->arg, row0, row1, thread);
}

void lm_run_rows(lm_device *dev, lm_rows_job *job, void *arg, uint32_t n_rows, size_t row_floats) {
    if (n_rows <= 1 || n_rows * row_floats <= SMALL_FLOATS) {
        if (n_rows) job(arg, 0, n_rows, 0);
        return;
    }
    uint32_t per_piece = (uint32_t)(PIECE_FLOATS / (row_floats + 1)) + 1;
    rows_run r = {job, arg, n_rows, per_piece};
    lm_pool_run(dev->pool, rows_piece, &r, (n_rows + per_piece - 1) / per_piece);
}

/* ---- prepared forms -------------------------------------------------------------------------------------- */

typedef struct prepare {
    const lm_kernels *k;
    const lm_tensor *x;
    lm_act *act;
} prepare;

static void prepare_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const prepare *p = arg;
    for (uint32_t r = row0; r < row1; r++)
        p->k->act_prepare(p->act->kind, p->x->data + r * p->x->stride, p->x->width,
                          p->act->rows + r * p->act->stride);
}

const lm_act *lm_step_acts(lm_step *s, const lm_tensor *x, uint32_t kind) {
    lm_act *act = *x->acts;
    while (act && act->kind != kind) act = act->next;
    if (act && act->version == *x->version) return act;
    if (!act) {
        act = lm_step_take(s, sizeof *act);
        if (!act) return NULL;
        *act = (lm_act){.kind = kind, .stride = s->k->act_bytes(kind, x->width)};
        act->rows = lm_step_take(s, x->n_rows * act->stride);
        if (!act->rows) return NULL;
        act->next = *x->acts;
        *x->acts = act;
    }
    act->version = *x->version;
    prepare p = {s->k, x, act};
    lm_run_rows(s->dev, prepare_rows, &p, x->n_rows, x->width);
    return act;
}

/* ---- plain ops ------------------------------------------------------------------------------------------- */

typedef struct plain {
    const lm_kernels *k;
    const lm_tensor *x, *y;
    lm_tensor *out;
    const float *weight, *bias;
    float eps, scale, cap;
} plain;

static void norm_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const plain *p = arg;
    for (uint32_t r = row0; r < row1; r++)
        p->k->rms_norm(p->x->data + r * p->x->stride, p->weight, p->x->width, p->eps,
                       p->out->data + r * p->out->stride);
}

lm_tensor *lm_op_rms_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, float eps) {
    if (s->failed) return NULL;
    if (weight && weight->n != x->width) {
        lm_step_fail(s, LM_INTERNAL, "a norm of %u elements over rows of %u", weight->n, x->width);
        return NULL;
    }
    lm_tensor *out = lm_step_tensor(s, x->n_rows, x->width);
    if (!out) return NULL;
    plain p = {.k = s->k, .x = x, .out = out, .weight = weight ? weight->data : NULL, .eps = eps};
    lm_run_rows(s->dev, norm_rows, &p, x->n_rows, x->width);
    return out;
}

static void layer_norm_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const plain *p = arg;
    for (uint32_t r = row0; r < row1; r++)
        p->k->layer_norm(p->x->data + r * p->x->stride, p->weight, p->bias, p->x->width, p->eps,
                         p->out->data + r * p->out->stride);
}

lm_tensor *lm_op_layer_norm(lm_step *s, const lm_tensor *x, const lm_vector *weight, const lm_vector *bias,
                            float eps) {
    if (s->failed) return NULL;
    if (weight->n != x->width || bias->n != x->width) {
        lm_step_fail(s, LM_INTERNAL, "a norm of %u and %u elements over rows of %u", weight->n, bias->n,
                     x->width);
        return NULL;
    }
    lm_tensor *out = lm_step_tensor(s, x->n_rows, x->width);
    if (!out) return NULL;
    plain p = {.k = s->k, .x = x, .out = out, .weight = weight->data, .bias = bias->data, .eps = eps};
    lm_run_rows(s->dev, layer_norm_rows, &p, x->n_rows, x->width);
    return out;
}

lm_tensor *lm_op_columns(lm_step *s, const lm_tensor *x, uint32_t first, uint32_t width) {
    if (s->failed) return NULL;
    if (first > x->width || width > x->width - first || width == 0) {
        lm_step_fail(s, LM_INTERNAL, "columns %u to %u of %u", first, first + width, x->width);
        return NULL;
    }
    handle *h = lm_step_take(s, sizeof *h);
    if (!h) return NULL;
    *h = (handle){.t = *x};
    h->t.data = x->data + first;
    h->t.width = width;
    h->t.acts = &h->acts; /* other numbers than x's, though the same version */
    return &h->t;
}

lm_tensor *lm_op_rows(lm_step *s, const lm_tensor *x, const uint32_t *index, uint32_t n) {
    if (s->failed) return NULL;
    lm_tensor *out = lm_step_tensor(s, n, x->width);
    if (!out) return NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (index[i] >= x->n_rows) {
            lm_step_fail(s, LM_INTERNAL, "row %u of %u", index[i], x->n_rows);
            return NULL;
        }
        memcpy(out->data + i * out->stride, x->data + index[i] * x->stride, x->width * sizeof(float));
    }
    return out;
}

/* What goes on lies in the step arena and is added to in place, so that most calls copy nothing. */
lm_tensor *lm_op_keep(lm_step *s, lm_tensor *x) {
    if (s->failed) return NULL;
    lm_tensor *kept = s->kept;
    if (x != kept) {
        bool view = kept && x->version == kept->version;
        if (!kept || view || kept->n_rows != x->n_rows || kept->width != x->width) {
            kept = tensor_in(s, &s->dev->step_arena, x->n_rows, x->width);
            if (!kept) return NULL;
        }
        for (uint32_t r = 0; r < x->n_rows; r++)
            memcpy(kept->data + r * kept->stride, x->data + r * x->stride, x->width * sizeof(float));
        s->kept = kept;
    }
    *kept->acts = NULL; /* they lie in the layer arena */
    lm_arena_back(&s->dev->layer_arena, (lm_arena_mark){0});
    return kept;
}

static void add_rows(void *arg, uint32_t row0, uint32_t row1, uint32_t thread) {
    (void)thread;
    const plain *p = arg;
    for (uint32_t r = row0; r < row1; r++)
        p->k->add_scaled(p->out->data + r * p->out->stride, p->y->data + r * p->y->stride, p->scale,
                         p->out->width);
}

lm_tensor *lm_op_add(lm_step *s, lm_tensor *x, const lm_tensor *y, float scale) {
    if (s->failed) return NULL;
    if (x->n_rows != y->n_rows || x->width != y->width) {
        lm_step_fail(s, LM_INTERNAL, "a sum of (%u, %u) and (%u, %u)", x->n_rows, x->width, y->n_rows,
                     y->width);
        return NULL;
    }
    plain p = {.k = s->k, .y = y, .out = x, .scale = scale};
    lm_run_rows(s->dev, add_rows, &p, x->n_rows, x->width);
    ++*x->version;
    return x;
}

static void scale_run(float *x, uint32_t n, float scale, float cap) {
    if (scale != 1.0f)
        for (uint32_t i = 0; i < n; i++) x[i] *= scale;
    if (cap != 0)
        for (uint32_t i = 0; i < n; i++) x[i] = cap * tanhf(x[i] / cap);
}

#define SCALE_RUN 2048 /* floats of a piece: logits are one row of a quarter of a million */

static void scale_rows(void *arg, uint32_t run0, uint32_t run1, uint32_t thread) {
    (void)thread;
    const plain *p = arg;
    uint32_t per_row = (p->out->width + SCALE_RUN - 1) / SCALE_RUN;
    for (uint32_t i = run0; i < run1; i++) {
        uint32_t first = i % per_row * SCALE_RUN;
        uint32_t n = p->out->width - first < SCALE_RUN ? p->out->width - first : SCALE_RUN;
        scale_run(p->out->data + i / per_row * p->out->stride + first, n, p->scale, p->cap);
    }
}

lm_tensor *lm_op_scale(lm_step *s, lm_tensor *x, float scale, float cap) {
    if (s->failed) return NULL;
    if (scale == 1.0f && cap == 0) return x;
    plain p = {.out = x, .scale = scale, .cap = cap};
    uint32_t runs = x->n_rows * ((x->width + SCALE_RUN - 1) / SCALE_RUN);
    lm_run_rows(s->dev, scale_rows, &p, runs, cap != 0 ? SCALE_RUN * 4 : SCALE_RUN);
    ++*x->version;
    return x;
}

const float *lm_op_read(lm_step *s, const lm_tensor *x) {
    if (s->failed) return NULL;
    if (x->stride == x->width || x->n_rows <= 1) return x->data;
    lm_tensor *out = lm_step_tensor(s, x->n_rows, x->width);
    if (!out) return NULL;
    for (uint32_t r = 0; r < x->n_rows; r++)
        memcpy(out->data + r * out->stride, x->data + r * x->stride, x->width * sizeof(float));
    return out->data;
}
