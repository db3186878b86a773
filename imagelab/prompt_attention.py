"""Cross-attention that asks the prompt for keys and values once a drawing, and not once a step.

They don't depend on the latents: in SDXL's UNet that saves 140 matrix products of 2,352 kernels a step.
docs/decisions/0015 says what it costs.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn

_known: "WeakKeyDictionary[nn.Module, tuple[Attention, ...]]" = WeakKeyDictionary()


@contextmanager
def asking_prompts_once(*models: nn.Module) -> Iterator[Callable[[], None]]:
    """Let the cross-attention of UNet and ControlNets remember what it made of the prompt, until the end.

    Gives a function to call whenever weights have changed in between.
    """
    layers = [layer for model in models for layer in cross_attentions(model)]
    layers = [layer for layer in layers if type(layer.processor) is AttnProcessor2_0]
    before = [layer.processor for layer in layers]
    asking = [_AsksOnce() for _ in layers]

    def forget() -> None:
        for processor in asking:
            processor.answers.clear()

    try:
        for layer, processor in zip(layers, asking, strict=True):
            layer.set_processor(processor)
        yield forget
    finally:
        forget()
        for layer, processor in zip(layers, before, strict=True):
            layer.set_processor(processor)


def cross_attentions(model: nn.Module) -> tuple[Attention, ...]:
    """Return a model's layers that read the prompt; walked through once, since that takes a millisecond."""
    if model not in _known:
        layers = (layer for layer in model.modules() if isinstance(layer, Attention))
        _known[model] = tuple(layer for layer in layers if layer.is_cross_attention)
    return _known[model]


def ask_ahead(layers: Iterable[Attention], prompt: Tensor) -> list[Tensor]:
    """Let the layers remember what they make of a prompt before they need it, and return that.

    A compiled graph is given it from outside.
    """
    asked = [_Remembering(layer, layer.processor.answers) for layer in layers if isinstance(layer.processor, _AsksOnce)]
    return [answer for layer in asked for answer in (layer.to_k(prompt), layer.to_v(prompt))]


class _AsksOnce(AttnProcessor2_0):  # type: ignore[misc]  # diffusers is untyped
    """diffusers' own attention for one layer, which finds another one's `to_k` and `to_v` there."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, tuple[Tensor, Tensor]] = {}  # {"to_k": (of which prompt, keys)}

    def __call__(self, attn: Attention, *given: Any, **named: Any) -> Tensor:
        attended: Tensor = super().__call__(_Remembering(attn, self.answers), *given, **named)
        return attended


class _Remembering:
    """An attention layer, whose keys and values are the last ones as long as the prompt is the same tensor."""

    def __init__(self, attn: Attention, answers: dict[str, tuple[Tensor, Tensor]]) -> None:
        self._attn, self._answers = attn, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def to_k(self, prompt: Tensor) -> Tensor:
        return self._ask("to_k", prompt)

    def to_v(self, prompt: Tensor) -> Tensor:
        return self._ask("to_v", prompt)

    def _ask(self, name: str, prompt: Tensor) -> Tensor:
        last = self._answers.get(name)
        if last is None or last[0] is not prompt:
            last = self._answers[name] = prompt, getattr(self._attn, name)(prompt)
        return last[1]
