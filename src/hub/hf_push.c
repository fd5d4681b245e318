/* hf_push.c - a model to a repository of the Hugging Face hub: its files as one commit, on top of what is
 * there.
 *
 *     GET  /api/models/ORG/REPO/revision/main?blobs=true     what is there; 404: it is made
 *     POST /api/repos/create {"type":"model","name":"REPO","organization":"ORG"}
 *     POST /api/models/ORG/REPO/preupload/main               which files are large ones (lfs.c)
 *     POST /api/models/ORG/REPO/commit/main                  lines: header, file (base64), lfsFile,
 * deletedFile
 *
 * Files that are there with the same content are not sent, and are no part of the commit. Weights that are
 * there and are none of the model's are deleted by it: beside ours they would make another model. git keeps
 * them.
 *
 * Source: huggingface_hub's hf_api.py and _commit_api.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "hub/private.h"

#define MAX_SMALL   (10u << 20)  /* of a file within the commit: the hub's own limit */
#define MAX_COMMIT  (192u << 20) /* of all of them, in base64 */
#define MAX_ANSWER  (8u << 20)
#define BATCH       256
#define SAMPLE      512
#define TYPE_NDJSON "Content-Type: application/x-ndjson"

typedef struct job {
    const lm_origin *o;
    const lm_name *repo;
    char name[200]; /* "ORG/REPO" */
    const char *revision;
    lm_listing there;
    lm_remote *files;
    lm_lfs *how;
    bool *large; /* goes by LFS */
    uint32_t n;
} job;

/* ---- requests */

static lm_status post(lm_client *c, const job *j, const char *below, const char *type, lm_str body, int also,
                      lm_answer *out, lm_err *err) {
    char url[900];
    const char *headers[] = {type, NULL};
    snprintf(url, sizeof url, "%s/api/%s", j->o->base, below);
    lm_ask ask = {.method = "POST",
                  .url = url,
                  .headers = headers,
                  .body = body,
                  .max_body = MAX_ANSWER,
                  .silent_ms = LM_HUB_PROCESS_MS};
    lm_status st = lm_hub_get(c, j->o, &ask, out, err);
    if (st == LM_OK && out->status / 100 != 2 && out->status != also)
        st = lm_hub_not_taken(j->o, url, out, err);
    return st;
}

static lm_status make_repo(lm_client *c, const job *j, lm_err *err) {
    lm_answer a = {0};
    lm_buf b;
    char below[400];
    lm_buf_init(&b, 4096);
    lm_buf_printf(&b, "{\"type\":\"model\",\"name\":\"%s\",\"organization\":\"%s\",\"private\":false}",
                  j->repo->model, j->repo->ns);
    lm_status st = post(c, j, "repos/create", NULL, lm_buf_view(&b), 409, &a, err); /* 409: it is there */
    lm_answer_release(&a);
    lm_buf_release(&b);
    if (st != LM_OK || !strcmp(j->revision, "main")) return st;
    snprintf(below, sizeof below, "models/%s/branch/%s", j->name, j->revision);
    st = post(c, j, below, NULL, LM_STR("{}"), 409, &a, err);
    lm_answer_release(&a);
    return st;
}

/* ---- what is to go */

static void add_file(job *j, const lm_content *part, const char *name) {
    lm_remote *f = &j->files[j->n++];
    lm_hub_outgoing(part, f);
    snprintf(f->name, sizeof f->name, "%.200s", name);
    f->told = true; /* what goes within the commit is nothing to tell of */
}

