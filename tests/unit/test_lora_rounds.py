"""LoRAs that come and go a thousand times, and what they leave."""

import dataclasses
import random

import psutil
import pytest
import torch
from handmade_lora import kohya_tensors, peft_tensors, random_pairs, write

from imagelab import GenerationRequest, ModelFileError
from imagelab.results import LoraRecord

REQUEST = GenerationRequest(
    character="luca", scene_description="on the beach", quality_preset="draft", width=64, height=64, steps=1, seed=5
)
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def weights(pipe):
    return {(part, key): value.clone() for part in PARTS for key, value in getattr(pipe, part).state_dict().items()}


def test_a_thousand_random_loads_and_unloads_leave_the_base_to_the_bit(generator, tmp_path, record_property):
    """Matrix F1: some of three LoRAs at a time; one time in five there is a file among them that is refused."""
    plain = dataclasses.replace(REQUEST, use_character_loras=False)
    base = generator.generate(plain).image.tobytes()
    patcher, pipe = generator._models.patcher, generator.pipeline
    before = weights(pipe)
    paths = {name: write(tmp_path / f"{name}.safetensors", peft_tensors(random_pairs(pipe, seed=seed)))
             for seed, name in
             enumerate("ab")}  # fmt: skip
    paths["c"] = write(tmp_path / "c.safetensors", kohya_tensors(random_pairs(pipe, seed=2), alpha=4.0))
    (tmp_path / "cut.safetensors").write_bytes(paths["a"].read_bytes()[:-100])
    chance, counted, memory = random.Random(1), dict.fromkeys(("loaded", "refused", "unloaded", "drawn"), 0), 0

    def lora(path):
        weight = chance.uniform(-1, 1)
        return path, LoraRecord(name=path.stem, weight=weight, text_encoder_weight=weight, sha256="")

    for number in range(1000):
        chosen = [lora(paths[name]) for name in chance.sample(sorted(paths), chance.randint(1, 3))]
        if chance.random() < 0.2:
            with pytest.raises(ModelFileError, match=r"cut\.safetensors: is truncated"):
                patcher.apply([*chosen, lora(tmp_path / "cut.safetensors")])
            counted["refused"] += 1
            assert patcher.applied == ()
        else:
            patcher.apply(chosen)
            counted["loaded"] += 1
        if chance.random() < 0.5:
            patcher.clear()
            counted["unloaded"] += 1
        if number % 50 == 0:
            assert generator.generate(plain).image.tobytes() == base
            counted["drawn"] += 1
        if number == 100:  # what is made once is made
            memory = psutil.Process().memory_info().rss
    patcher.clear()
    assert psutil.Process().memory_info().rss - memory < 30 * 2**20
    after = weights(pipe)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert not any(parameter.requires_grad for part in PARTS for parameter in getattr(pipe, part).parameters())
    assert generator.generate(plain).image.tobytes() == base
    assert min(counted.values()) >= 20, counted
    said = ", ".join(f"{count} {what}" for what, count in counted.items())
    record_property("counted", f"0 of 1000 rounds of LoRAs left anything in the base's weights ({said})")
