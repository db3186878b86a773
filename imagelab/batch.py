"""Many pictures of one character, of which only those that show the character are kept."""

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from time import perf_counter
from traceback import clear_frames, walk_tb
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm.auto import tqdm

from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.composition import lora_uses
from imagelab.config import Configs, load_configs, pick
from imagelab.controls import control_uses
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.imagefiles import perceptual_hash
from imagelab.plan import MAX_SEED, MAX_TOGETHER, plan_generation
from imagelab.reference_calibration import ThresholdInForce
from imagelab.reference_store import CharacterReferences
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchItem, BatchResult, ControlUse, Generation, GenerationRequest, LoraUse, Verdict
from imagelab.runs import FOLDERS, BatchRequest, Job, RunFolder, RunPlan, free_folder
from imagelab.similarity import check_threshold
from imagelab.vram import release_memory
from imagelab.workers import Drawn, ProcessCrew, RayCrew, share

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 10_000  # what four digits in a file's name count
MAX_WORKERS = 1024
DETERMINISM = ("strict", "fast")
BLANK_STD = 3.0  # grey levels of 255: below it in every channel, a picture shows nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceJudge:
    """A character's references and the threshold that pictures are judged by."""

    manager: CharacterReferenceManager
    references: CharacterReferences
    threshold: ThresholdInForce

    def __call__(self, image: "Image") -> Verdict:
        """Compare the face in a picture."""
        return self.manager.judge(self.references, image, self.threshold)

    def to_plan(self) -> dict[str, Any]:
        """Return what determines its verdicts, in plain JSON types."""
        encoder = self.references.provenance.encoder
        return {
            "character": self.references.character_name,
            "references_sha256": self.references.references_sha256,
            "encoder": encoder.label,
            "encoder_id": encoder.to_dict(),
            "providers": list(self.manager.providers),
            "face_choice": self.manager.face_choice(self.references.character_name),
            "threshold": self.threshold.value,
            "calibration": self.threshold.label,
        }


Draw = Callable[[GenerationRequest], Generation]
Judges = Mapping[str, FaceJudge]  # {character: its judge}; empty where no faces are compared