/* Files as they are, licences under their usual name. What a Modelfile adds has no place in a repository. */
static void choose_files(job *j, const lm_contents *parts) {
    bool left[LM_LAYER_KINDS] = {false};
    uint32_t licenses = 0;
    static const char *const names[LM_LAYER_KINDS] = {[LM_LAYER_TEMPLATE] = "template",
                                                      [LM_LAYER_SYSTEM] = "system",
                                                      [LM_LAYER_PARAMS] = "params",
                                                      [LM_LAYER_MESSAGES] = "messages",
                                                      [LM_LAYER_ADAPTER] = "adapter"};
    for (uint32_t i = 0; i < parts->n; i++) {
        const lm_content *p = &parts->items[i];
        char name[32] = "LICENSE";
        if (p->kind == LM_LAYER_FILE && strcmp(p->name, "pulled.json")) add_file(j, p, p->name);
        if (p->kind == LM_LAYER_LICENSE && licenses++)
            snprintf(name, sizeof name, "LICENSE.%u", licenses - 1);
        if (p->kind == LM_LAYER_LICENSE) add_file(j, p, name);
        if (p->kind < LM_LAYER_KINDS && names[p->kind]) left[p->kind] = true;
    }
    for (int k = 0; k < LM_LAYER_KINDS; k++) {
        char text[120];
        if (!left[k]) continue;
        snprintf(text, sizeof text, "leaving out %s: a repository has no place for it", names[k]);
        j->o->pull->status(j->o->pull->ctx, text);
    }
}

static const lm_remote *find_there(const job *j, const char *name) {
    for (uint32_t i = 0; i < j->there.n; i++)
        if (!strcmp(j->there.files[i].name, name)) return &j->there.files[i];
    return NULL;
}

static bool is_same(const job *j, const lm_remote *f) {
    const lm_remote *old = find_there(j, f->name);
    char digest[LM_DIGEST_SIZE];
    if (!old || old->size != f->size) return false;
    if (old->digest[0]) return !strcmp(old->digest, f->digest);
    return f->size <= MAX_SMALL && lm_hub_hash(f->path, f->size, old->oid, digest, j->o, NULL) == LM_OK;
}

/* ---- which files are large */

static void add_sample(lm_buf *b, const lm_remote *f) {
    char bytes[SAMPLE];
    int fd = -1;
    ssize_t n = lm_hub_source(f, &fd, NULL) == LM_OK ? read(fd, bytes, sizeof bytes) : 0;
    if (n > 0) lm_buf_base64(b, (lm_str){bytes, (size_t)n});
    if (fd >= 0) close(fd);
}

static void take_modes(job *j, const json_t *root) {
    json_t *one;
    size_t k;
    json_array_foreach(json_object_get(root, "files"), k, one) {
        const char *path = json_string_value(json_object_get(one, "path"));
        const char *mode = json_string_value(json_object_get(one, "uploadMode"));
        for (uint32_t i = 0; path && mode && i < j->n; i++)
            if (!strcmp(j->files[i].name, path))
                j->large[i] = j->files[i].size > MAX_SMALL || !strcmp(mode, "lfs");
    }
}

static lm_status ask_modes(lm_client *c, job *j, uint32_t from, uint32_t to, lm_err *err) {
    lm_answer a = {0};
    lm_buf b;
    json_t *root = NULL;
    char below[400];
    uint32_t n = 0;
    lm_buf_init(&b, 1u << 20);
    lm_buf_text(&b, "{\"files\":[");
    for (uint32_t i = from; i < to; i++) {
        if (j->files[i].have) continue;
        lm_buf_text(&b, n++ ? ",{\"path\":" : "{\"path\":");
        lm_json_write_string(&b, lm_str_of(j->files[i].name));
        lm_buf_printf(&b, ",\"size\":%llu,\"sample\":\"", (unsigned long long)j->files[i].size);
        add_sample(&b, &j->files[i]);
        lm_buf_text(&b, "\"}");
    }
    lm_buf_text(&b, "]}");
    snprintf(below, sizeof below, "models/%s/preupload/%s", j->name, j->revision);
    lm_status st = lm_buf_status(&b, "the list of files", err);
    if (st == LM_OK && n) st = post(c, j, below, NULL, lm_buf_view(&b), 0, &a, err);
    if (st == LM_OK && n) st = lm_json_parse(lm_buf_view(&a.body), &root, err);
    if (st == LM_OK) take_modes(j, root);
    json_decref(root);
    lm_answer_release(&a);
    lm_buf_release(&b);
    return st;
}

