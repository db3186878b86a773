"""ComfyUI's graph, `{id: {class_type, inputs}}`, where an input `[id, output]` is a link: nodes, and ways upstream.

No node of it is trusted to exist, to be complete or to end.
"""

from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from imagelab.metadata.lenient import to_mapping

# Of a stranger's graph, so that none takes for ever:
_MAX_LINKS = 5000  # on the way from a node
_MAX_INPUTS = 500  # of a node
_MAX_HANDS = 20  # nodes that hand on one value


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node as it is met: with the output that the way came through."""

    name: str
    kind: str
    inputs: MutableMapping[str, Any]
    output: int


def find_node(graph: Mapping[str, Any], link: object) -> Node | None:
    """Return the node that an input links to, None where it is no link."""
    if not isinstance(link, list) or len(link) != 2 or not isinstance(link[0], str | int):
        return None
    found = to_mapping(graph.get(str(link[0])))
    inputs = found.get("inputs")
    if not isinstance(inputs, dict):
        return None
    output = link[1] if link[1] in (0, 1) else 2  # others than the first two aren't told apart
    return Node(name=str(link[0]), kind=str(found.get("class_type")), inputs=inputs, output=output)


def walk_up(
    graph: Mapping[str, Any], start: Node, *inputs: str, around: frozenset[str] = frozenset()
) -> Iterator[Node]:
    """Walk upstream from some inputs of a node, the nearest nodes first, each once; `around` some inputs of others."""
    waiting = deque(start.inputs.get(name) for name in inputs)
    seen: set[tuple[str, int]] = set()
    for _ in range(_MAX_LINKS):
        if not waiting:
            return
        node = find_node(graph, waiting.popleft())
        if node is not None and (node.name, node.output) not in seen:
            seen.add((node.name, node.output))
            yield node
            waiting.extend(islice(_onward(node, around), _MAX_INPUTS))


def _onward(node: Node, around: frozenset[str]) -> Iterator[object]:
    """Return the links of a node that belong to the output that it was met by."""
    # ControlNetApplyAdvanced takes both prompts and passes them on, each by an output of its own.
    other = ("negative", "positive")[node.output] if node.output < 2 and "negative" in node.inputs else None
    past = {other, *around}
    return (value for name, value in node.inputs.items() if name not in past and isinstance(value, list))


def follow(graph: Mapping[str, Any], value: object, names: tuple[str, ...]) -> object:
    """Return a value, or the one that nodes linked in its place hand on under one of the names."""
    for _ in range(_MAX_HANDS):
        node = find_node(graph, value)
        if node is None:
            return value
        value = next((node.inputs[name] for name in names if name in node.inputs), None)
    return None
