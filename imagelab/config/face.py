"""Schema of a face pack."""

from imagelab.config.base import Config, Fraction, Name, SizePx, Source, Text


class FacePack(Config):
    """The detector and the ArcFace embedder that compare faces."""

    name: Name
    """Recorded with every embedding; embeddings of two packs are never compared."""
    source: Source
    detector_size_px: SizePx
    """Pinned: insightface changed its default in 1.0, and embeddings move with it."""
    detection_threshold: Fraction
    """Detector score below which there is no face."""
    licence: Text
    non_commercial: bool
