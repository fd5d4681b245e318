#include <stdio.h>

#include "doctor/doctor.h"

int main(int argc, char **argv) {
    doctor_config config;
    lm_err err = {0};
    if (doctor_config_read(argc, argv, &config, &err) != LM_OK) {
        fprintf(stderr, "test-mlx-integration: %s\n", err.text);
        return EXIT_USAGE;
    }
    process_watch_signals();
    switch (config.command) {
    case DOCTOR_CHECK: return doctor_check(&config);
    case DOCTOR_BENCH: return doctor_bench(&config);
    case DOCTOR_CONFORMANCE: return doctor_conform(&config);
    case DOCTOR_HELP: doctor_usage(); break;
    case DOCTOR_VERSION: printf("test-mlx-integration %s\n", LM_VERSION); break;
    }
    return EXIT_PASSED;
}
