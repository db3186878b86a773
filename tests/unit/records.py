"""Records of every shape that drawing can leave: of words that hypothesis gives, and a dice, which may be its own."""

import hashlib
from pathlib import Path

from hypothesis import strategies as st

from imagelab.results import ControlRecord, Environment, GenerationRecord, LoraRecord

# What readers could trip over, among ordinary letters; half a surrogate pair is refused before anything is drawn.
TRAPS = (
    "luca, ", "on the beach", ": ", "\n", '"', "\\", "Negative prompt: ", "\nSteps: 1, a: b, c: d", "\nTemplate: ",
    "<lora:x:1>", ", Hashes: {", "é", "海", "😀", " ", "\t",
)  # fmt: skip
words = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), max_size=8)
texts = st.lists(st.sampled_from(TRAPS) | st.text(st.characters(exclude_categories=["Cs"])), max_size=6).map("".join)
_LETTERS = "abcXYZ_0189"


def make_records(words, dice, count=20):
    """Return records whose prompts hold some of the words, and traps."""
    return [_record([*words, *TRAPS], dice) for _ in range(count)]


def _text(words, dice):
    return "".join(dice.choices(words, k=dice.randrange(6)))


def _name(dice):
    return dice.choice(_LETTERS) + "".join(dice.choices(_LETTERS + ".-", k=dice.randrange(12)))


def _sha256(dice):
    return hashlib.sha256(dice.choice(_LETTERS).encode()).hexdigest()


def _weight(dice):
    return dice.choice([1.0, 0.5, 0.7, -0.75, 1e-05, 2.0, 0.0, dice.uniform(-2, 2)])


def _lora(name, dice):
    weight = _weight(dice)
    return LoraRecord(
        name=name,
        weight=weight,
        text_encoder_weight=dice.choice([weight, _weight(dice)]),
        sha256=_sha256(dice),
        text_encoder_2_weight=dice.choice([None, _weight(dice)]),
        blocks=dice.choice([None, None, (1.0,) * 12 + (0.5,) * 8]),
        start=dice.choice([0.0, 0.0, dice.random()]),
        stop=dice.choice([1.0, 1.0, dice.random()]),
        tensors_sha256=_sha256(dice),
    )


def _control(dice):
    return ControlRecord(
        type=dice.choice(["pose", "canny", "depth", "seg", "normal"]),
        model=dice.choice(["dedicated", "union"]),
        model_sha256={"diffusion_pytorch_model.safetensors": _sha256(dice)},
        scale=dice.uniform(0, 2),
        start=dice.random(),
        end=dice.random(),
        resize=dice.choice(["stretch", "crop", "fill"]),
        is_map=dice.random() < 0.5,
        image=Path("a, b/c: d.png"),
        image_sha256=_sha256(dice),
        map_sha256=_sha256(dice),
        preprocessor=dice.choice([None, "canny", "vitpose"]),
        params=dice.choice([{}, {"low_threshold": 100, "high_threshold": 200}, {"resolution": 512}]),
    )


def _environment(words, dice):
    return Environment(
        python="3.13.1",
        system="Linux x86_64",
        processor=_text(words, dice),
        threads=dice.randrange(1, 256),
        attention="scaled_dot_product_attention (cpu)",
        precision="highest",
        cuda=dice.choice([None, "13.0"]),
    )


def _record(words, dice):
    names = sorted({_name(dice) for _ in range(dice.randrange(4))})
    weights = {"unet/a.safetensors": _sha256(dice), "vae override/b.safetensors": _sha256(dice)}
    return GenerationRecord(
        profile=_name(dice),
        base_model=dice.choice(["puppets/weights/base", "owner/model@0123", "models/sd_xl_base_1.0.safetensors"]),
        model_sha256=dice.choice([{}, weights]),
        character=dice.choice([None, "luca"]),
        scene_description=_text(words, dice),
        style=dice.choice([None, "pixar"]),
        quality_preset="draft",
        prompt=_text(words, dice),
        negative_prompt=_text(words, dice),
        seed=dice.choice([0, 2**63 - 1, dice.getrandbits(63)]),
        width=dice.randrange(8, 4096),
        height=dice.randrange(8, 4096),
        steps=dice.randrange(1, 151),
        guidance_scale=dice.choice([7.0, 7.5, dice.uniform(0, 30)]),
        guidance_start=dice.choice([0.0, 0.0, dice.random()]),
        guidance_stop=dice.choice([1.0, 1.0, dice.random()]),
        scheduler="dpmpp_2m_karras",
        loras=tuple(_lora(name, dice) for name in names),
        device="cpu",
        dtype="float32",
        memory_policy="resident",
        scheduler_settings={"class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True},
        sampler=dice.choice(["Euler", "Euler a", "DPM++ 2M", ""]),
        schedule_type=dice.choice(["Automatic", "Karras"]),
        controls=tuple(_control(dice) for _ in range(dice.randrange(3))),
        versions={"imagelab": "0.1.0", "torch": "2.10.0"},
        environment=dice.choice([None, _environment(words, dice)]),
    )
