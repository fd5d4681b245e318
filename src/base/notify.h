/* notify.h - how a service tells whoever watches over it how it is: systemd's protocol of datagrams.
 *
 * A message is lines of NAME=value: READY=1 (it serves), STOPPING=1, STATUS=words for people, WATCHDOG=1 (it still gets
 * on), and X_... of our own: X_REQUESTS=n (how many it has had). Source: sd_notify(3), "Notes" has the protocol; the
 * variables are NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)).
 */
#ifndef LM_NOTIFY_H
#define LM_NOTIFY_H

#include "base/base.h"

#define LM_NOTIFY_MAX 4096 /* bytes of a message */

/* One datagram to a socket's path, or to a name of Linux's abstract ones ("@name"). Never waits. LM_INVALID: the
 * address is none; LM_IO: nobody takes it (LM_BUSY: not now). */
lm_status lm_notify_send(const char *address, lm_str message, lm_err *err) LM_CHECKED;

/* Takes the next NAME=value off a message; lines that are no such thing are passed over. False: that was all. */
bool lm_notify_next(lm_str *message, lm_str *name, lm_str *value);

/* How often WATCHDOG=1 is expected by WATCHDOG_USEC, in ns, 0 not at all (no variable, or another process is meant). */
uint64_t lm_notify_watchdog_ns(void);

#endif
