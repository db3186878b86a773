"""What changing LoRAs costs and leaves, beside diffusers' own way by peft.

There both LoRAs are loaded once and wrapped around the layers; to change them one is taken out of the weights
(`unfuse_lora`), and the other put in (`set_adapters`, `fuse_lora`). imagelab sums each weight from its pristine copy.
"""

from importlib.metadata import version

import numpy as np
import pytest
from random_loras import RANK, full_size_block, write_lora
from safetensors.torch import load_file
from turns import by_turns

from imagelab.benchmark import paired_ratio
from imagelab.loading import load_pipeline
from imagelab.lora import LoraPatcher
from imagelab.lora.layers import COMPONENTS
from imagelab.model_loading import quietly
from imagelab.results import LoraRecord

PAIRS, SWITCHES, STRENGTH = 10, 100, 0.8
MOST_SECONDS = {"puppets, float32": 0.6, "one block of SDXL, float16": 0.7}  # of peft's
SAME = 1e-4  # how far weights of the two may differ after one switch, of those up to 1


def weights(pipe):
    """Return the weights of a pipeline, without those that peft wraps around them."""
    named = ((part, *pair) for part in COMPONENTS for pair in getattr(pipe, part).state_dict().items())
    return {
        (part, name.replace(".base_layer", "")): value.clone() for part, name, value in named if ".lora_" not in name
    }


def largest_difference(one, other):
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


class ByPeft:
    """Changes LoRAs by what diffusers has for it, in a whole pipeline or, where there is none, in its UNet."""

    def __init__(self, pipe, paths):
        self.owner = pipe if hasattr(pipe, "load_lora_weights") else pipe.unet
        with quietly():
            for name, path in paths.items():
                if self.owner is pipe:
                    pipe.load_lora_weights(path, adapter_name=name)
                else:
                    self.owner.load_lora_adapter(load_file(path), adapter_name=name, prefix="unet")

    def put_in(self, name):
        """Put a LoRA into weights that have none."""
        self.owner.set_adapters(name, STRENGTH)
        self.owner.fuse_lora(adapter_names=[name])

    def switch(self, name):
        """Put a LoRA in instead of the one that is there."""
        self.owner.unfuse_lora()
        self.put_in(name)


def measure(what, ours, theirs, folder):
    """Switch to and fro; return a row for each of two pipelines of the same weights, the ratio, and what ours left."""
    folder.mkdir()
    paths = {name: folder / f"{name}.safetensors" for name in "ab"}
    for seed, path in enumerate(paths.values()):
        write_lora(ours, path, seed)
    loras = {
        name: [(path, LoraRecord(name=name, weight=STRENGTH, text_encoder_weight=STRENGTH, sha256=""))]
        for name, path in paths.items()
    }
    pristine = weights(ours)
    assert largest_difference(weights(theirs), pristine) == 0
    patcher, by_peft = LoraPatcher(pipe=ours), ByPeft(theirs, paths)
    patcher.apply(loras["a"])
    by_peft.put_in("a")
    assert largest_difference(weights(ours), pristine) > SAME > largest_difference(weights(ours), weights(theirs))
    switches = {
        "imagelab": lambda name: patcher.apply(loras[name]),
        "diffusers, by peft": by_peft.switch,
    }

    def there_and_back(switch):
        return lambda: [switch(name) for name in "ba"]

    took = by_turns({way: there_and_back(switch) for way, switch in switches.items()}, PAIRS)
    for switch in switches.values():
        for number in range(SWITCHES - 2 * (PAIRS + 1)):
            switch("ba"[number % 2])
    patcher.clear()
    by_peft.owner.unfuse_lora()
    left = {
        way: largest_difference(weights(pipe), pristine) for way, pipe in zip(switches, (ours, theirs), strict=True)
    }
    ratio = paired_ratio(*(took[way].cpu for way in switches))
    rows = [
        {
            "weights": what,
            "way": way,
            "cpu_ms_a_switch": round(float(np.median(took[way].cpu)) / 2 * 1e3, 1),  # there, and back
            "cpu_seconds_to_peft": str(ratio) if way == "imagelab" else "",
            f"largest_difference_left_after_{SWITCHES}_switches": float(f"{left[way]:.3g}"),
        }
        for way in switches
    ]
    return rows, ratio, left["imagelab"]


@pytest.mark.filterwarnings("ignore:Already:UserWarning:peft")  # found a second LoRA; or nothing to take out
def test_changing_loras_takes_less_than_by_peft_and_leaves_nothing(configs, tmp_path, keep):
    profile = configs.profile("puppet")
    pairs = {
        "puppets, float32": [load_pipeline(profile, "cpu").pipe for _ in range(2)],
        "one block of SDXL, float16": [full_size_block() for _ in range(2)],
    }
    found = {what: measure(what, *pipes, tmp_path / str(part)) for part, (what, pipes) in enumerate(pairs.items())}
    keep(
        "lora-switch-beside-peft-cpu.json",
        f"From one LoRA of rank {RANK} to another, in all linear layers of the puppets and of a transformer block of "
        f"SDXL at full size: {PAIRS} pairs there and back by turns, and what is left in the weights once LoRAs are out",
        facts={f"promised_of_pefts_cpu_seconds, {what}": most for what, most in MOST_SECONDS.items()},
        rows=[row for rows, _, _ in found.values() for row in rows],
        machine={"peft": version("peft")},
    )
    for what, (_, ratio, left) in found.items():
        assert ratio.high <= MOST_SECONDS[what], what
        assert left == 0, what
