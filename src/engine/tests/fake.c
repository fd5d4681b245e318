/* fake.c - see fake.h. */
#include "engine/tests/fake.h"

#include <jansson.h>
#include <math.h>

fake_world fake;

void fake_reset(void) {
    assert_all_gone();
    bool ahead = fake.ahead;
    memset(&fake, 0, sizeof(fake));
    fake.ahead = ahead;
    fake.ctx_train = 100000;
    fake.n_pages = 100000;
    fake.small = 1u << 20;
    fake.big = 100u << 20;
}

static bool strikes(atomic_int *counter) {
    return atomic_load(counter) > 0 && atomic_fetch_sub(counter, 1) == 1;
}

/* ---- keys and values: pages of tokens, shared by reference */

typedef struct page {
    atomic_uint refs;
    int32_t ids[FAKE_PAGE];
} page;

struct lm_device {
    uint32_t used, total;
};

struct lm_seq {
    lm_device *dev;
    page **pages;
    uint32_t n_pages, room, n;
    bool lost; /* a flight that wrote it has failed */
};

static lm_status page_new(lm_device *d, page **out, lm_err *err) {
    if (d->used == d->total) return lm_fail(err, LM_BUSY, "no free pages");
    d->used++;
    atomic_fetch_add(&fake.n_pages_used, 1);
    *out = lm_alloc(sizeof(page));
    atomic_init(&(*out)->refs, 1);
    return LM_OK;
}

static void page_unref(lm_device *d, page *p) {
    if (atomic_fetch_sub(&p->refs, 1) != 1) return;
    d->used--;
    atomic_fetch_sub(&fake.n_pages_used, 1);
    free(p);
}

static void seq_push_page(lm_seq *s, page *p) {
    if (s->n_pages == s->room) {
        s->room = s->room * 2 + 4;
        s->pages = lm_realloc(s->pages, s->room * sizeof(*s->pages));
    }
    s->pages[s->n_pages++] = p;
}

static lm_status fake_seq_open(lm_device *d, lm_seq **out, lm_err *err) {
    if (strikes(&fake.fail_seq_open)) return lm_fail(err, LM_NO_MEMORY, "injected: no sequence");
    *out = lm_alloc(sizeof(lm_seq));
    (*out)->dev = d;
    atomic_fetch_add(&fake.n_seqs_open, 1);
    return LM_OK;
}

static void fake_seq_trim(lm_seq *s, uint32_t n) {
    LM_ASSERT(n <= s->n);
    s->n = n;
    while (s->n_pages > (n + FAKE_PAGE - 1) / FAKE_PAGE) page_unref(s->dev, s->pages[--s->n_pages]);
}

static void fake_seq_close(lm_seq *s) {
    if (!s) return;
    fake_seq_trim(s, 0);
    free(s->pages);
    free(s);
    atomic_fetch_sub(&fake.n_seqs_open, 1);
}

static uint32_t fake_seq_len(const lm_seq *s) {
    return s->n;
}

static lm_status fake_seq_fork(lm_seq *src, uint32_t n, lm_seq **out, lm_err *err) {
    LM_ASSERT(n <= src->n);
    if (src->lost) return lm_fail(err, LM_INTERNAL, "injected: lost");
    if (strikes(&fake.fail_fork)) return lm_fail(err, LM_BUSY, "injected: no fork");
    lm_seq *s = NULL;
    lm_status st = fake_seq_open(src->dev, &s, err);
    if (st != LM_OK) return st;
    for (uint32_t i = 0; i < n / FAKE_PAGE; i++) {
        atomic_fetch_add(&src->pages[i]->refs, 1);
        seq_push_page(s, src->pages[i]);
    }
    if (n % FAKE_PAGE) {
        page *p = NULL;
        st = page_new(src->dev, &p, err);
        if (st != LM_OK) {
            s->n = s->n_pages * FAKE_PAGE;
            fake_seq_close(s);
            return st;
        }
        memcpy(p->ids, src->pages[n / FAKE_PAGE]->ids, sizeof(p->ids));
        seq_push_page(s, p);
    }
    s->n = n;
    atomic_fetch_add(&fake.n_forks, 1);
    *out = s;
    return LM_OK;
}

static lm_status fake_seq_reserve(lm_seq *s, uint32_t n, lm_err *err) {
    if (strikes(&fake.fail_reserve)) return lm_fail(err, LM_INTERNAL, "injected: reserve");
    if (strikes(&fake.busy_reserve)) atomic_store(&fake.busy_for, 3);
    if (atomic_load(&fake.busy_for) > 0) {
        atomic_fetch_sub(&fake.busy_for, 1);
        return lm_fail(err, LM_BUSY, "injected: busy");
    }
    uint32_t last = s->n / FAKE_PAGE;
    if (s->n % FAKE_PAGE && atomic_load(&s->pages[last]->refs) > 1) { /* trimmed into a shared page */
        page *p = NULL;
        lm_status st = page_new(s->dev, &p, err);
        if (st != LM_OK) return st;
        memcpy(p->ids, s->pages[last]->ids, sizeof(p->ids));
        page_unref(s->dev, s->pages[last]);
        s->pages[last] = p;
    }
    while (s->n_pages * FAKE_PAGE < s->n + n) {
        page *p = NULL;
        lm_status st = page_new(s->dev, &p, err);
        if (st != LM_OK) return st;
        seq_push_page(s, p);
    }
    return LM_OK;
}

