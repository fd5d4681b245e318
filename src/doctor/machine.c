/* machine.c - what the system says about itself and its processes: /proc on Linux, libproc and lsof on macOS.
 *
 * Resident is what is in memory now, mapped weights included. On macOS a process's footprint (which has the
 * GPU's buffers and compressed pages, and not the clean pages of mapped files) may be the larger one: the
 * larger counts. */
#include "doctor/doctor.h"

#include <ctype.h>
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#ifdef __APPLE__
#include <libproc.h>
#include <sys/resource.h>
#include <sys/sysctl.h>
#endif

typedef struct family {
    int pid, parent;
    bool in; /* below the process that was asked for */
} family;

#define MAX_PIDS 65536

#ifdef __APPLE__

static void processor_name(char out[128]) {
    size_t n = 128;
    if (sysctlbyname("machdep.cpu.brand_string", out, &n, NULL, 0)) strcpy(out, "Mac");
}

uint64_t machine_memory(void) {
    uint64_t bytes = 0;
    size_t n = sizeof bytes;
    return sysctlbyname("hw.memsize", &bytes, &n, NULL, 0) ? 0 : bytes;
}

static size_t all_processes(family *out, size_t room) {
    static pid_t pids[MAX_PIDS];
    int n = proc_listallpids(pids, (int)sizeof pids);
    size_t count = 0;
    for (int i = 0; i < n && count < room; i++) {
        struct proc_bsdinfo info;
        if (proc_pidinfo(pids[i], PROC_PIDTBSDINFO, 0, &info, sizeof info) == (int)sizeof info)
            out[count++] = (family){(int)info.pbi_pid, (int)info.pbi_ppid, false};
    }
    return count;
}

static uint64_t resident(int pid) {
    struct rusage_info_v2 info;
    if (proc_pid_rusage(pid, RUSAGE_INFO_V2, (rusage_info_t *)&info)) return 0;
    return info.ri_resident_size > info.ri_phys_footprint ? info.ri_resident_size : info.ri_phys_footprint;
}

bool process_name(int pid, char out[64]) {
    char path[PROC_PIDPATHINFO_MAXSIZE];
    if (proc_pidpath(pid, path, sizeof path) <= 0) return false;
    const char *slash = strrchr(path, '/');
    snprintf(out, 64, "%.63s", slash ? slash + 1 : path);
    return true;
}

int process_on_port(uint16_t port) {
    char where[32];
    snprintf(where, sizeof where, "-iTCP:%u", port);
    char *argv[] = {"/usr/sbin/lsof", "-nP", "-t", where, "-sTCP:LISTEN", NULL};
    doctor_process *lsof = NULL;
    lm_buf line;
    lm_buf_init(&line, 64);
    int pid = 0;
    if (process_start(&lsof, argv, true, NULL) == LM_OK && process_hear(lsof, 10, NULL, &line, NULL) == LM_OK)
        pid = atoi(line.ptr);
    process_stop(lsof, 1);
    lm_buf_release(&line);
    return pid;
}

#else

static bool is_number(const char *s) {
    return isdigit((unsigned char)s[0]) && strspn(s, "0123456789") == strlen(s);
}

/* The whole of a short file in /proc. */
static bool slurp(const char *path, char *out, size_t room) {
    FILE *f = fopen(path, "re");
    if (!f) return false;
    size_t n = fread(out, 1, room - 1, f);
    out[n] = '\0';
    fclose(f);
    return n > 0;
}

static void processor_name(char out[128]) {
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[512];
    strcpy(out, "a processor without a name");
    while (f && fgets(line, sizeof line, f)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) || !colon) continue;
        lm_str name = lm_str_trim(lm_str_of(colon + 1));
        snprintf(out, 128, "%.*s", LM_STR_ARG(name));
        break;
    }
    if (f) fclose(f);
}

uint64_t machine_memory(void) {
    return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int parent_of(int pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!slurp(path, text, sizeof text)) return 0;
    const char *after_name = strrchr(text, ')'); /* a name may hold blanks and brackets */
    int parent = 0;
    return after_name && sscanf(after_name + 1, " %*c %d", &parent) == 1 ? parent : 0;
}

