/* owner.c - whom a service of the machine runs as. Root asks about it and changes it, but configuration, logs, PID file and notes are
 * its user's: they lie in that user's home, and files of anybody else are refused. So root is that user meanwhile, and root only
 * where the init system is asked. */
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "service/init.h"

#define MAX_UNIT 65536

static struct {
    bool taken;
    uid_t uid;
    gid_t gid;
} owner;

/* The text between the two, of a unit that we have written. */
static bool between(lm_str unit, const char *before, char end, char out[256]) {
    const char *at = memmem(unit.ptr, unit.len, before, strlen(before));
    if (!at) return false;
    at += strlen(before);
    const char *stop = memchr(at, end, (size_t)(unit.ptr + unit.len - at));
    if (!stop || stop == at || stop - at > 255) return false;
    memcpy(out, at, (size_t)(stop - at));
    out[stop - at] = '\0';
    return true;
}

static bool user_of_unit(const service_init *i, char out[256]) {
    lm_buf unit;
    lm_buf_init(&unit, MAX_UNIT);
    bool found = lm_file_read(i->path, MAX_UNIT, &unit, NULL) == LM_OK;
    lm_str text = lm_buf_view(&unit);
    if (found && i->kind == INIT_SYSTEMD) found = between(text, "\nUser=", '\n', out);
    if (found && i->kind == INIT_LAUNCHD) {
        const char *key = memmem(text.ptr, text.len, "<key>UserName</key>", 19);
        found = key && between((lm_str){key, (size_t)(text.ptr + text.len - key)}, "<string>", '<', out);
    }
    lm_buf_release(&unit);
    return found;
}

bool service_owner_name(const service_options *o, char out[256]) {
    service_init i;
    if (!o->user && service_init_where(o, &i, NULL) == LM_OK && user_of_unit(&i, out)) return true;
    const char *name = o->user ? o->user : getenv("SUDO_USER");
    if (!name || !name[0] || strlen(name) > 255) return false;
    strcpy(out, name);
    return true;
}

lm_status service_owner_take(const service_options *o, bool installs, lm_err *err) {
    char name[256];
    /* A configuration that root names, root may read. Without a name there is none, and none is asked for. */
    if (!o->system || o->config || !service_owner_name(o, name)) return LM_OK;
    const struct passwd *who = getpwnam(name);
    if (!who) return lm_fail(err, LM_NOT_FOUND, "there is no user \"%.100s\"", name);
    uid_t uid = who->pw_uid;
    gid_t gid = who->pw_gid;
    if (getuid() != 0 && uid != getuid())
        return installs
                   ? LM_OK /* or its text is to be shown */
                   : lm_fail(
                         err, LM_DENIED,
                         "the machine's service runs as %.100s: ask as root (sudo mlx-server-startup ...)",
                         name);
    setenv("HOME", who->pw_dir, 1);
    static const char *const others[] = {"XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME",
                                         "XDG_CACHE_HOME"};
    for (size_t k = 0; k < sizeof others / sizeof *others; k++) unsetenv(others[k]);
    if (getuid() != 0) return LM_OK;
    if (initgroups(name, gid) || setegid(gid) || seteuid(uid))
        return lm_fail(err, LM_DENIED, "cannot become %.100s", name);
    owner.taken = true;
    owner.uid = uid;
    owner.gid = gid;
    return LM_OK;
}

void service_owner_leave(void) {
    if (owner.taken && (seteuid(0) || setegid(0))) abort();
}

void service_owner_again(void) {
    if (owner.taken && (setegid(owner.gid) || seteuid(owner.uid))) abort();
}