static void fake_memory(const lm_device *d, lm_memory *out) {
    *out = (lm_memory){.weights = fake.small, .kv = d->used, .kv_room = 1000, .scratch = 24};
}

static void fake_idle(lm_device *d) {
    LM_ASSERT(d);
    atomic_fetch_add(&fake.n_idle, 1);
}

static void fake_info(lm_backend_info *out) {
    *out = (lm_backend_info){.device = "nothing", .gpu = fake.gpu, .max_batch = fake.max_batch};
}

const lm_backend fake_backend = {
    .info = fake_info,
    .name = "cpu",
    .memory = fake_memory,
    .idle = fake_idle,
    .seq_open = fake_seq_open,
    .seq_close = fake_seq_close,
    .seq_len = fake_seq_len,
    .seq_trim = fake_seq_trim,
    .seq_fork = fake_seq_fork,
    .seq_reserve = fake_seq_reserve,
};

/* ---- the model */

struct lm_model {
    lm_device dev;
    lm_model_info info;
    lm_model_config config;
    float *logits, *states;
    lm_flight *flights; /* FLIGHTS of them */
    lm_scratch scratch;
};

/* A step on its way: it is computed at once, but its tokens are told to nobody who doesn't wait. */
struct lm_flight {
    bool used, chosen, told, broken;
    uint32_t n_out;
    float *logits;     /* (n_parallel, FAKE_VOCAB) */
    int32_t *ids;      /* (n_parallel) */
    lm_picked *picked; /* (n_parallel) */
};
enum { FLIGHTS = 2 };

lm_status lm_model_inspect(const char *dir, lm_model_info *out, lm_err *err) {
    if (atomic_load(&fake.missing)) return lm_fail(err, LM_NOT_FOUND, "%s: no such directory", dir);
    *out = (lm_model_info){.n_vocab = FAKE_VOCAB, .n_ctx_train = fake.ctx_train, .width = FAKE_WIDTH};
    out->encoder = fake.encoder;
    out->embedding.pooling = fake.pooling ? fake.pooling : LM_POOL_LAST;
    out->embedding.n_max = fake.embed_max;
    if (fake.no_embeddings) strcpy(out->embedding.problem, fake.no_embeddings);
    return LM_OK;
}

lm_status lm_model_need_of(const lm_backend *b, const char *dir, const lm_model_config *c, lm_model_need *out,
                           lm_err *err) {
    LM_ASSERT(b == &fake_backend);
    (void)err;
    (void)c;
    atomic_fetch_add(&fake.n_estimates, 1);
    *out = (lm_model_need){.weights = strstr(dir, "big") ? fake.big : fake.small};
    return LM_OK;
}

lm_status lm_model_open(lm_model **out, const lm_backend *b, const char *dir, const lm_model_config *config,
                        lm_err *err) {
    LM_ASSERT(b == &fake_backend);
    atomic_fetch_add(&fake.n_loads, 1);
    if (fake.load_hook) fake.load_hook();
    if (strikes(&fake.fail_load)) return lm_fail(err, LM_CORRUPT, "%s: injected: load", dir);
    lm_model *m = lm_alloc(sizeof(*m));
    lm_status st = lm_model_inspect(dir, &m->info, err);
    if (st != LM_OK) {
        free(m);
        return st;
    }
    m->config = *config;
    m->dev.total = fake.n_pages;
    m->logits = lm_alloc(config->n_parallel * FAKE_VOCAB * sizeof(float));
    m->states = lm_alloc((config->max_batch + config->n_ctx) * FAKE_WIDTH * sizeof(float));
    m->flights = lm_alloc(FLIGHTS * sizeof(*m->flights));
    for (int i = 0; i < FLIGHTS; i++) {
        lm_flight *f = &m->flights[i];
        f->logits = lm_alloc(config->n_parallel * FAKE_VOCAB * sizeof(float));
        f->ids = lm_alloc(config->n_parallel * sizeof(*f->ids));
        f->picked = lm_alloc(config->n_parallel * sizeof(*f->picked));
    }
    LM_ASSERT(lm_scratch_init(&m->scratch, FAKE_VOCAB, err) == LM_OK);
    atomic_fetch_add(&fake.n_models_open, 1);
    *out = m;
    return LM_OK;
}

void lm_model_close(lm_model *m) {
    if (!m) return;
    LM_ASSERT(m->dev.used == 0);
    for (int i = 0; i < FLIGHTS; i++) {
        LM_ASSERT(!m->flights[i].used);
        free(m->flights[i].logits);
        free(m->flights[i].ids);
        free(m->flights[i].picked);
    }
    free(m->flights);
    lm_scratch_release(&m->scratch);
    free(m->logits);
    free(m->states);
    free(m);
    atomic_fetch_sub(&fake.n_models_open, 1);
}

const lm_model_info *lm_model_get_info(const lm_model *m) {
    return &m->info;
}

const lm_backend *lm_model_backend(const lm_model *m) {
    (void)m;
    return &fake_backend;
}

lm_device *lm_model_device(const lm_model *m) {
    return (lm_device *)(uintptr_t)&m->dev;
}

lm_split lm_model_split(const lm_model *m) {
    (void)m;
    return LM_SPLIT_TENSOR;
}

lm_status lm_model_seq_open(lm_model *m, lm_seq **out, lm_err *err) {
    return fake_seq_open(&m->dev, out, err);
}

void lm_model_idle(lm_model *m) {
    fake_idle(&m->dev);
}

void lm_model_seq_close(lm_model *m, lm_seq *seq) {
    (void)m;
    fake_seq_close(seq);
}

