"""The studio's recipe can be stopped anywhere and goes on as if nothing had happened."""

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLPipeline
from PIL import Image
from small_world import rendered
from torch import Tensor, nn
from transformers import AutoImageProcessor

from imagelab.puppets.train import dataset, truth
from imagelab.puppets.train.annotators import TASKS, annotator_processor, train_annotator
from imagelab.puppets.train.control import build_union, train_controlnet, train_union
from imagelab.puppets.train.dataset import build_example, face_weights
from imagelab.puppets.train.detector import STRIDES, Detector, _targets, mirror
from imagelab.puppets.train.export import export_recogniser, save_controlnet
from imagelab.puppets.train.loop import Plan, rate_at, train
from imagelab.puppets.train.lora import CONCEPTS, to_diffusers, to_kohya
from imagelab.puppets.train.parallel import average_gradients, split_over_cores
from imagelab.puppets.train.text import CONTEXT, token_ids, train_tokenizer
from imagelab.puppets.train.tiny_vae import build_tiny_vae, decode_lessons, train_tiny_vae

WEIGHTS = Path(str(files("imagelab.puppets"))) / "weights"


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
    concept = CONCEPTS["luca"]
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_A.weight"] = torch.randn(concept.rank, 5, dtype=torch.float16)
        tensors[f"{name}.lora_B.weight"] = torch.randn(7, concept.rank, dtype=torch.float16)
    text = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"
    tensors[f"{text}.lora_A.weight"] = torch.randn(concept.text_rank, 5, dtype=torch.float16)
    tensors[f"{text}.lora_B.weight"] = torch.randn(5, concept.text_rank, dtype=torch.float16)

    kohya, alphas = StableDiffusionXLPipeline.lora_state_dict(to_kohya(tensors))
    plain, _ = StableDiffusionXLPipeline.lora_state_dict(to_diffusers(tensors))

    assert len(kohya) == len(plain) == len(tensors)
    assert sorted(tuple(v.shape) for v in kohya.values()) == sorted(tuple(v.shape) for v in tensors.values())
    assert set(alphas.values()) == {float(concept.rank), float(concept.text_rank)}


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


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Render a world of a few pictures, with latents of the right shape, and make it the studio's whole."""
    work = tmp_path_factory.mktemp("studio")
    with rendered(work) as patch:
        for name, bucket in dataset.BUCKETS.items():
            patch.setitem(truth.PICTURES, name, 3)
            shape = (bucket.pictures, 4, bucket.height // 8, bucket.width // 8)
            torch.save(torch.randn(shape, generator=torch.manual_seed(0)), work / "data" / f"{name}.latents.pt")
        yield work


def test_ground_truth_belongs_to_the_training_pictures(small_world: Path) -> None:
    known = truth.render_truth("portrait", small_world / "data", workers=1)
    pictures = dataset.render_bucket("portrait", small_world / "data").images[: len(known)]
    assert known.depth.shape == known.parts.shape == pictures.shape[:3]
    assert known.normals.shape == pictures.shape
    for depth, parts, points in zip(known.depth, known.parts, known.keypoints, strict=True):
        assert ((depth > 0) == (parts > 0)).all()  # what is nearer than the backdrop is a part
        x, y = points[points[:, 2] > 0, :2].astype(int).T
        assert (parts[y, x] > 0).mean() >= 0.8  # joints lie in bodies; an ear may stick out by a pixel


def test_the_tiny_vae_learns_what_the_vae_shows_and_goes_on_from_its_lessons(small_world: Path) -> None:
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "base" / "vae", dtype=torch.float32)
    lessons = decode_lessons(vae, small_world)
    assert np.array_equal(decode_lessons(vae, small_world).latents, lessons.latents)  # read, not made again
    with torch.no_grad():
        shown = vae.decode(torch.from_numpy(lessons.latents[:1]) / vae.config.scaling_factor).sample
    levels = (shown[0].permute(1, 2, 0).clamp(-1, 1).numpy() + 1) * 127.5
    assert np.abs(levels - lessons.pictures[0]).max() <= 0.51

    tiny = train_tiny_vae(vae, small_world, plan=Plan(steps=3, rate=1e-3, warmup=1, average=0.5))
    torch.manual_seed(0)
    learnt = [not torch.equal(a, b) for a, b in zip(tiny.parameters(), build_tiny_vae().parameters(), strict=True)]
    assert all(learnt)
    assert not any(parameter.any() for parameter in tiny.encoder.parameters())
    assert tiny.decode(torch.zeros(1, 4, 12, 20)).sample.shape == (1, 3, 96, 160)


@pytest.mark.parametrize("task", TASKS)
def test_every_annotator_learns_and_comes_back_from_its_folder(task: str, small_world: Path, tmp_path: Path) -> None:
    plan = Plan(steps=2, rate=1e-3, warmup=1, average=0.5)
    model = train_annotator(task, small_world, plan=plan)
    untrained = TASKS[task][0]()
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), untrained.parameters(), strict=True))
    model.save_pretrained(tmp_path)
    annotator_processor(task).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    picture = Image.fromarray(dataset.render_bucket("square", small_world / "data").images[0])
    boxes = {"boxes": [[[0, 0, 128, 128]]]} if task == "pose" else {}
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt", **boxes).pixel_values
    with torch.no_grad():
        for a, b in zip(again(pixels).to_tuple(), model(pixels).to_tuple(), strict=True):
            assert torch.equal(a, b)


def test_controlnets_start_without_effect_learn_and_survive_their_short_numbers(
    small_world: Path, tmp_path: Path
) -> None:
    plan = Plan(steps=2, rate=1e-3, warmup=1)
    pipe = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "base", dtype=torch.float32)
    fresh = build_union(pipe.unet)
    noisy, times, text = torch.randn(2, 4, 16, 16), torch.tensor([10, 500]), torch.randn(2, 77, 128)
    one_of_six = torch.eye(6)[:1].repeat(2, 1)
    maps = torch.rand(2, 3, 128, 128)
    down, mid = fresh(noisy, times, text, [maps], one_of_six, [0], conditioning_scale=[1.0], return_dict=False)
    assert not any(residual.any() for residual in (*down, mid))

    union = train_union(pipe, small_world, plan=plan)
    net = train_controlnet(pipe, "depth", union, small_world, plan=plan)
    expected = net(noisy, times, text, maps, return_dict=False)
    assert any(residual.any() for residual in (*expected[0], expected[1]))

    save_controlnet(net, tmp_path)
    stored_bytes = (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_size
    assert stored_bytes < 1.2 * sum(p.numel() for p in net.parameters())
    again = ControlNetModel.from_pretrained(tmp_path, dtype=torch.float32)(noisy, times, text, maps, return_dict=False)
    for found, wanted in zip((*again[0], again[1]), (*expected[0], expected[1]), strict=True):
        assert (found - wanted).norm() <= 0.1 * wanted.norm()  # float8 has three bits behind the point


def test_short_onnx_weights_compute_the_same(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.rand(1, 3, 112, 112)
    export_recogniser(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"face": x.numpy()})
    np.testing.assert_allclose(found, net(x).detach().numpy(), atol=2e-3)
    stored = onnx.load(tmp_path / "net.onnx").graph.initializer
    assert all(t.data_type == onnx.TensorProto.FLOAT16 for t in stored if len(t.dims) > 1)
