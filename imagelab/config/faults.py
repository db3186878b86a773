"""Say what pydantic found wrong in our words, with the nearest name that would have been right."""

from functools import cache
from typing import Any

from imagelab.config.base import PATTERNS_IN_WORDS, Config
from imagelab.config.yaml_file import Document
from imagelab.errors import nearest_name, shorten

_MESSAGES = {  # pydantic's error type: the same in our words
    "missing": "is missing",
    "extra_forbidden": "unknown key {{value}}",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "dict_type": "must be a mapping (lines of key: value)",
    "model_type": "must be a mapping (lines of key: value)",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
    "greater_than": "must be > {gt:g}",
    "greater_than_equal": "must be ≥ {ge:g}",
    "less_than_equal": "must be ≤ {le:g}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be one of {expected}",
    "string_pattern_mismatch": "must be {words}",
    "value_error": "{error}",
}


def add_fault(document: Document, schema: type[Config], fault: Any) -> None:
    """Add one of pydantic's `ErrorDetails` to the document's problems."""
    kind, value = fault["type"], fault["input"]
    path = tuple(step for step in fault["loc"] if step != "[key]")
    if document.has_problem_at(path):  # what the YAML reader refused has no value to judge
        return
    known: tuple[str, ...] = ()
    if kind == "extra_forbidden":
        known, value = tuple(_schema_at(schema, path[:-1]).get("properties", ())), path[-1]
    elif kind == "literal_error":
        at_key = "[key]" in fault["loc"]
        known = _schema_at(schema, path[:-1])["propertyNames"]["enum"] if at_key else _schema_at(schema, path)["enum"]
    context = fault.get("ctx", {})
    words = PATTERNS_IN_WORDS.get(context.get("pattern"))
    document.add(
        path,
        _MESSAGES[kind].format(**context, words=words) if kind in _MESSAGES else fault["msg"],
        value="" if kind == "missing" or isinstance(value, dict) else shorten(value),
        nearest=nearest_name(value, known),
        known=known if kind == "extra_forbidden" else (),  # a literal's message names its choices already
    )


@cache
def _json_schema(schema: type[Config]) -> dict[str, Any]:
    return schema.model_json_schema()


def _schema_at(schema: type[Config], path: tuple[str | int, ...]) -> dict[str, Any]:
    whole = _json_schema(schema)
    node = whole
    for step in path:
        node = _child(_resolve(whole, node), step)
    return _resolve(whole, node)


def _resolve(whole: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in node:  # all of ours are "this or null"
        node = node["anyOf"][0]
    return whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _child(node: dict[str, Any], step: str | int) -> dict[str, Any]:
    if isinstance(step, int):
        return node.get("items") or dict(enumerate(node.get("prefixItems", ()))).get(step) or {}
    by_pattern: dict[str, Any] = next(iter(node.get("patternProperties", {}).values()), {})
    return node.get("properties", {}).get(step) or node.get("additionalProperties") or by_pattern