void lm_model_seq_trim(lm_model *m, lm_seq *seq, uint32_t n_tokens) {
    (void)m;
    fake_seq_trim(seq, n_tokens);
}

lm_status lm_model_seq_fork(lm_model *m, lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err) {
    (void)m;
    return fake_seq_fork(src, n_tokens, out, err);
}

static int32_t seq_id(const lm_seq *s, uint32_t i) {
    return s->pages[i / FAKE_PAGE]->ids[i % FAKE_PAGE];
}

static int32_t scripted(const lm_seq *s, uint32_t n) {
    uint32_t at = 0;
    while (at < n && seq_id(s, at) != '>') at++;
    if (at == n) return FAKE_EOS;
    uint32_t k = n - at - 1;
    size_t len = strlen(fake.script);
    const char *again = strchr(fake.script, 3);
    if (again && k >= (uint32_t)(again - fake.script)) return again[-1];
    if (k >= len) return FAKE_EOS;
    if (fake.script[k] == 1) return FAKE_THINK;
    if (fake.script[k] == 2) return FAKE_UNTHINK;
    return (uint8_t)fake.script[k];
}

/* The row after token n - 1 of s: depends on every token before. */
static void compute_row(const lm_seq *s, uint32_t n, float *out) {
    uint64_t h = 1469598103934665603u;
    for (uint32_t i = 0; i < n; i++) h = (h ^ (uint64_t)(seq_id(s, i) + 1)) * 1099511628211u;
    for (uint32_t i = 0; i < FAKE_VOCAB; i++) {
        uint64_t x = (h + i * 0x9e3779b97f4a7c15u);
        x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
        x ^= x >> 29;
        float noise = (float)(x % 1000) / 250.0f;
        bool letter = i >= 'a' && i <= 'z';
        out[i] = (letter ? 2.0f : -20.0f) + noise;
    }
    if (fake.script) out[scripted(s, n)] = 60.0f;
    if (strikes(&fake.nan_at)) {
        for (uint32_t i = 0; i < FAKE_VOCAB; i++) out[i] = NAN;
    }
}

static uint64_t add_to_hash(uint64_t h, int32_t id) {
    return (h ^ (uint64_t)(id + 1)) * 1099511628211u;
}

static void state_of_hash(uint64_t h, float *out) {
    for (uint32_t i = 0; i < FAKE_WIDTH; i++) {
        uint64_t x = (h ^ (h >> 29)) + i * 0x9e3779b97f4a7c15u;
        x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
        out[i] = (float)((x >> 40) % 2001) / 1000.0f - 1.0f;
    }
}

void fake_state(const char *bytes, uint32_t n, float out[FAKE_WIDTH]) {
    uint64_t h = 7;
    for (uint32_t i = 0; i < n; i++) h = add_to_hash(h, (uint8_t)bytes[i]);
    state_of_hash(h, out);
}

/* The state of token n - 1 of s: depends on every token before, too. */
static void compute_state(const lm_seq *s, uint32_t n, float *out) {
    uint64_t h = 7;
    for (uint32_t i = 0; i < n; i++) h = add_to_hash(h, seq_id(s, i));
    state_of_hash(h, out);
    if (strikes(&fake.nan_at)) out[0] = NAN;
}

static void most(atomic_uint *a, uint32_t v) {
    if (v > atomic_load(a)) atomic_store(a, v);
}

/* Tokens of a flight that nobody has read yet are taken from it. */
static lm_status run(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                     const uint32_t *out_rows, uint32_t n_out, const lm_flight *before, float *logits,
                     float *states, lm_err *err) {
    uint32_t n_rows = 0, out = 0;
    uint32_t n_step = atomic_fetch_add(&fake.n_steps, 1) + 1;
    if (fake.step_hook) fake.step_hook(n_step);
    for (uint32_t i = 0; i < n_slices; i++) n_rows += slices[i].n_tokens;
    uint32_t most_rows = m->info.encoder && m->config.n_ctx > m->config.max_batch ? m->config.n_ctx : m->config.max_batch;
    LM_ASSERT(n_slices > 0 && n_rows <= most_rows && (states || !m->info.encoder));
    for (uint32_t i = 0; i < n_slices; i++) LM_ASSERT(!m->info.encoder || slices[i].seq->n == 0);
    LM_ASSERT(states || (n_slices <= m->config.n_parallel && n_out <= n_slices));
    if (strikes(&fake.fail_step)) return lm_fail(err, LM_INTERNAL, "injected: step");
    for (uint32_t i = 0; i < n_slices; i++)
        if (slices[i].seq->lost) return lm_fail(err, LM_INTERNAL, "injected: lost");
    atomic_fetch_add(&fake.n_rows, n_rows);
    most(&fake.most_rows, n_rows);
    most(&fake.most_slices, n_slices);
    uint32_t row = 0;
    for (uint32_t i = 0; i < n_slices; i++) {
        lm_seq *s = slices[i].seq;
        for (uint32_t k = 0; k < i; k++) LM_ASSERT(slices[k].seq != s);
        for (uint32_t t = 0; t < slices[i].n_tokens; t++, row++) {
            int32_t id = tokens[row];
            if (id < 0) {
                LM_ASSERT(before && before->chosen && LM_FROM_BEFORE(id) < (int32_t)before->n_out);
                id = before->ids[LM_FROM_BEFORE(id)];
            }
            LM_ASSERT(id >= 0 && id < FAKE_VOCAB);
            LM_ASSERT(s->n / FAKE_PAGE < s->n_pages); /* room was reserved */
            LM_ASSERT(s->n < m->config.n_ctx);
            page *p = s->pages[s->n / FAKE_PAGE];
            LM_ASSERT(atomic_load(&p->refs) == 1); /* a shared page is never written */
            p->ids[s->n++ % FAKE_PAGE] = id;
            if (out == n_out || out_rows[out] != row) continue;
            if (states)
                compute_state(s, s->n, states + out++ * FAKE_WIDTH);
            else
                compute_row(s, s->n, logits + out++ * FAKE_VOCAB);
        }
    }
    LM_ASSERT(out == n_out);
    return LM_OK;
}

