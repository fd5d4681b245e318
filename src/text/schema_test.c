/* Which schemas are closed, and which have to stay as they are. */
#include <stdlib.h>

#include "base/json.h"
#include "base/test.h"
#include "text/private.h"

#define OBJECT(more) "{\"type\":\"object\",\"properties\":{\"a\":{}}" more "}"
#define CLOSED       OBJECT(",\"additionalProperties\":false")

static void expect_closed(const char *from, const char *to) {
    json_t *schema = NULL;
    lm_err err = {0};
    expect_ok(lm_json_parse(lm_str_of(from), &schema, &err), err);
    lm_schema_close(schema);
    char *is = json_dumps(schema, JSON_COMPACT);
    assert_string_equal(is, to);
    free(is);
    json_decref(schema);
}

static void objects_get_what_they_name_alone(void **state) {
    (void)state;
    expect_closed(OBJECT(""), CLOSED);
    expect_closed(OBJECT(",\"required\":[\"a\"]"),
                  OBJECT(",\"required\":[\"a\"],\"additionalProperties\":false"));
    expect_closed("{\"type\":\"array\",\"items\":" OBJECT("") "}",
                  "{\"type\":\"array\",\"items\":" CLOSED "}");
    expect_closed(
        "{\"anyOf\":[{\"$ref\":\"#/$defs/d\"},{\"type\":\"null\"}],\"$defs\":{\"d\":" OBJECT("") "}}",
        "{\"anyOf\":[{\"$ref\":\"#/$defs/d\"},{\"type\":\"null\"}],\"$defs\":{\"d\":" CLOSED "}}");
    expect_closed("{\"properties\":{\"properties\":" OBJECT("") "},\"additionalProperties\":{}}",
                  "{\"properties\":{\"properties\":" CLOSED "},\"additionalProperties\":{}}");
}

static void what_says_more_stays_open(void **state) {
    (void)state;
    static const char *const same[] = {
        OBJECT(",\"additionalProperties\":true"),
        OBJECT(",\"additionalProperties\":{\"type\":\"string\"}"),
        OBJECT(",\"patternProperties\":{\"^x\":{}}"),
        OBJECT(",\"required\":[\"b\"]"), /* it could not be written at all */
        OBJECT(",\"minProperties\":2"),
        OBJECT(",\"if\":{}"),
        OBJECT(",\"$ref\":\"#/$defs/d\""),
        "{\"allOf\":[" OBJECT("") "," OBJECT("") "]}",
        "{\"properties\":{}}",
        "{\"enum\":[" OBJECT("") "]}", /* a value, not a schema */
        "{\"properties\":3}",
        "[]",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) expect_closed(same[i], same[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_get_what_they_name_alone),
        cmocka_unit_test(what_says_more_stays_open),
    };
    return cmocka_run_group_tests_name("text.schema", tests, NULL, NULL);
}
