/* Bodies of /api/create: refused with a text, or read into what the store may rely on. */
#include <stdlib.h>
#include <string.h>

#include "api/ollama_create.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ollama_create_request r = {0};
    lm_err err = {0};
    lm_status st = ollama_create_read((lm_str){(const char *)data, size}, &r, &err);
    if (st == LM_OK) {
        lm_name name;
        const char *file;
        json_t *digest;
        if (err.text[0] || !json_is_array(r.messages) || !json_is_object(r.params)) abort();
        if (lm_name_parse(lm_str_of(r.model), &name, NULL) != LM_OK) abort();
        json_object_foreach(r.files, file, digest) {
            if (file[0] == '/' || !file[0] || !json_is_string(digest)) abort();
        }
        json_object_foreach(r.adapters, file, digest) {
            if (file[0] == '/' || !file[0] || !json_is_string(digest)) abort();
        }
    } else if (!err.text[0] || r.body) {
        abort();
    }
    ollama_create_release(&r);
    return 0;
}
