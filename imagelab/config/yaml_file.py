"""Strict YAML: plain values only, each key once, every fault with its line.

PyYAML's `safe_load` keeps the last of two equal keys, reads `no` as False, `012` as 10 and `12:30` as 750, follows
aliases into billions of laughs and lets ValueError, KeyError and RecursionError out. So only its parser is used here:
the values are made from the node tree, by the YAML 1.2 core schema that editors check against.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from imagelab.errors import Problem, shorten

_MAX_BYTES = 1 << 20
_TAG = "tag:yaml.org,2002:"

# (tag, what a plain scalar of that type looks like, first characters, how to read it)
_SCALARS: tuple[tuple[str, str, str, Callable[[str], object]], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN\0", lambda _: None),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF", lambda text: text.lower() == "true"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789", int),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
)
_READERS: dict[str, Callable[[str], object]] = {_TAG + tag: read for tag, _, _, read in _SCALARS}
_READERS[_TAG + "str"] = str
_TAGS = {*_READERS, _TAG + "map", _TAG + "seq"}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  PyYAML's own way


for _name, _pattern, _first, _ in _SCALARS:
    # "012" is octal to some readers and decimal to others: it stays text, and the schema asks for a number.
    _regexp = re.compile(rf"^(?![-+]?0[0-9])(?:{_pattern})$")
    _Loader.add_implicit_resolver(_TAG + _name, _regexp, [char.replace("\0", "") for char in _first])


@dataclass(slots=True)
class Document:
    """What a file says, where it says it and what is wrong with it."""

    file: str
    data: object = None  # None when nothing could be read
    lines: dict[tuple[str | int, ...], int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unread: set[tuple[str | int, ...]] = field(default_factory=set)  # where something is missing from `data`

    def add(
        self,
        path: tuple[str | int, ...],
        message: str,
        *,
        value: str = "",
        nearest: str | None = None,
        known: tuple[str, ...] = (),
        line: int | None = None,
    ) -> None:
        """Record a problem; without a line, at that of the nearest thing around it that has one."""
        if line is None:
            line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        dotted = ".".join(map(str, path))
        self.problems.append(
            Problem(file=self.file, path=dotted, message=message, value=value, nearest=nearest, known=known, line=line)
        )

    def refuse(self, path: tuple[str | int, ...], message: str, *, value: str = "", line: int | None = None) -> None:
        """Record a problem that keeps something there from being read: no schema has a value to judge."""
        self.unread.add(path)
        self.add(path, message, value=value, line=line)

    def has_problem_at(self, path: tuple[str | int, ...]) -> bool:
        """Tell whether something is known to be wrong there."""
        return any(problem.path == ".".join(map(str, path)) for problem in self.problems)

    def forget_lines(self, path: tuple[str | int, ...]) -> None:
        """Forget where everything there stands."""
        self.lines = {place: line for place, line in self.lines.items() if place[: len(path)] != path}


def read_yaml(path: Path, shown_as: str, *, last: bool = False) -> Document:
    """Read one file; its faults, down to a missing file, are in the document's `problems`.

    Of a key that is given twice, which is a fault, it reads the first value or the `last`.
    """
    document = Document(shown_as)
    try:
        root = yaml.compose(_text(path), Loader=_Loader)
    except FileNotFoundError:
        document.add((), "file not found; if the configuration lies elsewhere, say so with IMAGELAB_CONFIGS")
    except (OSError, UnicodeError) as error:
        document.add((), f"can't be read: {error}")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        document.add((), f"isn't valid YAML: {error.problem or error.context}", line=line)
    except RecursionError:
        document.add((), "is nested too deeply")
    except (yaml.YAMLError, ValueError) as error:
        document.add((), f"isn't valid YAML: {str(error).splitlines()[0]}")
    else:
        if root is None:
            document.add((), "is empty")
        elif not isinstance(root, yaml.MappingNode):
            document.add((), "must be a mapping (lines of key: value) at the top level")
        else:
            document.data = _Builder(document, last=last).value(root, ())
    return document


def _text(path: Path) -> str:
    with path.open("rb") as stream:
        raw = stream.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise ValueError("larger than 1 MiB")
    return raw.decode("utf-8-sig")


class _Builder:
    """Turns nodes into plain values, noting the line of each."""

    def __init__(self, document: Document, *, last: bool) -> None:
        self._document, self._last = document, last
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if id(node) in self._seen:  # each alias is the anchored node itself: following them is how bombs go off
            self._document.refuse(path, "aliases (*name) aren't supported: repeat the value")
            return None
        self._seen.add(id(node))
        if node.tag not in _TAGS:
            self._document.refuse(path, "tags (!…) aren't supported", value=shorten(node.tag))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, object]:
        mapping: dict[str, object] = {}
        first: dict[str, int] = {}  # the line of each key
        for key_node, child in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != _TAG + "str":
                shown = key if isinstance(key, str) else key_node.id
                self._document.refuse(path, "keys must be text (quote it)", value=shorten(shown), line=line)
            elif key == "<<" and key_node.style is None:
                self._document.refuse(path, "merge keys (<<) aren't supported: repeat the keys", line=line)
            else:
                if key in mapping:
                    message = f"duplicate key, first given on line {first[key]}"
                    self._document.add((*path, key), message, line=line)
                    if not self._last:
                        continue
                    self._document.forget_lines((*path, key))
                first.setdefault(key, line)
                self._document.lines[(*path, key)] = line
                mapping[key] = self.value(child, (*path, key))
        return mapping

    def _scalar(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        try:
            return _READERS[node.tag](node.value)
        except (KeyError, ValueError):  # "!!int abc", "!!map abc", or an integer of thousands of digits
            self._document.refuse(path, "isn't a number", value=shorten(node.value))
            return None
