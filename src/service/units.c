/* units.c - what launchd and systemd are told.
 *
 * Both run `mlx-server-startup run`: back-off, health checks, watchdog and logs are the same everywhere, and the init system
 * looks after the supervisor alone. Sources: launchd.plist(5); systemd.service(5), systemd.socket(5), systemd.exec(5).
 *
 * Of systemd's sandbox a user's unit gets what seccomp and prctl do, which need no privilege. Not used, in either: PrivateDevices
 * and ProtectClock (both close the way to a GPU's devices), MemoryDenyWriteExecute (drivers of GPUs compile at run time),
 * PrivateTmp (the logs lie in /tmp), ProtectHome (the models lie at home).
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "service/call.h"

#define AFTER_DRAIN_S 15

static long long seconds(const service_config *c, service_key k) {
    return (long long)((service_number(c, k) + SERVICE_SECOND_NS - 1) / SERVICE_SECOND_NS);
}

/* ---- launchd */

static void add_xml(lm_buf *out, const char *text) {
    for (const char *p = text; *p; p++) {
        switch (*p) {
        case '&': lm_buf_text(out, "&amp;"); break;
        case '<': lm_buf_text(out, "&lt;"); break;
        case '>': lm_buf_text(out, "&gt;"); break;
        default: lm_buf_char(out, *p);
        }
    }
}

static void add_string(lm_buf *out, const char *indent, const char *text) {
    lm_buf_printf(out, "%s<string>", indent);
    add_xml(out, text);
    lm_buf_text(out, "</string>\n");
}

static void add_launchd_socket(const service_config *c, lm_buf *out) {
    lm_buf_text(out, "    <key>Sockets</key>\n    <dict>\n        <key>bridge</key>\n        <dict>\n"
                     "            <key>SockNodeName</key>\n");
    add_string(out, "            ", service_text(c, SET_HOST));
    lm_buf_text(out, "            <key>SockServiceName</key>\n");
    add_string(out, "            ", service_text(c, SET_PORT));
    lm_buf_text(out, "            <key>SockType</key>\n            <string>stream</string>\n        "
                     "</dict>\n    </dict>\n");
}

void service_unit_launchd(const service_config *c, const service_unit_facts *f, lm_buf *out) {
    lm_buf_text(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                     "<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "
                     "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n"
                     "<plist version=\"1.0\">\n<dict>\n"
                     "    <key>Label</key>\n    <string>" SERVICE_LABEL "</string>\n"
                     "    <key>ProgramArguments</key>\n    <array>\n");
    add_string(out, "        ", f->program);
    lm_buf_text(out, "        <string>run</string>\n        <string>--give-up-ok</string>\n");
    if (f->config) {
        lm_buf_text(out, "        <string>--config</string>\n");
        add_string(out, "        ", f->config);
    }
    lm_buf_text(out, "    </array>\n");
    if (f->system) {
        lm_buf_text(out, "    <key>UserName</key>\n");
        add_string(out, "    ", f->user ? f->user : "nobody");
        lm_buf_text(out, "    <key>EnvironmentVariables</key>\n    <dict>\n        <key>HOME</key>\n");
        add_string(out, "        ", f->home);
        lm_buf_text(out, "    </dict>\n");
    } else {
        lm_buf_text(out, "    <key>LimitLoadToSessionType</key>\n    <array>\n        <string>Aqua</string>\n"
                         "        <string>Background</string>\n    </array>\n");
    }
    lm_buf_text(out, "    <key>RunAtLoad</key>\n    <true/>\n"
                     "    <key>KeepAlive</key>\n    <dict>\n        <key>SuccessfulExit</key>\n        "
                     "<false/>\n    </dict>\n"
                     "    <key>ThrottleInterval</key>\n    <integer>10</integer>\n"
                     "    <key>ProcessType</key>\n    <string>Interactive</string>\n");
    lm_buf_printf(out, "    <key>ExitTimeOut</key>\n    <integer>%lld</integer>\n",
                  seconds(c, SET_DRAIN) + AFTER_DRAIN_S);
    lm_buf_text(out, "    <key>Umask</key>\n    <integer>63</integer>\n"
                     "    <key>SoftResourceLimits</key>\n    <dict>\n        <key>NumberOfFiles</key>\n      "
                     "  <integer>8192</integer>\n"
                     "    </dict>\n");
    if (f->socket) add_launchd_socket(c, out);
    lm_buf_text(out, "</dict>\n</plist>\n");
}

