"""The pipeline: encodes whole prompts, draws what diffusers draws, and refuses what isn't a picture."""

import json
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from handmade_checkpoint import single_file_tensors
from memory_policies import with_memory
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel

from imagelab import (
    CharacterGenerator,
    GenerationError,
    GenerationRequest,
    InvalidValueError,
    ModelFileError,
    ModelNotFoundError,
)
from imagelab.config import MemoryPolicy, Source
from imagelab.devices import resolve_device
from imagelab.encoding import count_chunks, encode_prompt
from imagelab.loading import load_pipeline
from imagelab.models import SDXL, resolve_source
from imagelab.pipeline import apply_memory_policy, build_scheduler, draw
from imagelab.prompts import Prompt

ROOT = Path(__file__).parents[2]
SCHEDULERS = ["euler", "euler_a", "euler_trailing", "dpmpp_2m", "dpmpp_2m_karras", "ddim", "unipc", "lcm", "tcd"]
LONG = ", ".join(f"a small red house number {number} on the hill by the sea" for number in range(12))


@pytest.fixture(scope="module")
def loaded(configs):
    return load_pipeline(configs.profile("puppet"), "cpu")


@pytest.fixture(scope="module")
def pipe(loaded):
    return loaded.pipe


@pytest.fixture
def paint(loaded, configs):
    """Draw with few steps; anything can be overridden."""

    def paint(prompt="luca on the beach", negative="blurry", scheduler="euler", on_step=None, seed=1, **given):
        embeddings = encode_prompt(loaded.pipe, Prompt(positive=prompt, negative=negative))
        settings = {"width": 128, "height": 128, "steps": 4, "guidance_scale": 4.0} | given
        scheduler = configs.scheduler(scheduler)
        return draw(loaded, embeddings, scheduler, seeds=[seed], on_step=on_step, **settings)[0]

    return paint


# --- prompts


def embeddings_of(pipe, positive, negative=""):
    encoded = encode_prompt(pipe, Prompt(positive=positive, negative=negative))
    return encoded.positive, encoded.negative, encoded.pooled_positive, encoded.pooled_negative


@pytest.mark.parametrize("positive", ["luca", "luca, brown eyes, running on the beach", "", "naïve café, 3d — ☂"])
@pytest.mark.parametrize("negative", ["", "blurry, low quality"])
def test_a_plain_short_prompt_is_encoded_as_by_diffusers_to_the_bit(pipe, positive, negative):
    theirs = pipe.encode_prompt(positive, negative_prompt=negative or None, do_classifier_free_guidance=True)
    for mine, reference in zip(embeddings_of(pipe, positive, negative), theirs, strict=True):
        assert torch.equal(mine, reference)


def test_an_empty_negative_prompt_is_zeros_where_the_model_was_trained_so(pipe):
    was = pipe.config.force_zeros_for_empty_prompt
    pipe.register_to_config(force_zeros_for_empty_prompt=True)
    try:
        theirs = pipe.encode_prompt("luca", negative_prompt=None, do_classifier_free_guidance=True)
        ours = embeddings_of(pipe, "luca")
    finally:
        pipe.register_to_config(force_zeros_for_empty_prompt=was)
    assert not ours[1].any()
    assert all(torch.equal(mine, reference) for mine, reference in zip(ours, theirs, strict=True))


def test_a_long_prompt_is_encoded_to_its_last_word(pipe):
    one, other = (embeddings_of(pipe, f"{LONG}, {end}")[0] for end in ("a red hat", "a blue hat"))
    assert one.shape[1] == 77 * count_chunks(pipe, LONG + ", a red hat") > 77
    assert not torch.equal(one, other)
    assert torch.equal(one[:, :77], other[:, :77])


def test_both_prompts_get_the_same_number_of_chunks(pipe):
    positive, negative, pooled, pooled_negative = embeddings_of(pipe, "luca", LONG)
    assert positive.shape == negative.shape
    short = embeddings_of(pipe, "luca", "")
    assert torch.equal(positive[:, :77], short[0]), "what is added comes after"
    assert torch.equal(pooled, short[2])
    assert pooled.shape == pooled_negative.shape


