/* adopt.c - a GGUF model of another store becomes one of the own store, once.
 *
 * One import at a time, whoever asks, in any process (OWN/.importing is locked): two of them would share the
 * disk's speed and nothing else. Who has waited finds the model there. The files keep the digest of the GGUF
 * file that they were made of; a second name of that file takes them over.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/file.h"
#include "base/json.h"
#include "store/own.h"

#define PIECE    (1u << 20) /* bytes read at a time */
#define MAX_TEXT (16u << 20)
#define WAIT_US  100000

static lm_status wait_for_turn(const char *own, lm_store_progress *progress, void *ctx, int *out,
                               lm_err *err) {
    lm_status st = lm_dir_make(own, err);
    if (st != LM_OK) return st;
    char *path = lm_path_join(own, ".importing");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) st = lm_own_fail(err, "lock", path);
    while (st == LM_OK && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) st = lm_own_fail(err, "lock", path);
        if (progress && !progress(ctx, 0, 0)) st = lm_fail(err, LM_CANCELLED, "cancelled");
        usleep(WAIT_US);
    }
    free(path);
    if (st != LM_OK && fd >= 0) close(fd);
    if (st == LM_OK) *out = fd;
    return st;
}

/* ---- what comes with the file */

/* Reads all of it: what is imported is what was pulled. */
static lm_status check_digest(const char *file, const char *digest, lm_store_progress *progress, void *ctx,
                              lm_err *err) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    char hex[65];
    uint8_t *piece = lm_alloc(PIECE);
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    lm_status st = fd < 0 ? lm_own_fail(err, "open", file) : LM_OK;
    if (st == LM_OK && (!sha || !EVP_DigestInit_ex(sha, EVP_sha256(), NULL)))
        st = lm_fail(err, LM_INTERNAL, "sha256 is not available in this OpenSSL");
    while (st == LM_OK) {
        ssize_t n = read(fd, piece, PIECE);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = lm_own_fail(err, "read", file);
        if (n <= 0) break;
        if (!EVP_DigestUpdate(sha, piece, (size_t)n)) st = lm_fail(err, LM_INTERNAL, "sha256 failed");
        if (st == LM_OK && progress && !progress(ctx, 0, 0)) st = lm_fail(err, LM_CANCELLED, "cancelled");
    }
    if (st == LM_OK && !EVP_DigestFinal_ex(sha, raw, NULL)) st = lm_fail(err, LM_INTERNAL, "sha256 failed");
    if (st == LM_OK) {
        lm_blob_raw_hex(raw, hex);
        if (strcmp(hex, digest + 7))
            st = lm_fail(err, LM_CORRUPT,
                         "%s is damaged: its sha256 is %s; remove the model from Ollama and pull it again",
                         file, hex);
    }
    if (fd >= 0) close(fd);
    EVP_MD_CTX_free(sha);
    free(piece);
    return st;
}

/* The GGUF files of a manifest: one, or the parts of a model. Projectors stay behind: models here read texts.
 */
typedef struct parts {
    lm_gguf_file *files;  /* n, paths are ours */
    const char **digests; /* theirs */
    uint32_t n;
} parts;

static void add_part(parts *p, const char *path, const char *digest) {
    p->files = lm_realloc(p->files, (p->n + 1) * sizeof *p->files);
    p->digests = lm_realloc(p->digests, (p->n + 1) * sizeof *p->digests);
    p->files[p->n] = (lm_gguf_file){.path = lm_strdup(path)};
    p->digests[p->n++] = digest;
}

static void release_parts(parts *p) {
    for (uint32_t i = 0; i < p->n; i++) free((void *)(uintptr_t)p->files[i].path);
    free(p->files);
    free(p->digests);
}

static lm_status find_parts(const char *store, const lm_manifest *m, const char *name, parts *out,
                            lm_err *err) {
    for (uint32_t i = 0; i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (strcmp(l->type, LM_TYPE_MODEL)) continue;
        char *path = lm_blob_path(store, l->digest);
        add_part(out, path, l->digest);
        free(path);
    }
    return out->n ? LM_OK : lm_fail(err, LM_CORRUPT, "model '%s' has no GGUF file", name);
}

static lm_status read_blob(const char *store, const lm_layer *l, lm_buf *out, lm_err *err) {
    char *path = lm_blob_path(store, l->digest), hex[65];
    lm_status st = lm_file_read(path, MAX_TEXT, out, err);
    if (st == LM_OK) {
        lm_blob_hex(lm_buf_view(out), hex);
        if (strcmp(hex, l->digest + 7))
            st = lm_fail(err, LM_CORRUPT, "%s is damaged: remove the model from Ollama and pull it again",
                         path);
    }
    free(path);
    return st;
}

