/* own_test.c - the own store: blobs, drafts, manifests, views, and what is left of them after a delete. */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/json.h"
#include "base/test.h"
#include "store/modelfile.h"
#include "store/own.h"

static char own[128];  /* DIR/own */
static char user[128]; /* DIR/user/m: a model directory of the user's */

static void put_user_model(const char *weights) {
    lm_err err = {0};
    expect_ok(lm_dir_make(user, &err), err);
    put_file(user, "config.json", LM_STR("{\"model_type\":\"llama\"}"));
    put_file(user, "model.safetensors", lm_str_of(weights));
    put_file(user, "LICENSE.txt", LM_STR("be kind"));
}

static lm_store *open_store(void) {
    lm_store *s = NULL;
    lm_err err = {0};
    char root[160];
    snprintf(root, sizeof root, "%s/user", test_dir());
    const char *roots[] = {root};
    lm_store_config config = {
        .own_dir = own, .roots = roots, .n_roots = 1, .aliases = LM_SOURCE_DIR "/share/aliases.ini"};
    expect_ok(lm_store_open(&s, &config, &err), err);
    return s;
}

static lm_entry find(lm_store *s, const char *name) {
    lm_entry e;
    lm_err err = {0};
    expect_ok(lm_store_find(s, name, &e, &err), err);
    return e;
}

static lm_draft *draft_from(lm_store *s, const char *name) {
    lm_draft *d = NULL;
    lm_err err = {0};
    lm_entry model = find(s, name);
    expect_ok(lm_draft_open(&d, s, &err), err);
    expect_ok(lm_draft_from(d, &model, NULL, NULL, &err), err);
    return d;
}

static void make(lm_store *s, const char *from, const char *name, const char *system) {
    lm_err err = {0};
    lm_draft *d = draft_from(s, from);
    lm_draft_drop(d, LM_LAYER_SYSTEM);
    if (system) expect_ok(lm_draft_add(d, LM_LAYER_SYSTEM, lm_str_of(system), &err), err);
    expect_ok(lm_draft_commit(d, name, NULL, NULL, &err), err);
    lm_draft_close(d);
}

/* Files directly in OWN/below. */
static uint32_t count(const char *below) {
    char *path = lm_path_join(own, below);
    uint32_t n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    free(path);
    return n;
}

static void expect_file(const char *dir, const char *name, const char *want) {
    lm_buf text;
    lm_err err = {0};
    char *path = lm_path_join(dir, name);
    lm_buf_init(&text, 1 << 20);
    expect_ok(lm_file_read(path, 1 << 20, &text, &err), err);
    assert_string_equal(text.ptr, want);
    lm_buf_release(&text);
    free(path);
}

static void a_linked_model_becomes_an_own_one_without_a_copy(void **state) {
    (void)state;
    lm_store *s = open_store();
    make(s, "m", "Mine:1b", "be brief");
    lm_entry e = find(s, "mine:1B");
    assert_string_equal(e.name, "Mine:1b");
    assert_true(e.owned && e.managed);
    expect_file(e.dir, "system", "be brief");
    expect_file(e.dir, "license", "be kind"); /* the makers' terms are the layer that Ollama has for them */
    expect_file(e.dir, "config.json", "{\"model_type\":\"llama\"}");

    char *in_view = lm_path_join(e.dir, "model.safetensors"),
         *theirs = lm_path_join(user, "model.safetensors");
    struct stat a, b;
    assert_true(stat(in_view, &a) == 0 && stat(theirs, &b) == 0);
    assert_true(a.st_ino == b.st_ino || b.st_nlink == 1); /* a hard link, or a clone */
    free(in_view);
    free(theirs);

    lm_name name;
    lm_err err = {0};
    lm_buf text;
    lm_manifest m = {0};
    char hex[65];
    expect_ok(lm_name_parse(LM_STR("mine:1b"), &name, &err), err);
    char *path = lm_manifest_path(own, &name);
    expect_ok(lm_manifest_load(path, &text, &m, &err), err);
    lm_blob_hex(lm_buf_view(&text), hex);
    assert_string_equal(hex, e.digest);
    uint64_t total = m.config.size;
    for (uint32_t i = 0; i < m.n; i++) total += m.layers[i].size;
    assert_int_equal(total, e.size);
    lm_manifest_release(&m);
    lm_buf_release(&text);
    free(path);
    lm_store_close(s);
}

