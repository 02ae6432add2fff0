"""What cloud-init makes of many documents: those on standard input, with a NUL after each.

Prints a JSON list with, for each, the value that PyYAML reads, and what cloud-init's schema has against it when
it is a cloud-config (deprecations included). One process, because cloud-init takes longer to start than to look.
"""

import functools
import json
import sys

import yaml
from cloudinit.config import schema

# It is made anew for every document otherwise.
schema.get_jsonschema_validator = functools.lru_cache(schema.get_jsonschema_validator)
full = schema.get_schema()


def faults(document, value):
    if not document.startswith(b"#cloud-config\n"):
        return []
    try:
        schema.validate_cloudconfig_schema(value, schema=full, strict=True)
    except schema.SchemaValidationError as error:
        return [str(error)]
    return []


answers = []
for document in sys.stdin.buffer.read().split(b"\0")[:-1]:
    value = yaml.safe_load(document)
    answers.append({"value": value, "faults": faults(document, value)})
json.dump(answers, sys.stdout)