lm_status lm_model_step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                        const uint32_t *out_rows, uint32_t n_out, const float **logits, lm_err *err) {
    *logits = m->logits;
    return run(m, slices, n_slices, tokens, out_rows, n_out, NULL, m->logits, NULL, err);
}

lm_status lm_model_states(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                          const uint32_t *out_rows, uint32_t n_out, const float **states, lm_err *err) {
    *states = n_out ? m->states : NULL;
    return run(m, slices, n_slices, tokens, out_rows, n_out, NULL, NULL, m->states, err);
}

/* ---- the same, ahead */

bool lm_model_computes_ahead(const lm_model *m) {
    (void)m;
    return fake.ahead;
}

/* The engine's own sampler with the numbers of an order. */
static void choose(lm_model *m, lm_flight *f, uint32_t i, const lm_pick *how, const lm_flight *before) {
    const float *row = f->logits + i * FAKE_VOCAB;
    lm_options o;
    lm_options_default(&o);
    o.temperature = how->temperature;
    o.top_k = how->top_k;
    o.top_p = how->top_p;
    o.min_p = how->min_p;
    o.typical_p = how->typical_p;
    o.repeat_penalty = how->repeat_penalty;
    o.presence_penalty = how->presence_penalty;
    o.frequency_penalty = how->frequency_penalty;
    o.repeat_last_n = (int32_t)how->n_recent;
    lm_sampler s;
    lm_sampler_init(&s, &o, 0);
    int32_t recent[256];
    LM_ASSERT(how->n_recent <= 256);
    for (uint32_t k = 0; k < how->n_recent; k++) {
        recent[k] = how->recent[k];
        if (recent[k] < 0) recent[k] = before->ids[LM_FROM_BEFORE(recent[k])];
    }
    lm_err err;
    lm_picked *p = &f->picked[i];
    *p = (lm_picked){.best = 1};
    uint32_t n = 0;
    bool greedy = !(o.temperature > 0) || o.top_k == 1;
    lm_status st = greedy
                       ? lm_sampler_pick(&s, &m->scratch, row, recent, how->n_recent, how->mask, &p->id, &err)
                       : lm_sampler_filter(&s, &m->scratch, row, recent, how->n_recent, how->mask, &n, &err);
    if (st == LM_OK && !greedy) p->id = lm_sampler_draw(&m->scratch, n, (double)how->uniform);
    if (st != LM_OK) *p = (lm_picked){.best = -INFINITY};
    if (st == LM_OK && how->logprobs) lm_sampler_logprobs(&m->scratch, row, how->n_top, p);
    f->ids[i] = p->id;
}

lm_status lm_model_launch(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                          const uint32_t *out_rows, uint32_t n_out, const lm_flight *before,
                          const lm_pick *how, lm_flight **out, lm_err *err) {
    uint32_t at = 0;
    while (m->flights[at].used) LM_ASSERT(++at < FLIGHTS);
    lm_flight *f = &m->flights[at];
    lm_status st = run(m, slices, n_slices, tokens, out_rows, n_out, before, f->logits, NULL, err);
    if (st != LM_OK) return st;
    f->used = true;
    f->chosen = how || !n_out;
    f->told = f->broken = false;
    f->n_out = n_out;
    for (uint32_t i = 0; i < n_slices; i++) {
        f->broken = f->broken || slices[i].seq->lost;
    }
    for (uint32_t i = 0; how && i < n_out; i++) choose(m, f, i, &how[i], before);
    if (strikes(&fake.fail_wait)) {
        f->broken = true;
        for (uint32_t i = 0; i < n_slices; i++) slices[i].seq->lost = true;
    }
    atomic_fetch_add(&fake.n_flights, 1);
    *out = f;
    return LM_OK;
}

lm_status lm_model_pick(lm_model *m, lm_flight *f, const lm_pick *how, lm_err *err) {
    LM_ASSERT(f->used && !f->chosen);
    if (strikes(&fake.fail_pick)) return lm_fail(err, LM_INTERNAL, "injected: pick");
    for (uint32_t i = 0; i < f->n_out; i++) {
        for (uint32_t k = 0; k < how[i].n_recent; k++) LM_ASSERT(how[i].recent[k] >= 0);
        choose(m, f, i, &how[i], NULL);
    }
    f->chosen = true;
    return LM_OK;
}

lm_status lm_model_wait(lm_model *m, lm_flight *f, lm_picked *picked, lm_err *err) {
    (void)m;
    LM_ASSERT(f->used && f->chosen && !f->told);
    f->told = true;
    atomic_fetch_add(&fake.n_waits, 1);
    if (f->broken) return lm_fail(err, LM_INTERNAL, "injected: wait");
    memcpy(picked, f->picked, f->n_out * sizeof(*picked));
    return LM_OK;
}

void lm_model_flight_free(lm_model *m, lm_flight *f) {
    (void)m;
    LM_ASSERT(f->used);
    f->used = false;
}