def test_a_chunk_ends_at_a_comma(pipe):
    words = "red " * 60
    one = embeddings_of(pipe, f"{words}, {'blue ' * 40}")[0]
    first = embeddings_of(pipe, f"{words},")[0]
    assert torch.equal(one[:, :77], first)


def test_weight_one_in_any_spelling_changes_nothing(pipe):
    plain, weighted = (embeddings_of(pipe, text) for text in ("a red hat", "a (red:1.0) hat"))
    assert torch.equal(plain[0], weighted[0])


def test_weights_move_their_own_tokens_only(pipe):
    plain, strong, weak = (embeddings_of(pipe, text)[0] for text in ("hat red", "hat (red:1.5)", "hat [red]"))
    red = [i for i in range(77) if not torch.equal(plain[0, i], strong[0, i])]
    assert red
    assert red == [i for i in range(77) if not torch.equal(plain[0, i], weak[0, i])]
    assert len(red) <= len(pipe.tokenizer(" red", add_special_tokens=False).input_ids)
    assert (strong[0, red] - weak[0, red]).norm() > (strong[0, red] - plain[0, red]).norm()


def test_weight_zero_leaves_what_an_empty_prompt_has_there(pipe):
    nothing, empty = (embeddings_of(pipe, text)[0] for text in ("(red:0)", ""))
    own = slice(1, 1 + len(pipe.tokenizer("red", add_special_tokens=False).input_ids))
    torch.testing.assert_close(nothing[0, own], empty[0, own])


def test_escaped_brackets_are_drawn_not_weighed(pipe):
    theirs = pipe.encode_prompt("a hat (red)", do_classifier_free_guidance=True)[0]
    assert torch.equal(embeddings_of(pipe, r"a hat \(red\)")[0], theirs)


# --- drawing


def test_a_picture_is_the_one_that_diffusers_draws(pipe, paint):
    ours = paint(seed=7, steps=5)
    theirs = pipe(
        "luca on the beach",
        negative_prompt="blurry",
        num_inference_steps=5,
        guidance_scale=4.0,
        width=128,
        height=128,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_scheduler_draws_the_same_picture_for_the_same_seed(configs, loaded, paint, name, caplog):
    scheduler = build_scheduler(configs.scheduler(name), loaded.scheduler_config)
    assert type(scheduler).__name__ == configs.scheduler(name).class_name
    assert scheduler.config.prediction_type == loaded.scheduler_config["prediction_type"]
    for key, value in configs.scheduler(name).kwargs.items():
        assert scheduler.config[key] == value
    first = paint(scheduler=name)
    paint(scheduler="unipc", seed=99)
    assert paint(scheduler=name).tobytes() == first.tobytes()
    assert not caplog.records, "a setting that the scheduler doesn't know is left out, not logged about"


def test_every_scheduler_of_the_configuration_is_tried_above(configs):
    assert set(configs.sdxl.schedulers) == set(SCHEDULERS)


def test_the_noise_is_the_seeds_alone(paint):
    seen = {}

    def first_latents(name):
        return lambda step, _, latents: seen.setdefault(name, latents.clone()) if step == 1 else None

    paint(seed=3, on_step=first_latents("one"))
    torch.manual_seed(12345)
    torch.randn(100)
    paint(seed=3, on_step=first_latents("two"))
    paint(seed=4, on_step=first_latents("three"))
    assert torch.equal(seen["one"], seen["two"])
    assert not torch.equal(seen["one"], seen["three"])


def test_steps_are_reported_as_they_are_done(paint):
    steps = []
    paint(width=96, height=160, steps=3, on_step=lambda *given: steps.append((*given[:2], tuple(given[2].shape))))
    assert steps == [(1, 3, (1, 4, 20, 12)), (2, 3, (1, 4, 20, 12)), (3, 3, (1, 4, 20, 12))]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_errors_that_name_the_step(pipe, paint, value):
    calls = []

    def spoil(_, __, output):
        calls.append(None)
        if len(calls) == 3:
            output[0][0, 0, 0, 0] = value

    with pipe.unet.register_forward_hook(spoil), pytest.raises(GenerationError, match="after step 3 of 4"):
        paint()
    assert paint()


def test_a_decoder_that_overflows_is_an_error_not_a_black_picture(pipe, paint):
    def spoil(_, __, output):
        output[0, 0, 5, 5] = float("nan")

    with pipe.vae.decoder.register_forward_hook(spoil), pytest.raises(GenerationError, match="decoded picture"):
        paint()


def test_a_picture_of_one_colour_is_an_error(pipe, paint):
    with (
        pipe.vae.decoder.register_forward_hook(lambda *given: torch.zeros_like(given[2])),
        pytest.raises(GenerationError, match="one colour"),
    ):
        paint()


def test_running_out_of_gpu_memory_is_an_error_that_says_what_to_do(pipe, paint):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pipe.unet.register_forward_pre_hook(run_out), pytest.raises(GenerationError, match="model_offload"):
        paint()


# --- set-up


def test_attention_is_pytorchs_own_and_xformers_is_never_imported(pipe, paint):
    paint()
    for module in (pipe.unet, pipe.vae):
        assert {type(processor) for processor in module.attn_processors.values()} <= {AttnProcessor2_0}
    assert pipe.unet.attn_processors
    assert pipe.text_encoder.config._attn_implementation == "sdpa"
    assert "xformers" not in sys.modules


def test_nothing_is_left_in_training_mode(pipe):
    for module in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.fixture
def memory(pipe, configs):
    """Apply a memory policy for one test."""
    usual = configs.profile("puppet").memory

    def memory(**changes):
        return apply_memory_policy(pipe, MemoryPolicy(**(usual.model_dump() | changes)), torch.device("cpu"))

    yield memory
    apply_memory_policy(pipe, usual, torch.device("cpu"))


def decoder_inputs(pipe, paint, **given):
    shapes = []
    with pipe.vae.decoder.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[-2:]))):
        picture = paint(**given)
    return picture, shapes


