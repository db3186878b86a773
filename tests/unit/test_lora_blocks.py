"""Blocks: SDXL's modules carry the numbers of Stability AI's own blocks, and the puppets' those of the same depth."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from handmade_checkpoint import _unet_name

from imagelab.config.blocks import BLOCKS, block_weights
from imagelab.lora.blocks import block_of, strength
from imagelab.results import LoraRecord

# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
SDXL_UNET = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "attention_head_dim": (5, 10, 20),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def sdxl():
    """SDXL's UNet with every module and no weights: 2.6 billion of them would take 10 GB."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SDXL_UNET)


def modules(unet):
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [name for name, module in unet.named_modules() if isinstance(module, kinds)]


def test_every_module_of_sdxl_is_in_the_block_that_stability_ai_numbers_so(sdxl):
    names = modules(sdxl)
    assert {block_of(("unet", name)) for name in names} == set(BLOCKS)
    for name in names:
        where, number = _unet_name(f"{name}.weight", 2).split(".")[:2]
        expected = {
            "input_blocks": f"IN{number:0>2}",
            "middle_block": "MID",
            "output_blocks": f"OUT{number:0>2}",
            "time_embed": "BASE",
            "label_emb": "BASE",
            "out": "OUT08",
        }[where]
        assert block_of(("unet", name)) == expected, name


# a module of each block of kohya's files, which name them as Stability AI does
IN_KOHYAS_FILES = (
    [f"input_blocks_{block}_0_in_layers_2" for block in (1, 2, 4, 5, 7, 8)]
    + [f"input_blocks_{block}_0_op" for block in (3, 6)]
    + [f"input_blocks_{block}_1_proj_in" for block in (4, 5, 7, 8)]
    + [f"output_blocks_{block}_0_in_layers_2" for block in range(9)]
    + [f"output_blocks_{block}_1_proj_in" for block in range(6)]
    + [f"output_blocks_{block}_2_conv" for block in (2, 5)]
)


@pytest.mark.parametrize("name", IN_KOHYAS_FILES)
def test_a_weight_of_kohyas_file_is_in_the_block_that_the_file_names(sdxl, name):
    parts = {f"lora_unet_{name}.{part}.weight": torch.ones(1, 1) for part in ("lora_down", "lora_up")}
    converted, _ = StableDiffusionXLPipeline.lora_state_dict(parts, unet_config=sdxl.config)
    kind, _, number = name.split("_")[:3]
    assert len(converted) == 2
    for key in converted:
        assert block_of(("unet", key.removeprefix("unet."))) == f"{kind[:-3].upper()}{number:0>2}", key


@pytest.mark.parametrize(
    ("module", "block"),
    [
        ("conv_in", "IN00"),
        ("down_blocks.0.resnets.1.conv1", "IN02"),
        ("down_blocks.0.downsamplers.0.conv", "IN03"),
        ("down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k", "IN04"),
        ("down_blocks.1.attentions.1.proj_in", "IN05"),
        ("down_blocks.1.downsamplers.0.conv", "IN06"),
        ("down_blocks.2.resnets.0.time_emb_proj", "IN07"),
        ("down_blocks.2.attentions.1.proj_out", "IN08"),
        ("mid_block.resnets.1.conv2", "MID"),
        ("up_blocks.0.attentions.0.proj_in", "OUT00"),
        ("up_blocks.0.upsamplers.0.conv", "OUT02"),
        ("up_blocks.1.attentions.2.proj_in", "OUT05"),
        ("up_blocks.2.resnets.2.conv_shortcut", "OUT08"),
        ("conv_out", "OUT08"),
        ("time_embedding.linear_1", "BASE"),
        ("add_embedding.linear_2", "BASE"),
    ],
)
def test_a_module_is_in_the_block_of_its_depth(module, block):
    assert block_of(("unet", module)) == block


def test_text_encoders_are_base():
    assert block_of(("text_encoder", "encoder.layers.0.mlp.fc1")) == "BASE"
    assert block_of(("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1")) == "BASE"


def test_every_module_of_the_puppets_is_in_a_block_of_that_name(generator):
    blocks = {block_of(("unet", name)) for name in modules(generator.pipeline.unet)}
    assert blocks == set(BLOCKS) - {"IN02", "IN05", "IN08"}, "one layer a level on the way in"
    # the levels are SDXL's, so a preset means the same depth
    assert block_of(("unet", "down_blocks.2.attentions.0.proj_in")) == "IN07"
    assert block_of(("unet", "up_blocks.1.attentions.1.proj_in")) == "OUT04"


def record(**given):
    return LoraRecord(**({"name": "a", "weight": 0.5, "text_encoder_weight": 0.25, "sha256": "0" * 64} | given))


def test_the_strength_is_the_components_times_the_blocks():
    slots = [
        ("unet", "mid_block.attentions.0.proj_in"),
        ("unet", "conv_in"),
        ("text_encoder", "encoder.layers.0.mlp.fc1"),
        ("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1"),
    ]
    assert [strength(record(), slot) for slot in slots] == [0.5, 0.5, 0.25, 0.25]
    assert [strength(record(text_encoder_2_weight=0.75), slot) for slot in slots] == [0.5, 0.5, 0.25, 0.75]
    blocks = block_weights([2, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0, 0])
    assert [strength(record(blocks=blocks), slot) for slot in slots] == [0.25, 0.0, 0.5, 0.5]