class BatchImageGenerator:
    """Draws batches and sorts them by whether the face is the character's.

    `generator` and `references` must be of one profile. What isn't given is made here, for `profile` (None: the default
    one) on `device`; models load with the first batch, and `cleanup` closes only what was made here. A context manager.
    """

    def __init__(
        self,
        generator: CharacterGenerator | None = None,
        references: CharacterReferenceManager | None = None,
        profile: str | None = None,
        device: str = "auto",
        configs: Configs | None = None,
    ) -> None:
        self._made_generator = generator is None
        self._made_references = references is None
        if generator is None:
            profile = references.profile.name if references and profile is None else profile
            configs = references.configs if references and configs is None else configs
            generator = CharacterGenerator(profile=profile, device=device, configs=configs)
        if references is None:
            references = _references_for(generator)
        names = {name for name in (generator.profile.name, references.profile.name, profile) if name is not None}
        if len(names) > 1:
            raise InvalidValueError("profile", ", ".join(sorted(names)), "one for drawing and comparing")
        self.generator = generator
        self.references = references

    def generate_batch(
        self,
        character: str,
        scene_description: str,
        num_images: int = 20,
        quality_preset: str | None = None,
        enable_consistency_check: bool = True,  # noqa: FBT001, FBT002  public API
        consistency_threshold: float | None = None,
        save_rejected: bool = True,  # noqa: FBT001, FBT002  public API
        output_dir: str | os.PathLike[str] | None = None,
        seed: int = 0,
        *,
        until_accepted: int | None = None,
        max_images: int | None = None,
        use_character_loras: bool = True,
        style: str | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_stop: float = 1.0,
        scheduler: str | None = None,
        additional_loras: Iterable[LoraUse | Mapping[str, Any]] = (),
        controls: Iterable[ControlUse | Mapping[str, Any]] = (),
        determinism: str = "strict",
        batch_size: int = 4,
        retry_failed: bool = False,
        verify: bool = False,
        progress: bool = True,
    ) -> BatchResult:
        """Draw `num_images` pictures from `seed` on and keep those on which the character is recognised.

        With `until_accepted` it draws until so many are accepted, but at most `max_images` (None: four times as many),
        and `num_images` doesn't count. A picture that couldn't be drawn or is blank has failed; one without exactly one
        clear face is unscorable; one below `consistency_threshold` (a cosine; None: that of the character's
        calibration, else the configured one for batches) is rejected. A failure is recorded and the batch goes on. With
        `enable_consistency_check=False` no face is looked for.

        Writes into `output_dir` (None: reports/runs/<time>-<character>): plan.json, a ledger, accepted/, with
        `save_rejected` rejected/ (unscorable ones too), and at the end metadata.json and index.html. The same call goes
        on where an earlier one was stopped, by whatever, and ends with the pictures that an uninterrupted one would
        have drawn, bit for bit; one that has ended is only read. With `retry_failed` failed pictures are drawn again.
        A picture that was harmed meanwhile is set aside and drawn again; its size and its time of change tell, or, with
        `verify`, its every byte.

        That holds for `determinism` "strict", which draws one picture at a time whatever `batch_size` says. "fast"
        draws `batch_size` of them together, which a GPU does faster; their last bits then depend on which ones those
        are, and so on where a batch was stopped (docs/decisions/0011 has the bound).

        Everything is checked, and control maps are made, before the models are loaded and the folder is; a bad argument
        leaves nothing behind. Raises UnknownNameError, InvalidValueError, also for a folder that another batch or
        another process has, ProfileError, ModelNotFoundError, ModelFileError, ReferenceStoreError,
        CalibrationFileError, ControlMapError when a control's picture shows nothing to follow, GenerationError when its
        map can't be made, ImageFileError for a control's picture that can't be read, RunFolderError when the
        folder is damaged, and RunStoppedError, which is one, when it can't be written to any more.
        """
        picture = GenerationRequest(
            character=character,
            scene_description=scene_description,
            quality_preset=quality_preset,
            style=style,
            seed=check_whole(seed, "seed", 0, MAX_SEED),
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=guidance_scale,
            guidance_start=guidance_start,
            guidance_stop=guidance_stop,
            scheduler=scheduler,
            additional_loras=lora_uses(additional_loras),
            use_character_loras=use_character_loras,
            controls=control_uses(controls),
        )
        request = batch_request(
            picture,
            num_images,
            enable_consistency_check=enable_consistency_check,
            consistency_threshold=consistency_threshold,
            save_rejected=save_rejected,
            until_accepted=until_accepted,
            max_images=max_images,
            determinism=determinism,
            batch_size=batch_size,
        )
        return self.run(request, output_dir, retry_failed=retry_failed, verify=verify, progress=progress)

    def plan(self, request: BatchRequest) -> RunPlan:
        """Return what a batch is going to do, the jobs with their seeds included; draws nothing and writes nothing.

        Raises what `generate_batch` raises for its arguments.
        """
        return self._plan(request)[0]

    def run(
        self,
        request: BatchRequest,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        retry_failed: bool = False,
        verify: bool = False,
        progress: bool = True,
        workers: int = 1,
        ray: str | None = None,
    ) -> BatchResult:
        """Draw a batch, or go on with it: `generate_batch` of a request that `batch_request` has made.

        With more than one of `workers`, so many processes draw, each on a GPU of its own where there are any; with
        `ray`, an address as `imagelab.workers.RayCrew` has it, so many actors of that cluster. The pictures and the
        ledger are the same; a picture whose worker dies is given to another. Each worker plans for itself, and one
        whose plan comes out another (another version, another GPU) is refused: InvalidValueError. A script that asks
        for workers must do so under `if __name__ == "__main__":`, since they are spawned.
        """
        character = self.generator.configs.character(str(request.picture.character)).name
        folder = free_folder(output_dir, character)
        plan, judges = self._plan(request)
        crew = self._crew(request, plan, check_whole(workers, "workers", 1, MAX_WORKERS), ray)
        try:
            with RunFolder(folder, plan, retry_failed=retry_failed, verify=verify) as run:
                with self._drawing(run, request, judges, crew) as drawn:
                    self._commit(run, drawn, progress=progress)
                return run.result()
        except KeyboardInterrupt as stop:
            _forget(stop.__traceback__)
            release_memory()
            raise

    def cleanup(self) -> None:
        """Close the generator and the references that were made here; may be called twice."""
        if self._made_generator:
            self.generator.cleanup()
        if self._made_references:
            self.references.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _plan(self, request: BatchRequest) -> tuple[RunPlan, Judges]:
        from imagelab.runs.recipe import drawing_environment  # imports torch

        generator = self.generator
        pictures = [variant.picture for variant in request.variants]
        together = {"pictures_at_once": request.pictures_at_once} if request.pictures_at_once > 1 else {}
        recipes = tuple(self._recipe(picture) | together for picture in pictures)
        judges = self._judges(request)
        thresholds = {judge.threshold.value for judge in judges.values()}
        plan = RunPlan(
            request=replace(request, threshold=thresholds.pop() if len(thresholds) == 1 else None),
            recipes=recipes,
            judgings=tuple(judges[str(one.character)].to_plan() if judges else {} for one in pictures),
            environment=drawing_environment(generator.profile, generator.device),
            references=_provenance(judges),
        )
        return plan, judges

    def _recipe(self, picture: GenerationRequest) -> dict[str, Any]:
        from imagelab.runs.recipe import picture_recipe  # imports torch

        generator = self.generator
        drawing = plan_generation(generator.configs, generator.profile, picture)
        return picture_recipe(drawing, generator.control_maps(picture), generator.device)

    def _judges(self, request: BatchRequest) -> Judges:
        if not request.enable_consistency_check:
            return {}
        names = dict.fromkeys(str(variant.picture.character) for variant in request.variants)
        return {
            name: FaceJudge(
                manager=self.references,
                references=self.references.references(name),
                threshold=self.references.threshold(name, request.threshold, batch=True),
            )
            for name in names
        }

    def setup(self, device: str) -> "Callable[[], BatchImageGenerator]":
        """Return what makes the same in another process, on a device; it can be pickled."""
        return BatchSetup(
            profile=self.generator.profile.name,
            device=device,
            configs=self.generator.configs.root,
            store=self.references.store,
        )

    def _crew(
        self, request: BatchRequest, plan: RunPlan, workers: int, ray: str | None
    ) -> ProcessCrew | RayCrew | None:
        if workers == 1 and ray is None:
            return None
        if request.pictures_at_once > 1:
            raise InvalidValueError("determinism", "fast", "strict where workers draw, a picture at a time")
        from imagelab.runs.recipe import worker_devices  # imports torch

        if ray is not None:
            on_gpu = str(plan.environment["device"]).startswith("cuda")
            setup = self.setup(self.generator.device)
            return RayCrew(_DrawerOf(setup, request, plan), workers, address=ray, num_gpus=float(on_gpu))
        devices = worker_devices(self.generator.device, workers)
        return ProcessCrew([_DrawerOf(self.setup(device), request, plan) for device in devices])

    @contextmanager
    def _drawing(
        self, run: RunFolder, request: BatchRequest, judges: Judges, crew: ProcessCrew | RayCrew | None
    ) -> Iterator[Iterable[Drawn]]:
        """Give what becomes of the pending jobs, one after the other; nothing is loaded where there are none."""
        jobs = run.pending_jobs()
        if not jobs:
            yield ()
        elif crew is None:
            self.generator.load()
            self.generator.restore_memory_policy()  # what an earlier run lacked says nothing about this one
            yield self._drawn_here(request, judges, jobs)
        else:
            with crew:
                yield share(crew, jobs)

    def _drawn_here(self, request: BatchRequest, judges: Judges, jobs: Iterable[Job]) -> Iterator[Drawn]:
        size = request.pictures_at_once
        for _, own in groupby(jobs, key=lambda job: job.variant):
            alike = list(own)
            for group in (alike[start : start + size] for start in range(0, len(alike), size)):
                clock = perf_counter()
                draw = self._together(request, group)
                share = (perf_counter() - clock) / len(group)
                for job in group:
                    one = self._drawn(request, judges, job, draw)
                    yield replace(one, seconds=one.seconds + share)

    def _together(self, request: BatchRequest, group: Sequence[Job]) -> Draw:
        """Draw a group's pictures at once and return what gives them out; where that fails, what draws each alone."""
        if len(group) == 1:
            return self.generator.generate
        try:
            made = self.generator.generate_together(request.picture_of(group[0]), [job.seed for job in group])
        except GenerationError:  # of one picture, perhaps: the others needn't fail with it
            return self.generator.generate
        by_seed = {generation.record.seed: generation for generation in made}
        return lambda picture: by_seed[picture.seed or 0]

    def _drawn(self, request: BatchRequest, judges: Judges, job: Job, draw: Draw | None = None) -> Drawn:
        clock = perf_counter()
        judge = judges.get(str(request.picture_of(job).character))
        item, generation = draw_job(draw or self.generator.generate, request, job, judge)
        return Drawn(job=job, item=item, generation=generation, seconds=perf_counter() - clock)

    def _commit(self, run: RunFolder, drawn: Iterable[Drawn], *, progress: bool) -> None:
        character = str(run.plan.request.picture.character)
        bar = tqdm(total=len(run.pending_jobs()), desc=character, unit="picture", disable=not progress)
        with bar:
            for one in drawn:
                run.commit(one.job, one.item, one.generation, one.seconds)
                bar.update()
                bar.set_postfix(accepted=run.result().total_accepted)
                if run.is_over:
                    break


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSetup:
    """What it takes to make the same BatchImageGenerator in another process."""

    profile: str
    device: str
    configs: Path  # the folder of the YAML files
    store: Path  # of references and calibrations

    def __call__(self) -> BatchImageGenerator:
        """Make it; nothing is loaded yet."""
        configs = load_configs(self.configs)
        generator = CharacterGenerator(profile=self.profile, device=self.device, configs=configs)
        return BatchImageGenerator(generator, _references_for(generator, self.store))


