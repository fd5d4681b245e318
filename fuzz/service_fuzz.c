/* What the supervisor reads: service.ini, the notes of an earlier one, the bridge's datagrams, unit texts of all that. */
#include <stdlib.h>
#include <string.h>

#include "base/notify.h"
#include "service/init.h"
#include "service/service.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str text = {(const char *)data, size}, rest = text, name, value;
    service_config c = {0};
    service_state s;
    lm_err err = {0};
    while (lm_notify_next(&rest, &name, &value)) LM_ASSERT(name.len && !memchr(name.ptr, '\n', name.len));
    if (service_state_parse(text, &s, &err) == LM_OK)
        LM_ASSERT(s.bridge >= 0 && s.supervisor >= 0 && memchr(s.notify, '\0', sizeof s.notify));
    if (service_config_parse("f", text, &c, &err) != LM_OK) {
        LM_ASSERT(err.status != LM_OK && err.text[0]);
        return 0;
    }
    LM_ASSERT(service_number(&c, SET_PORT) > 0 && service_text(&c, SET_PID)[0]);
    LM_ASSERT(!service_config_other_bridge(&c, &c));
    const service_unit_facts facts = {.program = "/p", .home = "/h", .socket = true};
    lm_buf unit;
    lm_buf_init(&unit, 1 << 20);
    service_unit_systemd(&c, &facts, &unit);
    service_unit_socket(&c, &facts, &unit);
    service_unit_launchd(&c, &facts, &unit);
    LM_ASSERT(!unit.failed);
    lm_buf_release(&unit);
    service_config_release(&c);
    return 0;
}
