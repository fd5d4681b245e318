/* tensor.h - the op table: what a forward pass is made of. cpu/ implements it with our kernels, mlx/ over libmlx.
 *
 * A backend opens devices of its kind; a device holds kv sequences and runs steps. A step is one forward pass over a
 * ragged batch: the new tokens of several sequences, back to back, in one (n_tokens, ...) activation. Handles made
 * within a step are valid until its end, so model code frees nothing. The CPU computes when an op is called; MLX
 * records a lazy graph and computes when something is read, or behind the caller's back (see lm_flight).
 *
 * Shapes: an activation is (n_rows, width), f32 to the reader; a backend may hold it in another type. Heads lie side
 * by side in a row: (n_rows, n_heads * head_dim).
 *
 * Errors: ops don't return one. The first failure inside a step is remembered, later ops of that step do nothing, and
 * end() reports it; a failed step leaves every sequence as long as it was before (see kv).
 *
 * Threads: a device and all that belongs to it are used by one thread at a time (the engine thread of its model).
 */
#ifndef LM_TENSOR_H
#define LM_TENSOR_H

#include "base/base.h"
#include "weights/weights.h"

typedef struct lm_device lm_device; /* a backend's device with its scratch and threads, for one model */
typedef struct lm_step lm_step;     /* one forward pass in progress */
typedef struct lm_flight lm_flight; /* a step that has been handed to the device and may still be computed there */
typedef struct lm_tensor lm_tensor; /* an activation of that pass */
typedef struct lm_seq lm_seq;       /* keys and values of one sequence, all layers */
typedef struct lm_linear lm_linear; /* a weight as the backend wants it: a view of the mapped file, never a copy on the CPU */
typedef struct lm_vector lm_vector; /* a small vector (norm weight, bias, sinks), held as f32 */

/* The shape of the key/value cache of one model. */
typedef struct lm_kv_shape {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim; /* elements, of keys and values alike */
} lm_kv_shape;

/* How keys and values are stored, under the names of OLLAMA_KV_CACHE_TYPE. */
typedef enum lm_kv_type {
    LM_KV_F16,  /* 16 bits; f32 in the CPU's reference set and on MLX's CPU device */
    LM_KV_Q8_0, /* 8 bits, a scale and a bias for each group of 64 elements (32 where 64 doesn't divide a head) */
    LM_KV_Q4_0, /* 4 bits, the same groups */
    LM_KV_TYPES
} lm_kv_type;
static inline const char *lm_kv_type_name(lm_kv_type t) {
    static const char *const names[LM_KV_TYPES] = {"f16", "q8_0", "q4_0"};
    return names[t];
}

/* What one sequence adds in a step: n_tokens rows of the batch, appended at its end. */
typedef struct lm_slice {
    lm_seq *seq;
    uint32_t n_tokens;
} lm_slice;

/* Rotary embedding, computed once per model and layer kind by model/: inv_freq[i] turns pair i by position * inv_freq[i].
 * Source: arXiv 2104.09864; scalings (llama3, yarn, longrope, linear) are folded into inv_freq and mscale. */
typedef struct lm_rope {
    uint32_t n_dims;         /* leading elements of a head that turn, even; the rest pass through */
    bool interleaved;        /* pairs (2i, 2i+1); otherwise (i, i + n_dims/2), as MLX's traditional=false */
    const float *inv_freq;   /* (n_dims / 2), lives as long as the model */
    float mscale;            /* multiplies the turned elements; 1 for most */
} lm_rope;

typedef struct lm_attention {
    uint32_t layer;
    uint32_t n_heads;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    float scale;             /* of q·k, usually head_dim^-1/2 */
    uint32_t window;         /* 0: all earlier tokens; else only the last `window`, the token itself included */
    bool both_ways;          /* later tokens too (encoders): a sequence is then one slice of one step, and without a window */
    float softcap;           /* 0: none; else cap * tanh(score / cap) (Gemma 2) */
    const lm_vector *sinks;  /* NULL, or one logit per head that takes part in the softmax only (gpt-oss) */
    const lm_rope *rope;     /* NULL: no rotation in this layer (SmolLM3) */
    const lm_vector *q_norm; /* NULL, or RMS norm of each head before the rotation, (head_dim) */
    const lm_vector *k_norm;
    float norm_eps;
    float temperature_scale; /* reserved for later families, 0 */
} lm_attention;

