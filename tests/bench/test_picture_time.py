"""A puppet picture on one core, beside as much arithmetic as it is made of, in plain products of matrices."""

import numpy as np
import pytest
import torch
from turns import by_turns

from imagelab import GenerationRequest
from imagelab.benchmark import paired_ratio
from imagelab.benchmark.limits import count_flop
from imagelab.calibration.intervals import bootstrap_interval

PICTURES, MOST_SECONDS = 12, 0.8
MOST_TIMES = 4.0  # the seconds of the picture's arithmetic: on any machine
SIDE = 1024  # of the matrices


def test_a_standard_picture_takes_as_long_as_promised(generator, keep):
    seeds = iter(range(1000))

    def picture():
        scene = {"character": "luca", "scene_description": "on the beach"}
        generator.generate(GenerationRequest(**scene, quality_preset="standard", seed=next(seeds)))

    picture()  # with its LoRA in the weights, and the prompt encoded
    flop = count_flop(picture, torch.device("cpu"))
    one, other = torch.rand(2, SIDE, SIDE)
    products = round(flop / (2 * SIDE**3))

    def arithmetic():
        for _ in range(products):
            torch.mm(one, other)

    took = by_turns({"picture": picture, "products of matrices": arithmetic}, PICTURES)
    own, limit = took["picture"], took["products of matrices"]
    seconds = {kind: bootstrap_interval(np.median, np.array(getattr(own, kind))) for kind in ("wall", "cpu")}
    over = paired_ratio(own.cpu, [one * flop / (2 * SIDE**3 * products) for one in limit.cpu])
    keep(
        "picture-puppet-cpu.json",
        f"A puppets' picture of 128 px, standard preset, on one core: median of {PICTURES}, by turns with products of "
        f"matrices of {SIDE} rows that are as much arithmetic",
        facts={
            "seconds": str(seconds["wall"]),
            "cpu_seconds": str(seconds["cpu"]),
            "promised_seconds": MOST_SECONDS,
            "gflop_per_picture": round(flop / 1e9, 2),
            "times_the_seconds_of_its_arithmetic": str(over),
        },
    )
    assert over.high <= MOST_TIMES
    if seconds["cpu"].high > MOST_SECONDS:  # a slower core than was promised for breaks no promise about the code
        alone = seconds["cpu"].value / over.value
        pytest.xfail(f"{seconds['cpu'].value:.2f} s a picture, whose {flop / 1e9:.1f} GFLOP alone take {alone:.2f} s")