static void numbered_directories_come_along(void **state) {
    (void)state;
    char pooling[200], other[200];
    lm_err err = {0};
    snprintf(pooling, sizeof pooling, "%s/1_Pooling", user);
    snprintf(other, sizeof other, "%s/onnx", user);
    expect_ok(lm_dir_make(pooling, &err), err);
    expect_ok(lm_dir_make(other, &err), err);
    put_file(pooling, "config.json", LM_STR("{\"mean\":true}"));
    put_file(other, "model.safetensors", LM_STR("the same once more"));
    lm_store *s = open_store();
    make(s, "m", "e", NULL);
    lm_entry e = find(s, "e");
    expect_file(e.dir, "1_Pooling/config.json", "{\"mean\":true}");
    char *absent = lm_path_join(e.dir, "onnx");
    assert_false(lm_path_is_dir(absent));
    free(absent);
    lm_store_close(s);
}

static void what_a_modelfile_says_is_read_back(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    lm_draft *d = draft_from(s, "m");
    expect_ok(lm_draft_add(d, LM_LAYER_PARAMS, LM_STR("{\"top_k\":3}"), &err), err);
    expect_ok(lm_draft_add(d, LM_LAYER_MESSAGES, LM_STR("[{\"role\":\"user\",\"content\":\"a\"}]"), &err),
              err);
    expect_ok(lm_draft_add(d, LM_LAYER_TEMPLATE, LM_STR("{{ .Prompt }}"), &err), err);
    expect_ok(lm_draft_add(d, LM_LAYER_LICENSE, LM_STR("second"), &err), err);
    lm_draft_requires(d, "0.14.0");
    expect_ok(lm_draft_commit(d, "x", NULL, NULL, &err), err);
    lm_draft_close(d);

    lm_modelfile file = {0};
    lm_entry e = find(s, "x");
    expect_ok(lm_modelfile_read(&file, e.dir, &err), err);
    assert_int_equal(json_integer_value(json_object_get(file.params, "top_k")), 3);
    assert_int_equal(json_array_size(file.messages), 1);
    assert_string_equal(file.template, "{{ .Prompt }}");
    assert_string_equal(file.requires, "0.14.0");
    assert_null(file.system);
    assert_string_equal(err.text, "");
    lm_modelfile_release(&file);
    expect_file(e.dir, "license.1", "second");

    make(s, "x", "y", "new"); /* what is not said again stays */
    expect_ok(lm_modelfile_read(&file, find(s, "y").dir, &err), err);
    assert_string_equal(file.system, "new");
    assert_string_equal(file.requires, "0.14.0");
    lm_modelfile_release(&file);
    lm_store_close(s);
}

static void a_copy_is_the_same_model_and_blobs_go_with_the_last_name(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    make(s, "m", "a", "one");
    uint32_t blobs = count(LM_OWN_BLOBS);
    expect_ok(lm_store_copy(s, "A", "b:2", NULL, NULL, &err), err);
    assert_string_equal(find(s, "b:2").digest, find(s, "a").digest);
    expect_ok(lm_store_copy(s, "a", "a", NULL, NULL, &err), err); /* nothing to do */
    expect_fail(lm_store_copy(s, "nothere", "x", NULL, NULL, &err), LM_NOT_FOUND, err,
                "model \"nothere\" not found");
    assert_int_equal(count(LM_OWN_BLOBS), blobs);

    expect_ok(lm_store_delete(s, "a", &err), err);
    assert_int_equal(count(LM_OWN_BLOBS), blobs);
    assert_string_equal(find(s, "b:2").name, "b:2");
    expect_ok(lm_store_delete(s, "b:2", &err), err);
    assert_int_equal(count(LM_OWN_BLOBS), 0);
    assert_int_equal(count(LM_OWN_VIEWS), 0);
    assert_int_equal(count(LM_OWN_MANIFESTS), 0);
    assert_int_equal(count(LM_OWN_REMOVED), 0);
    expect_file(user, "model.safetensors", "weights"); /* the user's own stays */
    lm_store_close(s);
}

static void a_replaced_model_leaves_nothing_behind(void **state) {
    (void)state;
    lm_store *s = open_store();
    make(s, "m", "a", "one");
    uint32_t blobs = count(LM_OWN_BLOBS);
    char before[65];
    strcpy(before, find(s, "a").digest);
    make(s, "a", "A", "two");
    assert_string_not_equal(find(s, "a").digest, before);
    assert_string_equal(find(s, "a").name, "a:latest"); /* the spelling that is there stays */
    assert_int_equal(count(LM_OWN_BLOBS), blobs);
    assert_int_equal(count(LM_OWN_VIEWS), 1);
    lm_store_close(s);
}

