/* import_private.h - what the files of the GGUF importer share.
 *
 * import.c opens the GGUF file, finds its family, and fills a directory beside the target, which is renamed
 * into place when every file in it is on the disk:
 *
 *     import_tensors.c    model.safetensors (plan: names, forms, shapes; then one pass over the data)
 *     import_config.c     config.json of a decoder (of an encoder: import_encoder.c), generation_config.json,
 *                         modules.json and 1_Pooling/config.json of an embedder
 *     import_tokenizer.c  tokenizer.json (with import_wordpiece.c, import_unigram.c, import_spm.c),
 *                         tokenizer_config.json, special_tokens_map.json, chat_template.jinja
 */
#ifndef LM_STORE_IMPORT_PRIVATE_H
#define LM_STORE_IMPORT_PRIVATE_H

#include <jansson.h>

#include "store/store.h"
#include "weights/gguf.h"
#include "weights/safetensors_write.h"
#include "weights/weights.h"

/* ---- families (import_family.c) */

/* Which rows of a tensor that holds several side by side make one of them. */
typedef enum lm_portion {
    LM_PORTION_ALL, /* all */
    LM_PORTION_Q,   /* those of the query heads, then of the key heads, then of the value heads */
    LM_PORTION_K,
    LM_PORTION_V,
    LM_PORTION_EVEN, /* 0, 2, 4 ... */
    LM_PORTION_ODD,
} lm_portion;

/* One tensor: "blk.N.FROM.weight" becomes "LAYER.N.TO.weight", "FROM.weight" becomes "TO.weight". Several
 * rows with one `from` cut it. */
typedef struct lm_rename {
    const char *from, *to;
    lm_portion portion;
} lm_rename;

typedef struct lm_family {
    const char *arch;         /* general.architecture */
    const char *model_type;   /* of config.json */
    const char *class_name;   /* "LlamaForCausalLM" */
    const char *also;         /* another model_type that it becomes, by what the metadata says; NULL: none */
    const char *layer;        /* what a block is called: "model.layers" */
    const lm_rename *top;     /* tensors of no block; ends with a NULL, as the next */
    const lm_rename *renames; /* of a block; decoders: looked up before the common ones */
    bool permuted;            /* the converter to GGUF re-ordered the rows of q and k for interleaved rope */
    bool norms_plus_one;      /* the converter added 1 to norm weights; the model adds it again */
    bool experts; /* a mixture of experts: same arch as a dense family, told apart by the metadata */
    bool encoder; /* reads both ways, gives embeddings only */
    const char
        *without; /* a tensor that the family doesn't have, unlike another of the same arch; NULL: none */
} lm_family;

/* LM_UNSUPPORTED: names the architecture and the ones that are known. */
lm_status lm_family_of(const lm_gguf *g, const lm_family **out, lm_err *err) LM_CHECKED;

/* The family of that architecture, for a model whose config.json says model_type: LM_UNSUPPORTED also where
 * that is known as one of another architecture. */
lm_status lm_family_for(lm_str arch, const char *model_type, const lm_family **out, lm_err *err) LM_CHECKED;
/* Where output row r of q or k comes from: the converter to GGUF turned each of the heads' rows (half 0, half
 * 1) into pairs. heads 0: nothing was turned. */
uint64_t lm_family_row(uint32_t heads, uint64_t r, uint64_t rows);

/* Where a tensor, or a cut of it, goes: the MLX name without ".weight" or ".bias" in module, and that part in
 * suffix (".weight", ".bias", "" for a bare parameter). */
typedef struct lm_target {
    char module[160];
    const char *suffix;
    lm_portion portion;
    int32_t expert; /* module holds all experts, this is one of them; -1: it comes whole */
    bool is_q, is_k, is_norm;
} lm_target;
#define LM_TARGETS 3

/* *n is 0 when the file needs the tensor for itself only (rope tables), or for what is not imported (eyes).
 * LM_UNSUPPORTED: there is no place for it. */
lm_status lm_family_targets(const lm_family *f, lm_str tensor, lm_target out[LM_TARGETS], uint32_t *n,
                            lm_err *err) LM_CHECKED;

/* ---- blocks (import_blocks.c, import_regrid.c) */

/* The MLX form of one GGML type. quant NONE: numbers of dtype are copied. */
typedef struct lm_form {
    lm_quant_spec quant;
    lm_dtype dtype; /* of the numbers, or of scales and biases */
} lm_form;
bool lm_form_of(lm_ggml_type type, lm_form *out); /* false: no MLX form is known for it */

