/* config.h (private to model/) - what config.json says, checked, in the words of the forward pass.
 *
 * lm_config is all that the graph knows of a family: which norms there are, how positions turn, which layers
 * look how far back, what a layer's second half is. A family is a row of families.c that says what
 * config.json leaves out.
 *
 * Hostile input: every number is range-checked here, so that no product of two of them overflows 64 bits
 * later and no array is longer than LM_MAX_LAYERS.
 */
#ifndef LM_MODEL_CONFIG_H
#define LM_MODEL_CONFIG_H

#include "base/json.h"
#include "tensor/tensor.h"

enum {
    LM_MAX_LAYERS = 1024,
    LM_MAX_WIDTH = 65536,
    LM_MAX_HEADS = 1024,
    LM_MAX_HEAD_DIM = 1024,
    LM_MAX_FFN = 1 << 20,
    LM_MAX_VOCAB = 4 << 20,
    LM_MAX_EXPERTS = 1024,
    LM_MAX_CONTEXT = 1 << 27,
    LM_MAX_CONFIG_BYTES = 8 << 20, /* per-layer quantisation of a large model takes some 100 KB */
};

/* ---- rotary embedding ------------------------------------------------------------------------------------ */

typedef enum lm_rope_kind {
    LM_ROPE_PLAIN,
    LM_ROPE_LINEAR,
    LM_ROPE_DYNAMIC,
    LM_ROPE_LLAMA3,
    LM_ROPE_YARN,
    LM_ROPE_LONG, /* "longrope", formerly "su" */
    LM_ROPE_PROPORTIONAL,
} lm_rope_kind;

typedef struct lm_rope_spec {
    lm_rope_kind kind;
    uint32_t n_dims; /* elements of a head that turn, even */
    bool interleaved;
    double base;
    double factor;               /* all but PLAIN and LONG */
    double low_freq, high_freq;  /* LLAMA3 */
    double beta_fast, beta_slow; /* YARN */
    double mscale, mscale_all_dim;
    uint32_t n_rotated; /* PROPORTIONAL: the leading dims that turn at all */
    uint32_t n_ctx;     /* max_position_embeddings */
    uint32_t n_ctx_old; /* original_max_position_embeddings */
    float long_factor[LM_MAX_HEAD_DIM / 2];
} lm_rope_spec;

/* Reads rope_scaling (or rope_parameters) into *spec, whose n_dims, base and n_ctx are set. scaling NULL:
 * plain. n_ctx_old: where the object does not name its own. LM_CORRUPT, LM_UNSUPPORTED (names the kind). */
lm_status lm_rope_read(lm_rope_spec *spec, const json_t *scaling, uint32_t n_ctx_old, lm_err *err) LM_CHECKED;

/* Fills inv_freq (spec->n_dims / 2) and *out, which points to it. n_ctx: the longest sequence that will be
 * run. */
void lm_rope_make(const lm_rope_spec *spec, uint32_t n_ctx, float *inv_freq, lm_rope *out);

/* ---- families -------------------------------------------------------------------------------------------- */

/* How a family differs from Llama. */
enum {
    LM_FAM_QKV_BIAS = 1 << 0,      /* q, k and v have biases whatever config.json says (Qwen2) */
    LM_FAM_FUSED_QKV = 1 << 1,     /* one weight qkv_proj */
    LM_FAM_FUSED_GATE_UP = 1 << 2, /* one weight gate_up_proj */
    LM_FAM_HEAD_NORM = 1 << 3,     /* q_norm, k_norm over each head (Qwen3, Gemma 3) */
    LM_FAM_WIDE_NORM = 1 << 4,     /* q_norm, k_norm over all heads together (OLMo 2) */
    LM_FAM_NORM_PLUS_1 = 1 << 5,   /* norms multiply by 1 + weight (Gemma) */
    LM_FAM_SANDWICH = 1 << 6,      /* norms before and after both halves of a layer (Gemma 2, 3) */
    LM_FAM_POST_NORM = 1 << 7,     /* norms after both halves only (OLMo 2) */
    LM_FAM_SINKS = 1 << 8,         /* self_attn.sinks */
    LM_FAM_TIED = 1 << 9,          /* the head is the embedding, always */
    LM_FAM_O_BIAS = 1 << 10,       /* o_proj has a bias whatever config.json says */
    LM_FAM_EXPERT_BIAS = 1 << 11,  /* the router and the experts have biases */
};

typedef enum lm_window_rule { /* which layers see only the last sliding_window tokens, where no layer_types
                                 say so */
                              LM_WINDOW_NONE,
                              LM_WINDOW_ALL,     /* Mistral, Mixtral, Phi-3 */
                              LM_WINDOW_EVEN,    /* layers 0, 2, 4 ... (Gemma 2, gpt-oss) */
                              LM_WINDOW_PATTERN, /* all but each sliding_window_pattern-th (Gemma 3) */
                              LM_WINDOW_UPPER,   /* with use_sliding_window, layers from max_window_layers on
                                                    (Qwen2, Qwen3) */
} lm_window_rule;

typedef enum lm_embed_rule {
    LM_EMBED_PLAIN,
    LM_EMBED_SQRT,      /* times sqrt(width) (Gemma 2) */
    LM_EMBED_SQRT_BF16, /* the same, rounded to bfloat16 as it was trained (Gemma 3) */
} lm_embed_rule;