/* ---- text */

struct lm_tokenizer {
    int unused;
};
static lm_tokenizer the_tokenizer;

void lm_tokens_release(lm_tokens *t) {
    free(t->ids);
    *t = (lm_tokens){0};
}

lm_status lm_tokens_add(lm_tokens *t, const int32_t *ids, uint32_t n, lm_err *err) {
    (void)err;
    if (t->n + n > t->room) {
        t->room = t->n + n + 64;
        t->ids = lm_realloc(t->ids, t->room * sizeof(*t->ids));
    }
    memcpy(t->ids + t->n, ids, n * sizeof(*ids));
    t->n += n;
    return LM_OK;
}

lm_status lm_tokenizer_encode(const lm_tokenizer *t, lm_str text, bool add_special, lm_tokens *out,
                              lm_err *err) {
    (void)t;
    lm_status st = LM_OK;
    int32_t bos = FAKE_BOS;
    if (add_special && fake.bos) st = lm_tokens_add(out, &bos, 1, err);
    for (size_t i = 0; i < text.len && st == LM_OK; i++) {
        int32_t id = (uint8_t)text.ptr[i];
        st = lm_tokens_add(out, &id, 1, err);
    }
    int32_t end = '$';
    if (add_special && fake.ends && st == LM_OK) st = lm_tokens_add(out, &end, 1, err);
    return st;
}

lm_str lm_tokenizer_bytes(const lm_tokenizer *t, int32_t id) {
    static char bytes[256];
    (void)t;
    if (id == FAKE_THINK) return LM_STR("<think>");
    if (id == FAKE_UNTHINK) return LM_STR("</think>");
    if (id < 0 || id > 255) return (lm_str){0};
    return (lm_str){&bytes[id], 1}; /* only the length is looked at */
}

int32_t lm_tokenizer_id(const lm_tokenizer *t, lm_str token) {
    (void)t;
    if (lm_str_eq(token, LM_STR("</think>"))) return FAKE_UNTHINK;
    return lm_str_eq(token, LM_STR("<think>")) ? FAKE_THINK : -1;
}

lm_status lm_text_open(lm_text **out, const char *dir, lm_err *err) {
    atomic_fetch_add(&fake.n_text_loads, 1);
    if (strikes(&fake.fail_text)) return lm_fail(err, LM_NOT_FOUND, "%s/tokenizer.json: injected: text", dir);
    lm_text *t = lm_alloc(sizeof(*t));
    t->tokenizer = &the_tokenizer;
    t->chat = (lm_template *)(uintptr_t)&the_tokenizer;
    t->bos = lm_strdup("");
    t->eos = lm_strdup("");
    t->bos_id = fake.bos ? FAKE_BOS : -1;
    t->thinks = fake.thinks;
    atomic_fetch_add(&fake.n_texts_open, 1);
    *out = t;
    return LM_OK;
}

void lm_text_close(lm_text *t) {
    if (!t) return;
    free(t->bos);
    free(t->eos);
    free(t);
    atomic_fetch_sub(&fake.n_texts_open, 1);
}

bool lm_text_is_stop(const lm_text *t, int32_t id) {
    (void)t;
    return id == FAKE_EOS;
}

lm_status lm_text_render_chat(const lm_text *t, lm_str messages, lm_str tools, int thinking, lm_str level,
                              lm_buf *out, lm_err *err) {
    (void)t;
    (void)level;
    json_t *all = json_loadb(messages.ptr, messages.len, 0, NULL);
    if (!all) return lm_fail(err, LM_INVALID, "bad messages");
    if (tools.len) lm_buf_text(out, "TOOLS\n");
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *m = json_array_get(all, i);
        lm_buf_printf(out, "%.1s:%s\n", json_string_value(json_object_get(m, "role")),
                      json_string_value(json_object_get(m, "content")));
    }
    json_decref(all);
    lm_buf_text(out, thinking == 2 ? ">" : ">");
    return LM_OK;
}

/* The template's source, then what the model's own would have given. */
lm_status lm_text_render_own(lm_str source, lm_str messages, lm_str prompt, lm_str suffix, int thinking, lm_str level,
                             lm_buf *out, lm_err *err) {
    lm_buf_str(out, source);
    return suffix.len ? lm_text_render_insert(NULL, prompt, suffix, out, err)
                      : lm_text_render_chat(NULL, messages, (lm_str){0}, thinking, level, out, err);
}

lm_status lm_text_render_insert(const lm_text *t, lm_str prefix, lm_str suffix, lm_buf *out, lm_err *err) {
    (void)t;
    (void)err;
    lm_buf_printf(out, "P" LM_STR_FMT "S" LM_STR_FMT ">", LM_STR_ARG(prefix), LM_STR_ARG(suffix));
    return LM_OK;
}

/* ---- the way back */

struct lm_stream {
    char **stops;
    uint32_t n_stops;
    const char *met;
    lm_buf held;
};

lm_status lm_stream_open(lm_stream **out, const lm_tokenizer *t, const lm_str *stops, uint32_t n_stops,
                         lm_err *err) {
    (void)t;
    (void)err;
    lm_stream *s = lm_alloc(sizeof(*s));
    s->stops = lm_alloc((n_stops + 1) * sizeof(char *));
    for (uint32_t i = 0; i < n_stops; i++) s->stops[i] = lm_str_dup(stops[i]);
    s->n_stops = n_stops;
    lm_buf_init(&s->held, 1 << 16);
    atomic_fetch_add(&fake.n_streams_open, 1);
    *out = s;
    return LM_OK;
}

