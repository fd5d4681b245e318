/* config.h - the router's configuration, as text. Private to the room. */
#ifndef LM_ROUTER_CONFIG_H
#define LM_ROUTER_CONFIG_H

#include "router/router.h"

#define ROUTER_CONFIG_MAX (256u << 10) /* bytes of the file */

/* The defaults, and what the text says; no environment. name is for errors. Released by the caller in any case. */
lm_status router_config_parse(const char *name, lm_str text, lm_router_config *out, lm_err *err) LM_CHECKED;
/* The environment's part, over what is there. */
lm_status router_config_environment(lm_router_config *c, lm_err *err) LM_CHECKED;

#endif