static void a_plain_directory_of_that_name_is_replaced(void **state) {
    (void)state;
    char plain[200];
    lm_err err = {0};
    snprintf(plain, sizeof plain, "%s/registry.ollama.ai/library/old/latest", own);
    expect_ok(lm_dir_make(plain, &err), err);
    put_file(plain, "config.json", LM_STR("{}"));
    put_file(plain, "model.safetensors", LM_STR("w"));
    lm_store *s = open_store();
    assert_false(find(s, "old").managed);
    make(s, "old", "old", "sys");
    assert_true(find(s, "old").managed);
    assert_false(lm_path_is_dir(plain));
    expect_file(find(s, "old").dir, "model.safetensors", "w");
    lm_store_close(s);
}

/* ---- blobs */

static lm_status upload(lm_store *s, const char *text, const char *digest, lm_err *err) {
    lm_blob *b = NULL;
    expect_ok(lm_blob_open(&b, s, 0, err), *err);
    expect_ok(lm_blob_write(b, lm_str_of(text), err), *err);
    lm_status st = lm_blob_commit(b, digest, err);
    lm_blob_close(b);
    return st;
}

static const char *digest_of(const char *text) {
    static char digest[LM_DIGEST_SIZE];
    memcpy(digest, "sha256:", 7);
    lm_blob_hex(lm_str_of(text), digest + 7);
    return digest;
}

