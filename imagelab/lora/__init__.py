"""LoRA at inference: files read and checked, weights rewritten in place."""

from imagelab.lora.patcher import LoraPatcher
from imagelab.lora.read import read_lora

__all__ = ["LoraPatcher", "read_lora"]
