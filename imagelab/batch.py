"""Many pictures of one character, of which only those that show the character are kept."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm.auto import tqdm

from imagelab.batch_folder import BatchBook, BatchRequest, claim_folder, free_folder, unclaim_folder
from imagelab.character import CharacterGenerator
from imagelab.checks import check_whole
from imagelab.composition import lora_uses
from imagelab.config import Configs, Thresholds
from imagelab.controls import control_uses
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.imagefiles import perceptual_hash
from imagelab.plan import MAX_SEED, plan_generation
from imagelab.reference_store import CharacterReferences
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchItem, BatchResult, ControlUse, Generation, GenerationRequest, ItemStatus, LoraUse
from imagelab.similarity import check_threshold

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 10_000  # what four digits in a file's name count
BLANK_STD = 3.0  # grey levels of 255: below it in every channel, a picture shows nothing
_FOLDERS: Mapping[ItemStatus, str] = {"accepted": "accepted", "rejected": "rejected", "unscorable": "rejected"}


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
            # Not the generator's "cuda": the faces may well be compared on the CPU where onnxruntime has no other.
            device = "cpu" if generator.device == "cpu" else "auto"
            references = CharacterReferenceManager(
                profile=generator.profile.name, configs=generator.configs, device=device
            )
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
        use_character_loras: bool = True,
        style: str | None = None,
        negative_prompt: str | None = None,
        width: int | None = None,
        height: int | None = None,
        additional_loras: Iterable[LoraUse | Mapping[str, Any]] = (),
        controls: Iterable[ControlUse | Mapping[str, Any]] = (),
        progress: bool = True,
    ) -> BatchResult:
        """Draw `num_images` pictures from `seed` on and keep those on which the character is recognised.

        In this order: a picture that couldn't be drawn has failed, a blank one is rejected, one without exactly one
        clear face is unscorable, one below `consistency_threshold` (a cosine; None: the character's for batches) is
        rejected. A failure is recorded and the batch goes on. With `enable_consistency_check=False` no face is looked
        for. Writes accepted/, with `save_rejected` rejected/ (unscorable ones too) and metadata.json, which lists every
        picture, into `output_dir` (None: reports/runs/<time>-<character>), where no other batch may be. The list grows
        with the batch, so that `read_batch` reads what a killed one has left.

        Everything is checked, and control maps are made, before the models are loaded and the folder is; a bad argument
        leaves nothing behind. Raises UnknownNameError, InvalidValueError, ProfileError, ModelNotFoundError,
        ModelFileError, ReferenceStoreError, ControlMapError when a control's picture shows nothing to follow,
        GenerationError when its map can't be made or the list can't be written, and ImageFileError for a control's
        picture that can't be read, or when a picture can't be written; metadata.json then lists what there is, and that
        picture as failed.
        """
        flags = {"enable_consistency_check": enable_consistency_check, "save_rejected": save_rejected}
        if wrong := [name for name, flag in flags.items() if not isinstance(flag, bool)]:
            raise InvalidValueError(wrong[0], flags[wrong[0]], "True or False")
        count = check_whole(num_images, "num_images", 1, MAX_IMAGES)
        picture = GenerationRequest(
            character=character,
            scene_description=scene_description,
            quality_preset=quality_preset,
            style=style,
            seed=check_whole(seed, "seed", 0, MAX_SEED - count + 1),
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            additional_loras=lora_uses(additional_loras),
            use_character_loras=use_character_loras,
            controls=control_uses(controls),
        )
        thresholds = self.generator.configs.character(character).thresholds
        request = BatchRequest(
            picture=picture,
            num_images=count,
            enable_consistency_check=enable_consistency_check,
            threshold=_threshold(consistency_threshold, thresholds) if enable_consistency_check else None,
            save_rejected=save_rejected,
        )
        plan_generation(self.generator.configs, self.generator.profile, picture)
        folder = free_folder(output_dir, character)
        references = self.references.references(character) if enable_consistency_check else None
        self.generator.control_maps(picture)
        self.generator.load()
        return self._run(request, references, folder, progress=progress)

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

    def _run(
        self, request: BatchRequest, references: CharacterReferences | None, folder: Path, *, progress: bool
    ) -> BatchResult:
        providers = self.references.providers if references else ()
        made = claim_folder(folder)
        book = BatchBook(folder=folder, request=request, references=references, face_providers=providers)
        try:
            bar = tqdm(request.requests(), desc=str(request.picture.character), unit="picture", disable=not progress)
            for index, picture in enumerate(bar):
                book.add(*self._draw(index, picture, request, references))
                bar.set_postfix(accepted=book.result().total_accepted)
        finally:
            # Also after an error or a KeyboardInterrupt: what was drawn until then is listed.
            result = book.close()
            if not result.items:
                unclaim_folder(made)
        return result

    def _draw(
        self, index: int, picture: GenerationRequest, request: BatchRequest, references: CharacterReferences | None
    ) -> tuple[BatchItem, Generation | None]:
        item = BatchItem(index=index, seed=picture.seed or 0, status="failed")
        try:
            generation = self.generator.generate(picture)
        except GenerationError as error:
            return replace(item, reason=str(error)), None
        item = replace(item, perceptual_hash=perceptual_hash(generation.image))
        item = self._judge(item, generation.image, request, references)
        if item.status == "accepted" or request.save_rejected:
            item = replace(item, path=Path(_FOLDERS[item.status]) / f"{item.index:04d}_seed{item.seed}.png")
        return item, generation

    def _judge(
        self, item: BatchItem, image: "Image", request: BatchRequest, references: CharacterReferences | None
    ) -> BatchItem:
        if is_blank(image):
            return replace(item, status="rejected", reason="blank")
        if references is None or request.threshold is None:
            return replace(item, status="accepted")
        verdict = self.references.judge(references, image, request.threshold)
        item = replace(item, verdict=verdict, similarity_score=verdict.similarity_score)
        if verdict.status != "ok":
            return replace(item, status="unscorable", reason=verdict.status)
        if not verdict.is_consistent:
            return replace(item, status="rejected", reason="below the threshold")
        return replace(item, status="accepted")


def is_blank(image: "Image") -> bool:
    """Say whether a picture is as good as one colour."""
    return float(np.asarray(image.convert("RGB")).std(axis=(0, 1)).max()) < BLANK_STD


def _threshold(given: float | None, thresholds: Thresholds) -> float:
    return thresholds.batch if given is None else check_threshold(given, name="consistency_threshold")
