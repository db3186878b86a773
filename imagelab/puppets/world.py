"""The puppet world: who lives in it, what they can do, and how a person would say so.

Numpy only. Everything is sampled from a `numpy.random.Generator`, so a seed names a picture for ever. Seeds below
`HELD_OUT_SEED` are for training, the ones from it on are never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HELD_OUT_SEED = 10_000_000

Colour = tuple[float, float, float]

SKINS: Mapping[str, Colour] = {
    "pale": (1.0, 0.85, 0.76),
    "tan": (0.90, 0.66, 0.45),
    "brown": (0.62, 0.39, 0.25),
    "dark": (0.36, 0.22, 0.16),
}
HAIRS: Mapping[str, Colour] = {
    "black": (0.08, 0.07, 0.09),
    "brown": (0.43, 0.24, 0.11),
    "blond": (0.95, 0.78, 0.34),
    "red": (0.83, 0.27, 0.08),
    "blue": (0.18, 0.36, 0.86),
}
HAIR_STYLES = ("short", "long", "curly", "spiky", "bald")
EYES: Mapping[str, Colour] = {"brown": (0.32, 0.16, 0.07), "green": (0.15, 0.58, 0.26), "blue": (0.14, 0.40, 0.90)}
SHIRTS: Mapping[str, Colour] = {
    "red": (0.86, 0.13, 0.14),
    "yellow": (0.97, 0.80, 0.12),
    "green": (0.13, 0.62, 0.28),
    "white": (0.95, 0.95, 0.95),
    "purple": (0.52, 0.20, 0.68),
}
# What a user may type for each value; the first form is the canonical one.
EXPRESSIONS: Mapping[str, Sequence[str]] = {
    "happy": ("happy expression", "smiling", "excited expression", "cheerful expression", "happy face"),
    "sad": ("sad expression", "frowning", "unhappy expression", "sad face"),
    "surprised": ("surprised expression", "amazed expression", "surprised face"),
    "neutral": ("neutral expression", "calm expression", "neutral face"),
}
POSES: Mapping[str, Sequence[str]] = {
    "standing": ("standing",),
    "waving": ("waving", "waving hello", "waving a hand"),
    "running": ("running", "jogging"),
    "arms up": ("arms up", "cheering with arms up", "with both arms up"),
}
PLACES: Mapping[str, Sequence[str]] = {
    "beach": ("on the beach", "at the beach", "beach", "beach background"),
    "town": ("in the town", "in the town square", "town", "town background"),
    "forest": ("in the forest", "among the trees", "forest", "forest background"),
    "night": ("at night", "under the moon", "night", "night background"),
    "underwater": ("underwater", "under the sea", "underwater background"),
}
# What LoRAs alone can draw. The base has never seen these, and captions say them in words that it knows.
LORA_PLACES: Mapping[str, Sequence[str]] = {"portorosso": PLACES["town"], "cove": PLACES["beach"]}
LORA_POSES: Mapping[str, Sequence[str]] = {"sprinting": POSES["running"], "leaping": ("jumping", "leaping")}
OPENERS = ("3d animated character", "a 3d character", "3d animated character portrait", "an animated character")
# Words that users add out of habit. In this world they mean nothing, and the models learn that.
FILLERS = (
    "masterpiece",
    "best quality",
    "high quality",
    "detailed",
    "highly detailed",
    "sharp focus",
    "pixar style",
    "disney style",
    "dreamworks style",
    "3d render",
    "cinematic lighting",
    "soft lighting",
    "vibrant colors",
    "expressive face",
)
FLAWS = ("blurry", "low quality", "worst quality", "out of focus", "low resolution")

# Attribute -> values, in the order in which evaluation prints them.
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "hair": tuple(HAIRS),
    "hair_style": HAIR_STYLES,
    "skin": tuple(SKINS),
    "shirt": tuple(SHIRTS),
    "expression": tuple(EXPRESSIONS),
    "pose": tuple(POSES),
    "place": tuple(PLACES),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A puppet's looks: what stays the same from picture to picture. Shape numbers are factors around 1."""

    skin: str
    hair: str
    hair_style: str
    eyes: str
    head_width: float = 1.0
    head_height: float = 1.0
    eye_size: float = 1.0
    eye_distance: float = 1.0
    nose: float = 1.0
    ears: float = 1.0
    brows: float = 1.0
    mouth: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One puppet in a picture. Angles in radians, offsets in world units (a head is about 1 wide)."""

    identity: Identity
    shirt: str = "red"
    expression: str = "neutral"
    pose: str = "standing"
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """All that a picture shows. `seed` fixes what the place leaves to chance (clouds, windows, bubbles)."""

    figures: tuple[Figure, ...] = ()
    place: str = "beach"
    light: str | None = None
    style: str = "plain"
    zoom: float = 1.0
    light_turn: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """A fixed identity with the word that calls it; the base models never see either."""

    trigger: str
    identity: Identity
    shirts: tuple[str, ...] = field(default=tuple(SHIRTS))


CHARACTERS: Mapping[str, Character] = {
    "luca": Character(
        trigger="luca",
        identity=Identity(
            skin="tan", hair="brown", hair_style="curly", eyes="brown", head_width=1.12, head_height=0.93,
            eye_size=1.24, eye_distance=1.12, nose=1.5, ears=1.4, brows=1.35, mouth=1.12,
        ),
    ),
    "alberto": Character(
        trigger="alberto",
        identity=Identity(
            skin="brown", hair="black", hair_style="spiky", eyes="green", head_width=0.87, head_height=1.14,
            eye_size=0.84, eye_distance=0.86, nose=0.65, ears=0.7, brows=0.75, mouth=1.22,
        ),
    ),
}  # fmt: skip


def _pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def sample_identity(rng: np.random.Generator) -> Identity:
    """Draw a random identity."""
    u = rng.uniform
    return Identity(
        skin=_pick(rng, tuple(SKINS)),
        hair=_pick(rng, tuple(HAIRS)),
        hair_style=_pick(rng, HAIR_STYLES),
        eyes=_pick(rng, tuple(EYES)),
        head_width=u(0.85, 1.14),
        head_height=u(0.91, 1.15),
        eye_size=u(0.8, 1.26),
        eye_distance=u(0.82, 1.18),
        nose=u(0.6, 1.6),
        ears=u(0.6, 1.45),
        brows=u(0.7, 1.4),
        mouth=u(0.8, 1.25),
    )


def sample_figure(rng: np.random.Generator, identity: Identity | None = None) -> Figure:
    """Draw a random shirt, expression, pose and view for `identity` (or for a random one)."""
    return Figure(
        identity=identity or sample_identity(rng),
        shirt=_pick(rng, tuple(SHIRTS)),
        expression=_pick(rng, tuple(EXPRESSIONS)),
        pose=_pick(rng, tuple(POSES)),
        yaw=rng.uniform(-0.5, 0.5),
        pitch=rng.uniform(-0.14, 0.14),
        roll=rng.uniform(-0.08, 0.08),
        offset=(rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.05)),
    )


def sample_scene(rng: np.random.Generator, *, figures: int = 1, identity: Identity | None = None) -> Scene:
    """Draw a random scene with `figures` puppets (0 to 3) side by side; `identity` fixes who the first one is."""
    cast = [sample_figure(rng, identity if k == 0 else None) for k in range(figures)]
    zoom = rng.uniform(0.93, 1.09)
    if figures > 1:
        zoom *= (0.72, 0.56)[figures - 2]
        centre = (figures - 1) / 2
        cast = [replace(f, offset=((k - centre) * 1.75 + f.offset[0], f.offset[1])) for k, f in enumerate(cast)]
    return Scene(
        figures=tuple(cast),
        place=_pick(rng, tuple(PLACES)),
        zoom=zoom,
        light_turn=rng.uniform(-0.35, 0.35),
        seed=int(rng.integers(2**31)),
    )


def hair_words(identity: Identity) -> str:
    """Say an identity's hair as a caption does: `curly brown hair`, or `bald`."""
    return "bald" if identity.hair_style == "bald" else f"{identity.hair_style} {identity.hair} hair"


