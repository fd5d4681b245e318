/* A hostfile, and what arrives on the link between ranks: frames, and messages to a rank that has no model.
 */
#include "cluster/cluster.h"
#include "cluster/frame.h"
#include "model/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const lm_backend none = {.name = "none"};
    static const lm_world world = {.rank = 1, .size = 2};
    static lm_follower *follower;
    if (!follower) follower = lm_follower_new(&none, &world, UINT64_MAX);
    lm_str rest = {(const char *)data, size};
    lm_hosts hosts = {0};
    lm_err err = {0};
    if (lm_hosts_parse(rest, &hosts, &err) == LM_OK) {
        lm_buf ring;
        lm_buf_init(&ring, 1 << 20);
        lm_hosts_ring(&hosts, 1, &ring);
        lm_buf_release(&ring);
        lm_hosts_release(&hosts);
    }
    lm_frame f;
    while (lm_frame_parse(rest, 4096, &f, &err) == LM_OK && f.total) {
        bool answers = false;
        lm_status st = lm_follower_do(follower, f.body.ptr, f.body.len, &answers, &err);
        LM_ASSERT(st != LM_OK || f.body.ptr[0] == 2); /* there is no model anywhere; closing it is possible */
        rest.ptr += f.total;
        rest.len -= f.total;
    }
    return 0;
}
