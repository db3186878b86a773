"""The generator: the one owner of models on a device, behind one method for a picture of a character."""

import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from imagelab.checks import check_number
from imagelab.composition import compose_loras, lora_uses
from imagelab.config import Configs, Profile, load_configs
from imagelab.controls import PlannedControl, control_use, control_uses
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.imagefiles import check_png_path, control_map_path, save_png
from imagelab.plan import Plan, plan_generation
from imagelab.results import ControlRecord, ControlUse, Generation, GenerationRecord, GenerationRequest, LoraUse
from imagelab.versions import library_version
from imagelab.vram import VramReading, read_vram, release_memory, reset_peak

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image
    from torch import Tensor

    from imagelab.controlnet import ControlNets
    from imagelab.lora import LoraComparison, LoraPatcher
    from imagelab.pipeline import Guide, LoadedPipeline
    from imagelab.preprocess import ControlMap, MapMaker

_LIBRARIES = ("imagelab", "torch", "diffusers", "transformers")


class CharacterGenerator:
    """Draws characters with the models of one profile; loads them when the first picture is asked for.

    A context manager: `cleanup()` gives the memory back, and a generator is of no use after it. One that is
    garbage-collected with its models loaded says so with a ResourceWarning.

    >>> with CharacterGenerator(profile="puppet") as generator:
    ...     image = generator.generate_character("luca", "on the beach", quality_preset="draft", seed=42)
    >>> image.size
    (128, 128)
    """

    _loaded: "LoadedPipeline | None" = None  # on the class: __del__ also meets what __init__ refused

    def __init__(self, profile: str | None = None, device: str = "auto", configs: Configs | None = None) -> None:
        """Choose a profile and a device: "auto", "cpu", "cuda" or "cuda:1"; nothing is loaded yet.

        Raises ConfigError, UnknownNameError or InvalidValueError.
        """
        self.configs = load_configs() if configs is None else configs
        self.profile: Profile = self.configs.profile(profile)
        if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
            raise InvalidValueError("device", device, "auto, cpu, cuda or cuda:<number>")
        self.device = device
        self._patcher: LoraPatcher | None = None
        self._nets: ControlNets | None = None
        self._maker: MapMaker | None = None
        self._closed = False
        self._lock = threading.RLock()  # a diffusers pipeline draws one picture at a time

    def __repr__(self) -> str:
        state = "cleaned up" if self._closed else "loaded" if self._loaded else "not loaded"
        return f"CharacterGenerator(profile={self.profile.name!r}, device={self.device!r}) ({state})"

    @property
    def is_loaded(self) -> bool:
        """Say whether the models are in memory."""
        return self._loaded is not None

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
        cleanup).
        """
        with self._lock:
            self._refuse_if_closed()
            if self._loaded is None:
                from imagelab.loading import load_pipeline  # seconds, and torch: not before they are needed
                from imagelab.lora import LoraPatcher

                self._loaded = load_pipeline(self.profile, self.device)
                at_hand = partial(self._loaded.weights_at_hand, self.profile.memory)
                self._patcher = LoraPatcher(pipe=self._loaded.pipe, at_hand=at_hand)
            return self._loaded

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise GenerationError("this CharacterGenerator was cleaned up", "Make a new one")

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

        With `output_path` the picture is also written there as a PNG that carries its record, its control maps beside
        it (luca.control-0-pose.png). Raises what `generate` raises.
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
                *_one_control(use_controlnet, control_type, control_image, controlnet_scale),
                *control_uses(controls),
            ),
        )
        if output_path is None:
            return self.generate(request).image
        path = check_png_path(output_path)
        for use in request.controls:
            self.configs.control(use.type)  # an unknown one is no part of a file's name either
        map_paths = [control_map_path(path, index, use.type) for index, use in enumerate(request.controls)]
        for map_path in map_paths:
            check_png_path(map_path)
        generation = self.generate(request)
        save_png(generation.image, path, generation.record)
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
        self._refuse_if_closed()
        plan = plan_generation(self.configs, self.profile, request)
        with self._lock:
            reset_peak(self.device)
            clock = perf_counter()
            maps = self._control_maps(plan)  # before SDXL is loaded: a picture that shows nobody needs none of it
            seconds = {"maps": perf_counter() - clock} if maps else {}
            loaded = self.load()
            return self._draw(loaded, plan, maps, seconds, on_step)

    def _control_maps(self, plan: Plan) -> "tuple[ControlMap, ...]":
        if not plan.controls:
            return ()
        from imagelab.preprocess import map_maker

        if self._maker is None:
            self._maker = map_maker(self.configs, self.device)
        maker = self._maker
        return tuple(maker.fit(control, plan.width, plan.height) for control in plan.controls)

    def _draw(
        self,
        loaded: "LoadedPipeline",
        plan: Plan,
        maps: "tuple[ControlMap, ...]",
        seconds: Mapping[str, float],
        on_step: "Callable[[int, int, Tensor], object] | None",
    ) -> Generation:
        from imagelab.encoding import encode_prompt
        from imagelab.pipeline import draw

        clock = [perf_counter()]
        self._apply_loras(plan)
        clock.append(perf_counter())
        embeddings = encode_prompt(loaded.pipe, plan.prompt)
        clock.append(perf_counter())
        with (
            self._guided(loaded, plan, maps) as (guide, controls),
            self._loras_in_step(plan, on_step) as after_step,
        ):
            image = draw(
                loaded,
                embeddings,
                plan.scheduler,
                seed=plan.seed,
                width=plan.width,
                height=plan.height,
                steps=plan.steps,
                guidance_scale=plan.guidance_scale,
                on_step=after_step,
                guide=guide,
            )
        clock.append(perf_counter())
        stages = ("loras", "prompt", "draw")
        spent = dict(seconds)
        spent |= {stage: end - start for stage, start, end in zip(stages, clock, clock[1:], strict=False)}
        peak_gib = read_vram(loaded.device).peak_gib
        record = _record(plan, loaded, controls, spent | {"total": sum(spent.values())}, peak_gib)
        return Generation(image=image, record=record, control_maps=tuple(made.image for made in maps))

    @contextmanager
    def _guided(
        self, loaded: "LoadedPipeline", plan: Plan, maps: "tuple[ControlMap, ...]"
    ) -> "Iterator[tuple[Guide | None, tuple[ControlRecord, ...]]]":
        """Attach the ControlNets that a plan names while the picture is drawn, and say how they act."""
        if not plan.controls:
            yield None, ()
            return
        from imagelab.controlnet import ControlNets, attached
        from imagelab.pipeline import Guide

        if self._nets is None:
            self._nets = ControlNets(loaded=loaded, resident=self.configs.controlnet.resident)
        nets = self._nets.fetch(plan.controls)
        records = tuple(
            _control_record(control, made, net.sha256)
            for control, made, net in zip(plan.controls, maps, nets, strict=True)
        )
        with attached(loaded, nets, plan.controls, self.profile.memory) as pipe:
            guide = Guide(
                pipe=pipe,
                maps=tuple(made.image for made in maps),
                scales=tuple(control.scale for control in plan.controls),
                starts=tuple(control.start for control in plan.controls),
                ends=tuple(control.end for control in plan.controls),
            )
            yield guide, records

    @contextmanager
    def _loras_in_step(
        self, plan: Plan, on_step: "Callable[[int, int, Tensor], object] | None"
    ) -> "Iterator[Callable[[int, int, Tensor], None]]":
        """Wrap `on_step` so that the LoRAs of the next step act in the next step."""
        assert self._patcher is not None  # noqa: S101  load() makes it
        with self._patcher.stepping(plan.steps) as go_to:

            def after_step(step: int, steps: int, latents: "Tensor") -> None:
                if on_step is not None:
                    on_step(step, steps, latents)
                go_to(step)  # counted from 1, the step that was done is, counted from 0, the next one

            yield after_step

    def _apply_loras(self, plan: Plan) -> None:
        assert self._patcher is not None  # noqa: S101  load() makes it
        self._patcher.apply([(lora.path, lora.record) for lora in plan.loras])

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
        with self._lock:
            loaded = self.load()
            assert self._patcher is not None  # noqa: S101  load() makes it
            self._patcher.clear()
            with loaded.weights_at_hand(self.profile.memory):
                return compare_loras(loaded.pipe, [(lora.path, lora.record) for lora in planned])

    def cleanup(self) -> None:
        """Drop the models and give their memory back; a second call does nothing."""
        with self._lock:
            self._closed = True
            self._maker = None  # it may hold maps even where no model was needed
            if self._loaded is None:
                return
            self._loaded.pipe.remove_all_hooks()
            self._loaded = self._patcher = self._nets = None
            release_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cleanup()

    def __del__(self) -> None:
        if self._loaded is not None:
            warnings.warn(f"{self!r} was never cleaned up", ResourceWarning, stacklevel=2, source=self)


def _one_control(
    use_controlnet: object, control_type: object, control_image: object, controlnet_scale: object
) -> tuple[ControlUse, ...]:
    """Return the control that the arguments of their own ask for; refuse those that would have no effect."""
    given = {"control_type": control_type, "control_image": control_image, "controlnet_scale": controlnet_scale}
    if not isinstance(use_controlnet, bool):
        raise InvalidValueError("use_controlnet", use_controlnet, "True or False")
    if not use_controlnet:
        if idle := [name for name, value in given.items() if value is not None]:
            raise InvalidValueError("use_controlnet", use_controlnet, f"True where there is a {idle[0]}")
        return ()
    if control_image is None:
        raise InvalidValueError("control_image", None, "a picture, or its path, where use_controlnet is True")
    scale = None if controlnet_scale is None else check_number(controlnet_scale, "controlnet_scale", 0.0, 2.0)
    return (control_use(image=control_image, place="control_image", type=control_type or "", scale=scale),)


def _control_record(control: PlannedControl, made: "ControlMap", sha256: Mapping[str, str]) -> ControlRecord:
    return ControlRecord(
        type=control.type,
        model=control.model,
        model_sha256=sha256,
        scale=control.scale,
        start=control.start,
        end=control.end,
        resize=control.resize,
        is_map=control.preprocessor is None,
        image=control.image,
        image_sha256=control.picture_sha256,
        map_sha256=made.sha256,
        preprocessor=made.preprocessor,
        params=made.params,
        preprocessor_sha256=made.preprocessor_sha256,
    )


def _record(
    plan: Plan,
    loaded: "LoadedPipeline",
    controls: tuple[ControlRecord, ...],
    seconds: Mapping[str, float],
    peak_vram_gib: float,
) -> GenerationRecord:
    from imagelab.pipeline import device_name

    request = plan.request
    return GenerationRecord(
        profile=plan.profile.name,
        base_model=_source_name(plan.profile),
        model_sha256=loaded.sha256,
        character=request.character,
        scene_description=request.scene_description,
        style=request.style,
        quality_preset=plan.preset.name,
        prompt=plan.prompt.positive,
        negative_prompt=plan.prompt.negative,
        seed=plan.seed,
        width=plan.width,
        height=plan.height,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        scheduler=plan.scheduler.name,
        loras=tuple(lora.record for lora in plan.loras),
        controls=controls,
        device=device_name(loaded.device),
        dtype=str(loaded.pipe.unet.dtype).removeprefix("torch."),
        memory_policy=plan.profile.memory.policy,
        degraded=loaded.degraded,
        versions={library: library_version(library) for library in _LIBRARIES},
        seconds=seconds,
        peak_vram_gib=peak_vram_gib,
    )


def _source_name(profile: Profile) -> str:
    base = profile.base
    return f"{base.hub.repo}@{base.hub.revision}" if base.hub else base.package or base.folder or str(base.single_file)
