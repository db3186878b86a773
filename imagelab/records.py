"""Frozen values and their JSON: out, and the equal value back in, or one error that names the place."""

import dataclasses
import json
import math
import re
import types
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from imagelab.errors import InvalidValueError

IN_MEMORY: Mapping[str, bool] = {"in_memory": True}  # metadata of a field that isn't written to files

_MAX_DEPTH = 100  # of JSON
_NEITHER = bytes(set(range(256)) - set(b'[{]}"'))
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"')
_SCALARS = frozenset({str, int, float, bool, types.NoneType})


class Record:
    """Base of the values that are written to files: JSON out, the equal value back in."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, fields in the order of their declaration."""
        plain = to_plain(self)
        assert isinstance(plain, dict)  # noqa: S101  a dataclass becomes a mapping
        return plain

    def to_json(self, *, indent: int | None = None) -> str:
        """Return one JSON object; a NaN or infinity in it is a ValueError."""
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Build the value from plain JSON types.

        Raises InvalidValueError, which names the field, for a missing or unknown field and for a wrong type.
        """
        value = _from_plain(data, cls, cls.__name__)
        assert isinstance(value, cls)  # noqa: S101  _from_plain builds what it is asked for
        return value

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build the value from `to_json`'s text; raises InvalidValueError."""
        return cls.from_dict(parse_json(text, cls.__name__))


def parse_json(text: str, name: str) -> Any:
    """Read JSON text; raises InvalidValueError, which says where it ends being JSON, or is nested too deep."""
    try:
        check_depth(text)
        return _JSON.decode(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(name, text, f"JSON ({error})") from error


def check_depth(text: str) -> None:
    """Raise ValueError for a JSON text whose nesting could exhaust the stack, of its reader or later on."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return  # as most are
    if "\\" not in text:  # the long ones of our own: quotes and brackets alone say it, and in a tenth of the time
        text = text.encode(errors="replace").translate(None, _NEITHER).decode()
    depth = 0
    for bracket in re.findall(r"[\[{\]}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")  # NaN and infinities, which json reads although they aren't JSON


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is larger than a number can be")
    return number


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def to_plain(value: object) -> object:
    """Turn a value into plain JSON types."""
    if type(value) in _SCALARS:  # most are
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: to_plain(getattr(value, name)) for name in _written_fields(type(value))}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value.as_posix() if isinstance(value, Path) else value


@cache
def _written_fields(kind: Any) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind) if not item.metadata.get("in_memory"))


def _from_plain(data: object, kind: Any, place: str) -> object:
    """Build a value of type `kind` of plain JSON types; `place` says where in the whole it stands."""
    if _is_record(kind):
        return _dataclass_from_plain(data, kind, place)
    origin, arguments = _parts(kind)
    if origin in (Union, types.UnionType):
        others = [argument for argument in arguments if argument is not types.NoneType]
        fitting = next((argument for argument in others if argument is type(data)), others[0])
        return None if data is None else _from_plain(data, fitting, place)
    if origin is tuple and isinstance(data, list | tuple):
        return tuple(_from_plain(item, arguments[0], f"{place}[{index}]") for index, item in enumerate(data))
    if origin is Mapping and isinstance(data, dict):
        return {key: _from_plain(item, arguments[1], f"{place}.{key}") for key, item in data.items()}
    if kind in (float, Path) and type(data) in (int, float, str):
        return _scalar_from_plain(data, kind, place)
    if kind is Any or type(data) is kind or (origin is Literal and data in arguments):
        return data
    raise InvalidValueError(place, data, f"of type {getattr(kind, '__name__', kind)}")


def _scalar_from_plain(data: Any, kind: type[float | Path], place: str) -> float | Path:
    if isinstance(data, str) == (kind is Path):
        with suppress(OverflowError):  # of a whole number with hundreds of digits
            return kind(data)
    raise InvalidValueError(place, data, "a path" if kind is Path else "a number")


def _dataclass_from_plain(data: object, kind: Any, place: str) -> object:
    if not isinstance(data, dict):
        raise InvalidValueError(place, data, "a mapping")
    fields = _fields_of(kind)
    if not data.keys() <= fields.keys():
        unknown = min(data.keys() - fields.keys())
        raise InvalidValueError(place, unknown, f"without fields other than {', '.join(fields)}")
    values = {
        name: item if type(item) in fields[name][1] else _from_plain(item, fields[name][0], f"{place}.{name}")
        for name, item in data.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise InvalidValueError(place, sorted(data), f"complete ({error})") from error


@cache
def _is_record(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Record)


@cache
def _parts(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(kind), get_args(kind)


@cache
def _fields_of(kind: Any) -> Mapping[str, tuple[Any, frozenset[Any]]]:
    """Return each field's type, and which of JSON's own types it takes as they are: most of what there is."""
    hints = ((name, hint) for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__)
    return {name: (hint, _SCALARS.intersection(_members(hint))) for name, hint in hints}


def _members(hint: Any) -> tuple[Any, ...]:
    origin, arguments = _parts(hint)
    return arguments if origin in (Union, types.UnionType) else (hint,)