/* Converts n elements (whole blocks of `type`; a multiple of 32) from src. codes: n * bits / 8 bytes; scales
 * and biases: n / 32 f16 (or u8 exponents in scales for mxfp4, biases then unused). False: a scale is not
 * finite or does not fit f16. */
bool lm_blocks_convert(lm_ggml_type type, const uint8_t *src, uint64_t n, uint8_t *codes, void *scales,
                       uint16_t *biases);

/* One block of one type; those of import_regrid.c. */
typedef bool lm_block_convert(const uint8_t *block, uint8_t *codes, uint16_t *scales, uint16_t *biases);
lm_block_convert lm_block_q2_k, lm_block_q6_k;

/* lm_f16_to_f32 and lm_f32_to_f16, inline for the numbers that are neither subnormal nor beyond f16. */
static inline float lm_block_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)(h & 0x8000) << 16 | (((uint32_t)(h & 0x7fff) << 13) + (112u << 23))};
    return (h & 0x7c00) - 0x400u < 0x7800 ? v.f : lm_f16_to_f32(h);
}
static inline float lm_block_f16(const uint8_t *p) { /* at any address */
    return lm_block_f32((uint16_t)(p[0] | p[1] << 8));
}
static inline bool lm_block_put(uint16_t *out, float f) { /* false: it is not finite as f16 */
    union {
        float f;
        uint32_t u;
    } v = {f};
    uint32_t size = v.u & 0x7fffffff;
    if (size - (113u << 23) < (142u << 23) - (113u << 23)) { /* 2^-14 to 2^15: rounding stays within f16 */
        size += 0xfff + (size >> 13 & 1);                    /* half to even */
        *out = (uint16_t)((v.u >> 16 & 0x8000) | ((size >> 13) - (112u << 10)));
        return true;
    }
    *out = lm_f32_to_f16(f);
    return (*out & 0x7c00) != 0x7c00;
}

/* ---- tensors (import_tensors.c, import_stream.c) */

typedef struct lm_plan lm_plan; /* every tensor's name, form and shape */

lm_status lm_plan_open(lm_plan **out, const lm_gguf *g, const lm_family *f, lm_err *err) LM_CHECKED;
void lm_plan_close(lm_plan *p);                       /* NULL allowed */
bool lm_plan_has(const lm_plan *p, const char *name); /* an MLX tensor name, ".weight" included */
json_t *
lm_plan_quantization(const lm_plan *p); /* for config.json, new reference; NULL when nothing is quantised */
/* Writes path, with several threads; progress is told by the caller's. sha256: of what was written, NULL when
 * that is not wanted. LM_CORRUPT, LM_NO_SPACE, LM_IO, LM_CANCELLED. */
lm_status lm_plan_write(const lm_plan *p, const char *path, lm_store_progress *progress, void *ctx,
                        char sha256[LM_DIGEST_SIZE], lm_err *err) LM_CHECKED;

/* ---- metadata of an architecture (import_meta.c) */

/* Reads "ARCH.key" and builds config.json; the first failure stays, so that a list of keys stays a list. */
typedef struct lm_meta {
    const lm_gguf *g;
    const lm_family *f;
    json_t *config;
    lm_status st;
    lm_err *err;
} lm_meta;

bool lm_meta_has(const lm_meta *m, const char *key);
uint32_t lm_meta_u32(lm_meta *m, const char *key, uint32_t absent);
double lm_meta_float(lm_meta *m, const char *key, double absent); /* as the shortest decimal of its f32 */
bool lm_meta_bool(lm_meta *m, const char *key, bool absent);
lm_str lm_meta_str(lm_meta *m, const char *key); /* empty when absent */
/* The same, into config under `name`; LM_CORRUPT when it is absent, 0 or beyond `most`. */
uint32_t lm_meta_require(lm_meta *m, const char *name, const char *key, uint32_t most);
void lm_meta_set(lm_meta *m, const char *name, json_t *value); /* takes value over */
uint32_t lm_meta_set_u32(lm_meta *m, const char *name, uint32_t value);
double lm_meta_decimal(double v); /* a f32 as the shortest decimal that reads back as the same f32 */

/* ---- config (import_config.c, import_encoder.c) */

lm_status lm_import_config(const lm_gguf *g, const lm_family *f, const lm_plan *p, const char *dir,
                           lm_err *err) LM_CHECKED;
/* What config.json says of an encoder; a failure is m's. */
void lm_encoder_config(lm_meta *m);
/* modules.json and 1_Pooling/config.json, when the file says how states are pooled; a failure is m's. */
void lm_encoder_pooling(lm_meta *m, const char *dir, uint32_t width);
/* Writes value as indented JSON to dir/name. */
lm_status lm_import_json(const json_t *value, const char *dir, const char *name, lm_err *err) LM_CHECKED;

