"""What character_presets.yaml asks of a picture before it counts as a character's."""

from imagelab.config import Configs
from imagelab.faces import FaceLimits

DEFAULT_THRESHOLD = 0.65  # a cosine, for a character that character_presets.yaml doesn't know


def configured_threshold(configs: Configs, character_name: str, *, batch: bool = False) -> float:
    """Return from which cosine on a picture shows a character, by character_presets.yaml; `batch`: one of a batch."""
    character = configs.character_presets.characters.get(character_name)
    if character is None:
        return DEFAULT_THRESHOLD
    return character.thresholds.batch if batch else character.thresholds.consistency


def configured_limits(configs: Configs, character_name: str) -> FaceLimits:
    """Return what makes a character's face usable, by character_presets.yaml."""
    character = configs.character_presets.characters.get(character_name)
    if character is None:
        return FaceLimits()
    configured = character.thresholds
    return FaceLimits(
        min_face_px=configured.min_face_px,
        min_score=configured.detection,
        min_sharpness=configured.min_sharpness,
        max_yaw_degrees=configured.max_yaw_degrees,
        max_pitch_degrees=configured.max_pitch_degrees,
    )