@dataclass(frozen=True)
class _DrawerOf:
    """A worker's part of a run: loads what draws it, once it is there."""

    setup: Callable[[], BatchImageGenerator]
    request: BatchRequest
    plan: RunPlan

    def __call__(self) -> Callable[[Job], Drawn]:
        """Plan for itself, compare, load, and return what draws a job."""
        from imagelab.runs.recipe import use_threads  # imports torch

        use_threads(self.plan.environment)
        batches = self.setup()
        plan, judges = batches._plan(self.request)  # noqa: SLF001  it is the same class, elsewhere
        if changes := self.plan.changes(plan):
            raise InvalidValueError("worker", platform.node(), f"as the process that planned ({'; '.join(changes)})")
        batches.generator.load()
        return partial(batches._drawn, self.request, judges)  # noqa: SLF001  as above


def batch_request(
    picture: GenerationRequest,
    num_images: int = 20,
    *,
    enable_consistency_check: bool = True,
    consistency_threshold: float | None = None,
    save_rejected: bool = True,
    until_accepted: int | None = None,
    max_images: int | None = None,
    determinism: str = "strict",
    batch_size: int = 4,
) -> BatchRequest:
    """Check what a batch is asked for beside its first picture; raises InvalidValueError."""
    flags = {"enable_consistency_check": enable_consistency_check, "save_rejected": save_rejected}
    if wrong := [name for name, flag in flags.items() if not isinstance(flag, bool)]:
        raise InvalidValueError(wrong[0], flags[wrong[0]], "True or False")
    if until_accepted is not None:
        until_accepted = check_whole(until_accepted, "until_accepted", 1, MAX_IMAGES)
        most = min(4 * until_accepted, MAX_IMAGES) if max_images is None else max_images
        count = check_whole(most, "max_images", until_accepted, MAX_IMAGES)
    elif max_images is not None:
        raise InvalidValueError("max_images", max_images, "None without until_accepted: num_images says how many")
    else:
        count = check_whole(num_images, "num_images", 1, MAX_IMAGES)
    pick("determinism", {mode: mode for mode in DETERMINISM}, determinism)
    batch_size = check_whole(batch_size, "batch_size", 1, MAX_TOGETHER)
    if consistency_threshold is not None:
        consistency_threshold = check_threshold(consistency_threshold, name="consistency_threshold")
    return BatchRequest(
        picture=replace(picture, seed=check_whole(picture.seed, "seed", 0, MAX_SEED - count + 1)),
        num_images=count,
        enable_consistency_check=enable_consistency_check,
        threshold=consistency_threshold,
        save_rejected=save_rejected,
        until_accepted=until_accepted,
        pictures_at_once=batch_size if determinism == "fast" else 1,
    )