/* ---- vocabulary (import_vocab.c) */

typedef enum lm_token_type {
    LM_TOKEN_NORMAL = 1,
    LM_TOKEN_UNKNOWN,
    LM_TOKEN_CONTROL,
    LM_TOKEN_USER,
    LM_TOKEN_UNUSED,
    LM_TOKEN_BYTE
} lm_token_type;

typedef enum lm_vocab_kind {
    LM_VOCAB_BYTES,     /* byte-level BPE ("gpt2"): merges, and the name of a pre-tokenizer */
    LM_VOCAB_SPM,       /* SentencePiece BPE with byte fallback ("llama"): scores */
    LM_VOCAB_WORDPIECE, /* BERT's ("bert") */
    LM_VOCAB_UNIGRAM,   /* SentencePiece Unigram ("t5"): scores are log-probabilities */
} lm_vocab_kind;

typedef struct lm_vocab {
    lm_vocab_kind kind;
    lm_str *tokens; /* as tokenizer.json has them */
    char *texts;    /* holds tokens that the file words otherwise (WordPiece); NULL: none */
    int32_t *types; /* lm_token_type */
    float *scores;  /* NULL in byte-level vocabularies */
    uint32_t n;
    uint32_t *slots; /* hash index of tokens: id + 1, 0 = free */
    uint32_t mask;
    int32_t bos, eos, unk, pad, cls, sep, masked; /* -1: none */
    bool add_bos, add_eos;
    int32_t *stops; /* every id that ends a generation, eos first; n_stops */
    uint32_t n_stops;
} lm_vocab;

/* LM_UNSUPPORTED: another kind. LM_CORRUPT: no tokens, tokens that occur twice, ids out of range. */
lm_status lm_vocab_open(lm_vocab *v, const lm_gguf *g, lm_err *err) LM_CHECKED;
void lm_vocab_release(lm_vocab *v);
int32_t lm_vocab_find(const lm_vocab *v, lm_str token); /* -1: none */
/* A row of the embedding that no token uses: [PAD151665] and so on. The model's own files don't have them. */
bool lm_vocab_is_filler(const lm_vocab *v, uint32_t id);

/* ---- tokenizer (import_tokenizer.c, import_pretokens.c, import_spm.c, import_wordpiece.c, import_unigram.c) */

lm_status lm_import_tokenizer(const lm_gguf *g, const char *dir, lm_err *err) LM_CHECKED;

/* add_bos and add_eos, where the file has them. */
lm_status lm_tokenizer_read_adds(const lm_gguf *g, lm_vocab *v, lm_err *err) LM_CHECKED;
/* Parts of tokenizer.json, each with the comma behind it. */
void lm_tokenizer_write_added(lm_buf *b, const lm_vocab *v);
void lm_tokenizer_write_vocab(lm_buf *b, const lm_vocab *v);
/* The template adds BOS and EOS around a text, where the model wants them; `otherwise` is the post-processor
 * when it wants neither. */
void lm_tokenizer_write_template(lm_buf *b, const lm_vocab *v, const char *otherwise);

/* GGUF has a word's first piece with U+2581 before it and the others bare, tokenizer.json the first bare and
 * the others with "##": rewrites v->tokens. LM_NO_MEMORY. */
lm_status lm_wordpiece_restore(lm_vocab *v, lm_err *err) LM_CHECKED;
/* tokenizer.json from its added tokens to its end, for one kind each. They set v->add_bos and v->add_eos. */
lm_status lm_wordpiece_write(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) LM_CHECKED;
lm_status lm_unigram_write(lm_buf *b, const lm_gguf *g, lm_vocab *v, lm_err *err) LM_CHECKED;

/* How a byte-level vocabulary cuts text before merging. */
typedef struct lm_pretokens {
    const char *names[8];   /* of tokenizer.ggml.pre */
    const char *regexes[6]; /* applied one after the other, each cuts what is left */
    bool nfc;               /* text is normalised to NFC first */
    bool ignore_merges;     /* a whole word that is a token needs no merges */
    bool add_bos;           /* unless the file says otherwise */
    bool add_eos;           /* the same */
} lm_pretokens;
const lm_pretokens *lm_pretokens_find(lm_str name); /* NULL: unknown */

/* The merges that a SentencePiece vocabulary implies, best first, as JSON pairs into b. */
lm_status lm_spm_merges(const lm_vocab *v, lm_buf *b, lm_err *err) LM_CHECKED;

#endif
