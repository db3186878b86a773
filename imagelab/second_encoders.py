"""What other encoders say of the face that ArcFace chose: scores beside its own, which make no verdict.

No face is looked for a second time: an encoder of region face is shown the one that was chosen, cut out by its
landmarks, and one of region picture the whole picture around it.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from imagelab.config import Encoder, Profile, project_root
from imagelab.encoders.base import EncoderId
from imagelab.encoders.open import open_encoder
from imagelab.encoders.region import RegionEncoder, Shown
from imagelab.errors import ImageFileError, InvalidValueError, ReferenceStoreError
from imagelab.faces import Face
from imagelab.imagefiles import decode_image, read_image_bytes
from imagelab.reference_store import CharacterReferences, ReferencePicture
from imagelab.reference_template import Embeddings, template_scores
from imagelab.rgb import Rgb, to_rgb
from imagelab.similarity import Embedding, cosine

_FIX = "Put them back as they were, or call create_character_embedding again with pictures that lie in files"

Own = Mapping[tuple[str, str], Embeddings]  # {(encoder, character): the references' embeddings (n, d)}


class SecondEncoder:
    """An encoder of the profile, by its name, that looks at faces that were found before; loads at the first picture.

    A context manager. Raises UnknownNameError; InvalidValueError for one of kind arcface, which finds its own faces.
    """

    def __init__(self, name: str, profile: Profile, device: str) -> None:
        config: Encoder = profile.encoder(name)
        if config.kind == "arcface":
            known = [other.name for other in profile.encoders.values() if other.kind != "arcface"]
            expected = f"beside ArcFace, which judges already and finds the faces: among {', '.join(known) or 'none'}"
            raise InvalidValueError("encoder", name, expected)
        network = open_encoder(name, profile, device=device)
        assert isinstance(network, RegionEncoder)  # noqa: S101  as all kinds but arcface
        self._network: RegionEncoder[Any] = network

    @property
    def id(self) -> EncoderId:
        """Return what its scores are marked with, as open_encoder's are: the face is the check's. Loads the models."""
        return self._network.id

    def embed(self, shown: Sequence[Shown]) -> list[Embedding | None]:
        """Return an embedding (d,) of norm 1 for each; None where the network gives no direction."""
        return [reading.embedding for reading in self._network.embed_faces(shown)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._network.close()


def embed_references_by(
    encoders: Mapping[str, SecondEncoder],
    sought: Sequence[CharacterReferences],
    faces: Callable[[Rgb], Sequence[Face]],
) -> Own:
    """Embed the characters' reference pictures by other encoders; their files are read again, if there is an encoder.

    `faces` is that of the checker that made the references. Raises ReferenceStoreError that lists every picture whose
    file is gone, has changed, or never was.
    """
    own = {}
    for references in sought if encoders else ():
        shown = _read_again(references, faces)
        for name, encoder in encoders.items():
            rows = encoder.embed(shown)
            blind = [picture for picture, row in zip(references.names, rows, strict=True) if row is None]
            if blind:
                what = f"references of {references.character_name}"
                raise InvalidValueError(what, blind, f"such that {name} sees something in them")
            own[name, references.character_name] = np.stack([row for row in rows if row is not None])
    return own


def score_by(
    encoders: Mapping[str, SecondEncoder], sought: Sequence[CharacterReferences], own: Own, shown: Sequence[Shown]
) -> list[dict[tuple[str, str], float | None]]:
    """Return {(encoder, character): cosine} of each picture to the template of the kind that the references have."""
    scores: list[dict[tuple[str, str], float | None]] = [{} for _ in shown]
    for name, encoder in encoders.items() if shown else ():
        embeddings = encoder.embed(shown)
        for references in sought:
            key = name, references.character_name
            for one, score in zip(scores, _cosines(references, own[key], embeddings), strict=True):
                one[key] = score
    return scores


def _cosines(
    references: CharacterReferences, own: Embeddings, embeddings: Sequence[Embedding | None]
) -> list[float | None]:
    seen = [embedding for embedding in embeddings if embedding is not None]
    probes: NDArray[np.float32] = np.stack(seen) if seen else np.empty((0, own.shape[1]), np.float32)
    scores = iter(np.clip(template_scores(references.provenance.template.kind, own, probes), -1, 1).tolist())
    return [None if embedding is None else next(scores) for embedding in embeddings]


def _read_again(references: CharacterReferences, faces: Callable[[Rgb], Sequence[Face]]) -> list[Shown]:
    """Return each reference picture with the face in it that its embedding is of."""
    shown, faults = [], []
    for picture, embedding in zip(references.provenance.pictures, references.embeddings, strict=True):
        try:
            rgb = _read_picture(picture)
            shown.append((rgb, _face_of(embedding, faces(rgb))))
        except (ImageFileError, InvalidValueError) as error:
            faults.append((picture, str(error)))
    if faults:
        count = f"{len(faults)} of {len(references.names)} reference pictures of {references.character_name}"
        listed = "; ".join(f"{picture.name}: {why}" for picture, why in faults)
        place = Path(faults[0][0].path or faults[0][0].name)
        raise ReferenceStoreError(place, f"other encoders want the pictures, but {count} can't be used: {listed}", _FIX)
    return shown


def _read_picture(picture: ReferencePicture) -> Rgb:
    if picture.path is None:
        raise InvalidValueError(picture.name, "a picture in memory", "a file")
    path = project_root() / picture.path  # an absolute path stays what it is
    data = read_image_bytes(path)
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise ImageFileError(path, "has changed since the references were made")
    return to_rgb(decode_image(data, path))


def _face_of(embedding: Embedding, faces: Sequence[Face]) -> Face:
    known = [(cosine(face.embedding, embedding), face) for face in faces if face.embedding is not None]
    if not known:
        raise InvalidValueError("picture", "no face", "one with a face")
    return max(known, key=lambda pair: pair[0])[1]