static void a_blob_has_the_digest_that_was_promised_or_is_none(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    char digest[LM_DIGEST_SIZE];
    strcpy(digest, digest_of("content"));
    assert_false(lm_store_has_blob(s, digest));
    expect_fail(upload(s, "other", digest, &err), LM_INVALID, err, "digest mismatch, expected \"sha256:");
    assert_int_equal(count(LM_OWN_BLOBS) + count(LM_OWN_WORK), 0);
    expect_ok(upload(s, "content", digest, &err), err);
    expect_ok(upload(s, "content", digest, &err), err);
    assert_true(lm_store_has_blob(s, digest));
    lm_blob *b = NULL;
    expect_fail(lm_blob_open(&b, s, UINT64_MAX / 2, &err), LM_NO_SPACE, err, "free some space");
    assert_int_equal(count(LM_OWN_WORK), 0);

    static const char *const bad[] = {"", "sha256:", "sha256:zz", "md5:0123", "../../etc/passwd"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fail(lm_digest_parse(lm_str_of(bad[i]), digest, &err), LM_INVALID, err,
                    "invalid digest format");
    lm_store_close(s);
}

static void an_uploaded_blob_waits_an_hour_for_its_model(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    expect_ok(upload(s, "content", digest_of("content"), &err), err);
    lm_own_prune(own, time(NULL) + 3000);
    assert_int_equal(count(LM_OWN_BLOBS), 1);
    lm_draft *d = NULL;
    expect_ok(lm_draft_open(&d, s, &err), err);
    lm_own_prune(own, time(NULL) + 4000); /* a draft may be about to name it */
    assert_int_equal(count(LM_OWN_BLOBS), 1);
    lm_draft_close(d);
    lm_own_prune(own, time(NULL) + 4000);
    assert_int_equal(count(LM_OWN_BLOBS), 0);
    lm_store_close(s);
}

static void nothing_is_pruned_while_a_manifest_cannot_be_read(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    make(s, "m", "a", "one");
    uint32_t blobs = count(LM_OWN_BLOBS);
    char *path = lm_path_join(own, "manifests/registry.ollama.ai/library/a/latest");
    expect_ok(lm_file_write(path, LM_STR("{\"half\":"), &err), err);
    lm_own_prune(own, time(NULL) + 100000);
    assert_int_equal(count(LM_OWN_BLOBS), blobs);
    expect_ok(lm_store_delete(s, "a", &err), err); /* it can still be removed */
    lm_own_prune(own, time(NULL) + 100000);
    assert_int_equal(count(LM_OWN_BLOBS), 0);
    free(path);
    lm_store_close(s);
}

/* ---- views */

static void a_damaged_view_is_made_again(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    make(s, "m", "a", "one");
    lm_entry e = find(s, "a");
    char *file = lm_path_join(e.dir, "config.json");
    assert_int_equal(unlink(file), 0);
    e = find(s, "a");
    assert_true(lm_path_is_file(file));
    expect_ok(lm_dir_remove(e.dir, &err), err);
    e = find(s, "a");
    assert_true(lm_path_is_file(file));
    free(file);

    char *moved = lm_path_join(test_dir(), "moved"); /* links are relative: the store may move */
    assert_int_equal(rename(own, moved), 0);
    char *views = lm_path_join(moved, LM_OWN_VIEWS), *dir = lm_path_join(views, e.digest);
    expect_file(dir, "system", "one");
    free(dir);
    free(views);
    free(moved);
    lm_store_close(s);
}

static void a_model_without_a_blob_is_not_found_but_can_be_deleted(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    lm_entry e;
    make(s, "m", "a", "one");
    char *blob = lm_blob_path(own, digest_of("weights"));
    assert_int_equal(unlink(blob), 0);
    free(blob);
    expect_fail(lm_store_find(s, "a", &e, &err), LM_NOT_FOUND, err, "model 'a' not found");
    expect_ok(lm_store_delete(s, "a", &err), err);
    assert_int_equal(count(LM_OWN_BLOBS), 0);
    expect_fail(lm_store_delete(s, "a", &err), LM_NOT_FOUND, err, "model 'a' not found");
    lm_store_close(s);
}

/* ---- hostile input */

#define HEX    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define CONFIG "\"config\":{\"mediaType\":\"c\",\"digest\":\"sha256:" HEX "\",\"size\":1}"
#define LAYER(name)                                                                                          \
    "{\"mediaType\":\"application/vnd.ollama.image.json\",\"digest\":\"sha256:" HEX                          \
    "\",\"size\":1,\"name\":\"" name "\"}"

static void a_manifest_that_is_not_to_be_trusted_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "null",
        "[]",
        "{}",
        "{" CONFIG "}",
        "{" CONFIG ",\"layers\":{}}",
        "{" CONFIG ",\"layers\":[1]}",
        "{" CONFIG ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"sha256:12\",\"size\":1}]}",
        "{" CONFIG ",\"layers\":[{\"mediaType\":\"x\",\"digest\":\"sha256:" HEX "\",\"size\":-1}]}",
        "{" CONFIG ",\"layers\":[{\"mediaType\":\"\",\"digest\":\"sha256:" HEX "\",\"size\":1}]}",
        "{" CONFIG ",\"layers\":[" LAYER("") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("..") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("../x") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("/etc/x") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a/../../x") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a//x") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a/") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a/b/c/d/e") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("system/x") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a\\\\b") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a\\nb") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a\\u0000b") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("system") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("License.1") "]}",
        "{" CONFIG ",\"layers\":[" LAYER("a.json") "," LAYER("A.json") "]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lm_manifest m = {0};
        lm_err err = {0};
        expect_fail(lm_manifest_parse(lm_str_of(bad[i]), &m, &err), LM_CORRUPT, err, "not a manifest");
        assert_null(m.layers);
    }
    lm_manifest m = {0};
    lm_err err = {0};
    expect_ok(lm_manifest_parse(LM_STR("{" CONFIG ",\"layers\":[" LAYER("a.json") "]}"), &m, &err), err);
    lm_manifest_release(&m);
}

static void a_name_that_a_model_cannot_have_is_refused(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    lm_draft *d = NULL;
    char digest[LM_DIGEST_SIZE];
    strcpy(digest, digest_of("{}"));
    expect_ok(upload(s, "{}", digest, &err), err);
    expect_ok(lm_draft_open(&d, s, &err), err);
    expect_fail(lm_draft_blob(d, "../config.json", digest, &err), LM_INVALID, err, "cannot be the name");
    expect_fail(lm_draft_blob(d, ".hidden", digest, &err), LM_INVALID, err, "cannot be the name");
    expect_fail(lm_draft_blob(d, "x.json", digest_of("nothing"), &err), LM_NOT_FOUND, err, "upload it first");
    expect_ok(lm_draft_blob(d, "config.json", digest, &err), err);
    expect_fail(lm_draft_blob(d, "Config.json", digest, &err), LM_INVALID, err, "there twice");
    assert_int_not_equal(lm_draft_check(d, &err), LM_OK); /* no weights */
    lm_draft_close(d);
    assert_int_equal(count(LM_OWN_WORK), 0);
    lm_store_close(s);
}

