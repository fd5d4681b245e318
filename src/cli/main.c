#include "cli/cli.h"

int main(int argc, char **argv) {
    return lm_cli_main(argc, argv);
}
