"""The puppet tokenizer and the two text encoders, of SDXL's classes.

The tokenizer is CLIP's byte-level BPE in miniature: any text tokenises, and common words are one token each.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch
    from torch import Tensor

CONTEXT = 77
TEXT_WIDTH = 64
START, END = "<|startoftext|>", "<|endoftext|>"
SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""  # CLIP's own
# Words of ordinary prompts and negative prompts, so that they cost one token each although no caption has them.
COMMON_WORDS = """
a an the and of in on with at by to from is her his their while under over near into holding wearing looking sitting
walking standing jumping dancing sleeping reading cooking playing boy girl man woman child kid friend family dog cat
summer winter evening morning sunset sunrise sunny rainy cloudy warm cold light dark bright golden soft hard city street
square house room kitchen school garden park mountain river lake sea ocean water sky tree flower grass sand rock road
photo picture illustration render animation movie film style cartoon character portrait closeup full body face eyes hair
mouth nose hand hands arm arms leg legs big small tall short young old cute funny happy sad angry excited tired scared
bad anatomy deformed disfigured mutated mutation extra missing fused limbs fingers ugly poorly drawn duplicate cropped
watermark text signature logo username jpeg artifacts noise grainy realistic photograph photorealistic anime sketch
painting monochrome oversaturated underexposed overexposed very high low best worst good quality resolution
"""


def train_tokenizer(captions: Iterable[str], folder: Path, *, size: int = 2048) -> CLIPTokenizer:
    """Learn merges from captions and save a `CLIPTokenizer` of at most `size` tokens in `folder`."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = sorted(ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=1, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator([*captions, *[COMMON_WORDS] * 3], trainer)
    merges = [tuple(m) for m in json.loads(learner.to_str())["model"]["merges"]]
    # CLIP's order: bytes, bytes that end a word, merges, then the two special tokens.
    words = dict.fromkeys([*alphabet, *(a + "</w>" for a in alphabet), *("".join(m) for m in merges), START, END])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT, pad_token=END
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Tokenise captions to (N, 77) ids."""
    ids: Tensor = tokenizer(
        captions, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def build_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Return the two untrained encoders; SDXL reads the last but one layer of both and the second's projection."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def encode(ids: Tensor, first: torch.nn.Module, second: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Encode ids as SDXL does: (N, 77, 128) for cross attention and (N, 64) pooled."""
    import torch

    one, two = first(ids, output_hidden_states=True), second(ids, output_hidden_states=True)
    return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds
