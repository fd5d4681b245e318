/* router.ini and switch.ini: any bytes give settings or an error with its line; what is accepted can be written and read again. */
#include <string.h>

#include "router/config.h"
#include "router/order.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_config(lm_str text) {
    lm_router_config a = {0}, b = {0};
    lm_err err = {0};
    lm_buf first, second;
    lm_buf_init(&first, 1u << 20);
    lm_buf_init(&second, 1u << 20);
    if (router_config_parse("f", text, &a, &err) == LM_OK) {
        LM_ASSERT(a.n_backends >= 1 && a.n_backends <= LM_ROUTER_MAX_BACKENDS && a.port && a.host[0]);
        LM_ASSERT(a.fall && a.rise && a.attempts && a.check_ms >= 100);
        for (uint32_t i = 0; i < a.n_backends; i++) {
            LM_ASSERT(a.backends[i].name[0] && a.backends[i].url[strlen(a.backends[i].url) - 1] != '/');
            for (const char *p = a.backends[i].url; *p; p++) LM_ASSERT(*p > ' ' && *p < 0x7f);
            for (const char *p = a.backends[i].api_key; p && *p; p++) LM_ASSERT(*p > ' ' && *p < 0x7f);
        }
        lm_router_config_text(&a, &first);
        LM_ASSERT(router_config_parse("g", lm_buf_view(&first), &b, &err) == LM_OK);
        for (uint32_t i = 0; i < a.n_backends; i++)
            if (a.backends[i].api_key) b.backends[i].api_key = lm_strdup("k");
        lm_router_config_text(&b, &second);
        LM_ASSERT(lm_str_eq(lm_buf_view(&first), lm_buf_view(&second)));
        json_decref(lm_router_config_json(&a));
    } else {
        LM_ASSERT(err.text[0] == 'f');
    }
    lm_router_config_release(&a);
    lm_router_config_release(&b);
    lm_buf_release(&first);
    lm_buf_release(&second);
}

static void as_orders(lm_str text) {
    orders o = {0};
    lm_err err = {0};
    json_t *json = json_object();
    if (orders_parse("f", text, &o, &err) == LM_OK) {
        for (uint32_t i = 0; i < o.n; i++) {
            const lm_name *n = &o.items[i].name;
            LM_ASSERT(o.items[i].measured ? orders_measured(&o, n) != NULL
                                          : orders_of(&o, n) == o.items[i].order);
        }
        orders_json(&o, json);
        LM_ASSERT(json_object_size(json) == 3);
    }
    json_decref(json);
    orders_release(&o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str text = {(const char *)data, size};
    as_config(text);
    as_orders(text);
    return 0;
}