/* ---- systemd */

/* A word of a command line: quoted, '%' doubled (specifiers), '$' doubled (variables). */
static void add_word(lm_buf *out, const char *text) {
    lm_buf_char(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\') lm_buf_char(out, '\\');
        if (*p == '%' || *p == '$') lm_buf_char(out, *p);
        lm_buf_char(out, *p);
    }
    lm_buf_char(out, '"');
}

static void add_sandbox(const service_unit_facts *f, lm_buf *out) {
    lm_buf_text(out, "\n# What it never needs.\n"
                     "NoNewPrivileges=yes\n"
                     "LockPersonality=yes\n"
                     "RestrictRealtime=yes\n"
                     "RestrictSUIDSGID=yes\n"
                     "RestrictNamespaces=yes\n"
                     "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"
                     "SystemCallArchitectures=native\n"
                     "UMask=0077\n");
    if (!f->system) return;
    lm_buf_text(out, "ProtectSystem=full\n"
                     "ProtectKernelTunables=yes\n"
                     "ProtectKernelModules=yes\n"
                     "ProtectKernelLogs=yes\n"
                     "ProtectControlGroups=yes\n"
                     "ProtectHostname=yes\n"
                     "CapabilityBoundingSet=\n");
}

void service_unit_systemd(const service_config *c, const service_unit_facts *f, lm_buf *out) {
    lm_buf_text(out, "# Written by `mlx-server-startup install-service`; `mlx-server-startup diff` shows "
                     "what has changed since.\n"
                     "[Unit]\nDescription=MLX models behind Ollama's API (mlx-ollama-bridge)\n");
    if (f->system) lm_buf_text(out, "After=network.target\n");
    if (f->socket) lm_buf_text(out, "Requires=" SERVICE_UNIT ".socket\nAfter=" SERVICE_UNIT ".socket\n");
    lm_buf_text(out, "StartLimitIntervalSec=10min\nStartLimitBurst=5\n\n[Service]\nType=notify\nNotifyAccess="
                     "main\nExecStart=");
    add_word(out, f->program);
    lm_buf_text(out, " run");
    if (f->config) {
        lm_buf_text(out, " --config ");
        add_word(out, f->config);
    }
    lm_buf_text(out, "\nExecReload=/bin/kill -HUP $MAINPID\n");
    if (f->system) {
        lm_buf_printf(out, "User=%s\nEnvironment=", f->user ? f->user : "nobody");
        lm_buf_char(out, '"');
        lm_buf_printf(out, "HOME=%s\"\n", f->home);
    }
    lm_buf_printf(out,
                  "Restart=on-failure\nRestartSec=5\n# 2: the configuration is wrong; 6: it gave up after "
                  "too many failures\n"
                  "RestartPreventExitStatus=%d %d\n",
                  EXIT_USAGE, EXIT_GAVE_UP);
    /* The supervisor restarts a bridge that hangs; this is for a supervisor that does. */
    lm_buf_printf(out, "WatchdogSec=60\nTimeoutStartSec=%lld\nTimeoutStopSec=%lld\n",
                  seconds(c, SET_START_LIMIT) + AFTER_DRAIN_S, seconds(c, SET_DRAIN) + AFTER_DRAIN_S);
    lm_buf_text(out, "KillMode=mixed\nLimitNOFILE=8192\n");
    add_sandbox(f, out);
    lm_buf_printf(out, "\n[Install]\nWantedBy=%s\n%s", f->system ? "multi-user.target" : "default.target",
                  f->socket ? "Also=" SERVICE_UNIT ".socket\n" : "");
}

void service_unit_socket(const service_config *c, const service_unit_facts *f, lm_buf *out) {
    const char *host = service_text(c, SET_HOST);
    bool localhost = lm_str_eq_nocase(lm_str_of(host), LM_STR("localhost"));
    (void)f;
    lm_buf_text(out, "# Written by `mlx-server-startup install-service`. systemd keeps the port open while "
                     "the service restarts.\n"
                     "[Unit]\nDescription=Port of mlx-ollama-bridge\n\n[Socket]\n");
    lm_buf_printf(out, strchr(host, ':') ? "ListenStream=[%s]:%s\n" : "ListenStream=%s:%s\n",
                  localhost ? "127.0.0.1" : host, service_text(c, SET_PORT));
    lm_buf_text(out, "Backlog=1024\n\n[Install]\nWantedBy=sockets.target\n");
}