static size_t all_processes(family *out, size_t room) {
    DIR *dir = opendir("/proc");
    size_t count = 0;
    if (!dir) return 0;
    for (struct dirent *e; count < room && (e = readdir(dir));) {
        if (!is_number(e->d_name)) continue;
        int pid = atoi(e->d_name);
        out[count++] = (family){pid, parent_of(pid), false};
    }
    closedir(dir);
    return count;
}

static uint64_t resident(int pid) {
    char path[64], text[256];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (!slurp(path, text, sizeof text) || sscanf(text, "%*u %llu", &pages) != 1) return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* The inode of the socket that listens on a port, from one of /proc/net/tcp*; 0: none. */
static unsigned long listening_inode(const char *table, uint16_t port) {
    FILE *f = fopen(table, "re");
    char line[512];
    unsigned long found = 0;
    while (f && !found && fgets(line, sizeof line, f)) {
        unsigned local_port = 0, state = 0;
        unsigned long inode = 0;
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*u %*u %lu", &local_port,
                   &state, &inode) == 3 &&
            local_port == port && state == 0x0A)
            found = inode;
    }
    if (f) fclose(f);
    return found;
}

static bool holds_socket(int pid, const char *link) {
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    DIR *dir = opendir(path); /* of others' processes: only root may */
    bool found = false;
    if (!dir) return false;
    for (struct dirent *e; !found && (e = readdir(dir));) {
        ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof target - 1);
        if (n <= 0) continue;
        target[n] = '\0';
        found = !strcmp(target, link);
    }
    closedir(dir);
    return found;
}

bool process_name(int pid, char out[64]) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/%d/exe", pid);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return false;
    path[n] = '\0';
    const char *slash = strrchr(path, '/');
    snprintf(out, 64, "%.63s", slash ? slash + 1 : path);
    return true;
}

int process_on_port(uint16_t port) {
    unsigned long inode = listening_inode("/proc/net/tcp", port);
    if (!inode) inode = listening_inode("/proc/net/tcp6", port);
    if (!inode) return 0;
    char link[64];
    snprintf(link, sizeof link, "socket:[%lu]", inode);
    family *all = lm_alloc(MAX_PIDS * sizeof *all);
    size_t n = all_processes(all, MAX_PIDS);
    int pid = 0;
    for (size_t i = 0; i < n && !pid; i++)
        if (holds_socket(all[i].pid, link)) pid = all[i].pid;
    free(all);
    return pid;
}

#endif

bool disk_free(const char *path, uint64_t *bytes) {
    struct statvfs s;
    char *dir = lm_strdup(path);
    bool ok = false;
    for (char *slash; !(ok = !statvfs(dir[0] ? dir : "/", &s)) && (slash = strrchr(dir, '/'));) *slash = '\0';
    free(dir);
    if (!ok || !s.f_blocks) return false; /* none: it is no disk */
    *bytes = (uint64_t)s.f_bavail * (uint64_t)s.f_frsize;
    return true;
}

uint64_t memory_of_tree(int pid) {
    if (pid <= 0) return 0;
    family *all = lm_alloc(MAX_PIDS * sizeof *all);
    size_t n = all_processes(all, MAX_PIDS);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) all[i].in = all[i].pid == pid;
    /* Until a whole turn finds nobody more: a child's number may be smaller than its parent's. */
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; !all[i].in && k < n; k++)
                if (all[k].in && all[k].pid == all[i].parent) more = all[i].in = true;
    }
    for (size_t i = 0; i < n; i++)
        if (all[i].in) sum += resident(all[i].pid);
    free(all);
    return sum;
}

void machine_name(char out[256]) {
    char name[128];
    processor_name(name);
    snprintf(out, 256, "%s, %ld cores, %.0f GB", name, sysconf(_SC_NPROCESSORS_ONLN),
             (double)machine_memory() / 1e9);
}