def test_tiling_really_tiles(pipe, paint, memory):
    whole, shapes = decoder_inputs(pipe, paint)
    assert shapes == [(16, 16)]
    memory(vae_tiling=True, vae_tile_px=64)
    tiled, shapes = decoder_inputs(pipe, paint)
    assert len(shapes) == 9, "tiles of 64 px overlap by a quarter: three to a side of 128 px"
    assert max(max(shape) for shape in shapes) == 8
    assert tiled.size == whole.size
    difference = torch.tensor(list(tiled.tobytes())).sub(torch.tensor(list(whole.tobytes()))).abs().float().mean()
    assert difference < 32, "the same picture, but for the seams"


def test_no_profile_tiles_until_memory_asks_for_it_and_then_each_does_at_its_default_sizes(configs):
    for profile in configs.sdxl.profiles.values():
        assert not profile.memory.vae_tiling
        # The VAE tiles a picture only if it is larger than a tile.
        assert all(profile.memory.vae_tile_px < min(size) for size in profile.sizes.values())


def test_the_vae_of_sdxls_shape_tiles_at_1024(configs):
    from diffusers import AutoencoderKL

    from imagelab.pipeline import _tile_vae

    narrow = {"block_out_channels": (4, 4, 4, 4), "norm_num_groups": 2, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**narrow, **blocks, sample_size=1024, mid_block_add_attention=False).eval()
    assert vae.tile_sample_min_size == 1024, "diffusers' default, which tiles nothing"
    _tile_vae(vae, configs.profile("sdxl").memory.model_copy(update={"vae_tiling": True}))
    calls = []
    with torch.no_grad(), vae.decoder.register_forward_hook(lambda *_: calls.append(None)):
        vae.decode(torch.zeros(1, 4, 128, 128))
    assert len(calls) == 9


def test_slicing_can_be_switched_on_and_off(pipe, memory):
    memory(vae_slicing=True)
    assert pipe.vae.use_slicing
    memory(vae_slicing=False)
    assert not pipe.vae.use_slicing


@pytest.mark.parametrize("policy", ["model_offload", "sequential_offload"])
def test_offloading_without_cuda_is_reported_not_pretended(paint, memory, policy):
    (degraded,) = memory(policy=policy)
    assert policy in degraded
    assert "cpu" in degraded
    assert paint()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused_and_auto_finds_the_cpu():
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:3", "cuda:256", f"cuda:{10**20}", "gpu"):
        with pytest.raises(InvalidValueError, match=f"PyTorch sees .*'{name}'"):
            resolve_device(name)