/* ---- failures in the middle */

static bool never(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    (void)done;
    (void)total;
    return false;
}

static bool append(void *ctx, uint64_t done, uint64_t total) {
    (void)ctx;
    (void)done;
    (void)total;
    char *path = lm_path_join(user, "model.safetensors");
    FILE *f = fopen(path, "a");
    free(path);
    if (!f) return false;
    fputs("more", f);
    return fclose(f) == 0;
}

static void expect_nothing_changed(lm_store *s) {
    lm_entry e;
    lm_err err = {0};
    assert_int_equal(lm_store_find(s, "a", &e, &err), LM_NOT_FOUND);
    assert_int_equal(count(LM_OWN_WORK) + count(LM_OWN_VIEWS) + count(LM_OWN_MANIFESTS), 0);
    assert_int_equal(count(LM_OWN_BLOBS) + count(LM_OWN_REMOVED), 0);
}

static void a_cancelled_draft_leaves_nothing(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    lm_draft *d = NULL;
    lm_entry e = find(s, "m");
    expect_ok(lm_draft_open(&d, s, &err), err);
    expect_fail(lm_draft_from(d, &e, never, NULL, &err), LM_CANCELLED, err, "cancelled");
    lm_draft_close(d);
    expect_nothing_changed(s);
    d = draft_from(s, "m"); /* and one whose blobs are there */
    lm_draft_close(d);
    expect_nothing_changed(s);
    lm_store_close(s);
}

static void a_file_that_changes_while_it_is_read_is_refused(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    char digest[LM_DIGEST_SIZE];
    bool existing;
    char *path = lm_path_join(user, "model.safetensors");
    expect_fail(lm_blob_take(own, path, LM_TAKE_LINK, NULL, append, NULL, digest, &existing, &err),
                LM_CORRUPT, err, "changed while it was read");
    assert_int_equal(count(LM_OWN_BLOBS) + count(LM_OWN_WORK), 0);
    free(path);
    lm_store_close(s);
}

