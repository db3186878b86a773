"""ControlNets at inference: read, kept as long as they are needed, put beside the pipeline's own models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)

from imagelab.compiling import compile_model
from imagelab.config import MemoryPolicy
from imagelab.control_models import check_controlnet, is_union
from imagelab.control_set import ControlSet
from imagelab.controls import PlannedControl
from imagelab.devices import within_memory
from imagelab.errors import GenerationError, ModelFileError
from imagelab.model_loading import check_complete, load_or_refuse, quietly
from imagelab.models import AGAIN, weight_files
from imagelab.pipeline import OFFLOAD, LoadedPipeline, apply_memory_policy, use_sdpa
from imagelab.safetensors_files import check_safetensors
from imagelab.vram import release_memory

_MUST_FIT = ("in_channels", "block_out_channels", "layers_per_block")  # else their outputs don't fit the UNet's
_MUST_FIT_ATTENTION = "cross_attention_dim"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedNet:
    """A ControlNet in memory, and what it was made of."""

    module: ControlNetModel | ControlNetUnionModel
    sha256: dict[str, str]  # {file: hash}


@dataclass(kw_only=True)
class ControlNets:
    """Owner of the ControlNets in memory: those that the last picture needed, and others up to `resident` in all.

    What has to go goes before what has to come is read, so that both are never in memory together.
    """

    loaded: LoadedPipeline
    resident: int
    _nets: dict[Path, LoadedNet] = field(default_factory=dict, repr=False)  # the least recently used first

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return where the ControlNets in memory come from, the least recently used first."""
        return tuple(self._nets)

    def folders_with(self, controls: Sequence[PlannedControl]) -> tuple[Path, ...]:
        """Return where those come from that will be in memory once those of the controls are."""
        needed = tuple(dict.fromkeys(control.folder for control in controls))
        if not needed:
            return self.folders
        spare = [folder for folder in self._nets if folder not in needed]
        kept = max(0, self.resident - len(needed))
        return (*spare[max(0, len(spare) - kept) :], *needed)

    def fetch(self, controls: Sequence[PlannedControl]) -> list[LoadedNet]:
        """Return the ControlNet of each control, read from its folder unless it is in memory.

        Raises ModelFileError or ModelNotFoundError.
        """
        needed = {control.folder: control for control in controls}
        self._make_room(set(needed))
        for folder, control in needed.items():
            net = self._nets.pop(folder, None) or load_controlnet(control, self.loaded)
            self._nets[folder] = net
        for control in controls:
            _check_mode(self._nets[control.folder].module, control)
        return [self._nets[control.folder] for control in controls]

    def drop_others(self, controls: Sequence[PlannedControl]) -> bool:
        """Drop those that the controls don't need; say whether there were any."""
        needed = {control.folder for control in controls}
        others = [folder for folder in self._nets if folder not in needed]
        for folder in others:
            del self._nets[folder]
        if others:
            release_memory()
        return bool(others)

    def clear(self) -> None:
        """Drop them all."""
        self._nets.clear()
        release_memory()

    def _make_room(self, needed: set[Path]) -> None:
        missing = len(needed - set(self._nets))
        spare = [folder for folder in self._nets if folder not in needed]
        surplus = len(self._nets) + missing - max(self.resident, len(needed))
        for folder in spare[: max(0, surplus)]:
            del self._nets[folder]
        if surplus > 0:
            release_memory()


def load_controlnet(control: PlannedControl, loaded: LoadedPipeline) -> LoadedNet:
    """Read a ControlNet in the UNet's dtype, whatever it is stored in.

    Raises ModelFileError, also for one that doesn't fit the UNet and for two in one folder; ModelNotFoundError.
    """
    unet = loaded.pipe.unet
    dtype = str(unet.dtype).removeprefix("torch.")
    hashes, variant = check_controlnet(control.folder, dtype, packaged=control.packaged)
    tensors = {name for path in weight_files(control.folder, variant) for name in check_safetensors(path)}
    net_class = ControlNetUnionModel if is_union(tensors) else ControlNetModel
    with quietly():
        module = load_or_refuse(
            net_class.from_pretrained,
            control.folder,
            dtype=unet.dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
        )
    check_complete(module, control.folder, variant)
    _check_fit(module, unet, control)
    module.requires_grad_(requires_grad=False).eval()
    use_sdpa(module)
    if loaded.compiled_by:
        compile_model(module)
    return LoadedNet(module=module, sha256=hashes)


def _check_fit(module: Any, unet: UNet2DConditionModel, control: PlannedControl) -> None:
    blocks = (*module.config.down_block_types, module.config.get("mid_block_type") or "")
    attends = any("CrossAttn" in block for block in blocks)
    for name in (*_MUST_FIT, *([_MUST_FIT_ATTENTION] if attends else [])):
        theirs, ours = _plain(module.config[name]), _plain(unet.config[name])
        if theirs != ours:
            reason = f"is no ControlNet for this UNet: {name} is {theirs}, the UNet has {ours}"
            raise ModelFileError(control.folder, reason, "Use one that was trained for the profile's base model")


def _check_mode(module: Any, control: PlannedControl) -> None:
    if isinstance(module, ControlNetUnionModel) and control.mode >= module.config.num_control_type:
        reason = f"knows {module.config.num_control_type} kinds of control; union_mode {control.mode} isn't among them"
        raise ModelFileError(control.folder, reason, f"Correct union_mode of {control.type}, or {AGAIN.lower()}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def attached(
    loaded: LoadedPipeline, nets: Sequence[LoadedNet], controls: Sequence[PlannedControl], memory: MemoryPolicy
) -> Iterator[StableDiffusionXLControlNetPipeline]:
    """Give a pipeline with ControlNets, which shares every other model with the one that is loaded.

    Offloading hooks belong to one pipeline: they are put on this one, and on the loaded one again afterwards.
    Raises GenerationError when the GPU's memory is too small for the ControlNets.
    """
    pipe = build_pipeline(loaded, ControlSet([net.module for net in nets], [control.mode for control in controls]))
    if not loaded.offloads(memory):
        try:
            within_memory(partial(pipe.controlnet.to, loaded.device), OFFLOAD)
        except GenerationError:
            pipe.controlnet.to("cpu")  # those that found a place, too
            raise
        yield pipe
        return
    loaded.pipe.remove_all_hooks()
    try:
        within_memory(partial(apply_memory_policy, pipe, memory, loaded.device), "Use fewer controls at once")
        yield pipe
    finally:
        pipe.remove_all_hooks()
        pipe.controlnet.to("cpu")
        apply_memory_policy(loaded.pipe, memory, loaded.device)


def build_pipeline(loaded: LoadedPipeline, controlnet: ControlSet) -> StableDiffusionXLControlNetPipeline:
    """Put ControlNets beside the models of a pipeline; nothing is copied or cast."""
    base = loaded.pipe
    # Not from_pipe, which casts the shared weights to float32: huggingface/diffusers#12754
    pipe = StableDiffusionXLControlNetPipeline(
        **base.components,
        controlnet=controlnet,
        force_zeros_for_empty_prompt=base.config.force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
