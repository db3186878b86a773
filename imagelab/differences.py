"""What is different between two sets of parameters, said so that a person can undo it."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

_CONTEXT, _SHOWN = 16, 80  # characters


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what is another in `now`, and what it was; nested values get dotted names.

    >>> differences({"size": {"width": 64}, "seed": 1}, {"size": {"width": 128}, "seed": 1})
    ('size.width was 64, is 128',)
    """
    before, after = leaves(was, lists=True), leaves(now, lists=True)
    names = dict.fromkeys([*before, *after])
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return tuple(f"{name} was {_shown(old, new)}, is {_shown(new, old)}" for name, old, new in pairs if old != new)


def leaves(value: Mapping[Any, Any], *, lists: bool = False, place: str = "") -> dict[str, Any]:
    """Return nested mappings, and with `lists` lists too, as one mapping with dotted names.

    >>> leaves({"size": {"width": 64}, "tags": ["a"]})
    {'size.width': 64, 'tags': ['a']}
    """
    flat: dict[str, Any] = {}
    for key, given in value.items():
        item = dict(enumerate(given)) if lists and isinstance(given, list | tuple) else given
        name = f"{place}{key}"
        flat |= leaves(item, lists=lists, place=f"{name}.") if isinstance(item, Mapping) else {name: item}
    return flat


def _shown(value: object, other: object) -> str:
    """Show a value, and of a long text the part from where it is another than `other`."""
    if not isinstance(value, str) or not isinstance(other, str):
        return repr(value)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(value, other, strict=False)))
    start = max(0, same - _CONTEXT)
    part = value[start : start + _SHOWN]
    return f"{'…' if start else ''}{part!r}{'…' if start + _SHOWN < len(value) else ''}"
