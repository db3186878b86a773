"""Many pictures of one character, of which only those that show the character are kept."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm.auto import tqdm

from imagelab.character import CharacterGenerator
from imagelab.config import Configs, Thresholds, project_root
from imagelab.errors import GenerationError, ImageFileError, InvalidValueError
from imagelab.imagefiles import checked_path, perceptual_hash, save_png, sha256_file
from imagelab.plan import MAX_SEED, check_whole, lora_uses, plan_generation
from imagelab.reference_store import CharacterReferences
from imagelab.references import CharacterReferenceManager
from imagelab.results import BatchItem, BatchResult, Generation, GenerationRequest, ItemStatus, LoraUse, Record
from imagelab.similarity import check_threshold

if TYPE_CHECKING:
    from PIL.Image import Image

METADATA_FILE = "metadata.json"
MAX_IMAGES = 10_000  # what four digits in a file's name count
BLANK_STD = 3.0  # grey levels of 255: below it in every channel, a picture shows nothing
_OFTEN = 200  # pictures; a longer list is written less often, so that it costs no more than 15 ms a picture
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
        picture, into `output_dir` (None: reports/runs/<time>-<character>), where no other batch may be. The list grows
        with the batch, so that `read_batch` reads what a killed one has left.

        Everything is checked before a model is loaded; a bad argument leaves nothing behind. Raises UnknownNameError,
        InvalidValueError, ProfileError, ModelNotFoundError, ModelFileError, ReferenceStoreError, and ImageFileError
        when a picture can't be written; metadata.json then lists what there is, and that picture as failed.
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

    def _run(
        self, request: BatchRequest, references: CharacterReferences | None, folder: Path, *, progress: bool
    ) -> BatchResult:
        providers = self.references.providers if references else ()
        made = _claim(folder)
        book = _Book(folder=folder, request=request, references=references, face_providers=providers)
        try:
            bar = tqdm(request.requests(), desc=str(request.picture.character), unit="picture", disable=not progress)
            for index, picture in enumerate(bar):
                book.add(*self._draw(index, picture, request, references))
                bar.set_postfix(accepted=book.result().total_accepted)
        finally:
            # Also after an error or a KeyboardInterrupt: what was drawn until then is listed.
            result = book.close()
            if not result.items:
                _unclaim(made)
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


def read_batch(folder: str | os.PathLike[str]) -> BatchResult:
    """Return the result that a batch left in its folder; that of one that was stopped has fewer items than `requested`.

    Raises InvalidValueError when there is none.
    """
    path = Path(folder) / METADATA_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))["result"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidValueError("folder", str(folder), f"one of a batch, with a {METADATA_FILE}") from error
    result = BatchResult.from_dict(data)
    items = tuple(_settled(item, Path(folder)) for item in result.items)
    # Where the folder is now: it may have moved since, and a relative path was one from elsewhere.
    return replace(result, items=items, output_dir=Path(folder))


def _threshold(given: float | None, thresholds: Thresholds) -> float:
    return thresholds.batch if given is None else check_threshold(given, name="consistency_threshold")


def _free_folder(output_dir: str | os.PathLike[str] | None, character: str) -> Path:
    """Return the folder to write to, which holds no batch yet and can be written; makes nothing."""
    if output_dir is None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{character}"
        runs = project_root() / "reports" / "runs"
        names = (stamp, *(f"{stamp}-{count}" for count in range(2, 1000)))
        return next(runs / name for name in names if not (runs / name).exists())
    if output_dir == "":
        raise InvalidValueError("output_dir", output_dir, "a folder's path, or None")
    folder = checked_path(output_dir, "output_dir")
    try:
        taken = [name for name in (METADATA_FILE, "accepted", "rejected") if (folder / name).exists()]
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise InvalidValueError("output_dir", str(folder), f"a folder that can be read ({error.strerror})") from error
    if taken:
        raise InvalidValueError("output_dir", str(folder), f"without another batch (there is {taken[0]})")
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


@dataclass(kw_only=True)
class _Book:
    """What a batch writes: its list, metadata.json, and the pictures that are kept.

    A picture is on the list before it lies in its folder, so that none lies there unlisted; of a long batch that is
    killed outright, the last few may.
    """

    folder: Path
    request: BatchRequest
    references: CharacterReferences | None
    face_providers: tuple[str, ...]
    items: list[BatchItem] = field(default_factory=list)
    start: float = field(default_factory=perf_counter)

    def add(self, item: BatchItem, generation: Generation | None) -> None:
        """List a picture and write it to where its path says, with its record inside."""
        self.items.append(item)
        if len(self.items) % (1 + len(self.items) // _OFTEN) == 0:
            self._write_list(self.result(), complete=False)
        if generation is None or item.path is None:
            return
        try:
            save_png(generation.image, self.folder / item.path, generation.record)
        except (ImageFileError, InvalidValueError) as error:  # the latter where the folder has gone since
            self.items[-1] = replace(item, status="failed", reason=str(error))
            raise
        self.items[-1] = _settled(item, self.folder)

    def close(self) -> BatchResult:
        """Write the list of all that there is, if there is anything, and return it."""
        self.items[-1:] = [_settled(item, self.folder) for item in self.items[-1:]]
        result = self.result()
        if result.items:
            self._write_list(result, complete=len(result.items) == result.requested)
        return result

    def result(self) -> BatchResult:
        """Return the batch as far as it has come."""
        picture = self.request.picture
        return BatchResult(
            items=tuple(self.items),
            requested=self.request.num_images,
            character=str(picture.character),
            scene_description=picture.scene_description,
            threshold=self.request.threshold,
            encoder=self.references.provenance.encoder.label if self.references else None,
            output_dir=self.folder,
            seconds={"total": perf_counter() - self.start},
        )

    def _write_list(self, result: BatchResult, *, complete: bool) -> None:
        mean = result.mean_similarity
        metadata = {
            "complete": complete,
            "summary": {
                "requested": result.requested,
                "total_generated": result.total_generated,
                **result.counts,
                "acceptance_rate": result.acceptance_rate,
                "consistency_scores": result.consistency_scores,
                "mean_similarity": None if math.isnan(mean) else mean,
            },
            "request": self.request.to_dict(),
            "references": self.references.provenance.to_dict() if self.references else None,
            "face_providers": self.face_providers,
            "result": result.to_dict(),
        }
        path, partial = self.folder / METADATA_FILE, self.folder / f".{METADATA_FILE}.partial"
        try:
            partial.write_text(json.dumps(metadata, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            reason = f"{path} can't be written: {error.strerror or error}"
            raise GenerationError(reason, "Free some space there, or choose another output_dir") from error


def _settled(item: BatchItem, folder: Path) -> BatchItem:
    """Say of a listed picture whether it has come to lie in its folder."""
    if item.path is None or item.sha256:
        return item
    path = folder / item.path
    return replace(item, sha256=sha256_file(path)) if path.is_file() else replace(item, path=None)
