"""Which block of SDXL a weight is in, and how strongly a LoRA acts there.

A level of the UNet has three numbers each way, its resampler the third: `down_blocks.L.*.N` is IN 3L+N+1 and
`up_blocks.L.*.N` is OUT 3L+N. For SDXL, with two layers a level on the way in and three on the way out, these are
exactly the numbers of Stability AI's input and output blocks. A UNet with fewer layers, as the puppets', has blocks of
the same name at the same depth, and some numbers stay empty.
"""

import re

from imagelab.config.blocks import BLOCKS
from imagelab.lora.layers import Slot
from imagelab.results import LoraRecord

_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(?:(?:resnets|attentions)\.(\d+)|(?:down|up)samplers\.\d+)\.")
_RESAMPLER = 2  # its place in a level
_ELSEWHERE = {"conv_in": "IN00", "conv_out": "OUT08"}


def block_of(slot: Slot) -> str:
    """Return the name of a weight's block, one of config.blocks.BLOCKS for any UNet of three levels.

    BASE is the text encoders, and the embeddings of time, size and pooled prompt, which every block hears.

    >>> block_of(("unet", "down_blocks.1.attentions.0.proj_in"))
    'IN04'
    """
    component, module = slot
    if component != "unet":
        return "BASE"
    if found := _LEVEL.match(module):
        way, level, layer = found.groups()
        number = 3 * int(level) + (_RESAMPLER if layer is None else int(layer))
        return f"IN{number + 1:02}" if way == "down" else f"OUT{number:02}"
    return "MID" if module.startswith("mid_block.") else _ELSEWHERE.get(module, "BASE")


def strength(record: LoraRecord, slot: Slot) -> float:
    """Return how strongly a LoRA acts on a weight: its weight for the component times that of the block."""
    component, _ = slot
    text_2 = record.text_encoder_weight if record.text_encoder_2_weight is None else record.text_encoder_2_weight
    by_component = {"unet": record.weight, "text_encoder": record.text_encoder_weight, "text_encoder_2": text_2}
    factor = 1.0 if record.blocks is None else record.blocks[BLOCKS.index(block_of(slot))]
    return by_component[component] * factor
