"""From a plan to a picture and the record of how it was drawn."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from time import perf_counter

import torch
from torch import Tensor

from imagelab.config import Configs, MemoryPolicy, Profile
from imagelab.controlnet import ControlNets, attached
from imagelab.controls import PlannedControl
from imagelab.devices import device_name, within_memory
from imagelab.encoded_prompts import EncodedPrompts
from imagelab.environment import read_environment
from imagelab.errors import DegradedWarning, GenerationError, OutOfMemoryError
from imagelab.loading import load_pipeline
from imagelab.lora import LoraPatcher
from imagelab.memory_contract import Contract, Job, read_net
from imagelab.memory_ladder import next_rung
from imagelab.pipeline import Guide, LoadedPipeline, OnStep, apply_memory_policy, draw
from imagelab.plan import Plan
from imagelab.preprocess import ControlMap
from imagelab.prompt_attention import asking_prompts_once
from imagelab.results import ControlRecord, Generation, GenerationRecord
from imagelab.versions import drawing_versions
from imagelab.vram import read_vram, release_memory

_TOO_MUCH = "more memory predicted than limit_gib allows"
_SMALLER = "Draw a smaller picture, or with fewer ControlNets"


@dataclass(kw_only=True, slots=True)
class Models:
    """What a generator has in memory: the pipeline, the owners of its LoRAs and ControlNets, and encoded prompts."""

    loaded: LoadedPipeline
    patcher: LoraPatcher = field(init=False)
    nets: ControlNets
    prompts: EncodedPrompts = field(init=False)
    memory: MemoryPolicy  # the one in force, which may be lower on the ladder than the profile's
    given_up: tuple[str, ...] = ()  # the rungs taken so far
    staying: tuple[MemoryPolicy, tuple[str, ...]] = field(init=False)  # both, without what one picture's size asked for
    contract: Contract = field(init=False)
    process: int = field(default_factory=os.getpid)  # that has loaded them

    def __post_init__(self) -> None:
        """Let the LoRAs reach the weights wherever the policy in force keeps them."""
        self.patcher = LoraPatcher(pipe=self.loaded.pipe, device=self.loaded.device, at_hand=self.weights_at_hand)
        self.prompts = EncodedPrompts(pipe=self.loaded.pipe)
        self.staying = self.memory, self.given_up
        device = self.loaded.device
        limit: float | None = getattr(self.memory.limit_gib, device.type, None)
        self.contract = Contract(
            pipe=self.loaded.pipe, device=device, limit_gib=limit, compiled=self.loaded.compiled_by is not None
        )

    def refuse_forks(self) -> None:
        """Raise GenerationError in a fork that would wait for ever for threads, or a GPU, which only its parent has."""
        alone = self.loaded.device.type == "cpu" and torch.get_num_threads() == 1
        if os.getpid() != self.process and not alone:
            raise GenerationError(
                "the models were loaded in another process, of which this one is a fork",
                "Load them in it, after the fork, or start it by multiprocessing's 'spawn'",
            )

    def weights_at_hand(self) -> AbstractContextManager[None]:
        """Take the offloading hooks off, if there are any, while weights are read or rewritten."""
        return self.loaded.weights_at_hand(self.memory)

    def give_up_more(self, why: str) -> bool:
        """Go down the ladder by one rung, to stay there; False at its end. Says so, and why, in a DegradedWarning."""
        rung = next_rung(self.memory, self.loaded.device, compiled=self.contract.compiled)
        if rung is None:
            return False
        memory, what = rung
        self.use(memory, (*self.given_up, f"{why}: {what}"))
        warnings.warn(self.given_up[-1], DegradedWarning, stacklevel=2)
        return True

    def job(self, plan: Plan, pictures: int) -> Job:
        """Return what memory depends on when so many pictures of a plan are drawn at once."""
        # Those that don't act are on the CPU where models come and go.
        kept = self.nets.folders_with(plan.controls)
        if self.loaded.offloads(self.memory):
            kept = tuple({control.folder for control in plan.controls})
        return Job(
            width=plan.width,
            height=plan.height,
            pictures=pictures,
            guided=plan.guidance_scale > 1,
            loras=bool(plan.loras),
            chunks=self.prompts.count_chunks(plan.prompt),
            controls=tuple(read_net(control.folder, self.loaded.dtype) for control in plan.controls),
            net_bytes=sum(read_net(folder, self.loaded.dtype).nbytes for folder in kept),
        )

    def make_fit(self, plan: Plan, pictures: int) -> int:
        """Go down the ladder as far as the predicted memory asks for; return how many pictures to draw at once.

        Nothing has been allocated by then. Says so in a DegradedWarning; raises OutOfMemoryError where nothing helps.
        What is given up depends on the plan alone: ControlNets that earlier pictures have left go first, and what was
        given up for an earlier plan is taken back.
        """
        limit = self.contract.limit_gib
        if limit is None:
            return pictures
        memory, given_up = self.staying
        if self.contract.predict_gib(self.job(plan, pictures), memory) > limit:
            self.nets.drop_others(plan.controls)
        fitted = self.contract.fit(self.job(plan, pictures), memory)
        said = tuple(f"{_TOO_MUCH}: {what}" for what in fitted.given_up)
        self._settle(fitted.memory, (*given_up, *said))
        if said:
            warnings.warn("; ".join(said), DegradedWarning, stacklevel=2)
        return fitted.job.pictures

    def make_ready(self, plan: Plan, pictures: int) -> None:
        """Do what drawing so many pictures of a plan at once would begin with, and only where it isn't done yet.

        That is: what their predicted memory asks to give up, reading ControlNets, and putting LoRAs into the weights.
        For 0 pictures nothing is given up. Raises what `draw_plan` raises.
        """
        if pictures:
            self.make_fit(plan, pictures)
        else:
            self._settle(*self.staying)  # and not what an earlier plan asked for
        if plan.controls:
            self.nets.fetch(plan.controls)
        loras = [(lora.path, lora.record) for lora in plan.loras]
        within_memory(partial(self.patcher.apply, loras), _SMALLER)

    def predict_gib(self, plan: Plan, pictures: int) -> float:
        """Return the most memory that a plan is predicted to take as things are, 0 where there is no limit to it."""
        limited = self.contract.limit_gib is not None
        return self.contract.predict_gib(self.job(plan, pictures), self.memory) if limited else 0.0

    def use(self, memory: MemoryPolicy, given_up: tuple[str, ...]) -> None:
        """Put a policy in force, to stay there, and say what was given up for it."""
        self.staying = memory, given_up
        self._apply(memory, given_up)

    def _settle(self, memory: MemoryPolicy, given_up: tuple[str, ...]) -> None:
        """Put a policy in force, unless it is."""
        if (memory, given_up) != (self.memory, self.given_up):
            self._apply(memory, given_up)

    def _apply(self, memory: MemoryPolicy, given_up: tuple[str, ...]) -> None:
        self.memory, self.given_up = memory, given_up
        apply_memory_policy(self.loaded.pipe, memory, self.loaded.device)


def load_models(configs: Configs, profile: Profile, device: str) -> Models:
    """Load a profile's models; LoRAs and ControlNets come with the first picture that needs them.

    Raises what `load_pipeline` raises.
    """
    loaded = load_pipeline(profile, device)
    nets = ControlNets(loaded=loaded, resident=configs.controlnet.resident)
    return Models(loaded=loaded, nets=nets, memory=profile.memory)


def draw_plan(
    models: Models,
    plan: Plan,
    seeds: Sequence[int],
    maps: tuple[ControlMap, ...],
    seconds: Mapping[str, float],
    on_step: OnStep | None,
) -> tuple[Generation, ...]:
    """Draw what a plan says from each seed, all at once, with a map for each of its controls, and say how.

    Where the memory is too small it is tried again: half of the pictures at once, then without the text encoders on
    the GPU, with the VAE in tiles, offloaded; records say so in `degraded`. What can be predicted not to fit isn't
    tried: the ladder is gone down first. `seconds`: what it took until now, {stage: duration}. Raises ModelFileError,
    ModelNotFoundError or GenerationError, OutOfMemoryError at the end of that ladder.
    """
    if (fitting := models.make_fit(plan, len(seeds))) < len(seeds):
        parts = [seeds[start : start + fitting] for start in range(0, len(seeds), fitting)]
        drawn = [draw_plan(models, plan, part, maps, seconds, on_step) for part in parts]
        return _with_degraded(chain(*drawn), f"{_TOO_MUCH}: not {len(seeds)} pictures at once")
    before = models.staying
    while True:
        try:
            return within_memory(partial(_draw_once, models, plan, seeds, maps, seconds, on_step), _SMALLER)
        except OutOfMemoryError as error:
            why = error.reason
        release_memory()  # out of the handler, whose traceback would keep the tensors of the attempt alive
        if models.nets.drop_others(plan.controls):  # which changes no picture
            continue
        if len(seeds) > 1:
            halves = [draw_plan(models, plan, half, maps, seconds, on_step) for half in _halved(seeds)]
            return _with_degraded(chain(*halves), f"{why}: not {len(seeds)} pictures at once")
        if not models.give_up_more(why):
            models.use(*before)  # it was for nothing: the next picture needn't suffer
            raise OutOfMemoryError(why, _SMALLER)


def _halved(seeds: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    half = (len(seeds) + 1) // 2
    return seeds[:half], seeds[half:]


def _with_degraded(drawn: Iterable[Generation], what: str) -> tuple[Generation, ...]:
    """Say in a DegradedWarning and in the records what was given up."""
    warnings.warn(what, DegradedWarning, stacklevel=2)
    return tuple(replace(made, record=replace(made.record, degraded=(*made.record.degraded, what))) for made in drawn)


def _draw_once(
    models: Models,
    plan: Plan,
    seeds: Sequence[int],
    maps: tuple[ControlMap, ...],
    seconds: Mapping[str, float],
    on_step: OnStep | None,
) -> tuple[Generation, ...]:
    loaded = models.loaded
    clock = [perf_counter()]
    models.patcher.apply([(lora.path, lora.record) for lora in plan.loras])
    clock.append(perf_counter())
    embeddings = models.prompts.encode(plan.prompt, models.patcher.in_text_encoders)
    clock.append(perf_counter())
    with (
        _guided(models, plan, maps) as (guide, controls),
        asking_prompts_once(loaded.pipe.unet, *([guide.pipe.controlnet] if guide else [])) as forget,
        _loras_in_step(models, plan, on_step, forget) as after_step,
    ):
        images = draw(
            loaded,
            embeddings,
            plan.scheduler,
            seeds=seeds,
            width=plan.width,
            height=plan.height,
            steps=plan.steps,
            guidance_scale=plan.guidance_scale,
            guidance_start=plan.guidance_start,
            guidance_stop=plan.guidance_stop,
            on_step=after_step,
            guide=guide,
        )
    clock.append(perf_counter())
    stages = ("loras", "prompt", "draw")
    spent = dict(seconds)
    spent |= {stage: end - start for stage, start, end in zip(stages, clock, clock[1:], strict=False)}
    peak_gib = read_vram(loaded.device).peak_gib
    spent |= {"total": sum(spent.values())}
    record = _record(plan, len(seeds), models, controls, spent, peak_gib)
    pictures = tuple(made.image for made in maps)
    return tuple(
        Generation(image=image, record=replace(record, seed=seed), control_maps=pictures)
        for seed, image in zip(seeds, images, strict=True)
    )


@contextmanager
def _guided(
    models: Models, plan: Plan, maps: tuple[ControlMap, ...]
) -> Iterator[tuple[Guide | None, tuple[ControlRecord, ...]]]:
    """Attach the ControlNets that a plan names while the picture is drawn, and say how they act."""
    if not plan.controls:
        yield None, ()
        return
    nets = models.nets.fetch(plan.controls)
    records = tuple(
        _control_record(control, made, net.sha256) for control, made, net in zip(plan.controls, maps, nets, strict=True)
    )
    with attached(models.loaded, nets, plan.controls, models.memory) as pipe:
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
    models: Models, plan: Plan, on_step: OnStep | None, changed: Callable[[], None]
) -> Iterator[Callable[[int, int, Tensor], None]]:
    """Wrap `on_step` so that the LoRAs of the next step act in the next step; `changed` is called where they do."""
    with models.patcher.stepping(plan.steps) as go_to:

        def after_step(step: int, steps: int, latents: Tensor) -> None:
            if on_step is not None:
                on_step(step, steps, latents)
            if go_to(step):  # counted from 1, the step that was done is, counted from 0, the next one
                changed()

        yield after_step


def _control_record(control: PlannedControl, made: ControlMap, sha256: Mapping[str, str]) -> ControlRecord:
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
    batch_size: int,
    models: Models,
    controls: tuple[ControlRecord, ...],
    seconds: Mapping[str, float],
    peak_vram_gib: float,
) -> GenerationRecord:
    request, loaded = plan.request, models.loaded
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
        guidance_start=plan.guidance_start,
        guidance_stop=plan.guidance_stop,
        scheduler=plan.scheduler.name,
        scheduler_settings={"class_name": plan.scheduler.class_name, **plan.scheduler.kwargs},
        sampler=plan.scheduler.sampler,
        schedule_type=plan.scheduler.schedule_type,
        vae_tile_px=_vae_tile_px(plan, models.memory),
        loras=tuple(lora.record for lora in plan.loras),
        controls=controls,
        device=device_name(loaded.device),
        dtype=str(loaded.dtype).removeprefix("torch."),
        memory_policy=models.memory.policy,
        batch_size=batch_size,
        degraded=(*loaded.degraded, *models.given_up),
        versions=drawing_versions(loaded.compiled_by),
        environment=read_environment(loaded.device),
        seconds=seconds,
        peak_vram_gib=peak_vram_gib,
        predicted_vram_gib=models.predict_gib(plan, batch_size),
    )


def _vae_tile_px(plan: Plan, memory: MemoryPolicy) -> int | None:
    tiles = memory.vae_tiling and max(plan.width, plan.height) > memory.vae_tile_px
    return memory.vae_tile_px if tiles else None


def _source_name(profile: Profile) -> str:
    base = profile.base
    return f"{base.hub.repo}@{base.hub.revision}" if base.hub else base.package or base.folder or str(base.single_file)