typedef enum lm_glu {
    LM_GLU_SILU,      /* silu(gate) * up */
    LM_GLU_GELU_TANH, /* gelu, tanh form (Gemma) */
    LM_GLU_GELU,      /* gelu, exact (erf) */
    LM_GLU_OSS,       /* gpt-oss: gate clipped above at 7, up to ±7; gate * sigmoid(1.702 gate) * (up + 1) */
} lm_glu;

/* gate and up as two weights, or as one with gate's rows first (fused != NULL, Phi-3); or no gate at all (gate and fused NULL,
 * BERT): act(up) alone. */
typedef struct lm_mlp {
    const lm_linear *gate, *up, *fused, *down; /* each may be a stack of experts in a mixture */
    lm_glu act;
} lm_mlp;

/* What fine tuning adds to a product with W (rows, cols): scale * (x Aᵀ) Bᵀ, with A (rank, cols) and B (rows, rank), stacks where W is
 * one. a NULL: nothing. */
typedef struct lm_delta {
    const lm_linear *a, *b;
    float scale;
} lm_delta;

enum { LM_MOE_ROUTER, LM_MOE_GATE, LM_MOE_UP, LM_MOE_DOWN, LM_MOE_PRODUCTS };

typedef struct lm_moe {
    const lm_linear *router; /* (n_experts, width), with bias where the checkpoint has one */
    lm_mlp experts;          /* stacks of n_experts */
    uint32_t n_experts;
    uint32_t top_k;
    /* true: softmax over all experts, then the top_k of it (Qwen3-MoE), renormalised if `renorm`;
     * false: softmax over the chosen top_k logits alone (Mixtral, gpt-oss). */
    bool softmax_first;
    bool renorm;
    const lm_delta *deltas; /* (LM_MOE_PRODUCTS) where gate and up are two weights, or NULL */
} lm_moe;

/* What is added to a token's logit before anything else: OpenAI's logit_bias. Finite. */
typedef struct lm_bias {
    int32_t id; /* one that the vocabulary does not have has no effect */
    float add;
} lm_bias;

/* How the next token of a row is chosen: Ollama's options in llama.cpp's order (biases, penalties, mask, top_k, typical_p,
 * top_p, min_p, temperature, draw). */
typedef struct lm_pick {
    float temperature;     /* not above 0: the most probable token */
    int32_t top_k;         /* <= 0: all */
    float top_p, min_p, typical_p;
    float repeat_penalty, presence_penalty, frequency_penalty;
    const int32_t *recent; /* (n_recent) tokens that the penalties look at; may be LM_FROM_BEFORE(k) */
    uint32_t n_recent;
    const lm_bias *biases; /* (n_biases) each token once */
    uint32_t n_biases;
    const uint32_t *mask;  /* one bit a token, set where the grammar allows it; NULL: all */
    float uniform;         /* the draw, in [0, 1) */
    bool logprobs;         /* log probabilities are wanted, and of the n_top best tokens */
    uint32_t n_top;
} lm_pick;

typedef struct lm_picked {
    int32_t id;
    float best;                /* the largest number of the row after biases, penalties and mask; not finite: nothing to choose from */
    float logprob;             /* of id in the model's own distribution, with lm_pick.logprobs */
    const int32_t *top_ids;    /* (n_top) best first */
    const float *top_logprobs; /* (n_top) */
    uint32_t n_top;
} lm_picked;

/* In place of a token that nobody has read yet: the one chosen in row k of the flight before. */
#define LM_FROM_BEFORE(k) (-1 - (int32_t)(k))

typedef struct lm_memory {
    uint64_t weights; /* bytes mapped or copied for weights */
    uint64_t kv;      /* bytes taken by pages in use */
    uint64_t kv_room; /* bytes reserved for pages at most */
    uint64_t scratch; /* bytes of step arenas; 0: not known before steps run */
    /* What the backend's own allocator counts, for all devices of this process; 0: it has none. */
    uint64_t active; /* bytes in use; mapped weights that are not copied are not among them */
    uint64_t cache;  /* bytes kept for later use */
    uint64_t peak;   /* the most that was active */
} lm_memory;

