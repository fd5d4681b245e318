/* An answer in pieces: any bytes give values and a word about what is wrong, and the values can be compared with shapes. */
#include <string.h>

#include "doctor/frames.h"
#include "doctor/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void count(void *ctx, const char *where, const char *expected, const char *got) {
    LM_ASSERT(where[0] && expected[0] && got[0]);
    ++*(uint32_t *)ctx;
}

static void compare(json_t *values) {
    static const char text[] = "[{\"event\":\"<str?>\",\"data\":{\"a\":[\"<ns>\",\"...\"],\"b\":{\"<json>\":{"
                               "\"c\":\"<time>\"}},\"...\":1}}]";
    static json_t *shape;
    if (!shape) shape = json_loads(text, 0, NULL);
    uint32_t told = 0;
    uint32_t n = shape_compare(shape, values, "x", count, &told);
    LM_ASSERT(n == told);
    json_decref(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lm_str body = {(const char *)data, size};
    char wrong[200];
    compare(frames_of_lines(body, wrong));
    LM_ASSERT(strlen(wrong) < 200);
    compare(frames_of_events(body, wrong));
    LM_ASSERT(strlen(wrong) < 200);
    return 0;
}
