"""LoRA: files read, judged and inspected; weights rewritten in place."""

from imagelab.lora.base import Base, pipeline_base, profile_base
from imagelab.lora.inspect import inspect_lora
from imagelab.lora.patcher import LoraPatcher
from imagelab.lora.read import read_lora
from imagelab.lora.report import LoraReport

__all__ = ["Base", "LoraPatcher", "LoraReport", "inspect_lora", "pipeline_base", "profile_base", "read_lora"]
