#include <stdio.h>
#include <stdlib.h>

#include "bridge/bridge.h"

int main(int argc, char **argv) {
    bridge_config config;
    lm_err err = {0};
    if (bridge_config_read(argc, argv, &config, &err) != LM_OK) {
        fprintf(stderr, "mlx-ollama-bridge: %s\n", err.text);
        return EXIT_USAGE;
    }
    lm_log_level(config.verbose ? LM_LOG_DEBUG : LM_LOG_INFO);
    int code = EXIT_OK;
    switch (config.command) {
    case BRIDGE_HELP: bridge_usage(); break;
    case BRIDGE_VERSION: printf("mlx-ollama-bridge %s\n", LM_VERSION); break;
    case BRIDGE_SERVE: code = bridge_follows(&config) ? bridge_follow(&config) : bridge_serve(&config); break;
    case BRIDGE_IMPORT: code = bridge_import(&config); break;
    case BRIDGE_PULL: code = bridge_pull(&config); break;
    case BRIDGE_PUSH: code = bridge_push(&config); break;
    case BRIDGE_EXPORT: code = bridge_export(&config); break;
    case BRIDGE_DEVICES: code = bridge_list_devices(&config); break;
    case BRIDGE_LIST: code = bridge_list(&config); break;
    }
    free(config.roots);
    return code;
}
