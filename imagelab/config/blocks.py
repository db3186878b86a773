"""Block weights of LoRAs: a strength for each block of SDXL, as sd-webui-lora-block-weight numbers them.

Each of the UNet's three levels has three numbers on the way in and three on the way out, in the order of Stability
AI's own code; `imagelab.lora.blocks` says which modules each of them holds. BASE is the text encoders, and what of the
UNet lies outside of all blocks. https://github.com/hako-mikan/sd-webui-lora-block-weight
"""

from collections.abc import Iterable
from numbers import Real
from typing import Annotated, Any

from pydantic import BeforeValidator, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

from imagelab.errors import InvalidValueError, UnknownNameError

BLOCKS = ("BASE", *(f"IN{n:02}" for n in range(9)), "MID", *(f"OUT{n:02}" for n in range(9)))
# The blocks with attention, which are all that a LoRA of attention layers touches; a vector of 12 gives the others 0.
ATTENTION_BLOCKS = ("BASE", "IN04", "IN05", "IN07", "IN08", "MID", *(f"OUT{n:02}" for n in range(6)))
_LARGEST = 2.0


def _preset(first: str, last: str) -> tuple[float, ...]:
    inside = BLOCKS[BLOCKS.index(first) : BLOCKS.index(last) + 1]
    return tuple(float(block == "BASE" or block in inside) for block in BLOCKS)


# The extension's presets are written for Stable Diffusion 1. Its first three levels are SDXL's: the blocks IN00 to IN08
# have the same numbers there, and its OUT03 to OUT11 are SDXL's OUT00 to OUT08. D is deep, S is shallow.
PRESETS = {
    "NONE": (0.0,) * len(BLOCKS),
    "ALL": _preset("BASE", "OUT08"),
    "INS": _preset("IN00", "IN04"),
    "IND": _preset("IN05", "IN08"),
    "INALL": _preset("IN00", "IN08"),
    "MIDD": _preset("IN05", "OUT03"),
    "OUTD": _preset("OUT00", "OUT03"),
    "OUTS": _preset("OUT04", "OUT08"),
    "OUTALL": _preset("OUT00", "OUT08"),
}


def block_weights(given: str | Iterable[float]) -> tuple[float, ...]:
    """Return the weights of the 20 BLOCKS for a preset's name, 12 weights (ATTENTION_BLOCKS) or 20.

    Raises UnknownNameError or InvalidValueError.

    >>> block_weights([1, 0, 0, 0, 0, 0.5, 1, 1, 1, 0, 0, 0])[10]
    0.5
    """
    if isinstance(given, str):
        if given in PRESETS:
            return PRESETS[given]
        raise UnknownNameError("preset of block weights", given, tuple(PRESETS))
    weights = tuple(given) if isinstance(given, Iterable) else ()
    names = {len(names): names for names in (ATTENTION_BLOCKS, BLOCKS)}.get(len(weights))
    if names is None or not all(_is_weight(weight) for weight in weights):
        numbers = f"{len(ATTENTION_BLOCKS)} or {len(BLOCKS)} numbers between {-_LARGEST:g} and {_LARGEST:g}"
        raise InvalidValueError("blocks", given, f"{numbers}, or one of {', '.join(PRESETS)}")
    by_name = dict(zip(names, weights, strict=True))
    return tuple(float(by_name.get(block, 0.0)) for block in BLOCKS)


def _is_weight(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and abs(float(value)) <= _LARGEST  # no NaN is


def _validated(given: Any) -> tuple[float, ...]:
    try:
        return block_weights(given)
    except UnknownNameError as error:
        hint = f"; did you mean {error.nearest!r}?" if error.nearest else "."
        message = f"unknown {error.kind} {{value}}{hint} Known: {', '.join(error.known)}"
        raise PydanticCustomError("blocks", "{message}", {"message": message}) from error
    except InvalidValueError as error:
        raise PydanticCustomError("blocks", "must be {expected}", {"expected": error.expected}) from error


_NUMBER = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
_VECTORS = [{"type": "array", "items": _NUMBER, "minItems": n, "maxItems": n} for n in (12, 20)]
BlockWeights = Annotated[
    tuple[float, ...],
    Strict(strict=False),
    BeforeValidator(_validated),
    WithJsonSchema({"anyOf": [{"enum": list(PRESETS)}, *_VECTORS]}),
]