void lm_stream_close(lm_stream *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->n_stops; i++) free(s->stops[i]);
    free(s->stops);
    lm_buf_release(&s->held);
    free(s);
    atomic_fetch_sub(&fake.n_streams_open, 1);
}

static void give(lm_buf *from, size_t n, lm_buf *out) {
    if (out) lm_buf_add(out, from->ptr, n);
    memmove(from->ptr, from->ptr + n, from->len - n);
    from->len -= n;
    if (from->ptr) from->ptr[from->len] = 0;
}

/* Longest suffix of b that begins tag. */
static size_t beginning_of(const lm_buf *b, const char *tag) {
    size_t len = strlen(tag), n = b->len < len - 1 ? b->len : len - 1;
    while (n && memcmp(b->ptr + b->len - n, tag, n) != 0) n--;
    return n;
}

lm_status lm_stream_push(lm_stream *s, int32_t id, lm_buf *out, bool *stopped, lm_err *err) {
    (void)err;
    *stopped = false;
    if (id < 256) {
        lm_buf_char(&s->held, (char)id);
    } else {
        lm_buf_str(&s->held, lm_tokenizer_bytes(NULL, id));
    }
    size_t hold = 0;
    for (uint32_t i = 0; i < s->n_stops; i++) {
        char *at = s->held.len ? strstr(s->held.ptr, s->stops[i]) : NULL;
        if (at) {
            give(&s->held, (size_t)(at - s->held.ptr), out);
            lm_buf_clear(&s->held);
            *stopped = true;
            s->met = s->stops[i];
            return LM_OK;
        }
        size_t n = beginning_of(&s->held, s->stops[i]);
        if (n > hold) hold = n;
    }
    size_t whole = s->held.len - hold;
    if (whole) give(&s->held, whole, out);
    return LM_OK;
}

lm_str lm_stream_stop(const lm_stream *s) {
    return lm_str_of(s->met);
}

void lm_stream_finish(lm_stream *s, lm_buf *out) {
    if (s->held.len) give(&s->held, s->held.len, out);
}

struct lm_parser {
    lm_buf held;
    bool thinks, in_thinking, tools, in_tool;
};

lm_status lm_parser_open(lm_parser **out, const lm_text *t, bool parse_thinking, bool thinking_open,
                         lm_str tools, lm_err *err) {
    (void)t;
    (void)err;
    *out = lm_alloc(sizeof(lm_parser));
    lm_buf_init(&(*out)->held, 1 << 16);
    (*out)->thinks = parse_thinking;
    (*out)->in_thinking = thinking_open;
    (*out)->tools = tools.len > 0;
    return LM_OK;
}

void lm_parser_close(lm_parser *p) {
    if (!p) return;
    lm_buf_release(&p->held);
    free(p);
}

bool lm_parser_in_thinking(const lm_parser *p) {
    return p->in_thinking;
}

static void part_out(lm_parser *p, size_t n, lm_parser_sink *sink, void *ctx) {
    if (!n) return;
    char copy[4096] = {0};
    LM_ASSERT(n < sizeof(copy));
    memcpy(copy, p->held.ptr, n);
    give(&p->held, n, NULL);
    sink(ctx, p->in_thinking ? LM_PART_THINKING : LM_PART_CONTENT, (lm_str){0}, lm_str_of(copy));
}

void lm_parser_push(lm_parser *p, lm_str text, lm_parser_sink *sink, void *ctx) {
    lm_buf_str(&p->held, text);
    for (;;) {
        const char *tag = p->in_thinking ? "</think>" : p->in_tool ? "</tool>" : "<think>";
        char *at = p->held.len ? strstr(p->held.ptr, tag) : NULL;
        char *tool =
            p->held.len && p->tools && !p->in_tool && !p->in_thinking ? strstr(p->held.ptr, "<tool>") : NULL;
        if (tool && (!at || tool < at)) {
            part_out(p, (size_t)(tool - p->held.ptr), sink, ctx);
            give(&p->held, 6, NULL);
            p->in_tool = true;
        } else if (at && p->in_tool) {
            char args[512] = {0};
            memcpy(args, p->held.ptr, (size_t)(at - p->held.ptr));
            give(&p->held, strlen(args) + 7, NULL);
            p->in_tool = false;
            sink(ctx, LM_PART_TOOL_CALL, LM_STR("call"), lm_str_of(args));
        } else if (at && p->thinks) {
            part_out(p, (size_t)(at - p->held.ptr), sink, ctx);
            give(&p->held, strlen(tag), NULL);
            p->in_thinking = !p->in_thinking;
        } else {
            break;
        }
    }
    if (p->in_tool) return;
    size_t hold = beginning_of(&p->held, p->in_thinking ? "</think>" : "<think>");
    size_t tool = p->tools ? beginning_of(&p->held, "<tool>") : 0;
    if (tool > hold) hold = tool;
    if (p->held.len > hold) part_out(p, p->held.len - hold, sink, ctx);
}

void lm_parser_finish(lm_parser *p, lm_parser_sink *sink, void *ctx) {
    part_out(p, p->held.len, sink, ctx);
}

bool lm_parser_in_call(const lm_parser *p, lm_str *opening, lm_str *body) {
    *opening = LM_STR("<tool>");
    *body = lm_buf_view(&p->held);
    return p->in_tool;
}

void lm_stream_pending(const lm_stream *s, lm_buf *out) {
    lm_buf_str(out, lm_buf_view(&s->held));
}

