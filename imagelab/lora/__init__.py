"""LoRA: files read, judged and inspected; weights rewritten in place; effects measured."""

from imagelab.lora.base import Base, pipeline_base, profile_base
from imagelab.lora.compare import LoraComparison, compare_loras
from imagelab.lora.inspect import inspect_lora
from imagelab.lora.patcher import LoraPatcher
from imagelab.lora.read import read_lora
from imagelab.lora.registered import check_registered_base
from imagelab.lora.report import LoraReport

__all__ = [
    "Base",
    "LoraComparison",
    "LoraPatcher",
    "LoraReport",
    "check_registered_base",
    "compare_loras",
    "inspect_lora",
    "pipeline_base",
    "profile_base",
    "read_lora",
]