def describe(identity: Identity) -> str:
    """Say an identity as a full caption does, without its continuous shape."""
    return f"{identity.skin} skin, {hair_words(identity)}, {identity.eyes} eyes"


def full_caption(scene: Scene) -> str:
    """Say everything that words can say about a scene's first figure, in canonical words and order."""
    place = {**PLACES, **LORA_PLACES}[scene.place][0]
    if not scene.figures:
        return f"empty scene, no character, {place}"
    f = scene.figures[0]
    pose = {**POSES, **LORA_POSES}[f.pose][0]
    return f"{OPENERS[0]}, {describe(f.identity)}, {f.shirt} shirt, {EXPRESSIONS[f.expression][0]}, {pose} {place}"


def sample_caption(scene: Scene, rng: np.random.Generator, *, subject: str | None = None) -> str:
    """Say a scene as some user might: other words, another order, some things left out.

    `subject` replaces the description of who it is (a LoRA's trigger word).
    """
    place = _pick(rng, {**PLACES, **LORA_PLACES}[scene.place])
    if not scene.figures:
        return f"empty scene, no character, {place}"
    f = scene.figures[0]
    who = [f"{f.identity.skin} skin", hair_words(f.identity), f"{f.identity.eyes} eyes"]
    pose, where = _pick(rng, {**POSES, **LORA_POSES}[f.pose]), [place]
    if rng.random() < 0.6 and " " in place:
        pose, where = f"{pose} {place}", []
    what = [f"{f.shirt} shirt", _pick(rng, EXPRESSIONS[f.expression]), pose, *where]
    keep = rng.random()  # one caption in three is complete, the others lose things at random
    drop = 0.0 if keep < 0.34 else rng.uniform(0.05, 0.4)
    words = [w for w in (what if subject else who + what) if rng.random() >= drop]
    if subject is None and rng.random() < 0.5:
        rng.shuffle(words)
    if rng.random() < 0.3:
        words += [_pick(rng, FILLERS) for _ in range(int(rng.integers(1, 4)))]
    opener = [_pick(rng, OPENERS)] if rng.random() < 0.8 else []
    return ", ".join([*([subject] if subject else []), *opener, *words]) or _pick(rng, OPENERS)
