/* GET /openapi.yaml: the description of this API that was compiled in, so that it is of this very server. */
#include "api/private.h"

/* openapi.yaml, by cmake/embed.cmake */
extern const unsigned char lm_openapi_yaml[];
extern const size_t lm_openapi_yaml_size;

void lm_openapi(lm_call *call) {
    lm_http_reply(call->x, 200, "application/yaml",
                  (lm_str){(const char *)lm_openapi_yaml, lm_openapi_yaml_size});
}
