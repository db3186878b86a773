"""Prompts that were encoded lately, so that the text encoders aren't asked for the same again."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from imagelab.encoding import Embeddings, count_chunks, encode_prompt
from imagelab.prompts import Prompt

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

_KEPT_BYTES = 2**26  # about 100 prompts of one chunk in float16


@dataclass(kw_only=True)
class EncodedPrompts:
    """What one pipeline's text encoders have said: 64 MiB of it, the same tensors again."""

    pipe: "StableDiffusionXLPipeline"
    _kept: OrderedDict[Hashable, Embeddings] = field(default_factory=OrderedDict, repr=False)  # the oldest use first
    _counted: tuple[Prompt, int] | None = field(default=None, repr=False)

    def encode(self, prompt: Prompt, loras: Hashable) -> Embeddings:
        """Return what `encode_prompt` returns; `loras` is all that acts on the text encoders now.

        Nobody may write into what is returned.
        """
        key = prompt, loras, self.pipe.text_encoder_2.dtype  # where they run doesn't change, offloaded or not
        if key not in self._kept:
            self._kept[key] = encode_prompt(self.pipe, prompt)
        self._kept.move_to_end(key)
        while sum(embeddings.nbytes for embeddings in self._kept.values()) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return self._kept[key]

    def count_chunks(self, prompt: Prompt) -> int:
        """Return how many chunks the longer of a prompt's texts has; of the last one that is known."""
        if self._counted is None or self._counted[0] != prompt:  # a picture asks several times
            texts = prompt.positive, prompt.negative
            self._counted = prompt, max(count_chunks(self.pipe, text) for text in texts)
        return self._counted[1]

    def forget(self) -> None:
        """Let the text encoders be asked anew."""
        self._kept.clear()