static lm_status ask_places(lm_client *c, job *j, lm_err *err) {
    lm_status st = LM_OK;
    lm_remote *batch[BATCH];
    uint32_t index[BATCH];
    for (uint32_t i = 0; st == LM_OK && i < j->n;) {
        lm_lfs how[BATCH];
        uint32_t n = 0;
        for (; i < j->n && n < BATCH; i++) {
            if (j->files[i].have || j->files[i].same || !j->large[i]) continue;
            batch[n] = &j->files[i];
            index[n++] = i;
        }
        if (!n) break;
        st = lm_lfs_ask(c, j->o, j->name, j->revision, batch, n, how, err);
        for (uint32_t k = 0; st == LM_OK && k < n; k++) j->how[index[k]] = how[k];
    }
    return st;
}

static lm_status send_file(void *ctx, lm_client *c, const lm_origin *o, uint32_t i, lm_err *err) {
    job *j = ctx;
    lm_remote *f = &j->files[i];
    if (f->have || f->same || !j->large[i]) return LM_OK;
    lm_status st = lm_lfs_send(c, o, f, &j->how[i], err);
    if (st == LM_OK) atomic_store(&f->done, f->size);
    return st;
}

/* What is there, what is large, and where that goes. */
static lm_status look(lm_client *c, job *j, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < j->n; i++) {
        lm_remote *f = &j->files[i];
        f->have = is_same(j, f);
        j->large[i] = f->size > MAX_SMALL || lm_str_ends(lm_str_of(f->name), LM_STR(".safetensors"));
        if (lm_hub_stopped(j->o)) return lm_fail(err, LM_CANCELLED, "cancelled");
    }
    for (uint32_t i = 0; st == LM_OK && i < j->n; i += BATCH)
        st = ask_modes(c, j, i, i + BATCH < j->n ? i + BATCH : j->n, err);
    for (uint32_t i = 0; i < j->n; i++) {
        lm_remote *f = &j->files[i];
        if (!f->size) j->large[i] = false;
        for (uint32_t k = 0; k < i && j->large[i] && !f->same; k++)
            if (j->large[k] && !j->files[k].have && !strcmp(j->files[k].digest, f->digest))
                f->same = &j->files[k];
        if (!j->large[i] || f->same) continue;
        f->told = false;
        if (f->have) atomic_store(&f->done, f->size);
    }
    return st == LM_OK ? ask_places(c, j, err) : st;
}

/* ---- the commit */

static void add_small(lm_buf *b, const char *path, lm_str content) {
    lm_buf_text(b, "{\"key\":\"file\",\"value\":{\"path\":");
    lm_json_write_string(b, lm_str_of(path));
    lm_buf_text(b, ",\"encoding\":\"base64\",\"content\":\"");
    lm_buf_base64(b, content);
    lm_buf_text(b, "\"}}\n");
}

static lm_status add_to_commit(const job *j, uint32_t i, lm_buf *b, lm_err *err) {
    const lm_remote *f = &j->files[i];
    lm_buf content;
    lm_status st = LM_OK;
    if (j->large[i]) {
        lm_buf_text(b, "{\"key\":\"lfsFile\",\"value\":{\"path\":");
        lm_json_write_string(b, lm_str_of(f->name));
        lm_buf_printf(b, ",\"algo\":\"sha256\",\"oid\":\"%s\",\"size\":%llu}}\n", f->digest + 7,
                      (unsigned long long)f->size);
        return LM_OK;
    }
    lm_buf_init(&content, MAX_SMALL + 1);
    st = lm_file_read(f->path, MAX_SMALL, &content, err);
    if (st == LM_OK) add_small(b, f->name, lm_buf_view(&content));
    lm_buf_release(&content);
    return st;
}

static bool is_ours(const job *j, const char *name) {
    for (uint32_t i = 0; i < j->n; i++)
        if (!strcmp(j->files[i].name, name)) return true;
    return false;
}

/* What says that this is a model for MLX, where its people have said nothing yet. */
static void add_readme(const job *j, lm_buf *b) {
    lm_buf text;
    bool embeds = is_ours(j, "1_Pooling/config.json") || is_ours(j, "modules.json");
    lm_buf_init(&text, 4096);
    lm_buf_printf(&text,
                  "---\nlibrary_name: mlx\ntags:\n- mlx\npipeline_tag: %s\n---\n\n# %s\n\n"
                  "A model in MLX format.\n",
                  embeds ? "feature-extraction" : "text-generation", j->name);
    if (!embeds)
        lm_buf_printf(&text,
                      "\n```sh\npip install mlx-lm\nmlx_lm.generate --model %s --prompt \"hello\"\n```\n",
                      j->name);
    add_small(b, "README.md", lm_buf_view(&text));
    lm_buf_release(&text);
}

