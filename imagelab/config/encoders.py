"""Schema of a profile's `encoders`: what else may judge whether pictures show one character."""

from typing import Annotated, Literal

from pydantic import Field

from imagelab.config.base import Entry, SidePx, Source, Text
from imagelab.config.face import FacePack

EncoderKind = Literal["arcface", "clip", "dinov2", "ccip"]
EncoderRegion = Literal["picture", "face"]


class Encoder(Entry):
    """A model that turns pictures into embeddings, which are near each other where the pictures are alike to it."""

    kind: EncoderKind
    """arcface: a face pack. clip: CLIPModel, the image features. dinov2: Dinov2Model. ccip: deepghs' ONNX layout."""
    source: Source | None = None
    """Folder of the model; arcface has none."""
    pack: FacePack | None = None
    """Of arcface alone: another face pack than the profile's own."""
    region: EncoderRegion = "picture"
    """What it looks at: the whole picture, or the face that the profile's face pack finds, aligned; arcface: a face."""
    margin: Annotated[float, Field(ge=0, le=2)] = 0.25
    """Of region face: what is seen around the face, on each side, in sides of ArcFace's own crop."""
    side_px: SidePx = 224
    """Of region face: side of the crop that the model's own preprocessing is given."""
    licence: Text = "that of the profile's models"
    non_commercial: bool = False
