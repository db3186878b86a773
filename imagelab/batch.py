"""Many pictures of one character, of which only those that show the character are kept."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm.auto import tqdm

from imagelab.character import CharacterGenerator
from imagelab.config import Configs, Thresholds, project_root
from imagelab.errors import GenerationError, InvalidValueError
from imagelab.imagefiles import perceptual_hash, save_png, sha256_file
from imagelab.plan import MAX_SEED, lora_uses, plan_generation
from imagelab.reference_store import CharacterReferences
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchItem, BatchResult, Generation, GenerationRequest, ItemStatus, LoraUse, Record
from imagelab.similarity import check_threshold

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_FILE = "metadata.json"
MAX_IMAGES = 10_000  # what four digits in a file's name count
BLANK_STD = 3.0  # grey levels of 255: below it in every channel, a picture shows nothing
_FOLDERS: Mapping[ItemStatus, str] = {"accepted": "accepted", "rejected": "rejected", "unscorable": "rejected"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest(Record):
    """What a batch was asked for; picture i is drawn from seed + i."""

    picture: GenerationRequest  # the first one
    num_images: int
    enable_consistency_check: bool
    threshold: float | None  # a cosine; None: the consistency check is off
    save_rejected: bool

    def requests(self) -> tuple[GenerationRequest, ...]:
        """Return the request for each picture."""
        first = self.picture.seed or 0
        return tuple(replace(self.picture, seed=first + index) for index in range(self.num_images))


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
        progress: bool = True,
    ) -> BatchResult:
        """Draw `num_images` pictures from `seed` on and keep those on which the character is recognised.

        In this order: a picture that couldn't be drawn has failed, a blank one is rejected, one without exactly one
        clear face is unscorable, one below `consistency_threshold` (a cosine; None: the character's for batches) is
        rejected. A failure is recorded and the batch goes on. With `enable_consistency_check=False` no face is looked
        for. Writes accepted/, with `save_rejected` rejected/ (unscorable ones too) and metadata.json, which lists every
        picture, into `output_dir` (None: reports/runs/<time>-<character>), where no other batch may be.

        Everything is checked before a model is loaded; a bad argument leaves nothing behind. Raises UnknownNameError,
        InvalidValueError, ProfileError, ModelNotFoundError, ModelFileError, ReferenceStoreError, and ImageFileError
        when a picture can't be written; metadata.json then lists what there is.
        """
        picture = GenerationRequest(
            character=character,
            scene_description=scene_description,
            quality_preset=quality_preset,
            style=style,
            seed=seed,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            additional_loras=lora_uses(additional_loras),
            use_character_loras=use_character_loras,
        )
        thresholds = self.generator.configs.character(character).thresholds
        request = BatchRequest(
            picture=picture,
            num_images=_count(num_images),
            enable_consistency_check=enable_consistency_check,
            threshold=_threshold(consistency_threshold, thresholds) if enable_consistency_check else None,
            save_rejected=save_rejected,
        )
        self._check(request)
        folder = _free_folder(output_dir, character)
        references = self.references.references(character) if enable_consistency_check else None
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

    def _check(self, request: BatchRequest) -> None:
        last = MAX_SEED - request.num_images + 1
        seed = request.picture.seed
        if type(seed) is not int or not 0 <= seed <= last:
            raise InvalidValueError("seed", seed, f"a whole number between 0 and {last}")
        plan_generation(self.generator.configs, self.generator.profile, request.picture)

    def _run(
        self, request: BatchRequest, references: CharacterReferences | None, folder: Path, *, progress: bool
    ) -> BatchResult:
        made = _claim(folder)
        items: list[BatchItem] = []
        start = perf_counter()
        try:
            bar = tqdm(request.requests(), desc=str(request.picture.character), unit="picture", disable=not progress)
            for index, picture in enumerate(bar):
                items.append(self._draw(index, picture, request, references, folder))
                bar.set_postfix(accepted=sum(item.status == "accepted" for item in items))
        finally:
            # Also after an error or a KeyboardInterrupt: what was drawn until then is listed.
            result = _result(items, request, folder, references, perf_counter() - start)
            if items:
                providers = self.references.providers if references else ()
                _write_metadata(folder, request, references, providers, result)
            else:
                _unclaim(made)
        return result

    def _draw(
        self,
        index: int,
        picture: GenerationRequest,
        request: BatchRequest,
        references: CharacterReferences | None,
        folder: Path,
    ) -> BatchItem:
        item = BatchItem(index=index, seed=picture.seed or 0, status="failed")
        try:
            generation = self.generator.generate(picture)
        except GenerationError as error:
            return replace(item, reason=str(error))
        item = replace(item, perceptual_hash=perceptual_hash(generation.image))
        return _keep(self._judge(item, generation.image, request, references), generation, request, folder)

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


def read_batch(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result that a batch left in its folder.

    Raises InvalidValueError when there is none.
    """
    path = Path(folder) / METADATA_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidValueError("folder", str(folder), f"one of a batch, with a {METADATA_FILE}") from error
    return BatchResult.from_dict(data)


def _count(num_images: object) -> int:
    if type(num_images) is not int or not 1 <= num_images <= MAX_IMAGES:
        raise InvalidValueError("num_images", num_images, f"a whole number between 1 and {MAX_IMAGES}")
    return num_images


def _threshold(given: float | None, thresholds: Thresholds) -> float:
    return thresholds.batch if given is None else check_threshold(given, name="consistency_threshold")


def _free_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Path:
    """Return the folder to write to, which holds no batch yet and can be written; makes nothing."""
    if output_dir is None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{character}"
        runs = project_root() / "reports" / "runs"
        names = (stamp, *(f"{stamp}-{count}" for count in range(2, 1000)))
        return next(runs / name for name in names if not (runs / name).exists())
    if not isinstance(output_dir, str | os.PathLike) or not os.fspath(output_dir):
        raise InvalidValueError("output_dir", output_dir, "a folder's path, or None")
    folder = Path(output_dir)
    taken = [name for name in (METADATA_FILE, "accepted", "rejected") if (folder / name).exists()]
    if taken:
        raise InvalidValueError("output_dir", str(folder), f"without another batch (there is {taken[0]})")
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be written ({nearest} isn't one)")
    return folder


def _claim(folder: Path) -> list[Path]:
    """Make the folder; return what was made, the innermost last. Of two batches that want it, one gets it."""
    wanted = [folder / "accepted", folder, *folder.parents]
    made = [path for path in reversed(wanted) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "accepted").mkdir()
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a free folder ({error.strerror})") from error
    return made


def _unclaim(made: list[Path]) -> None:
    for path in reversed(made):
        try:
            path.rmdir()
        except OSError:  # somebody else has put something there
            return


def _keep(item: BatchItem, generation: Generation, request: BatchRequest, folder: Path) -> BatchItem:
    """Write a picture that is to be kept, with its record inside."""
    if item.status != "accepted" and not request.save_rejected:
        return item
    name = Path(_FOLDERS[item.status]) / f"{item.index:04d}_seed{item.seed}.png"
    path = save_png(generation.image, folder / name, generation.record)
    return replace(item, path=name, sha256=sha256_file(path))


def _result(
    items: list[BatchItem],
    request: BatchRequest,
    folder: Path,
    references: CharacterReferences | None,
    seconds: float,
) -> BatchResult:
    return BatchResult(
        items=tuple(items),
        requested=request.num_images,
        character=str(request.picture.character),
        scene_description=request.picture.scene_description,
        threshold=request.threshold,
        encoder=references.provenance.encoder.label if references else None,
        output_dir=folder,
        seconds={"total": seconds},
    )


def _write_metadata(
    folder: Path,
    request: BatchRequest,
    references: CharacterReferences | None,
    providers: tuple[str, ...],
    result: BatchResult,
) -> None:
    mean = result.mean_similarity
    metadata = {
        "complete": len(result.items) == result.requested,
        "summary": {
            "requested": result.requested,
            "total_generated": result.total_generated,
            **result.counts,
            "acceptance_rate": result.acceptance_rate,
            "consistency_scores": result.consistency_scores,
            "mean_similarity": None if math.isnan(mean) else mean,
        },
        "request": request.to_dict(),
        "references": references.provenance.to_dict() if references else None,
        "face_providers": providers,
        "result": result.to_dict(),
    }
    partial = folder / f".{METADATA_FILE}.partial"
    try:
        partial.write_text(json.dumps(metadata, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(folder / METADATA_FILE)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = f"{folder / METADATA_FILE} can't be written: {error.strerror or error}"
        raise GenerationError(reason, "Free some space there") from error