/* Numbers that a family's config.json may leave out; 0: it must not. */
typedef struct lm_defaults {
    uint32_t width, n_layers, ffn, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx, window;
    double rope_base, norm_eps;
} lm_defaults;

typedef struct lm_moe_names {
    const char *block;           /* "mlp" */
    const char *router;          /* "gate": below block */
    const char *experts;         /* "switch_mlp": below block */
    const char *n_experts, *ffn; /* the keys of config.json; ffn NULL: intermediate_size */
    const char *foreign;         /* a tensor below block that only the unconverted checkpoint has */
    bool softmax_first;
} lm_moe_names;

/* An encoder: what its tensors are called, below whatever comes before "embeddings". */
typedef struct lm_encoder_names {
    const char *embed_norm;
    const char *layer; /* "encoder.layer": N follows */
    const char *qkv;   /* all three in one; NULL: apart */
    const char *q, *k, *v, *o, *attention_norm;
    const char *gate; /* NULL: none */
    const char *up, *down, *mlp_norm;
    bool types;         /* it has an embedding of token types, of which the first is meant */
    bool after_padding; /* positions are counted from pad_token_id + 1 (RoBERTa) */
    bool turns;         /* heads turn (ropes[LM_ROPE_GLOBAL]), and there is no embedding of positions (Nomic) */
} lm_encoder_names;

struct lm_config;
typedef struct lm_family {
    const char *type; /* model_type */
    uint32_t flags;
    lm_glu act;
    lm_window_rule window;
    lm_embed_rule embed;
    lm_defaults absent;
    const lm_moe_names *moe;
    const lm_encoder_names *encoder; /* NULL: a decoder */
    /* What only this family has, NULL for most; called when all the rest has been read. */
    lm_status (*extra)(struct lm_config *c, const json_t *o, lm_err *err);
} lm_family;

const lm_family *lm_family_find(const char *model_type); /* NULL: unknown */
const char *lm_family_names(void);                       /* "llama, mistral, ..." */

/* ---- the description ------------------------------------------------------------------------------------- */

enum { LM_ROPE_GLOBAL, LM_ROPE_LOCAL, LM_ROPE_COUNT, LM_ROPE_NONE = LM_ROPE_COUNT };

typedef struct lm_layer_spec {
    uint32_t window; /* 0: all earlier tokens */
    uint8_t rope;    /* LM_ROPE_* */
    bool moe;
} lm_layer_spec;

typedef struct lm_config {
    const lm_family *family;
    char type[32]; /* model_type as the file words it */
    uint32_t width, n_layers, ffn, n_heads, n_kv_heads, head_dim, n_vocab, n_ctx_train, window;
    float norm_eps;
    float attention_scale, attention_cap; /* cap 0: none */
    float embed_scale, residual_scale, logit_scale, logit_cap;
    bool attention_bias, mlp_bias;
    int tied;        /* 1 yes, 0 no, -1 not said: when the file has no lm_head */
    bool local_rope; /* layers with a window turn by ropes[LM_ROPE_LOCAL] */
    lm_rope_spec ropes[LM_ROPE_COUNT];
    uint32_t n_experts, top_k, expert_ffn; /* n_experts 0: dense */
    bool renorm;
    lm_glu act;              /* encoders: the file says it */
    uint32_t first_position; /* encoders: of the table, the place of the first token */
    uint32_t n_types;        /* encoders: rows of the table of token types */
    lm_layer_spec *layers; /* (n_layers) */
    json_t *root;          /* the whole document, for quant */
    const json_t *quant;   /* "quantization", NULL: none; borrowed from root */
    lm_quant_spec quant_default;
} lm_config;

/* Reads dir/config.json. LM_NOT_FOUND, LM_CORRUPT, LM_UNSUPPORTED. *out is the caller's: lm_config_release.
 */
lm_status lm_config_load(lm_config *out, const char *dir, lm_err *err) LM_CHECKED;
/* The same from text, for tests. */
lm_status lm_config_parse(lm_config *out, lm_str text, lm_err *err) LM_CHECKED;
void lm_config_release(lm_config *c); /* zeroed allowed */

/* How the matrix `path` (without ".weight") with rows of cols numbers is stored: what config.json says of it
 * by name, else what the shapes in the file say. */
lm_status lm_config_quant(const lm_config *c, const lm_weights *w, const char *path, uint32_t cols,
                          lm_quant_spec *out, lm_err *err) LM_CHECKED;

/* ---- checked reading (reader.c) -------------------------------------------------------------------------- */

/* Members of a JSON object with ranges. The first failure stays: later reads give their default, `st` tells.
 */
typedef struct lm_reader {
    const json_t *o;
    lm_err *err;
    lm_status st;
} lm_reader;

/* absent 0 with low > 0: the member is required. */
uint32_t lm_read_u32(lm_reader *r, const char *key, uint32_t low, uint32_t high, uint32_t absent);
double lm_read_number(lm_reader *r, const char *key, double low, double high,
                      double absent); /* NAN: required */
bool lm_read_bool(lm_reader *r, const char *key, bool absent);
const json_t *lm_read_object(lm_reader *r, const char *key); /* NULL when absent */

/* encoder.c: what config.json says of an encoder, which it says in other words. A failure is r's. */
void lm_encoder_read(lm_config *c, lm_reader *r);

#endif
