"""The studio's recipe can be stopped anywhere and goes on as if nothing had happened."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor, nn

from imagelab.puppets.train.dataset import build_example, face_weights
from imagelab.puppets.train.detector import STRIDES, Detector, _targets, mirror
from imagelab.puppets.train.loop import Plan, rate_at, train
from imagelab.puppets.train.lora import TEXT_RANK, UNET_RANK, to_diffusers, to_kohya
from imagelab.puppets.train.parallel import average_gradients, split_over_cores
from imagelab.puppets.train.text import CONTEXT, token_ids, train_tokenizer


def _learn(folder: Path, *, until: int, processes: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(0)
    net = nn.Linear(3, 3)
    plan = Plan(steps=8, rate=0.1, warmup=2, average=0.9)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        if step >= until:
            raise KeyboardInterrupt
        return net(torch.randn(4, 3, generator=generator)).pow(2).mean()

    try:
        best = train({"net": net}, loss, plan, folder / "net.pt", save_every_seconds=0, processes=processes)
    except KeyboardInterrupt:
        return {}
    return dict(best["net"].state_dict())


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = _learn(tmp_path / "whole", until=99)
    assert _learn(tmp_path / "stopped", until=5) == {}
    resumed = _learn(tmp_path / "stopped", until=99)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)


def test_two_processes_take_the_step_that_the_mean_of_their_gradients_asks_for() -> None:
    weight = nn.Parameter(torch.zeros(2))
    with split_over_cores(2) as rank:
        (weight * torch.tensor([1.0, 10.0]) * (rank + 1)).sum().backward()
        average_gradients([weight])
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.5, 15.0]


def test_a_training_on_two_processes_can_be_stopped_and_resumed(tmp_path: Path) -> None:
    whole = _learn(tmp_path / "whole", until=99, processes=2)
    assert _learn(tmp_path / "stopped", until=5, processes=2) == {}
    resumed = _learn(tmp_path / "stopped", until=99, processes=2)
    alone = _learn(tmp_path / "alone", until=99)
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=0, atol=0)
        assert not torch.equal(alone[name], tensor)  # the second process has seen other pictures


def test_a_process_that_fails_ends_the_training_with_an_error() -> None:
    weight = nn.Parameter(torch.zeros(2))

    def learn() -> None:
        with split_over_cores(2) as rank:
            if rank:
                raise ValueError
            weight.sum().backward()
            average_gradients([weight])

    with pytest.raises(RuntimeError):
        learn()
    assert not torch.distributed.is_initialized()


def test_a_face_counts_most_where_it_is_and_every_picture_the_same() -> None:
    seed = next(seed for seed in range(50) if any(build_example(seed, width=128, height=128).face_box))
    box = build_example(seed, width=128, height=128).face_box
    weights = face_weights(np.array([box, (0, 0, 0, 0)], np.float32), 16, 16, cell_px=8)
    row, column = np.unravel_index(weights[0].argmax(), (16, 16))
    x0, y0, x1, y1 = (side / 8 for side in box)
    assert x0 < column + 0.5 < x1
    assert y0 < row + 0.5 < y1
    assert weights.mean((1, 2)) == pytest.approx(1)
    assert (weights[1] == 1).all()


def test_the_learning_rate_warms_up_and_falls() -> None:
    plan = Plan(steps=1000, rate=1.0, warmup=100, flat=0.5)
    assert rate_at(0, plan) == pytest.approx(0.01)
    assert rate_at(400, plan) == pytest.approx(1.0)
    assert rate_at(999, plan) == pytest.approx(0.01, abs=1e-3)


def test_the_tokenizer_takes_any_text_and_knows_its_captions_words(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["3d animated character, curly brown hair, on the beach"], tmp_path)
    ids = token_ids(tokenizer, ["curly brown hair", "ünïcödé 🙂 \\o/ 漢字", ""])
    assert ids.shape == (3, CONTEXT)
    assert tokenizer.tokenize("curly brown hair") == ["curly</w>", "brown</w>", "hair</w>"]
    assert tokenizer.decode(ids[1], skip_special_tokens=True).replace(" ", "") == "ünïcödé🙂\\o/漢字"


def test_both_lora_formats_reach_diffusers_with_the_same_matrices() -> None:
    names = ("unet.down_blocks.0.resnets.0.conv1", "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = torch.randn(UNET_RANK, 5, dtype=torch.float16)
        tensors[f"{name}.lora_B.weight"] = torch.randn(7, UNET_RANK, dtype=torch.float16)
    text = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"
    tensors[f"{text}.lora_A.weight"] = torch.randn(TEXT_RANK, 5, dtype=torch.float16)
    tensors[f"{text}.lora_B.weight"] = torch.randn(5, TEXT_RANK, dtype=torch.float16)

    kohya, alphas = StableDiffusionXLPipeline.lora_state_dict(to_kohya(tensors))
    plain, _ = StableDiffusionXLPipeline.lora_state_dict(to_diffusers(tensors))

    assert len(kohya) == len(plain) == len(tensors)
    assert sorted(tuple(v.shape) for v in kohya.values()) == sorted(tuple(v.shape) for v in tensors.values())
    assert set(alphas.values()) == {float(UNET_RANK), float(TEXT_RANK)}


def test_every_face_size_belongs_to_exactly_one_stride() -> None:
    for size in (12.0, 30.0, 50.0, 63.0, 70.0, 110.0):
        box = torch.tensor([[[64 - size / 2, 64 - size / 2, 64 + size / 2, 64 + size / 2]]])
        points = torch.full((1, 1, 5, 2), 64.0)
        answering = [stride for stride in STRIDES if (_targets(box, points, stride)[0] > 0).any()]
        assert len(answering) == 1, size


def test_the_detectors_outputs_are_in_scrfd_order() -> None:
    out = Detector().eval()(torch.zeros(1, 3, 64, 96))
    rows = [2 * (64 // s) * (96 // s) for s in STRIDES]
    assert [tuple(o.shape) for o in out] == [(n, width) for width in (1, 4, 10) for n in rows]


def test_a_mirrored_face_keeps_its_landmarks_in_order() -> None:
    boxes = torch.tensor([[[20.0, 30.0, 60.0, 80.0]]])
    points = torch.tensor([[[[30.0, 50], [50, 50], [40, 60], [33, 70], [47, 70]]]])
    picture = torch.zeros(1, 3, 128, 128)
    picture[..., 50, 30] = 1.0
    flipped, turned, swapped = mirror(picture, boxes, points)
    assert turned.tolist() == [[[68.0, 30.0, 108.0, 80.0]]]
    assert (swapped[0, 0, 0, 0] < swapped[0, 0, 1, 0]).item()
    assert flipped[..., 50, 128 - 30 - 1].sum() == 3