/* A limit of file sizes fails a write as a full disk does. */
static void a_full_disk_is_said_and_loses_nothing(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    make(s, "m", "kept", "one");
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    for (rlim_t limit = 0; limit < 1200; limit += 150) {
        lm_draft *d = draft_from(s, "kept");
        small = (struct rlimit){limit, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        lm_draft_drop(d, LM_LAYER_SYSTEM);
        lm_status st = lm_draft_add(d, LM_LAYER_SYSTEM,
                                    LM_STR("a text of two hundred bytes, or so, that is longer "
                                           "than the first limits, and then shorter than the others, so that "
                                           "each of the steps gets to fail: this "
                                           "one, the config, the manifest, and at last none"),
                                    &err);
        if (st == LM_OK) st = lm_draft_commit(d, "new", NULL, NULL, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        lm_draft_close(d);
        if (st != LM_OK) {
            lm_entry e;
            assert_int_equal(st, LM_NO_SPACE);
            assert_int_equal(lm_store_find(s, "new", &e, &err), LM_NOT_FOUND);
        }
        assert_int_equal(count(LM_OWN_WORK), 0);
        expect_file(find(s, "kept").dir, "system", "one");
    }
    make(s, "kept", "new", "two");
    expect_file(find(s, "new").dir, "system", "two");
    lm_store_close(s);
}

/* ---- several processes */

/* Makes, copies and deletes as fast as it can; other processes do the same with the same names. */
static int busy_child(unsigned seed) {
    lm_store *s = open_store();
    lm_err err = {0};
    for (int i = 0; i < 15; i++) {
        char name[16], text[32];
        lm_entry e;
        snprintf(name, sizeof name, "x%u", (seed + (unsigned)i) % 3);
        snprintf(text, sizeof text, "%u %d", seed, i);
        make(s, "m", name, text);
        lm_status st = lm_store_copy(s, name, "shared", NULL, NULL, &err);
        if (st != LM_OK && st != LM_NOT_FOUND) return 1;
        if (lm_store_find(s, "shared", &e, &err) != LM_OK && i == 0 && st == LM_OK && seed == 99) return 2;
        if (i % 4 == 3) {
            st = lm_store_delete(s, name, &err);
            if (st != LM_OK && st != LM_NOT_FOUND) return 3;
        }
    }
    lm_store_close(s);
    return 0;
}

static void processes_do_not_get_in_each_others_way(void **state) {
    (void)state;
    pid_t children[4];
    for (unsigned i = 0; i < 4; i++) {
        children[i] = fork();
        assert_true(children[i] >= 0);
        if (children[i] == 0) _exit(busy_child(i));
    }
    for (unsigned i = 0; i < 4; i++) {
        int how = 0;
        assert_int_equal(waitpid(children[i], &how, 0), children[i]);
        assert_int_equal(how, 0);
    }
    lm_store *s = open_store();
    lm_entry *list = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    expect_ok(lm_store_list(s, &list, &n, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        if (!list[i].owned) continue;
        expect_file(list[i].dir, "model.safetensors", "weights");
        expect_ok(lm_store_delete(s, list[i].name, &err), err);
    }
    free(list);
    lm_store_prune(s);
    assert_int_equal(count(LM_OWN_BLOBS) + count(LM_OWN_VIEWS) + count(LM_OWN_WORK), 0);
    lm_store_close(s);
}

/* ---- for downloads */

static void a_partial_file_is_kept_locked_and_taken(void **state) {
    (void)state;
    lm_store *s = open_store();
    lm_err err = {0};
    int fd = -1, second = -1;
    char *path = NULL, *again = NULL;
    expect_ok(lm_store_partial(s, "https://hub/x", &fd, &path, &err), err);
    assert_int_equal(write(fd, "weig", 4), 4);
    expect_fail(lm_store_partial(s, "https://hub/x", &second, &again, &err), LM_BUSY, err, "another process");
    close(fd);
    lm_store_prune(s);
    expect_ok(lm_store_partial(s, "https://hub/x", &fd, &again, &err), err);
    assert_string_equal(path, again);
    assert_int_equal(lseek(fd, 0, SEEK_END), 4);
    assert_int_equal(write(fd, "hts", 3), 3);

    lm_draft *d = NULL;
    expect_ok(lm_draft_open(&d, s, &err), err);
    expect_fail(
        lm_draft_file(d, "model.safetensors", path, LM_TAKE_MOVE, digest_of("other"), NULL, NULL, &err),
        LM_CORRUPT, err, "digest mismatch");
    expect_ok(
        lm_draft_file(d, "model.safetensors", path, LM_TAKE_MOVE, digest_of("weights"), NULL, NULL, &err),
        err);
    assert_int_equal(count(LM_OWN_PARTIAL), 0);
    close(fd);
    lm_draft_close(d);
    free(path);
    free(again);
    lm_store_close(s);
}

static int fresh(void **state) {
    if (make_test_dir(state) != 0) return -1;
    snprintf(own, sizeof own, "%s/own", test_dir());
    snprintf(user, sizeof user, "%s/user/m", test_dir());
    setenv("HOME", test_dir(), 1);
    unsetenv("OLLAMA_MODELS");
    setenv("HF_HUB_CACHE", test_dir(), 1);
    put_user_model("weights");
    return 0;
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, fresh, remove_test_dir)
    const struct CMUnitTest tests[] = {
        T(a_linked_model_becomes_an_own_one_without_a_copy),
        T(numbered_directories_come_along),
        T(what_a_modelfile_says_is_read_back),
        T(a_copy_is_the_same_model_and_blobs_go_with_the_last_name),
        T(a_replaced_model_leaves_nothing_behind),
        T(a_plain_directory_of_that_name_is_replaced),
        T(a_blob_has_the_digest_that_was_promised_or_is_none),
        T(an_uploaded_blob_waits_an_hour_for_its_model),
        T(nothing_is_pruned_while_a_manifest_cannot_be_read),
        T(a_damaged_view_is_made_again),
        T(a_model_without_a_blob_is_not_found_but_can_be_deleted),
        T(a_manifest_that_is_not_to_be_trusted_is_refused),
        T(a_name_that_a_model_cannot_have_is_refused),
        T(a_cancelled_draft_leaves_nothing),
        T(a_file_that_changes_while_it_is_read_is_refused),
        T(a_full_disk_is_said_and_loses_nothing),
        T(processes_do_not_get_in_each_others_way),
        T(a_partial_file_is_kept_locked_and_taken),
    };
    return cmocka_run_group_tests_name("own", tests, NULL, NULL);
}
