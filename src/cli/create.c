/* create.c - create: a Modelfile becomes a request of /api/create, and the files that it names are uploaded before.
 *
 * What can be wrong with the Modelfile is said before anything is read or sent. Then each file is read for its digest, uploaded
 * where the server has no such blob, and named in the request. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/modelfile.h"
#include "cli/parameter.h"
#include "cli/say.h"
#include "cli/sources.h"
#include "cli/term.h"
#include "cli/transfer.h"
#include "names/names.h"

#define EVERY_NS UINT64_C(100000000) /* between two events about one file */

typedef struct create {
    const cli_args *a;
    const char *file; /* how the Modelfile is called in errors */
    char *dir;        /* of which its paths are seen */
    modelfile m;
    sources files, adapters;
    json_t *body; /* of /api/create, without the files */
    wire w;
    transfer t;
    uint64_t total, before; /* bytes of all files; of those that have been read for their digests */
    uint64_t told_ns;
} create;

/* ---- the Modelfile */

static char *directory_of(const char *file) {
    const char *slash = strrchr(file, '/');
    if (!slash) return lm_strdup(".");
    return lm_str_dup((lm_str){file, slash == file ? 1 : (size_t)(slash - file)});
}

static lm_status read_file(const char *path, lm_buf *out, lm_err *err) {
    bool input = !strcmp(path, "-");
    int fd = input ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return lm_fail(err, errno == ENOENT ? LM_NOT_FOUND : LM_IO, "%s", strerror(errno));
    lm_status st = term_read(fd, "it", out, err);
    if (!input) close(fd);
    return st;
}

/* Without a Modelfile, and without one that was asked for: the files of this directory, if they are a model. */
static lm_status read_none(lm_buf *text, lm_err *err) {
    sources here = {0};
    lm_status st = sources_add(&here, ".", NULL);
    sources_release(&here);
    if (st != LM_OK)
        return lm_fail(
            err, LM_NOT_FOUND,
            "there is no Modelfile here: write one (its first line: FROM and a model's name, or a path), or "
            "name it with -f FILE");
    lm_buf_text(text, "FROM .\n");
    return LM_OK;
}

static lm_status read_modelfile(create *c, lm_err *err) {
    const char *given = cli_value(c->a, "file");
    lm_buf text;
    lm_buf_init(&text, MODELFILE_MAX_BYTES);
    c->file = !given ? "Modelfile" : strcmp(given, "-") ? given : "the Modelfile of the input";
    c->dir = directory_of(given ? given : "");
    lm_status st = read_file(given ? given : "Modelfile", &text, err);
    if (st == LM_NOT_FOUND && !given) {
        st = read_none(&text, err);
        if (st != LM_OK) {
            lm_buf_release(&text);
            return st;
        }
    } else if (st == LM_NOT_FOUND) {
        st = lm_fail(err, st, "there is no such file: name the Modelfile with -f FILE");
    }
    if (st == LM_OK) st = modelfile_parse(lm_buf_view(&text), &c->m, err);
    lm_buf_release(&text);
    return st == LM_OK ? st : lm_fail_in(err, st, "%.200s", c->file);
}

/* ---- its commands */

static lm_status add_from(create *c, const modelfile_command *k, lm_err *err) {
    if (!k->value[0]) return lm_fail(err, LM_INVALID, "FROM names nothing");
    char *path = sources_path(k->value, c->dir);
    lm_status st = sources_add(&c->files, path, err);
    free(path);
    if (st == LM_NOT_FOUND && !sources_is_path(k->value)) {
        json_object_set_new(c->body, "from", json_string(k->value));
        return LM_OK;
    }
    return st;
}

/* Only the last one counts, as in ollama: a model has one. */
static lm_status add_adapter(create *c, const modelfile_command *k, lm_err *err) {
    if (!k->value[0]) return lm_fail(err, LM_INVALID, "ADAPTER names nothing");
    char *path = sources_path(k->value, c->dir);
    if (c->adapters.n) fprintf(stderr, "line %u: this ADAPTER takes the place of the one before\n", k->line);
    sources_release(&c->adapters);
    lm_status st = sources_add(&c->adapters, path, err);
    free(path);
    return st;
}

/* The list of that name, made at its first use. */
static json_t *list(create *c, const char *name) {
    json_t *l = json_object_get(c->body, name);
    if (l) return l;
    json_object_set_new(c->body, name, json_array());
    return json_object_get(c->body, name);
}

