"""Say what pydantic found wrong in our words, with the nearest name that would have been right."""

from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError

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
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must not be empty",
    "too_long": "must have at most {max_length} items",
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
}

ConfigT = TypeVar("ConfigT", bound=Config)
Place = tuple[str | int, ...]


def validate(document: Document, schema: type[ConfigT], value: object, place: Place = ()) -> ConfigT | None:
    """Return what stands at `place` of the document as its schema has it, or None after adding what is wrong."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        for fault in error.errors(include_url=False):
            _add_fault(document, schema, fault, place)
    return None


def _add_fault(document: Document, schema: type[Config], fault: Any, place: Place) -> None:
    """Add one of pydantic's `ErrorDetails` to the document's problems."""
    kind, value = fault["type"], fault["input"]
    path = tuple(step for step in fault["loc"] if step != "[key]")
    if (*place, *path) in document.unread:
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
        (*place, *path),
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