# --- loading


@pytest.fixture
def copied(configs, tmp_path, monkeypatch):
    """A copy of the puppet's base model that a test may damage, and a function that loads it."""
    base = tmp_path / "base"
    shutil.copytree(resolve_source(configs.profile("puppet").base), base)
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    profile = configs.profile("puppet").model_copy(update={"base": Source(folder="base")})
    return base, lambda: load_pipeline(profile, "cpu")


def test_a_folder_of_ones_own_is_loaded_and_hashed(copied, loaded):
    base, load = copied
    there = load()
    assert len(there.sha256) == len(list(base.rglob("*.safetensors"))) == 4
    assert there.sha256.items() <= loaded.sha256.items(), "the package's list says the same"


def test_half_precision_variants_are_found(copied):
    base, load = copied
    for path in list(base.rglob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    there = load()
    assert all(name.endswith(".fp16.safetensors") for name in there.sha256)
    assert there.pipe.unet.dtype == torch.float32


def test_a_vae_of_its_own_replaces_the_bases(copied, configs, tmp_path):
    base, _ = copied
    shutil.copytree(base / "vae", tmp_path / "other vae")
    tensors = load_file(base / "vae" / "diffusion_pytorch_model.safetensors")
    tensors["decoder.conv_out.bias"] += 0.25
    save_file(tensors, tmp_path / "other vae" / "diffusion_pytorch_model.safetensors")
    update = {"base": Source(folder="base"), "vae": Source(folder="other vae")}
    there = load_pipeline(configs.profile("puppet").model_copy(update=update), "cpu")
    torch.testing.assert_close(there.pipe.vae.decoder.conv_out.bias.data, tensors["decoder.conv_out.bias"].float())
    assert "vae override/diffusion_pytorch_model.safetensors" in there.sha256


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def cut(base):
    (base / WEIGHTS).write_bytes((base / WEIGHTS).read_bytes()[:-1000])


def drop_a_tensor(base):
    tensors = load_file(base / WEIGHTS)
    del tensors["conv_out.bias"]
    save_file(tensors, base / WEIGHTS)


def drop_a_text_tensor(base):
    path = base / "text_encoder_2" / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if "fc1" in key)]
    save_file(tensors, path)


def change_a_shape(base):
    tensors = load_file(base / WEIGHTS)
    tensors["conv_out.bias"] = torch.zeros(5)
    save_file(tensors, base / WEIGHTS)


def use_another_class(base):
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))


def break_the_config(base):
    (base / "unet" / "config.json").write_text('{"_class_name": ')


