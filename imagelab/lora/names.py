"""How LoRA files spell the names of modules and of their matrices.

Every spelling of every module of the base is written down, and a file's name is looked up among them: a name that fits
nothing is known for sure. (diffusers' converters rewrite names step by step; they drop what they don't expect.)
"""

import re
from collections.abc import Iterable, Iterator

from imagelab.lora.layers import Slot

# how a key ends: what the tensor is; no key ends in two of these ways
_ENDINGS = {
    f"{ending}.weight": part
    for ending, part in {
        ".lora_down": "lora.down",
        ".lora_up": "lora.up",
        ".lora_mid": "lora.mid",
        ".lora_A": "lora.down",
        ".lora_B": "lora.up",
        ".lora.down": "lora.down",
        ".lora.up": "lora.up",
        ".lora_linear_layer.down": "lora.down",
        ".lora_linear_layer.up": "lora.up",
        "_lora.down": "lora.down",
        "_lora.up": "lora.up",
        ".lora_magnitude_vector": "magnitude",
    }.items()
}
_ENDINGS |= {".lora_magnitude_vector": "magnitude", ".dora_scale": "dora_scale", ".alpha": "alpha"}
_ENDINGS |= {f".hada_{part}": f"hada.{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
_ENDINGS |= {f".lokr_{part}": f"lokr.{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}

PEFT_ALONE = "base_model.model."  # what peft's own save_pretrained puts before the names of a single model
_COMFYUI = "diffusion_model."  # what its LoraSave node puts before Stability's names
_CLIP = "text_model."
_KOHYA = {"unet": ("lora_unet", "lycoris"), "text_encoder": ("lora_te1", "lora_te"), "text_encoder_2": ("lora_te2",)}
_OLD_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
_COMPONENTS = (
    ("text_encoder_2", r"lora_te2_|text_encoder_2\."),
    ("text_encoder", r"lora_te1?_|text_encoder\."),
    ("unet", r"lora_unet_|lycoris_|unet\.|diffusion_model\.(input|middle|output)_block"),
    (
        "unet",
        r"(base_model\.model\.)?((down_blocks|mid_block|up_blocks|time_embedding|add_embedding)\.|conv_(in|out)$)",
    ),
)
_SD_BLOCKS = re.compile(r"lora_unet_(input_blocks|middle_block|output_blocks|time_embed_\d|label_emb|out_2)")
_INSIDE_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def split_key(key: str) -> tuple[str, str] | None:
    """Split a key into a module's name and what the tensor is of it ("lora.down"); None if no LoRA has such a key."""
    ending = next((ending for ending in _ENDINGS if key.endswith(ending)), None)
    return (key.removesuffix(ending), _ENDINGS[ending]) if ending else None


def guess_slot(name: str) -> Slot:
    """Return the component, or "unknown", and the module that a name looks like, where no base says it for sure."""
    component = next((component for component, pattern in _COMPONENTS if re.match(pattern, name)), "unknown")
    return component, name.removeprefix(f"{component}.").removeprefix(PEFT_ALONE)


def name_schemes(keys: Iterable[str]) -> tuple[str, ...]:
    """Say whose names a file uses, sorted."""
    schemes = {_scheme_of(*split, key) for key in keys if (split := split_key(key))}
    if len(schemes) > 1:
        schemes.discard("kohya")  # its text encoders are named alike in both of its schemes
    return tuple(sorted(schemes - {""}))


def are_mixed(schemes: Iterable[str]) -> bool:
    """Say whether these schemes don't belong into one file; diffusers itself mixes its own with peft's."""
    return len({"diffusers" if scheme == "peft" else scheme for scheme in schemes}) > 1


def _scheme_of(stem: str, part: str, key: str) -> str:
    if stem.startswith(("lora_", "lycoris_")) and "." not in stem:
        named = "kohya, SD block names" if _SD_BLOCKS.match(stem) else "kohya, diffusers block names"
        return "kohya" if stem.startswith("lora_te") else named
    if stem.startswith(PEFT_ALONE):
        return "peft, one model"
    if stem.startswith(_COMFYUI):
        return "ComfyUI"
    if part in ("alpha", "dora_scale"):
        return ""
    return "diffusers" if key.endswith((".down.weight", ".up.weight")) else "peft"


def spellings(slots: Iterable[Slot]) -> dict[str, Slot]:
    """Return {name in a file: slot} for every module and every way in which files spell it."""
    slots = tuple(slots)
    depth = 1 + max((int(name.split(".")[3]) for part, name in slots if _is_first_resnet(part, name)), default=0)
    return {spelling: slot for slot in slots for spelling in _spell(slot, depth)}


def _is_first_resnet(component: str, name: str) -> bool:
    return component == "unet" and name.startswith("down_blocks.0.resnets.")


def _spell(slot: Slot, depth: int) -> Iterator[str]:
    component, name = slot
    dotted = _spell_unet(name) if component == "unet" else _spell_text_encoder(name)
    for spelling in dotted:
        yield f"{component}.{spelling}"
        for prefix in _KOHYA[component]:
            yield f"{prefix}_{spelling.replace('.', '_')}"
    if component == "unet":
        yield name
        yield PEFT_ALONE + name
        if sd_name := sd_block_name(name, depth):
            yield f"lora_unet_{sd_name.replace('.', '_')}"
            yield _COMFYUI + sd_name


def _spell_unet(name: str) -> Iterator[str]:
    yield name
    if ".attn" in name:  # diffusers until 0.20, when processors held the matrices
        head, _, projection = name.rpartition("." if not name.endswith(".0") else ".to_out.0")
        old = "to_out" if name.endswith(".to_out.0") else projection
        yield f"{head}.processor.{old}"
        yield f"{head}.{old}"


def _spell_text_encoder(name: str) -> Iterator[str]:
    # transformers 5.6 flattened CLIPTextModel, but not CLIPTextModelWithProjection, and files say one or the other.
    plain = name.removeprefix(_CLIP)
    head, _, projection = plain.rpartition(".")
    names = [plain, f"{head}.{_OLD_ATTENTION[projection]}"] if projection in _OLD_ATTENTION else [plain]
    yield from names
    yield from (_CLIP + spelling for spelling in names)


def sd_block_name(name: str, depth: int) -> str | None:
    """Return what Stability's own UNet, which kohya trains, calls a module of a diffusers UNet.

    `depth` is diffusers' `layers_per_block`. None for what it doesn't have.
    """
    if name in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[name]
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", name):
        place = 2 * int(match[2]) + (match[1] == "attentions")
        return f"middle_block.{place}.{_inside(match[1], match[3])}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    if match is None:
        return None
    side, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if side == "down":
        index = 1 + block * (depth + 1) + (depth if kind == "downsamplers" else layer)
        place = int(kind == "attentions")
        return f"input_blocks.{index}.{place}.{'op' if kind == 'downsamplers' else _inside(kind, rest)}"
    # an upsampler shares the last layer's index; it is third there, after the attention that SDXL's blocks have
    index = block * (depth + 1) + (depth if kind == "upsamplers" else layer)
    place = {"resnets": 0, "attentions": 1, "upsamplers": 2}[kind]
    return f"output_blocks.{index}.{place}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return _INSIDE_RESNET.get(rest, rest) if kind == "resnets" else rest
