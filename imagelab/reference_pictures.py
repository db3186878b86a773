"""Reference pictures: listed, embedded, and described so that none has to be opened again."""

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imagelab.config import project_root
from imagelab.errors import ImageFileError, InvalidValueError, ReferenceStoreError
from imagelab.face_light import face_light
from imagelab.faces import Face, FaceLimits, FaceQuality, read_faces
from imagelab.imagefiles import checked_path, decode_image, perceptual_hash, pixels_sha256, read_image_bytes
from imagelab.reference_store import PictureHashes, ReferencePicture
from imagelab.rgb import Picture, Rgb, to_rgb

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})
_FIX = "Give each picture once, with exactly one clear face in it"


def gather_pictures(given: Sequence[Picture] | str | os.PathLike[str], name: str) -> Sequence[Picture]:
    """Return the list of pictures, or those of a folder by name.

    Raises InvalidValueError, which calls them `name`; ReferenceStoreError for a folder without pictures.
    """
    if isinstance(given, str | os.PathLike):
        folder = checked_path(given, name)
        if not folder.is_dir():
            raise InvalidValueError(name, str(given), "a list of pictures, or a folder of them")
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise ReferenceStoreError(folder, "has no pictures", f"Put {', '.join(sorted(IMAGE_SUFFIXES))} files there")
        return found
    if not isinstance(given, Sequence) or not given:
        raise InvalidValueError(name, given, "a list of at least one picture, or a folder of them")
    return given


def embed_references(
    pictures: Sequence[Picture],
    faces: Callable[[Picture], Sequence[Face]],
    limits: FaceLimits,
    place: Path,
    present: Sequence[ReferencePicture] = (),
) -> tuple[tuple[ReferencePicture, ...], NDArray[np.float32]]:
    """Embed and describe pictures, to stand beside those that are `present` already.

    `place` is what an error is about. Returns n descriptions and embeddings (n, d). Raises ReferenceStoreError that
    lists every picture that can't be used: unreadable, without one clear face, or there already.
    """
    faults: list[str] = []
    made: list[ReferencePicture] = []
    embeddings: list[NDArray[np.float32]] = []
    seen = {picture.pixels_sha256: picture.name for picture in present}
    taken = {picture.name for picture in present}
    for index, picture in enumerate(pictures):
        name = _free_name(picture, index, taken)
        try:
            rgb, file_hash = _open(picture)
        except ImageFileError as error:
            faults.append(f"{name}: {error.reason}")
            continue
        pixels = pixels_sha256(Image.fromarray(rgb))
        if pixels in seen:
            faults.append(f"{name}: the same as {seen[pixels]}")
            continue
        reading = read_faces(faces(rgb), limits)  # of a reference, one face must be all
        seen[pixels] = name
        taken.add(name)
        if reading.embedding is None or reading.face is None:
            faults.append(f"{name}: {reading.status}")
        else:
            embeddings.append(reading.embedding)
            made.append(_describe(picture, name, rgb, reading.face, file_hash))
    if faults:
        reason = f"{len(faults)} of {len(pictures)} reference pictures can't be used: {'; '.join(faults)}"
        raise ReferenceStoreError(place, reason, _FIX)
    return tuple(made), np.stack(embeddings)


def _free_name(picture: Picture, index: int, taken: Collection[str]) -> str:
    """Return a name that no other reference has, for references are removed by name."""
    if isinstance(picture, str | os.PathLike):
        path = Path(picture)
        name = path.name if path.name not in taken else f"{path.absolute().parent.name}/{path.name}"
    else:
        name = f"picture {index}"
    stem, number = name, 2
    while name in taken:
        name, number = f"{stem} ({number})", number + 1
    return name


def hash_picture(rgb: Rgb) -> PictureHashes:
    """Return what a picture (h, w, 3) is recognised by."""
    image = Image.fromarray(rgb)
    return PictureHashes(
        pixels_sha256=pixels_sha256(image),
        perceptual_hash=perceptual_hash(image),
        mirrored_hash=perceptual_hash(ImageOps.mirror(image)),
    )


def _open(picture: Picture) -> tuple[Rgb, str | None]:
    """Return a picture and the hash of its file, which is read once: what is hashed and what is seen are the same."""
    if not isinstance(picture, str | os.PathLike):
        return to_rgb(picture), None
    data = read_image_bytes(Path(picture))
    return to_rgb(decode_image(data, Path(picture))), hashlib.sha256(data).hexdigest()


def _describe(picture: Picture, name: str, rgb: Rgb, face: Face, file_hash: str | None) -> ReferencePicture:
    hashes, path = hash_picture(rgb), None
    if isinstance(picture, str | os.PathLike):
        file, root = Path(picture).resolve(), project_root()
        path = (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()
    return ReferencePicture(
        **hashes.to_dict(),
        name=name,
        sha256=file_hash or hashes.pixels_sha256,
        face=_rounded(face.quality),
        light=face_light(rgb, face.box),
        path=path,
    )


def _rounded(quality: FaceQuality) -> FaceQuality:
    """Leave out the digits in which CPUs differ, so that the same pictures make the same store."""
    measured = quality.to_dict().items()
    return FaceQuality.from_dict({name: None if value is None else round(value, 3) for name, value in measured})