DAMAGES = {
    "truncated": (cut, "truncated"),
    "a pickle": (lambda base: (base / WEIGHTS).write_bytes(b"\x80\x04canary"), "pickle"),
    "no weights": (lambda base: (base / WEIGHTS).unlink(), "unet"),
    "a tensor too few": (drop_a_tensor, "conv_out.bias"),
    "a text tensor too few": (drop_a_text_tensor, "fc1"),
    "another shape": (change_a_shape, "conv_out"),
    "no index": (lambda base: (base / "model_index.json").unlink(), "model_index.json"),
    "another pipeline": (use_another_class, "StableDiffusionPipeline"),
    "half a config": (break_the_config, "unet"),
    "no tokenizer": (lambda base: shutil.rmtree(base / "tokenizer"), "tokenizer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_error_of_ours_that_names_the_place(copied, damage):
    base, load = copied
    spoil, place = DAMAGES[damage]
    spoil(base)
    with pytest.raises(ModelFileError) as refusal:
        load()
    assert place in str(refusal.value)
    assert str(base) in str(refusal.value)


def test_a_model_that_is_not_there_says_where_to_put_it(copied, tmp_path):
    base, load = copied
    shutil.rmtree(base)
    with pytest.raises(ModelNotFoundError) as refusal:
        load()
    assert str(tmp_path / "base") in str(refusal.value)
    assert "puppet" in str(refusal.value)


@pytest.fixture(scope="module")
def tiny(pipe):
    """An untrained SDXL whose text encoders differ in width: by that, diffusers tells them apart in a single file."""
    torch.manual_seed(0)
    wide = pipe.text_encoder_2.config.hidden_size
    narrow = CLIPTextModel(CLIPTextConfig(**pipe.text_encoder.config.to_dict() | {"hidden_size": wide // 2}))
    unet = UNet2DConditionModel.from_config(pipe.unet.config, cross_attention_dim=wide // 2 + wide)
    return StableDiffusionXLPipeline(**pipe.components | {"text_encoder": narrow, "unet": unet}, add_watermarker=False)


@pytest.fixture
def single_file(configs, tiny, tmp_path, monkeypatch):
    """A checkpoint under the model root, the rest of its model in the hub's cache; a profile that draws with it."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / f"models--{SDXL.repo.replace('/', '--')}" / "snapshots" / SDXL.revision
    tiny.save_pretrained(snapshot)
    for weights in snapshot.rglob("*.safetensors"):
        weights.unlink()
    save_file(single_file_tensors(tiny), tmp_path / "xl.safetensors")
    vae = Source(package="puppets/weights/base/vae")
    return configs.profile("puppet").model_copy(update={"base": Source(single_file="xl.safetensors"), "vae": vae})


def test_a_single_file_gives_the_pipeline_that_it_was_made_from(single_file, tiny):
    there = load_pipeline(single_file, "cpu")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        torch.testing.assert_close(getattr(there.pipe, part).state_dict(), getattr(tiny, part).state_dict())
    assert "xl.safetensors" in there.sha256


@pytest.fixture
def hub():
    """A stand-in for the hub that has nothing; gives its address and what it was asked for."""
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815  the server's name for it

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_single_file_is_loaded_without_asking_the_hub_for_anything(single_file, hub, monkeypatch):
    address, asked = hub
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", address)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    code = "import sys; from imagelab.config import Profile; from imagelab.loading import load_pipeline"
    code += "; load_pipeline(Profile.model_validate_json(sys.stdin.read()), 'cpu')"
    subprocess.run([sys.executable, "-c", code], input=single_file.model_dump_json(), text=True, check=True, cwd=ROOT)
    assert asked == []


def test_a_single_file_without_the_rest_of_sdxl_says_how_to_fetch_that(single_file, tmp_path):
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(ModelNotFoundError) as refusal:
        load_pipeline(single_file, "cpu")
    assert f"--revision {SDXL.revision} --include '*.json' --include '*.txt'" in str(refusal.value)


def test_a_single_file_that_lacks_a_tensor_is_refused(single_file, tmp_path):
    tensors = load_file(tmp_path / "xl.safetensors")
    del tensors["conditioner.embedders.1.model.ln_final.bias"]
    save_file(tensors, tmp_path / "xl.safetensors")
    with pytest.raises(ModelFileError, match=r"text_encoder_2.*final_layer_norm.bias"):
        load_pipeline(single_file, "cpu")


def test_a_damaged_single_file_is_refused(single_file, tmp_path):
    (tmp_path / "xl.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ModelFileError, match="truncated"):
        load_pipeline(single_file, "cpu")


def test_a_single_file_that_holds_no_sdxl_is_refused(single_file, tmp_path):
    save_file(
        {"cond_stage_model.a": torch.zeros(2), "model.diffusion_model.a": torch.zeros(2)}, tmp_path / "xl.safetensors"
    )
    with pytest.raises(ModelFileError, match="no first text encoder"):
        load_pipeline(single_file, "cpu")


def test_memory_policy_and_degradation_are_in_the_record(configs):
    with CharacterGenerator("puppet", "cpu", with_memory(configs, policy="model_offload")) as generator:
        request = GenerationRequest(character=None, scene_description="a hat", steps=2, seed=1)
        record = generator.generate(request).record
    assert record.memory_policy == "model_offload"
    assert record.degraded == ("model_offload needs CUDA: the models stay on cpu",)


def test_drawing_needs_no_progress_bar(paint, capfd):
    paint()
    assert capfd.readouterr() == ("", "")


def test_the_pipeline_is_diffusers_own(pipe):
    assert type(pipe) is StableDiffusionXLPipeline
