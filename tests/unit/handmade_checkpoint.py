"""An SDXL checkpoint in one file, as other tools have it: the tensors of a pipeline under Stability AI's names.

The VAE is left out; it comes from a source of its own. diffusers has the way back only (`single_file_utils.py`).
"""

import re

import torch

_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_PLACES = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}  # within a block of Stability AI's
_UNET = {
    "conv_in.": "input_blocks.0.0.",
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm": "ln_",
    "self_attn.q_proj.": "attn.in_proj_",
    "self_attn.out_proj": "attn.out_proj",
    ".fc1": ".c_fc",
    ".fc2": ".c_proj",
}


def single_file_tensors(pipe):
    """Return {name in the file: tensor} of a pipeline's UNet and text encoders."""
    layers = pipe.unet.config.layers_per_block
    unet = {_unet_name(name, layers): weight for name, weight in pipe.unet.state_dict().items()}
    first = {f"text_model.{_flat(name)}": weight for name, weight in pipe.text_encoder.state_dict().items()}
    parts = {
        "model.diffusion_model.": unet,
        "conditioner.embedders.0.transformer.": first,
        "conditioner.embedders.1.model.": _open_clip(
            {_flat(k): w for k, w in pipe.text_encoder_2.state_dict().items()}
        ),
    }
    return {prefix + name: weight.contiguous() for prefix, part in parts.items() for name, weight in part.items()}


def _unet_name(name, layers):
    if found := _BLOCK.fullmatch(name):
        way, block, kind, index, rest = found.groups()
        number = int(block) * (layers + 1) + (layers if kind.endswith("samplers") else int(index))
        new = f"input_blocks.{number + 1}" if way == "down" else f"output_blocks.{number}"
        rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
        new = f"{new}.{_PLACES[kind]}.{rest}"
    else:
        new = _replace(name, _UNET)
    return _replace(new, _RESNET) if "resnets" in name else new


def _open_clip(tensors):
    renamed = {"text_projection": tensors.pop("text_projection.weight").T}
    for name, weight in tensors.items():
        if "q_proj" in name:  # one tensor holds all three
            renamed[_replace(name, _OPEN_CLIP)] = torch.cat(
                [tensors[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            )
        elif "k_proj" not in name and "v_proj" not in name:
            renamed[_replace(name, _OPEN_CLIP)] = weight
    return renamed


def _flat(name):
    return name.removeprefix("text_model.")


def _replace(name, table):
    for old, new in table.items():
        name = name.replace(old, new)
    return name
