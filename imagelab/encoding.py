"""Prompts as embeddings: of any length, with weights, for both of SDXL's text encoders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from imagelab.prompts import BREAK, Prompt, parse_weighted

_CHUNK = 75  # tokens; two more frame them, and 77 is what CLIP was trained on
_LOOK_BACK = 20  # tokens that a chunk may stay short by, to end at a comma

Tokens = list[tuple[int, float]]  # (token id, weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embeddings:
    """What the UNet is told; n = 77 × the number of chunks, the same for both."""

    positive: Tensor  # (1, n, d)
    negative: Tensor  # (1, n, d)
    pooled_positive: Tensor  # (1, p)
    pooled_negative: Tensor  # (1, p)

    @property
    def nbytes(self) -> int:
        """Return the memory that it takes."""
        return sum(part.nbytes for part in (self.positive, self.negative, self.pooled_positive, self.pooled_negative))


@torch.no_grad()
def encode_prompt(pipe: StableDiffusionXLPipeline, prompt: Prompt) -> Embeddings:
    """Encode a prompt chunk by chunk; nothing is cut off.

    Each weighted token moves from what an empty prompt has in its place (weight 0) to its own embedding (weight 1) and
    beyond. The pooled embedding is the first chunk's. Without weights and within 75 tokens the result is, to the bit,
    that of `StableDiffusionXLPipeline.encode_prompt`.
    """
    encoders = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
    texts = (prompt.positive, prompt.negative)
    chunks = [[_chunks(tokenizer, text) for tokenizer, _ in encoders] for text in texts]
    count = max(len(part) for parts in chunks for part in parts)
    encoded = []
    for parts in chunks:
        pairs = [
            _encode(pipe, *encoder, [*part, *[[]] * (count - len(part))])  # the UNet wants one length
            for encoder, part in zip(encoders, parts, strict=True)
        ]
        # SDXL's layout: both encoders side by side, pooled from the second
        encoded.append((torch.cat([hidden for hidden, _ in pairs], dim=-1), pairs[-1][1]))
    (positive, pooled_positive), (negative, pooled_negative) = encoded
    if not prompt.negative and pipe.config.force_zeros_for_empty_prompt:
        negative, pooled_negative = torch.zeros_like(negative), torch.zeros_like(pooled_negative)
    return Embeddings(
        positive=positive, negative=negative, pooled_positive=pooled_positive, pooled_negative=pooled_negative
    )


def count_chunks(pipe: StableDiffusionXLPipeline, text: str) -> int:
    """Return the number of chunks that a prompt takes up."""
    return max(len(_chunks(tokenizer, text)) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2))


def _chunks(tokenizer: Any, text: str) -> list[Tokens]:
    """Tokenize a prompt and split it into chunks; each BREAK begins a new one."""
    sections: list[Tokens] = [[]]
    for piece, weight in parse_weighted(text):
        if piece == BREAK:
            sections.append([])
        else:
            ids = tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
            sections[-1] += [(token, weight) for token in ids]
    commas = set(tokenizer(",", add_special_tokens=False).input_ids)
    return [chunk for section in sections if section for chunk in _split(section, commas)] or [[]]


def _split(tokens: Tokens, commas: set[int]) -> list[Tokens]:
    """Split tokens into chunks, at a comma if there is one near the end of a chunk."""
    chunks = []
    while len(tokens) > _CHUNK:
        at_comma = (end for end in range(_CHUNK, _CHUNK - _LOOK_BACK, -1) if tokens[end - 1][0] in commas)
        end = next(at_comma, _CHUNK)
        chunks.append(tokens[:end])
        tokens = tokens[end:]
    return [*chunks, tokens]


def _encode(
    pipe: StableDiffusionXLPipeline, tokenizer: Any, encoder: Any, chunks: Sequence[Tokens]
) -> tuple[Tensor, Tensor]:
    """Return ((1, 77 × chunks, d), (1, p)) for one encoder."""
    device = pipe._execution_device  # noqa: SLF001  where offloaded modules run; there is no public name
    hidden, pooled = zip(*(_forward(tokenizer, encoder, chunk, device) for chunk in chunks), strict=True)
    if any(weight != 1 for chunk in chunks for _, weight in chunk):
        empty, _ = _forward(tokenizer, encoder, [], device)
        hidden = tuple(_weigh(own, empty, chunk) for own, chunk in zip(hidden, chunks, strict=True))
    dtype = pipe.text_encoder_2.dtype
    return torch.cat(hidden, dim=1).to(dtype), pooled[0].to(dtype)


def _forward(tokenizer: Any, encoder: Any, chunk: Tokens, device: torch.device) -> tuple[Tensor, Tensor]:
    ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (_CHUNK + 2 - len(ids))
    output = encoder(torch.tensor([ids], device=device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]  # SDXL was trained on the last layer but one


def _weigh(hidden: Tensor, empty: Tensor, chunk: Tokens) -> Tensor:
    weights = torch.ones(hidden.shape[1], dtype=hidden.dtype, device=hidden.device)
    weights[1 : 1 + len(chunk)] = torch.tensor([weight for _, weight in chunk]).to(weights)
    weighted = empty + (hidden - empty) * weights[:, None]
    return torch.where(weights[:, None] == 1, hidden, weighted)  # weight 1 stays as it is, to the bit
