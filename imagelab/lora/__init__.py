"""LoRA at inference: files read and checked, weights rewritten in place, effects measured."""

from imagelab.lora.compare import LoraComparison, compare_loras
from imagelab.lora.patcher import LoraPatcher
from imagelab.lora.read import read_lora

__all__ = ["LoraComparison", "LoraPatcher", "compare_loras", "read_lora"]