typedef struct lm_device_config {
    uint32_t n_threads;   /* 0: all usable cores */
    const char *features; /* CPU: NULL = the best this machine has; a name of cpu/cpu.h to force one */
    uint64_t kv_bytes;    /* most that all sequences together may take; pages are touched only when used */
    uint32_t max_batch;   /* rows of one step at most (sizes the scratch) */
    lm_kv_shape kv;
    lm_kv_type kv_type;
} lm_device_config;

/* What a backend computes on. */
typedef struct lm_backend_info {
    bool gpu;         /* models lie in the memory of a GPU, or in memory that it shares */
    char device[96];  /* "avx2", "Apple M4 Max" */
    uint64_t memory;  /* bytes that models should stay below; 0: the backend has no opinion */
    uint32_t max_batch; /* rows of a step that a long prompt is best cut into; 0: no opinion */
    bool kv_quantised;  /* has other key/value types than LM_KV_F16 */
    bool copies_weights; /* the device can't use mapped files: after `linear` and `vector` they are not read again */
} lm_backend_info;

typedef struct lm_backend {
    const char *name; /* "cpu", "mlx" */
    void (*info)(lm_backend_info *out); /* before any device is open, too */

    /* Bytes that a token's keys and values take, all layers. 0: not with this shape and type, open says why. */
    uint64_t (*kv_token_bytes)(const lm_device_config *config);

    /* -- life */
    lm_status (*open)(lm_device **out, const lm_device_config *config, lm_err *err);
    void (*close)(lm_device *dev); /* after every sequence and weight of it; NULL allowed */
    void (*memory)(const lm_device *dev, lm_memory *out);
    void (*idle)(lm_device *dev); /* nothing runs now: gives back what was only kept for the next step */
    const char *(*describe)(const lm_device *dev); /* "cpu avx2 2 threads" */

    /* -- weights: views stay the caller's and must outlive the device's handle. bias may be NULL, (n_experts, rows). */
    lm_status (*linear)(lm_device *dev, const lm_matrix *m, const lm_view *bias, lm_linear **out, lm_err *err);
    /* rows parts of one output side by side become one handle where the backend gains from it (q|k|v, gate|up):
     * see `linears`. offset is added to every element (Gemma's 1 + w). */
    lm_status (*vector)(lm_device *dev, const lm_view *v, float offset, lm_vector **out, lm_err *err);
    void (*linear_free)(lm_linear *w);
    void (*vector_free)(lm_vector *v);

    /* -- keys and values. A sequence grows by the steps it takes part in. */
    lm_status (*seq_open)(lm_device *dev, lm_seq **out, lm_err *err);
    void (*seq_close)(lm_seq *seq); /* NULL allowed; its pages are free again */
    uint32_t (*seq_len)(const lm_seq *seq);
    void (*seq_trim)(lm_seq *seq, uint32_t n_tokens); /* keeps the first n_tokens */
    /* A new sequence that shares the first n_tokens of src (pages by reference, a partly used one is copied). */
    lm_status (*seq_fork)(lm_seq *src, uint32_t n_tokens, lm_seq **out, lm_err *err);
    /* Makes sure that n_tokens more fit. LM_BUSY: no free pages now (close or trim a sequence and retry). */
    lm_status (*seq_reserve)(lm_seq *seq, uint32_t n_tokens, lm_err *err);

    /* -- a step. The slices' tokens are rows 0.. in order. Every sequence must have room (seq_reserve). before: the flight that
     * LM_FROM_BEFORE in embed's tokens means, or NULL; it must outlive the step. */
    lm_status (*begin)(lm_device *dev, const lm_slice *slices, uint32_t n_slices, const lm_flight *before, lm_step **out,
                       lm_err *err);
    /* Ends it. LM_OK: the sequences are longer by their slices. Else (or when `abandon`) they are as before. */
    lm_status (*end)(lm_step *step, bool abandon, lm_err *err);

    /* -- ops, in the order a transformer uses them */
    lm_tensor *(*embed)(lm_step *s, const lm_linear *table, const int32_t *tokens, uint32_t n, float scale);
    lm_tensor *(*rms_norm)(lm_step *s, const lm_tensor *x, const lm_vector *weight, float eps); /* weight NULL: none */
    /* With the mean taken away first: (x - mean) / sqrt(variance + eps) * weight + bias (BERT). */
    lm_tensor *(*layer_norm)(lm_step *s, const lm_tensor *x, const lm_vector *weight, const lm_vector *bias, float eps);
    /* y = x Wᵀ + b for n weights that share x, out[i] (n_rows, rows of w[i]): one pass over x. */
    void (*linears)(lm_step *s, const lm_tensor *x, const lm_linear *const *w, uint32_t n, lm_tensor **out);
    /* columns [first, first + width) of x; a view */
    lm_tensor *(*columns)(lm_step *s, const lm_tensor *x, uint32_t first, uint32_t width);
    /* rows of x by index, in that order */
    lm_tensor *(*rows)(lm_step *s, const lm_tensor *x, const uint32_t *index, uint32_t n);
    /* Normalises and turns q and k as `a` says, appends k and v to the slices' sequences, attends.
     * q (n_rows, n_heads * head_dim), k and v (n_rows, n_kv_heads * head_dim); result like q. */
    lm_tensor *(*attention)(lm_step *s, const lm_attention *a, lm_tensor *q, lm_tensor *k, const lm_tensor *v);
    lm_tensor *(*mlp)(lm_step *s, const lm_tensor *x, const lm_mlp *m);
    /* The middle of an mlp alone, where something comes between its products: act(gate) * up, into gate where the backend can. */
    lm_tensor *(*gated)(lm_step *s, lm_tensor *gate, const lm_tensor *up, lm_glu act);
    lm_tensor *(*moe)(lm_step *s, const lm_tensor *x, const lm_moe *m);
    /* A layer is done: x alone goes on, every other handle made so far in this step ends here. Returns x's new handle.
     * Without it a step's scratch is the sum of all its layers instead of one layer's: call it once per layer. */
    lm_tensor *(*keep)(lm_step *s, lm_tensor *x);
    /* x + scale * y in x's type, into x where the backend can */
    lm_tensor *(*add)(lm_step *s, lm_tensor *x, const lm_tensor *y, float scale);
    /* x * scale, then cap * tanh(x / cap) unless cap is 0 */
    lm_tensor *(*scale)(lm_step *s, lm_tensor *x, float scale, float cap);

    /* -- several processes that compute one model together, each with its part of the weights (model/split.h). All of it is NULL
     * where a backend knows no others (CPU). Every process must call these in the same order; when one is gone, what waits for it
     * may wait for ever. */

    /* Meets the others, once and before a device is open, as the environment says (MLX_RANK, MLX_HOSTFILE ...). kind: "ring", "mpi",
     * "jaccl", "nccl". May wait for ever, too. */
    lm_status (*join)(const char *kind, uint32_t *rank, uint32_t *size, lm_err *err);
    /* The sum of every rank's x, the same bits on all. */
    lm_tensor *(*all_sum)(lm_step *s, lm_tensor *x);
    /* x goes to a neighbour, which receives it. What send gives need not be used: the step's end computes it. */
    lm_tensor *(*send)(lm_step *s, lm_tensor *x, uint32_t to);
    lm_tensor *(*receive)(lm_step *s, uint32_t n_rows, uint32_t width, uint32_t from);

    /* Computes what is left and gives the numbers: (n_rows, width) row-major f32, valid until end(). NULL after a
     * failure in the step: end() tells. The one synchronisation of a step. */
    const float *(*read)(lm_step *s, const lm_tensor *x);

    /* -- computing ahead: tokens are chosen on the device, and the next step is handed over before they are read. All of it
     * is NULL where a backend computes at once (CPU): there the caller chooses from what read() gives. */

    /* Ends the step like end(), without waiting: the sequences are longer by their slices. logits: (n_out, vocabulary) or NULL
     * when n_out is 0. how: (n_out) choices, or NULL when pick() follows. On failure the sequences are as before, unless
     * MLX broke off half-way: then each says so (with the text) in whatever is tried with it next. */
    lm_status (*launch)(lm_step *s, const lm_tensor *logits, uint32_t n_out, const lm_pick *how, lm_flight **out,
                        lm_err *err);
    /* Chooses the n_out tokens of a launch without `how`, once. */
    lm_status (*pick)(lm_flight *f, const lm_pick *how, lm_err *err);
    /* Waits for the n_out tokens: the one synchronisation. What out points to lives as long as the flight. */
    lm_status (*wait)(lm_flight *f, lm_picked *out, lm_err *err);
    void (*flight_free)(lm_flight *f); /* NULL allowed; before or after wait */
    uint64_t (*n_waits)(const lm_device *dev); /* how often the host has waited for the device so far */
} lm_backend;

#endif