/* The grammar: five digits; in a call the closing tag, too. It may grow: three more digits for each 9. */
struct lm_matcher {
    uint32_t n, most;
    bool call, grows, closing;
};

static const char end_of_call[] = "</tool>";

lm_status lm_grammar_factory_open(lm_grammar_factory **out, const lm_text *t, uint32_t n_vocab, lm_err *err) {
    (void)t;
    (void)err;
    LM_ASSERT(n_vocab == FAKE_VOCAB);
    *out = (lm_grammar_factory *)(uintptr_t)&the_tokenizer;
    return LM_OK;
}

void lm_grammar_factory_close(lm_grammar_factory *f) {
    (void)f;
}

lm_status lm_matcher_open(lm_matcher **out, const lm_grammar_factory *f, lm_str schema, lm_err *err) {
    (void)f;
    if (lm_str_eq(schema, LM_STR("bad"))) return lm_fail(err, LM_INVALID, "not a schema");
    *out = lm_alloc(sizeof(lm_matcher));
    (*out)->most = 5;
    (*out)->grows = lm_str_eq(schema, LM_STR("grows"));
    return LM_OK;
}

lm_status lm_matcher_open_calls(lm_matcher **out, const lm_grammar_factory *f, const lm_text *t, lm_str tools,
                                lm_buf *loose, lm_err *err) {
    (void)t;
    (void)loose;
    if (memmem(tools.ptr, tools.len, "odd", 3)) return lm_fail(err, LM_INVALID, "no grammar for these tools");
    lm_status st = lm_matcher_open(out, f, (lm_str){0}, err);
    if (st == LM_OK) (*out)->call = true;
    return st;
}

void lm_matcher_close(lm_matcher *m) {
    free(m);
}

static uint32_t length_of(const lm_matcher *m) {
    return m->most + (m->call ? (uint32_t)sizeof(end_of_call) - 1 : 0);
}

lm_status lm_matcher_mask(lm_matcher *m, uint32_t *mask, uint32_t n_words, lm_err *err) {
    (void)err;
    memset(mask, 0, n_words * sizeof(*mask));
    for (int32_t id = '0'; m->n < m->most && id <= (m->closing ? '0' : '9'); id++) mask[id / 32] |= 1u << (id % 32);
    int32_t next = m->n < length_of(m) ? end_of_call[m->n < m->most ? 0 : m->n - m->most] : FAKE_EOS;
    if (m->n >= m->most) mask[next / 32] |= 1u << (next % 32);
    return LM_OK;
}

lm_status lm_matcher_take(lm_matcher *m, int32_t id, lm_err *err) {
    bool ok = m->n < m->most ? id >= '0' && id <= '9' : m->n < length_of(m) && id == end_of_call[m->n - m->most];
    if (!ok) return lm_fail(err, LM_INTERNAL, "token %d is not allowed", id);
    if (id == '9' && m->grows) m->most += 3;
    m->n++;
    return LM_OK;
}

lm_status lm_matcher_take_within(lm_matcher *m, int32_t id, uint32_t left, bool *taken, uint32_t *ending,
                                 lm_err *err) {
    lm_matcher before = *m;
    *taken = true;
    lm_status st = lm_matcher_take(m, id, err);
    *ending = length_of(m) - m->n;
    if (st != LM_OK || m->closing || *ending <= left) return st;
    if (length_of(&before) - before.n > left + 1) {
        *ending = LM_NO_ENDING;
        return LM_OK;
    }
    *m = before;
    m->closing = true;
    *taken = false;
    return LM_OK;
}

uint32_t lm_matcher_ending(lm_matcher *m, uint32_t most) {
    uint32_t n = length_of(m) - m->n;
    return n <= most ? n : LM_NO_ENDING;
}

lm_status lm_matcher_begin(lm_matcher *m, lm_str text, bool *fits, lm_err *err) {
    (void)err;
    *m = (lm_matcher){.call = true, .most = 5};
    *fits = lm_str_starts(text, LM_STR("<tool>"));
    for (size_t i = 6; *fits && i < text.len; i++) *fits = lm_matcher_take(m, text.ptr[i], NULL) == LM_OK;
    return LM_OK;
}

bool lm_matcher_done(const lm_matcher *m) {
    return m->n == length_of(m);
}

bool lm_matcher_accepts(lm_matcher *m) {
    return lm_matcher_done(m);
}

/* ---- gates and ears */

void gate_init(gate *g, bool open) {
    *g = (gate){.open = open};
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->cond, NULL);
}