def _references_for(generator: CharacterGenerator, store: Path | None = None) -> CharacterReferenceManager:
    # Not the generator's "cuda": the faces may well be compared on the CPU where onnxruntime has no other.
    device = "cpu" if generator.device == "cpu" else "auto"
    return CharacterReferenceManager(
        profile=generator.profile.name, configs=generator.configs, store=store, device=device
    )


def _provenance(judges: Judges) -> dict[str, Any] | None:
    made = {name: judge.references.provenance.to_dict() for name, judge in judges.items()}
    return made if len(made) > 1 else next(iter(made.values()), None)


def draw_job(
    draw: Draw,
    request: BatchRequest,
    job: Job,
    judge: "Callable[[Image], Verdict] | None",
) -> tuple[BatchItem, Generation | None]:
    """Draw one picture of a batch and judge it; depends on nothing but its arguments, and writes nothing.

    `draw` is a generator's `generate`. A picture that fails is an item; what else is wrong with the request, the models
    or the machine is raised.
    """
    item = BatchItem(index=job.index, seed=job.seed, status="failed")
    try:
        generation = draw(request.picture_of(job))
    except GenerationError as error:
        return replace(item, reason=str(error)), None
    if is_blank(generation.image):
        return replace(item, reason="blank: the picture shows nothing"), None
    item = replace(item, perceptual_hash=perceptual_hash(generation.image), degraded=generation.record.degraded)
    item = _judged(item, judge(generation.image)) if judge else replace(item, status="accepted")
    if item.status == "accepted" or request.save_rejected:
        item = replace(item, path=Path(FOLDERS[item.status]) / job.file_name)
    return item, generation


def _judged(item: BatchItem, verdict: Verdict) -> BatchItem:
    item = replace(item, verdict=verdict, similarity_score=verdict.similarity_score)
    if verdict.status != "ok":
        return replace(item, status="unscorable", reason=verdict.status)
    if not verdict.is_consistent:
        return replace(item, status="rejected", reason="below the threshold")
    return replace(item, status="accepted")


def _forget(traceback: TracebackType | None) -> None:
    """Empty the frames of a traceback: a notebook keeps the last one, and with it whatever was being drawn."""
    clear_frames(traceback)
    for frame, _ in walk_tb(traceback):
        # diffusers calls locals(), and Python keeps what that returned until the frame is asked again.
        _ = frame.f_locals


def is_blank(image: "Image") -> bool:
    """Say whether a picture is as good as one colour."""
    return float(np.asarray(image.convert("RGB")).std(axis=(0, 1)).max()) < BLANK_STD