/* What Ollama says takes the place of what the GGUF file says. */
static lm_status take_texts(lm_draft *d, const char *store, const lm_manifest *m, lm_err *err) {
    lm_status st = LM_OK;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; st == LM_OK && i < m->n; i++) {
            lm_layer_kind kind = lm_layer_kind_of(&m->layers[i]);
            lm_buf text;
            if (kind == LM_LAYER_KINDS || kind == LM_LAYER_FILE || kind == LM_LAYER_ADAPTER) continue;
            if (pass == 0) {
                lm_draft_drop(d, kind);
                continue;
            }
            lm_buf_init(&text, MAX_TEXT + 1);
            st = read_blob(store, &m->layers[i], &text, err);
            if (st == LM_OK) st = lm_draft_add(d, kind, lm_buf_view(&text), err);
            lm_buf_release(&text);
        }
    }
    return st;
}

/* A LoRA adapter is a GGUF file there. */
static lm_status take_adapter(lm_draft *d, const char *store, const lm_manifest *m,
                              lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; st == LM_OK && i < m->n; i++) {
        const lm_layer *l = &m->layers[i];
        if (lm_layer_kind_of(l) != LM_LAYER_ADAPTER) continue;
        lm_adapter_source source = {.gguf = true};
        memcpy(source.weights, l->digest, sizeof source.weights);
        char *path = lm_blob_path(store, l->digest);
        st = lm_draft_take(d, path, LM_TAKE_LINK, l->digest, progress, ctx, err);
        if (st == LM_OK) st = lm_draft_adapter(d, &source, err);
        free(path);
    }
    return st;
}

/* ---- the import */

static lm_status fill(lm_draft *d, const parts *p, const char *origin, lm_store_progress *progress, void *ctx,
                      lm_err *err) {
    if (lm_draft_from_origin(d, origin)) return LM_OK;
    lm_status st = LM_OK;
    for (uint32_t i = 0; st == LM_OK && i < p->n; i++)
        if (p->digests[i]) st = check_digest(p->files[i].path, p->digests[i], progress, ctx, err);
    if (st == LM_OK) st = lm_draft_import(d, p->files, p->n, progress, ctx, err);
    if (st == LM_OK) lm_draft_note_origin(d, origin);
    return st;
}

static const lm_place *place_of(const lm_store *s, const lm_entry *model) {
    for (uint32_t i = 0; i < s->n_places; i++) {
        size_t n = strlen(s->places[i].dir);
        if (s->places[i].kind >= LM_PLACE_STUDIO && !strncmp(model->file, s->places[i].dir, n) &&
            model->file[n] == '/')
            return &s->places[i];
    }
    return NULL;
}

static lm_status import(lm_store *s, const lm_entry *model, const lm_name *name, lm_store_progress *progress,
                        void *ctx, lm_err *err) {
    const lm_place *p = place_of(s, model);
    lm_manifest m = {0};
    parts files = {0};
    lm_draft *d = NULL;
    lm_status st = LM_OK;
    char origin[100]; /* no name of a model: nothing takes it for one */
    LM_ASSERT(p);
    if (p->kind == LM_PLACE_OLLAMA) {
        st = lm_ollama_manifest(p, name, model->digest, &m, err);
        if (st == LM_OK) st = find_parts(p->dir, &m, model->name, &files, err);
    } else {
        add_part(&files, model->file, NULL); /* its digest is of path, size and time */
    }
    const char *digest = files.n ? files.digests[0] : NULL;
    snprintf(origin, sizeof origin, "gguf %s", digest ? digest : model->digest);
    if (st == LM_OK) st = lm_draft_open(&d, s, err);
    if (st == LM_OK) st = fill(d, &files, origin, progress, ctx, err);
    if (st == LM_OK) st = take_adapter(d, p->dir, &m, progress, ctx, err);
    if (st == LM_OK) st = take_texts(d, p->dir, &m, err);
    if (st == LM_OK) st = lm_draft_check(d, err);
    if (st == LM_OK) st = lm_draft_commit(d, model->name, NULL, NULL, err);
    lm_draft_close(d);
    release_parts(&files);
    lm_manifest_release(&m);
    return st;
}

lm_status lm_store_adopt(lm_store *s, lm_entry *model, lm_store_progress *progress, void *ctx, lm_err *err) {
    lm_entry made;
    lm_name name;
    int turn = -1;
    if (!model->gguf) return LM_OK;
    lm_status st = lm_name_parse(lm_str_of(model->name), &name, err);
    if (st == LM_OK) st = wait_for_turn(s->places[0].dir, progress, ctx, &turn, err);
    if (st != LM_OK) return st;
    if (lm_store_find_own(s, model->name, &made, NULL) != LM_OK) {
        st = import(s, model, &name, progress, ctx, err);
        if (st == LM_OK) st = lm_store_find_own(s, model->name, &made, err);
    }
    close(turn);
    if (st == LM_OK) *model = made;
    return st;
}

bool lm_store_needs_asking(const lm_store *s) {
    return s->gguf != LM_GGUF_ON_USE;
}

lm_status lm_store_ready(lm_store *s, lm_entry *model, lm_store_progress *progress, void *ctx, lm_err *err) {
    if (model->gguf && lm_store_needs_asking(s))
        return lm_fail(err, LM_INVALID,
                       "model '%s' is a GGUF file (%s): import it with 'mlx-ollama-bridge import %s', or let "
                       "the server do that with --import-gguf on-use",
                       model->name, model->file, model->name);
    return lm_store_adopt(s, model, progress, ctx, err);
}
