"""Open the encoders of a profile, by the names that the configuration gives them."""

from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from imagelab.config import Encoder, Profile, load_configs
from imagelab.encoders.base import IdentityEncoder
from imagelab.errors import ProfileError

if TYPE_CHECKING:
    from imagelab.encoders.networks import ClipEncoder
    from imagelab.faces import FaceLimits, SeveralFaces


def open_encoder(
    name: str,
    profile: Profile | str | None = None,
    *,
    device: str = "auto",
    limits: "FaceLimits | None" = None,
    several: "SeveralFaces" = "require_one",
) -> IdentityEncoder:
    """Open an encoder by its name in the profile's `encoders`; its models load at the first picture.

    `limits` and `several` say which face a picture is judged by, for arcface and for region face. Raises
    UnknownNameError.

    >>> with open_encoder("clip", "puppet", device="cpu") as clip:
    ...     clip.id.kind, clip.id.region
    ('clip', 'picture')
    """
    chosen = _profile(profile)
    return _open(chosen.encoder(name), chosen, device, limits, several)


def open_encoders(
    profile: Profile | str | None = None,
    names: Iterable[str] | None = None,
    *,
    device: str = "auto",
    limits: "FaceLimits | None" = None,
    several: "SeveralFaces" = "require_one",
    stack: ExitStack | None = None,
) -> dict[str, IdentityEncoder]:
    """Open several encoders of a profile, by default all, as {name: encoder}; `stack` closes them."""
    chosen = _profile(profile)
    wanted = list(chosen.encoders) if names is None else list(names)
    configs = [chosen.encoder(name) for name in wanted]  # an unknown name opens nothing
    encoders = {config.name: _open(config, chosen, device, limits, several) for config in configs}
    if stack is not None:
        for encoder in encoders.values():
            stack.enter_context(encoder)
    return encoders


def open_clip(profile: Profile | str | None = None, *, device: str = "auto") -> "ClipEncoder":
    """Open the profile's `clip`, for whole pictures and for texts; raises ProfileError where it has none."""
    from imagelab.encoders.networks import Clip, ClipEncoder

    chosen = _profile(profile)
    if chosen.clip is None:
        fix = f"Add it to profiles.{chosen.name}.clip in sdxl_config.yaml"
        raise ProfileError(chosen.name, "no CLIP yet", fix)
    config = Encoder(kind="clip", source=chosen.clip)
    config._name = "clip"  # noqa: SLF001  as a table would
    return ClipEncoder(config, partial(Clip, chosen.clip, f"CLIP of profile {chosen.name!r}", device))


def _open(config: Encoder, profile: Profile, device: str, limits: Any, several: Any) -> IdentityEncoder:
    from imagelab.encoders.face import ArcFaceEncoder
    from imagelab.faces import FaceLimits

    face_profile = profile if config.pack is None else profile.model_copy(update={"face": config.pack})
    limits = FaceLimits() if limits is None else limits
    if config.kind == "arcface":
        return ArcFaceEncoder(face_profile, device, limits=limits, several=several)
    faces = None if config.region == "picture" else ArcFaceEncoder(profile, device, limits=limits, several=several)
    what = f"encoder {config.name!r} of profile {profile.name!r}"
    return _open_network(config, what, device, faces)


def _open_network(config: Encoder, what: str, device: str, faces: Any) -> IdentityEncoder:
    from imagelab.encoders.region import RegionEncoder

    assert config.source is not None  # noqa: S101  the schema asks it of all kinds but arcface
    if config.kind == "ccip":
        from imagelab.encoders.ccip import Ccip

        return RegionEncoder(config, partial(Ccip, config.source, what, device), faces)
    from imagelab.encoders.networks import Clip, ClipEncoder, Dinov2

    if config.kind == "clip":
        return ClipEncoder(config, partial(Clip, config.source, what, device), faces)
    return RegionEncoder(config, partial(Dinov2, config.source, what, device), faces)


def _profile(profile: Profile | str | None) -> Profile:
    return profile if isinstance(profile, Profile) else load_configs().profile(profile)