static lm_status add_parameter(create *c, const modelfile_command *k, lm_err *err) {
    if (parameter_is_old(k->name)) {
        fprintf(stderr, "line %u: parameter %s is no longer in use\n", k->line, k->name);
        return LM_OK;
    }
    json_t *v = NULL, *all = json_object_get(c->body, "parameters");
    const char *word = k->value;
    lm_status st = parameter_read(k->name, &word, 1, &v, err);
    if (st != LM_OK) return st;
    if (!all) {
        json_object_set_new(c->body, "parameters", json_object());
        all = json_object_get(c->body, "parameters");
    }
    json_t *before = json_object_get(all, k->name);
    if (json_is_array(before) && json_is_array(v)) {
        json_array_extend(before, v);
        json_decref(v);
    } else {
        json_object_set_new(all, k->name, v);
    }
    return LM_OK;
}

/* As golang.org/x/mod/semver takes it: 1, 1.2 or 1.2.3, and behind three also -word, +word. */
static bool is_version(const char *p) {
    uint32_t parts = 0;
    for (;;) {
        size_t n = strspn(p, "0123456789");
        if (!n || (n > 1 && p[0] == '0')) return false;
        p += n;
        if (++parts == 3 || *p != '.') break;
        p++;
    }
    if (!*p) return true;
    bool more = parts == 3 && (*p == '-' || *p == '+') && p[1];
    for (p++; more && *p; p++) more = isalnum((unsigned char)*p) || strchr(".-+", *p);
    return more;
}

static lm_status add_requires(create *c, const modelfile_command *k, lm_err *err) {
    const char *version = k->value + (k->value[0] == 'v');
    if (!is_version(version))
        return lm_fail(err, LM_INVALID, "REQUIRES is a version like 0.14.0, not \"%.60s\"", k->value);
    json_object_set_new(c->body, "requires", json_string(version));
    return LM_OK;
}

/* Empty ones are not said, as ollama does it. */
static lm_status add_text(create *c, const char *key, const char *text) {
    if (text[0])
        json_object_set_new(c->body, key, json_string(text));
    else
        json_object_del(c->body, key);
    return LM_OK;
}

static lm_status add_command(create *c, const modelfile_command *k, lm_err *err) {
    switch (k->kind) {
    case MODELFILE_FROM: return add_from(c, k, err);
    case MODELFILE_ADAPTER: return add_adapter(c, k, err);
    case MODELFILE_TEMPLATE: return add_text(c, "template", k->value);
    case MODELFILE_SYSTEM: return add_text(c, "system", k->value);
    case MODELFILE_RENDERER: return add_text(c, "renderer", k->value);
    case MODELFILE_PARSER: return add_text(c, "parser", k->value);
    case MODELFILE_REQUIRES: return add_requires(c, k, err);
    case MODELFILE_PARAMETER: return add_parameter(c, k, err);
    case MODELFILE_LICENSE: json_array_append_new(list(c, "license"), json_string(k->value)); break;
    case MODELFILE_MESSAGE:
        json_array_append_new(list(c, "messages"),
                              json_pack("{s:s, s:s}", "role", k->name, "content", k->value));
        break;
    }
    return LM_OK;
}

static lm_status read_commands(create *c, lm_err *err) {
    const char *quantize = cli_value(c->a, "quantize");
    c->body = json_pack("{s:s}", "model", c->a->operand[0]);
    if (quantize && quantize[0]) json_object_set_new(c->body, "quantize", json_string(quantize));
    for (uint32_t i = 0; i < c->m.n; i++) {
        lm_status st = add_command(c, &c->m.commands[i], err);
        if (st != LM_OK) return lm_fail_in(err, st, "%.200s: line %u", c->file, c->m.commands[i].line);
    }
    return LM_OK;
}

/* ---- the files */

/* About ten times a second, and when it is whole. */
static void tell(create *c, const char *status, const char *digest, uint64_t done, uint64_t total) {
    uint64_t now = lm_now_ns();
    if (done < total && now - c->told_ns < EVERY_NS) return;
    c->told_ns = now;
    json_t *event = json_pack("{s:s, s:I, s:I}", "status", status, "total", (json_int_t)total, "completed",
                              (json_int_t)done);
    if (digest) json_object_set_new(event, "digest", json_string(digest));
    transfer_event(&c->t, event);
    json_decref(event);
}

static bool on_hash(void *ctx, uint64_t done) {
    create *c = ctx;
    tell(c, "gathering model components", NULL, c->before + done, c->total);
    return !term_signal() && !term_broken();
}

