"""What a batch is asked for, checked before anything is loaded."""

from dataclasses import replace

from imagelab.checks import check_whole
from imagelab.config import pick
from imagelab.errors import InvalidValueError
from imagelab.plan import MAX_SEED, MAX_TOGETHER
from imagelab.results import GenerationRequest
from imagelab.runs import MAX_IMAGES, BatchRequest
from imagelab.similarity import check_threshold

DETERMINISM = ("strict", "fast")


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
