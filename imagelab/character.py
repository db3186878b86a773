"""The generator: the one owner of models on a device, behind one method for a picture of a character."""

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from imagelab.composition import PlannedLora, compose_loras, lora_uses
from imagelab.config import Configs, Profile, load_configs
from imagelab.controls import control_uses, one_control
from imagelab.errors import GenerationError, InvalidValueError, ProfileError
from imagelab.imagefiles import check_picture_path, check_png_path, control_map_path, save_picture, save_png
from imagelab.plan import Plan, check_seeds, plan_generation
from imagelab.results import ControlUse, Generation, GenerationRequest, LoraUse
from imagelab.vram import VramReading, read_vram, release_memory, reset_peak

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionXLPipeline
    from PIL.Image import Image
    from torch import Tensor

    from imagelab.drawing import Models
    from imagelab.lora import LoraComparison
    from imagelab.pipeline import LoadedPipeline
    from imagelab.preprocess import ControlMap, MapMaker


class CharacterGenerator:
    """Draws characters with the models of one profile; loads them when the first picture is asked for.

    A context manager: `cleanup()` gives the memory back, and a generator is of no use after it. One that is
    garbage-collected with its models loaded says so with a ResourceWarning.

    >>> with CharacterGenerator(profile="puppet") as generator:
    ...     image = generator.generate_character("luca", "on the beach", quality_preset="draft", seed=42)
    >>> image.size
    (128, 128)
    """

    _models: "Models | None" = None  # on the class: __del__ also meets what __init__ refused

    def __init__(
        self,
        profile: str | None = None,
        device: str = "auto",
        configs: Configs | None = None,
        *,
        compiled: bool | None = None,
    ) -> None:
        """Choose a profile and a device: "auto", "cpu", "cuda" or "cuda:1"; nothing is loaded yet.

        `compiled`: whether the models that draw are compiled; None: as the profile says. Raises ConfigError,
        UnknownNameError, InvalidValueError, or ProfileError for a memory policy under which nothing can be compiled.
        """
        self.configs = load_configs() if configs is None else configs
        self.profile: Profile = _compiled(self.configs.profile(profile), compiled=compiled)
        if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise InvalidValueError("device", device, "auto, cpu, cuda or cuda:<number>")
        self.device = device
        self._maker: MapMaker | None = None
        self._preview_vae: AutoencoderTiny | None = None
        self._closed = False
        self._lock = threading.RLock()  # a diffusers pipeline draws one picture at a time

    def __repr__(self) -> str:
        state = "cleaned up" if self._closed else "loaded" if self._models else "not loaded"
        return f"CharacterGenerator(profile={self.profile.name!r}, device={self.device!r}) ({state})"

    @property
    def is_loaded(self) -> bool:
        """Say whether the models are in memory."""
        return self._models is not None

    @property
    def pipeline(self) -> "StableDiffusionXLPipeline":
        """Return diffusers' pipeline, loaded if need be; the weights carry whatever LoRAs the last picture used."""
        return self.load().pipe

    def vram(self) -> VramReading:
        """Return the memory in use on the generator's device, by others too; the peak is since the last picture began.

        Zeros without CUDA.
        """
        return read_vram(self.device)

    def load(self) -> "LoadedPipeline":
        """Load the models now, unless they are loaded.

        Raises ModelNotFoundError, ModelFileError, InvalidValueError (no such device) or GenerationError (after
        cleanup, or in a fork of the process that loaded them, where drawing would never end).
        """
        return self._ready().loaded

    def preview_vae(self) -> "AutoencoderTiny | None":
        """Return what shows a picture while it is drawn, loaded if need be; None where the profile's isn't there.

        Raises what `load` raises.
        """
        with self._lock:
            loaded = self.load()
            if self._preview_vae is None:
                from imagelab.loading import load_preview_vae

                self._preview_vae = load_preview_vae(self.profile, loaded)
            return self._preview_vae

    def restore_memory_policy(self) -> None:
        """Draw as the configuration says again, whatever was given up until now because memory ran out."""
        with self._lock:
            # What one picture's size asked for is taken back, or kept, when the next one's is known.
            if self._models is not None and self._models.staying[1]:
                self._models.use(self.profile.memory, ())

    def forget_prompts(self) -> None:
        """Let the text encoders be asked anew: what they said of the last prompts is kept otherwise."""
        self._ready().prompts.forget()

    def drop_controlnets(self) -> None:
        """Give back the memory of the ControlNets that earlier pictures have left; the next that needs one reads it."""
        with self._lock:
            self._ready().nets.clear()

    def make_ready(self, request: GenerationRequest, pictures: int = 1) -> None:
        """Load what so many pictures of a request at once need, and put its LoRAs into the weights: they needn't wait.

        What their predicted memory asks to give up is given up; for 0 pictures nothing is. Raises what `generate`
        raises.
        """
        self._refuse_if_unusable()
        plan = self._plan(request)
        with self._lock:
            self._ready().make_ready(plan, pictures)

    def _ready(self) -> "Models":
        with self._lock:
            self._refuse_if_unusable()
            if self._models is None:
                from imagelab.drawing import load_models  # seconds, and torch: not before they are needed

                self._models = load_models(self.configs, self.profile, self.device)
            return self._models

    def _refuse_if_unusable(self) -> None:
        if self._closed:
            raise GenerationError("this CharacterGenerator was cleaned up", "Make a new one")
        if self._models is not None:
            self._models.refuse_forks()

    def generate_character(
        self,
        character: str | None,
        scene_description: str = "",
        quality_preset: str | None = None,
        style: str | None = None,
        seed: int | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        additional_loras: Iterable[LoraUse | Mapping[str, Any]] = (),
        use_controlnet: bool = False,  # noqa: FBT001, FBT002  public API
        control_type: str | None = None,
        control_image: "str | os.PathLike[str] | Image | None" = None,
        controlnet_scale: float | None = None,
        output_path: str | os.PathLike[str] | None = None,
        controls: Iterable[ControlUse | Mapping[str, Any]] = (),
    ) -> "Image":
        """Draw a character in a scene and return the picture; None stands for the configuration's own value.

        `additional_loras` are LoraUse or `{"name": ..., "weight": ..., "text_encoder_weight": ..., "blocks": "OUTD",
        "start": 0.2, "stop": 0.8}`, of which the name alone must be there; one that names a LoRA of the character's own
        replaces it, and weight 0 leaves it out. So does a tag `<lora:name:weight>` in the `scene_description`, as
        `imagelab.prompt_tags` reads it. A scene description that is just the name of one of the character's scene
        presets stands for its text; a LoRA combination's name stands for its LoRAs, whose weights the given one
        multiplies.

        With `use_controlnet` the picture follows `control_image`, a path or a PIL picture, in what `control_type` says:
        pose, canny, depth, seg or normal. `controls` are several at once, ControlUse or `{"type": ..., "image": ...}`
        with any of scale, start, end, is_map, resize and model, and need no `use_controlnet`.

        With `output_path` the picture is also written there, as PNG, JPEG or WebP by its name, with its record inside
        and its control maps beside it (luca.control-0-pose.png). Raises what `generate` raises.
        """
        request = GenerationRequest(
            character=character,
            scene_description=scene_description,
            quality_preset=quality_preset,
            style=style,
            seed=seed,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            additional_loras=lora_uses(additional_loras),
            controls=(
                *one_control(use_controlnet, control_type, control_image, controlnet_scale),
                *control_uses(controls),
            ),
        )
        if output_path is None:
            return self.generate(request).image
        path = check_picture_path(output_path)
        for use in request.controls:
            self.configs.control(use.type)  # an unknown one is no part of a file's name either
        map_paths = [control_map_path(path, index, use.type) for index, use in enumerate(request.controls)]
        for map_path in map_paths:
            check_png_path(map_path)
        generation = self.generate(request)
        save_picture(generation.image, path, generation.record)
        for control_map, map_path in zip(generation.control_maps, map_paths, strict=True):
            save_png(control_map, map_path)
        return generation.image

    def generate(
        self, request: GenerationRequest, on_step: "Callable[[int, int, Tensor], object] | None" = None
    ) -> Generation:
        """Draw what a request asks for, and say how.

        The whole request is checked before any model is loaded. `on_step(step, steps, latents)` is called after each
        step. Raises UnknownNameError, InvalidValueError, ImageFileError, ProfileError, ModelNotFoundError,
        ModelFileError, ControlMapError or GenerationError.
        """
        self._refuse_if_unusable()
        plan = self._plan(request)
        return self._draw(plan, (plan.seed,), on_step)[0]

    def generate_together(
        self,
        request: GenerationRequest,
        seeds: Sequence[int],
        on_step: "Callable[[int, int, Tensor], object] | None" = None,
    ) -> tuple[Generation, ...]:
        """Draw a request from several seeds in one go, which a GPU does faster than one after the other.

        Pictures differ from those drawn alone in the last bits only: docs/decisions/0011. The request's own seed isn't
        used. Raises what `generate` raises; of an error's batch no picture is kept.
        """
        self._refuse_if_unusable()
        checked = check_seeds(seeds)
        return self._draw(self._plan(request), checked, on_step)

    def _draw(
        self, plan: Plan, seeds: Sequence[int], on_step: "Callable[[int, int, Tensor], object] | None"
    ) -> tuple[Generation, ...]:
        with self._lock:
            reset_peak(self.device)
            clock = perf_counter()
            maps = self._control_maps(plan)  # before SDXL is loaded: a picture that shows nobody needs none of it
            seconds = {"maps": perf_counter() - clock} if maps else {}
            models = self._ready()
            from imagelab.drawing import draw_plan

            return draw_plan(models, plan, seeds, maps, seconds, on_step)

    def control_maps(self, request: GenerationRequest) -> "tuple[ControlMap, ...]":
        """Return the maps that a request's controls come to, at the picture's size; loads none of SDXL's models.

        They are kept as controlnet_config.yaml says, so that drawing makes no second ones. Raises what `generate`
        raises.
        """
        self._refuse_if_unusable()
        plan = self._plan(request)
        with self._lock:
            return self._control_maps(plan)

    def _plan(self, request: GenerationRequest) -> Plan:
        plan = plan_generation(self.configs, self.profile, request)
        _check_bases(plan.loras)
        return plan

    def _control_maps(self, plan: Plan) -> "tuple[ControlMap, ...]":
        if not plan.controls:
            return ()
        from imagelab.preprocess import map_maker

        if self._maker is None:
            self._maker = map_maker(self.configs, self.device)
        maker = self._maker
        return tuple(maker.fit(control, plan.width, plan.height) for control in plan.controls)

    def compare_loras(
        self, loras: Iterable[LoraUse | Mapping[str, Any]], character: str | None = None
    ) -> "LoraComparison":
        """Measure how much LoRAs, given as `additional_loras`, change each block, and whether they interfere.

        With a `character` the character's own are measured too. Takes any LoRAs out of the weights. Raises what
        `generate` raises.
        """
        from imagelab.lora import compare_loras

        request = GenerationRequest(character=character, additional_loras=lora_uses(loras))
        planned = compose_loras(self.configs, self.profile, request)
        _check_bases(planned)
        with self._lock:
            models = self._ready()
            models.patcher.clear()
            with models.weights_at_hand():
                return compare_loras(models.loaded.pipe, [(lora.path, lora.record) for lora in planned])

    def cleanup(self) -> None:
        """Drop the models and give their memory back; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._maker = None  # it may hold maps even where no model was needed
            self._preview_vae = None
            if self._models is None:
                return
            self._models.loaded.pipe.remove_all_hooks()
            self._models = None
            release_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cleanup()

    def __del__(self) -> None:
        if self._models is not None:
            warnings.warn(f"{self!r} was never cleaned up", ResourceWarning, stacklevel=2, source=self)


def _compiled(profile: Profile, *, compiled: bool | None) -> Profile:
    """Return a profile with `compiled` as asked for."""
    if compiled is not None:
        if not isinstance(compiled, bool):
            raise InvalidValueError("compiled", compiled, "True, False or None")
        profile = profile.model_copy(update={"compiled": compiled})
    if profile.compiled and profile.memory.policy == "sequential_offload":
        fix = "Choose another memory.policy, or draw without: compiled: false"
        raise ProfileError(profile.name, "compiled models can't be offloaded layer by layer", fix)
    return profile


def _check_bases(loras: Iterable[PlannedLora]) -> None:
    """Refuse a LoRA whose file is for another base model than the registry says; only headers are read."""
    for lora in loras:
        from imagelab.lora import check_registered_base  # imports torch

        check_registered_base(lora.path, lora.record.name, lora.base)
