"""LoRA files of random numbers, in the formats that are about, for the puppet models."""

import torch
from safetensors.torch import save_file

LAYERS = {
    "unet": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "mid_block.attentions.0.proj_in",
        "down_blocks.0.resnets.0.conv1",
        "up_blocks.1.resnets.0.conv_shortcut",
        "down_blocks.0.resnets.0.time_emb_proj",
    ),
    # out_proj in both: diffusers takes its absence for another format, and drops the other attention layers
    "text_encoder": (
        "encoder.layers.0.self_attn.q_proj",
        "encoder.layers.0.self_attn.out_proj",
        "encoder.layers.1.mlp.fc1",
    ),
    "text_encoder_2": ("text_model.encoder.layers.0.self_attn.out_proj", "text_model.encoder.layers.0.mlp.fc2"),
}
_KOHYA_PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}


def random_pairs(pipe, *, seed=0, rank=4, layers=None, size=0.05):
    """Return {(component, module): (down, up)}; convolutions have their kernel in `down`."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for component, names in (LAYERS if layers is None else layers).items():
        for name in names:
            weight = getattr(pipe, component).get_submodule(name).weight
            down = torch.randn((rank, *weight.shape[1:]), generator=generator) * size
            up = torch.randn((weight.shape[0], rank, *[1] * (weight.ndim - 2)), generator=generator) * size
            pairs[component, name] = (down, up)
    return pairs


def peft_tensors(pairs):
    tensors = {}
    for (component, name), (down, up) in pairs.items():
        module = f"text_model.{name}" if component == "text_encoder" else name
        tensors[f"{component}.{module}.lora_A.weight"] = down
        tensors[f"{component}.{module}.lora_B.weight"] = up
    return tensors


def kohya_tensors(pairs, alpha=2.0):
    tensors = {}
    for (component, name), (down, up) in pairs.items():
        module = f"text_model.{name}" if component == "text_encoder" else name
        key = f"{_KOHYA_PREFIX[component]}_{module.replace('.', '_')}"
        tensors[f"{key}.lora_down.weight"] = down
        tensors[f"{key}.lora_up.weight"] = up
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    return tensors


def write(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path
