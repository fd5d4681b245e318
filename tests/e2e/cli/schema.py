"""What --json prints, held against a schema."""
import json

import jsonschema

TEXT, COUNT, NUMBER, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}, {"type": "boolean"}


def an_object(**properties):
    return {"type": "object", "required": list(properties), "properties": properties}


def a_list(item, **more):
    return {"type": "array", "items": item, **more}


def as_json(done, schema):
    value = json.loads(done.stdout)
    jsonschema.validate(value, schema)
    return value