static lm_status commit(lm_client *c, job *j, lm_err *err) {
    lm_answer a = {0};
    lm_buf b;
    lm_status st = LM_OK;
    uint32_t changes = 0;
    char below[400];
    lm_buf_init(&b, MAX_COMMIT);
    lm_buf_text(&b, "{\"key\":\"header\",\"value\":{\"summary\":\"Upload model\",\"description\":\"\"}}\n");
    for (uint32_t i = 0; st == LM_OK && i < j->n; i++) {
        if (j->files[i].have) continue;
        st = add_to_commit(j, i, &b, err);
        changes++;
    }
    for (uint32_t i = 0; i < j->there.n; i++) {
        const char *name = j->there.files[i].name;
        bool weights = lm_str_ends(lm_str_of(name), LM_STR(".safetensors")) ||
                       !strcmp(name, "model.safetensors.index.json");
        if (!weights || is_ours(j, name)) continue;
        lm_buf_text(&b, "{\"key\":\"deletedFile\",\"value\":{\"path\":");
        lm_json_write_string(&b, lm_str_of(name));
        lm_buf_text(&b, "}}\n");
        changes++;
    }
    if (changes && !j->there.readme) add_readme(j, &b);
    snprintf(below, sizeof below, "models/%s/commit/%s", j->name, j->revision);
    if (st == LM_OK) st = lm_buf_status(&b, "the commit", err);
    if (st == LM_OK && changes) st = post(c, j, below, TYPE_NDJSON, lm_buf_view(&b), 0, &a, err);
    lm_answer_release(&a);
    lm_buf_release(&b);
    return st;
}

/* ---- in one */

static lm_status push_files(lm_client *c, job *j, const lm_contents *parts, lm_err *err) {
    lm_status st = lm_hf_listing(j->o, j->repo, j->revision, &j->there, err);
    if (st == LM_NOT_FOUND) st = make_repo(c, j, err);
    if (st == LM_OK) choose_files(j, parts);
    if (st == LM_OK) st = look(c, j, err);
    if (st == LM_OK) st = lm_crew_run(j->o, j->files, j->n, send_file, j, err);
    if (st == LM_OK) j->o->pull->status(j->o->pull->ctx, "pushing manifest");
    if (st == LM_OK) st = commit(c, j, err);
    return st;
}

lm_status lm_hf_push(const lm_pull *push, const lm_name *repo, const lm_contents *parts, lm_err *err) {
    lm_client *c = NULL;
    char *base = lm_hf_endpoint(), *token = lm_hf_token();
    lm_origin o = {.base = base, .token = token, .pull = push};
    uint32_t room = parts->n + 1;
    job j = {.o = &o,
             .repo = repo,
             .revision = strcasecmp(repo->tag, "latest") ? repo->tag : "main",
             .files = lm_alloc(room * sizeof *j.files),
             .how = lm_alloc(room * sizeof *j.how),
             .large = lm_alloc(room)};
    snprintf(j.name, sizeof j.name, "%s/%s", repo->ns, repo->model);
    lm_status st =
        token ? lm_client_open(&c, err)
              : lm_fail(err, LM_DENIED,
                        "%s is a repository of the Hugging Face hub: set HF_TOKEN to a token that may "
                        "write there (for Ollama's registry push registry.ollama.ai/%s)",
                        j.name, j.name);
    if (st == LM_OK) st = push_files(c, &j, parts, err);
    for (uint32_t i = 0; i < j.n; i++) {
        free(j.files[i].path);
        lm_lfs_release(&j.how[i]);
    }
    free(j.files);
    free(j.how);
    free(j.large);
    lm_listing_release(&j.there);
    lm_client_close(c);
    free(base);
    free(token);
    return st;
}
