"""The class that draws batches."""

import os
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Self

from imagelab.batch.crews import BatchSetup, make_crew
from imagelab.batch.judging import references_for
from imagelab.batch.planning import plan_batch
from imagelab.batch.request import batch_request
from imagelab.batch.running import run_batch
from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.composition import lora_uses
from imagelab.config import Configs
from imagelab.controls import control_uses
from imagelab.errors import InvalidValueError
from imagelab.plan import MAX_SEED
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchResult, ControlUse, GenerationRequest, LoraUse
from imagelab.runs import BatchRequest, RunFolder, RunPlan, claimed_folder
from imagelab.workers import ProcessCrew, RayCrew

MAX_WORKERS = 1024


class BatchImageGenerator:
    """Draws batches and sorts them by whether the face is the character's.

    `generator` and `references` must be of one profile. What isn't given is made here, for `profile` (None: the default
    one) on `device`, `compiled` or as it says; models load with the first batch, and `cleanup` closes only what was
    made here. A context manager.
    """

    def __init__(
        self,
        generator: CharacterGenerator | None = None,
        references: CharacterReferenceManager | None = None,
        profile: str | None = None,
        device: str = "auto",
        configs: Configs | None = None,
        *,
        compiled: bool | None = None,
    ) -> None:
        self._made_generator = generator is None
        self._made_references = references is None
        if generator is None:
            profile = references.profile.name if references and profile is None else profile
            configs = references.configs if references and configs is None else configs
            generator = CharacterGenerator(profile=profile, device=device, configs=configs, compiled=compiled)
        if references is None:
            references = references_for(generator)
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
        reuse: Iterable[str | os.PathLike[str]] = (),
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
        `verify`, its every byte. What runs in the folders of `reuse` have drawn already is taken from there: of a batch
        of twelve, six may come from one of six.

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
        return self.run(request, output_dir, retry_failed=retry_failed, verify=verify, reuse=reuse, progress=progress)

    def plan(self, request: BatchRequest, *, workers: int = 1, ray: str | None = None) -> RunPlan:
        """Return what a batch is going to do, the jobs with their seeds included; draws nothing and writes nothing.

        Raises what `run` raises for its arguments, the folder's excepted; a cluster of `ray` is joined to ask it.
        """
        plan, _ = plan_batch(self.generator, self.references, request)
        with self._crew(request, plan, workers, ray) or nullcontext():
            return plan

    def run(
        self,
        request: BatchRequest,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        retry_failed: bool = False,
        verify: bool = False,
        reuse: Iterable[str | os.PathLike[str]] = (),
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
        with claimed_folder(output_dir, character) as folder:
            plan, judges = plan_batch(self.generator, self.references, request)
            crew = self._crew(request, plan, workers, ray)
            run = RunFolder(
                folder, plan, retry_failed=retry_failed, verify=verify, make_maps=self.generator.control_maps
            )
            return run_batch(run, self.generator, request, judges, crew, reuse=reuse, progress=progress)

    def _crew(
        self, request: BatchRequest, plan: RunPlan, workers: int, ray: str | None
    ) -> ProcessCrew | RayCrew | None:
        count = check_whole(workers, "workers", 1, MAX_WORKERS)
        return make_crew(self.setup, self.generator.device, request, plan, count, ray)

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

    def setup(self, device: str) -> BatchSetup:
        """Return what makes the same in another process, on a device; it can be pickled."""
        return BatchSetup(
            profile=self.generator.profile.name,
            device=device,
            configs=self.generator.configs.root,
            store=self.references.store,
            compiled=self.generator.profile.compiled,
        )
