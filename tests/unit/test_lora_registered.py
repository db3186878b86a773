"""What the registry says of a LoRA's base model is held against the file."""

import json
import struct
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from handmade_lora import write

from imagelab import CharacterGenerator, GenerationRequest, ModelFileError
from imagelab.config.loras import BASE_WIDTHS
from imagelab.lora import check_registered_base, profile_base
from imagelab.models import resolve_lora

KEYS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
ELSEWHERE = "lora_unet_mid_block_attentions_0_proj_in"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv"


def save(path, width, module=KEYS):
    """Write a LoRA of one module that reads so many channels."""
    tensors = {f"{module}.lora_down.weight": torch.ones(4, width), f"{module}.lora_up.weight": torch.ones(8, 4)}
    return write(path / "lora.safetensors", tensors)


@pytest.mark.parametrize(
    ("width", "module", "says", "found"),
    [
        (128, KEYS, "SDXL", "puppet"),
        (2048, KEYS, "puppet", "SDXL"),
        (768, KEYS, "SDXL", "SD 1.x"),
        (96, KEYS, "puppet", "another base model"),
        (8, FLUX, "SDXL", "Flux"),
    ],
)
def test_a_file_for_another_base_than_the_registry_says_is_refused_with_both(tmp_path, width, module, says, found):
    path = save(tmp_path, width, module)
    with pytest.raises(ModelFileError, match=f"is for {found}, and not for {says}, as the registry says") as refusal:
        check_registered_base(path, "luca", says)
    assert str(path) in str(refusal.value)
    assert "Correct loras.luca.base" in refusal.value.fix


def test_a_file_that_does_not_tell_its_base_is_left_to_the_model(tmp_path):
    path = save(tmp_path, 160, ELSEWHERE)
    for base in BASE_WIDTHS:
        check_registered_base(path, "luca", base)


def test_another_file_in_the_place_of_one_that_passed_is_read(tmp_path):
    check_registered_base(save(tmp_path, BASE_WIDTHS["puppet"]), "luca", "puppet")
    with pytest.raises(ModelFileError, match="is for SDXL"):
        check_registered_base(save(tmp_path, BASE_WIDTHS["SDXL"]), "luca", "puppet")


def test_a_header_with_a_size_below_zero_is_one_error(tmp_path):
    path = tmp_path / "lora.safetensors"
    entry = {"dtype": "F32", "shape": [-4, -2], "data_offsets": [0, 32]}  # as many bytes as it says
    header = json.dumps({f"{KEYS}.lora_down.weight": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(32))
    with pytest.raises(ModelFileError, match="corrupt"):
        check_registered_base(path, "luca", "puppet")


def test_every_lora_of_the_registry_that_ships_is_for_the_base_that_it_says(configs):
    assert profile_base(configs.profile("puppet")).context_width == BASE_WIDTHS["puppet"]
    for name in (name for name, lora in configs.lora_registry.loras.items() if "puppet" in lora.files):
        check_registered_base(resolve_lora(configs, name, "puppet"), name, configs.lora_base(name, "puppet"))


def test_the_base_of_a_lora_is_told_without_an_algebra_system(configs):
    path = resolve_lora(configs, "luca", "puppet")
    code = (
        "import sys; from pathlib import Path; from imagelab.lora import check_registered_base;"
        f"check_registered_base(Path({str(path)!r}), 'luca', 'puppet'); print('sympy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout.strip() == "False"  # torch imports it where mere shapes are multiplied, which takes a second


def test_a_picture_is_refused_before_a_model_is_loaded_where_the_registry_is_wrong(configs):
    luca = configs.lora("luca").model_copy(update={"base": {"puppet": "SDXL"}})
    luca._name = "luca"
    registry = configs.lora_registry.model_copy(update={"loras": configs.lora_registry.loras | {"luca": luca}})
    with CharacterGenerator("puppet", "cpu", replace(configs, lora_registry=registry)) as generator:
        with pytest.raises(ModelFileError, match="is for puppet, and not for SDXL"):
            generator.generate(GenerationRequest(character="luca"))
        with pytest.raises(ModelFileError, match="is for puppet, and not for SDXL"):
            generator.compare_loras([{"name": "luca"}])
        assert not generator.is_loaded