void gate_open(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

void gate_pass(gate *g) {
    pthread_mutex_lock(&g->lock);
    g->n_waiting++;
    pthread_cond_broadcast(&g->cond);
    while (!g->open) pthread_cond_wait(&g->cond, &g->lock);
    g->n_waiting--;
    pthread_mutex_unlock(&g->lock);
}

void gate_await(gate *g, uint32_t n) {
    pthread_mutex_lock(&g->lock);
    while (g->n_waiting < n) pthread_cond_wait(&g->cond, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void heard_init(heard *h) {
    memset(h, 0, sizeof(*h));
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->cond, NULL);
    h->top_ok = true;
}

static void add_text(char *to, size_t room, lm_str s) {
    size_t n = strlen(to);
    LM_ASSERT(n + s.len < room);
    if (s.len) memcpy(to + n, s.ptr, s.len);
}

void heard_sink(void *ctx, const lm_event *ev) {
    static const char letters[] = "LTKCDE";
    heard *h = ctx;
    pthread_mutex_lock(&h->lock);
    LM_ASSERT(!h->done); /* nothing after the last event */
    h->n_events++;
    size_t n = strlen(h->order);
    char c = letters[ev->kind];
    if (n < sizeof(h->order) - 1 && !(n && h->order[n - 1] == c)) h->order[n] = c;
    if (ev->kind == LM_EVENT_TEXT) add_text(h->text, sizeof(h->text), ev->text);
    if (ev->kind == LM_EVENT_THINKING) add_text(h->thinking, sizeof(h->thinking), ev->text);
    if (ev->kind == LM_EVENT_TOOL_CALL) add_text(h->tool, sizeof(h->tool), ev->text);
    if (ev->kind == LM_EVENT_TEXT || ev->kind == LM_EVENT_THINKING) h->n_text_events++;
    for (uint32_t i = 0; i < ev->n_logprobs; i++) {
        const lm_token_logprobs *p = &ev->logprobs[i];
        h->logprob_ids[h->n_logprobs++] = p->chosen.id;
        for (uint32_t k = 0; k < p->n_top; k++) {
            bool sorted = k == 0 || p->top[k].logprob <= p->top[k - 1].logprob;
            bool best = k > 0 || p->top[0].logprob >= p->chosen.logprob;
            if (!sorted || !best) h->top_ok = false;
        }
    }
    if (ev->kind == LM_EVENT_DONE || ev->kind == LM_EVENT_ERROR) {
        h->status = ev->kind == LM_EVENT_DONE ? LM_OK : ev->status;
        if (ev->kind == LM_EVENT_ERROR) add_text(h->error, sizeof(h->error), ev->text);
        if (ev->kind == LM_EVENT_DONE && ev->text.len) add_text(h->text, sizeof(h->text), ev->text);
        add_text(h->stop, sizeof(h->stop), ev->stop);
        h->reason = ev->reason;
        h->metrics = ev->metrics;
        h->n_context = ev->n_context;
        h->n_vectors = ev->n_vectors;
        h->vector_width = ev->vector_width;
        LM_ASSERT(ev->n_vectors * ev->vector_width <= sizeof h->vectors / sizeof *h->vectors);
        if (ev->n_vectors) memcpy(h->vectors, ev->vectors, ev->n_vectors * ev->vector_width * sizeof(float));
        if (ev->n_context) memcpy(h->context, ev->context, ev->n_context * sizeof(int32_t));
        h->done = true;
        pthread_cond_broadcast(&h->cond);
    }
    pthread_mutex_unlock(&h->lock);
}

void heard_wait(heard *h) {
    pthread_mutex_lock(&h->lock);
    while (!h->done) pthread_cond_wait(&h->cond, &h->lock);
    pthread_mutex_unlock(&h->lock);
    lm_job_unref(h->job);
    h->job = NULL;
}

lm_engine_config default_config(uint32_t n_parallel) {
    return (lm_engine_config){
        .backend = &fake_backend,
        .n_threads = 1,
        .n_parallel = n_parallel,
        .max_queue = 512,
        .default_ctx = 256,
        .keep_alive_ns = -1,
        .memory_budget = 1u << 30,
    };
}

lm_engine *open_engine(uint32_t n_parallel) {
    lm_engine_config config = default_config(n_parallel);
    lm_engine *e = NULL;
    lm_err err = {0};
    expect_ok(lm_engine_open(&e, &config, &err), err);
    return e;
}

lm_request *raw_request(const char *prompt) {
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_RAW;
    r->prompt = lm_strdup(prompt);
    r->options.temperature = 0;
    r->options.num_predict = 50;
    return r;
}

lm_request *embed_request(const char *texts) {
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_EMBED;
    for (const char *p = texts; *p; p++) r->n_inputs += *p == '|';
    r->inputs = lm_alloc(r->n_inputs * sizeof *r->inputs);
    for (uint32_t i = 0; i < r->n_inputs; i++) {
        r->inputs[i].n = strcspn(texts, "|");
        r->inputs[i].text = lm_str_dup((lm_str){texts, r->inputs[i].n});
        texts += r->inputs[i].n + 1;
    }
    return r;
}

lm_request *chat_request(const char *messages_json) {
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_CHAT;
    r->messages = json_loads(messages_json, 0, NULL);
    assert_non_null(r->messages);
    r->options.temperature = 0;
    return r;
}

lm_status submit_to(lm_engine *e, const char *name, lm_request *r, heard *h, lm_err *err) {
    char dir[256];
    snprintf(dir, sizeof(dir), "/m/%s", name);
    lm_model_ref ref = {.name = name, .dir = dir, .digest = "abc", .size = 1};
    heard_init(h);
    lm_job *job = NULL;
    lm_status st = lm_engine_submit(e, &ref, r, heard_sink, h, &job, err);
    if (st == LM_OK) h->job = job;
    return st;
}

void submit(lm_engine *e, lm_request *r, heard *h) {
    lm_err err = {0};
    expect_ok(submit_to(e, "m:latest", r, h, &err), err);
}

void ask(lm_engine *e, lm_request *r, heard *h) {
    submit(e, r, h);
    heard_wait(h);
}

void assert_all_gone(void) {
    assert_int_equal(fake.n_models_open, 0);
    assert_int_equal(fake.n_texts_open, 0);
    assert_int_equal(fake.n_seqs_open, 0);
    assert_int_equal(fake.n_pages_used, 0);
    assert_int_equal(fake.n_streams_open, 0);
}