static lm_status hash_all(create *c, sources *s, lm_err *err) {
    lm_status st = LM_OK;
    for (uint32_t i = 0; i < s->n && st == LM_OK; i++) {
        st = source_hash(&s->files[i], on_hash, c, err);
        c->before += s->files[i].bytes;
    }
    return st;
}

typedef struct sending {
    create *c;
    const source *file;
    char status[300];
    int fd;
} sending;

static size_t read_piece(void *ctx, uint64_t at, char *out, size_t room) {
    sending *s = ctx;
    ssize_t n;
    do n = pread(s->fd, out, room, (off_t)at);
    while (n < 0 && errno == EINTR);
    if (n <= 0) return 0;
    tell(s->c, s->status, s->file->digest, at + (uint64_t)n, s->file->bytes);
    return (size_t)n;
}

static lm_status upload(create *c, const source *f, const char *path, lm_err *err) {
    sending s = {.c = c, .file = f, .fd = open(f->path, O_RDONLY | O_CLOEXEC)};
    if (s.fd < 0) return lm_fail(err, LM_IO, "%s cannot be read: %s", f->path, strerror(errno));
    snprintf(s.status, sizeof s.status, "uploading %s", f->name);
    c->told_ns = 0;
    lm_status st = wire_upload(&c->w, path, f->bytes, read_piece, &s, err);
    close(s.fd);
    if (st == LM_IO || st == LM_TIMEOUT) {
        lm_err why = *err;
        lm_fail(err, st,
                "the upload of %.100s broke off (%.250s): create it again, files that are there are "
                "not sent twice",
                f->name, why.text);
    } else if (st != LM_OK && st != LM_NOT_FOUND && st != LM_CANCELLED) {
        lm_fail_in(err, st, "upload of %.100s", f->name);
    }
    return st;
}

static lm_status bring(create *c, const source *f, lm_err *err) {
    char path[100];
    snprintf(path, sizeof path, "/api/blobs/%s", f->digest);
    lm_status st = wire_json(&c->w, "HEAD", path, NULL, NULL, err);
    return st == LM_NOT_FOUND && c->w.status == 404 ? upload(c, f, path, err) : st;
}

static lm_status bring_all(create *c, const char *key, sources *s, lm_err *err) {
    lm_status st = LM_OK;
    if (!s->n) return LM_OK;
    json_t *named = json_object();
    for (uint32_t i = 0; i < s->n && st == LM_OK; i++) {
        st = bring(c, &s->files[i], err);
        json_object_set_new(named, s->files[i].name, json_string(s->files[i].digest));
    }
    json_object_set_new(c->body, key, named);
    return st;
}

static uint64_t bytes_of(const sources *s) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) n += s->files[i].bytes;
    return n;
}

/* ---- all of it */

static lm_status make(create *c, lm_err *err) {
    c->total = bytes_of(&c->files) + bytes_of(&c->adapters);
    lm_status st = hash_all(c, &c->files, err);
    if (st == LM_OK) st = hash_all(c, &c->adapters, err);
    if (st == LM_OK) st = bring_all(c, "files", &c->files, err);
    if (st == LM_OK) st = bring_all(c, "adapters", &c->adapters, err);
    return st == LM_OK ? transfer_run(&c->t, "create", c->body, err) : st;
}

static int create_with(create *c) {
    lm_err err = {0};
    lm_name name;
    if (lm_name_parse(lm_str_of(c->a->operand[0]), &name, NULL) != LM_OK)
        return say_failed(c->a, CLI_USAGE, "invalid model name: %.200s. It is like llama3.2-pirate:1b",
                          c->a->operand[0]);
    lm_status st = read_modelfile(c, &err);
    if (st == LM_OK) st = read_commands(c, &err);
    if (term_signal()) return CLI_SIGNAL + term_signal();
    if (st != LM_OK) return say_failed(c->a, st == LM_IO ? CLI_FAILED : CLI_USAGE, "%s", err.text);
    int code = wire_reach(c->a, &c->w);
    if (code != CLI_OK) return code;
    transfer_open(&c->t, &c->w, say_as_json(c->a));
    st = make(c, &err);
    transfer_close(&c->t);
    const char *from = json_text(c->body, "from");
    return st == LM_OK ? CLI_OK : transfer_refused(c->a, &c->w, st, &err, from[0] ? from : NULL);
}

int command_create(const cli_args *a) {
    create c = {.a = a};
    int code = create_with(&c);
    wire_close(&c.w);
    json_decref(c.body);
    sources_release(&c.files);
    sources_release(&c.adapters);
    modelfile_release(&c.m);
    free(c.dir);
    return code;
}
