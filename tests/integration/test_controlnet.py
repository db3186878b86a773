"""ControlNets while drawing: they act as in diffusers' own pipelines, share the models, and leave no trace."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    MultiControlNetModel,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from handmade_controls import plain_net, save_annotators, save_nets, with_controls
from memory_policies import with_memory
from PIL import Image
from safetensors.torch import load_file, save_file

from imagelab import CharacterGenerator, GenerationRecord, GenerationRequest, InvalidValueError, ModelFileError
from imagelab.batch import BatchImageGenerator
from imagelab.config import Source
from imagelab.control_set import ControlSet
from imagelab.controlnet import LoadedNet, attached, load_controlnet
from imagelab.controls import control_uses, plan_controls
from imagelab.encoding import encode_prompt
from imagelab.errors import ControlMapError, GenerationError, ImageFileError, ModelNotFoundError
from imagelab.imagefiles import pixels_sha256, read_record
from imagelab.pipeline import build_scheduler
from imagelab.plan import plan_generation
from imagelab.results import ControlUse

STEPS = 4
SIDE = 64


@pytest.fixture(scope="module", autouse=True)
def models(generator, tmp_path_factory):
    """A model root with untrained ControlNets and annotators."""
    root = tmp_path_factory.mktemp("models")
    save_nets(root / "controlnets", generator.pipeline.unet)
    save_annotators(root / "annotators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGELAB_MODELS", str(root))
        yield root


@pytest.fixture(scope="module")
def drawer(configs):
    with CharacterGenerator("puppet", "cpu", with_controls(configs)) as drawer:
        yield drawer


@pytest.fixture(scope="module")
def maps():
    """A control map for each seed, of the size that is drawn."""
    return [
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))
        for seed in range(3)
    ]


@pytest.fixture(scope="module")
def plain(drawer):
    """The picture without a control."""
    return drawer.generate(ask()).image


def ask(*controls, character=None, **change):
    uses = tuple(ControlUse(**{"image": Path("drawn"), "is_map": True, "scale": 1.0} | control) for control in controls)
    request = {"scene_description": "on the beach", "seed": 3, "steps": STEPS, "width": SIDE, "height": SIDE}
    return GenerationRequest(character=character, controls=uses, **(request | change))


def pixels(image):
    return np.asarray(image).astype(int)


def theirs(drawer, request, pipeline_class, controlnet, **control):
    """What diffusers' own pipeline draws for a request."""
    loaded = drawer.load()
    plan = plan_generation(drawer.configs, drawer.profile, replace(request, controls=()))
    pipe = pipeline_class(**loaded.pipe.components, controlnet=controlnet, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = build_scheduler(plan.scheduler, loaded.scheduler_config)
    embeddings = encode_prompt(loaded.pipe, plan.prompt)
    generator = torch.Generator("cpu").manual_seed(plan.seed)
    return pipe(
        prompt_embeds=embeddings.positive,
        negative_prompt_embeds=embeddings.negative,
        pooled_prompt_embeds=embeddings.pooled_positive,
        negative_pooled_prompt_embeds=embeddings.pooled_negative,
        latents=torch.randn((1, 4, SIDE // 8, SIDE // 8), generator=generator),
        generator=generator,
        width=SIDE,
        height=SIDE,
        num_inference_steps=STEPS,
        guidance_scale=plan.guidance_scale,
        **control,
    ).images[0]


def read(net_class, folder):
    return net_class.from_pretrained(folder, dtype=torch.float32).requires_grad_(False).eval()


def test_a_control_changes_the_picture_and_then_leaves_no_trace(drawer, maps, plain):
    controlled = drawer.generate(ask({"type": "pose", "picture": maps[0]}))
    assert np.abs(pixels(controlled.image) - pixels(plain)).mean() > 1
    assert drawer.generate(ask()).image.tobytes() == plain.tobytes()
    again = drawer.generate(ask({"type": "pose", "picture": maps[0]}))
    assert again.image.tobytes() == controlled.image.tobytes()


@pytest.mark.parametrize(
    "controls",
    [
        [{"type": "pose"}],
        [{"type": "canny"}],
        [{"type": "seg"}],
        [{"type": "pose", "model": "union"}, {"type": "seg"}],
        [{"type": "pose"}, {"type": "depth"}, {"type": "normal"}],
    ],
    ids=lambda controls: "+".join(control["type"] for control in controls),
)
def test_a_scale_of_zero_is_no_control_to_the_bit(drawer, maps, plain, controls):
    off = [control | {"picture": maps[0], "scale": 0.0} for control in controls]
    assert drawer.generate(ask(*off)).image.tobytes() == plain.tobytes()


def test_one_control_is_diffusers_own_pipeline_to_the_bit(drawer, models, maps):
    request = ask({"type": "canny", "picture": maps[0], "scale": 0.7, "start": 0.0, "end": 0.5})
    net = read(ControlNetModel, models / "controlnets" / "canny")
    expected = theirs(
        drawer, request, StableDiffusionXLControlNetPipeline, net,
        image=maps[0], controlnet_conditioning_scale=0.7, control_guidance_end=0.5,
    )  # fmt: skip
    assert drawer.generate(request).image.tobytes() == expected.tobytes()


def test_two_controls_at_once_are_diffusers_own_multi_pipeline_to_the_bit(drawer, models, maps):
    first = {"type": "canny", "picture": maps[0], "scale": 0.7, "start": 0.0, "end": 0.75}
    second = {"type": "pose", "picture": maps[1], "scale": 1.2, "start": 0.25, "end": 1.0}
    nets = MultiControlNetModel([read(ControlNetModel, models / "controlnets" / name) for name in ("canny", "pose")])
    expected = theirs(
        drawer, ask(), StableDiffusionXLControlNetPipeline, nets,
        image=maps[:2], controlnet_conditioning_scale=[0.7, 1.2],
        control_guidance_start=[0.0, 0.25], control_guidance_end=[0.75, 1.0],
    )  # fmt: skip
    ours = drawer.generate(ask(first, second)).image
    assert ours.tobytes() == expected.tobytes()
    assert ours.tobytes() != drawer.generate(ask(second)).image.tobytes()


@pytest.mark.parametrize("modes", [{"pose": 0}, {"seg": 5}, {"pose": 0, "depth": 1}], ids=str)
def test_a_union_controlnet_is_diffusers_own_union_pipeline_to_the_bit(drawer, models, maps, modes):
    scales = [0.8, 1.1][: len(modes)]
    controls = [
        {"type": name, "model": "union", "picture": image, "scale": scale, "start": 0.0, "end": 1.0}
        for name, image, scale in zip(modes, maps, scales, strict=False)
    ]
    expected = theirs(
        drawer, ask(), StableDiffusionXLControlNetUnionPipeline,
        read(ControlNetUnionModel, models / "controlnets" / "union"),
        control_image=maps[: len(modes)], control_mode=list(modes.values()), controlnet_conditioning_scale=scales,
    )  # fmt: skip
    assert drawer.generate(ask(*controls)).image.tobytes() == expected.tobytes()


def test_a_control_of_a_union_controlnet_beside_another_is_absent_at_0(drawer, maps):
    pose = {"type": "pose", "model": "union", "picture": maps[0], "end": 1.0}
    gone = {"type": "depth", "model": "union", "picture": maps[1], "scale": 0.0}
    alone = drawer.generate(ask(pose)).image
    assert drawer.generate(ask(pose, gone)).image.tobytes() == alone.tobytes()


def test_dedicated_and_union_controlnets_act_together(drawer, maps):
    both = [{"type": "canny", "picture": maps[0]}, {"type": "seg", "picture": maps[1]}]
    record = drawer.generate(ask(*both)).record
    assert [control.model for control in record.controls] == ["dedicated", "union"]
    together = drawer.generate(ask(*both)).image.tobytes()
    assert together not in {drawer.generate(ask(control)).image.tobytes() for control in both}


def test_a_window_is_obeyed(drawer, maps):
    latents = {}

    def run(key, *controls):
        seen = latents.setdefault(key, [])
        drawer.generate(ask(*controls), on_step=lambda _, __, now: seen.append(now.clone()))

    run("plain")
    run("late", {"type": "pose", "picture": maps[0], "start": 0.5, "end": 1.0})
    run("early", {"type": "pose", "picture": maps[0], "start": 0.0, "end": 0.5})
    run("whole", {"type": "pose", "picture": maps[0], "start": 0.0, "end": 1.0})
    assert all(torch.equal(latents["late"][step], latents["plain"][step]) for step in (0, 1))
    assert not torch.equal(latents["late"][2], latents["plain"][2])
    assert all(torch.equal(latents["early"][step], latents["whole"][step]) for step in (0, 1))
    assert not torch.equal(latents["early"][2], latents["whole"][2])


def test_the_unet_is_shared_not_copied_and_keeps_its_dtype(drawer, maps):
    loaded = drawer.load()
    before = {name: value.data_ptr() for name, value in loaded.pipe.unet.state_dict().items()}
    use = {"type": "pose", "image": Path("drawn"), "picture": maps[0], "is_map": True}
    plans = plan_controls(drawer.configs, drawer.profile, [ControlUse(**use)], STEPS)
    net = load_controlnet(plans[0], loaded)
    with attached(loaded, [net], plans, drawer.profile.memory) as pipe:
        assert pipe.unet is loaded.pipe.unet
        assert pipe.vae is loaded.pipe.vae
        assert pipe.text_encoder_2 is loaded.pipe.text_encoder_2
        assert pipe.controlnet.nets[0].dtype == pipe.unet.dtype == torch.float32, "it lies there in float16"
    assert {name: value.data_ptr() for name, value in loaded.pipe.unet.state_dict().items()} == before
    assert {value.dtype for value in loaded.pipe.unet.state_dict().values()} == {torch.float32}


def test_a_controlnet_attends_by_sdpa(drawer, models, maps):
    drawer.generate(ask({"type": "canny", "picture": maps[0]}))
    net = drawer._models.nets._nets[models / "controlnets" / "canny"].module
    assert net.attn_processors
    assert all(isinstance(processor, AttnProcessor2_0) for processor in net.attn_processors.values())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_a_controlnet_stored_in_float8_is_read_in_the_unets_dtype(configs, drawer, models, maps):
    net = plain_net(drawer.pipeline.unet, 9)
    stored = {name: value.to(torch.float8_e4m3fn) for name, value in net.state_dict().items()}
    folder = models / "controlnets" / "float8"
    net.save_pretrained(folder)
    save_file(stored, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    own = with_controls(configs, models={"pose": "float8"})
    use = ControlUse(type="pose", image=Path("drawn"), picture=maps[0], is_map=True)
    loaded = load_controlnet(plan_controls(own, drawer.profile, [use], STEPS)[0], drawer.load())
    assert loaded.module.dtype == torch.float32
    for name, value in loaded.module.state_dict().items():
        assert torch.equal(value, stored[name].float()), name


def test_loras_stay_active_beside_a_controlnet(drawer, maps):
    pose = {"type": "pose", "picture": maps[0]}
    with_lora = drawer.generate(ask(pose, character="luca"))
    without = drawer.generate(ask(pose, character="luca", use_character_loras=False))
    assert [lora.name for lora in with_lora.record.loras] == ["luca"]
    assert drawer._models.patcher.applied == ()
    assert with_lora.image.tobytes() != without.image.tobytes()
    assert drawer.generate(ask(pose, character="luca")).image.tobytes() == with_lora.image.tobytes()
    assert {record.name for record in drawer._models.patcher.applied} == {"luca"}


def test_the_former_controlnet_is_gone_when_another_one_comes(drawer, models, maps):
    drawer.generate(ask({"type": "pose", "picture": maps[0]}))
    former = weakref.ref(drawer._models.nets._nets[models / "controlnets" / "pose"].module)
    drawer.generate(ask({"type": "depth", "picture": maps[0]}))
    gc.collect()
    assert former() is None
    assert drawer._models.nets.folders == (models / "controlnets" / "depth",)


def test_as_many_controlnets_stay_as_the_configuration_says(configs, models, maps):
    with CharacterGenerator("puppet", "cpu", with_controls(configs, resident=2)) as drawer:
        for name in ("pose", "depth", "canny", "depth"):
            drawer.generate(ask({"type": name, "picture": maps[0]}))
        assert [folder.name for folder in drawer._models.nets.folders] == ["canny", "depth"]
        kept = drawer._models.nets._nets[models / "controlnets" / "canny"].module
        drawer.generate(ask({"type": "canny", "picture": maps[0]}, {"type": "seg", "picture": maps[0]}))
        assert drawer._models.nets._nets[models / "controlnets" / "canny"].module is kept
        assert {folder.name for folder in drawer._models.nets.folders} == {"canny", "union"}


def test_a_union_controlnet_is_in_memory_once_for_all_its_controls(drawer, maps):
    drawer.generate(ask(*({"type": name, "model": "union", "picture": maps[0]} for name in ("pose", "seg", "normal"))))
    assert [folder.name for folder in drawer._models.nets.folders] == ["union"]


def test_a_mode_that_a_union_controlnet_lacks_is_refused_when_it_is_fetched(configs, maps):
    own = with_controls(configs)
    seg = own.controlnet.controls["seg"].model_copy(update={"union_mode": 6})  # the first that it doesn't know
    seg._name = "seg"
    own = with_controls(configs, controls=own.controlnet.controls | {"seg": seg})
    with CharacterGenerator("puppet", "cpu", own) as drawer:
        with pytest.raises(ModelFileError, match=r"knows 6 kinds of control; union_mode 6 .*Correct union_mode of seg"):
            drawer.generate(ask({"type": "seg", "picture": maps[0]}))
        drawer.generate(ask({"type": "pose", "model": "union", "picture": maps[0]}))


@pytest.mark.filterwarnings("ignore::imagelab.errors.DegradedWarning")
def test_running_out_of_gpu_memory_beside_a_controlnet_is_an_error_and_leaves_no_trace(drawer, maps, plain):
    def run_out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    request = ask({"type": "pose", "picture": maps[0]})
    controlled = drawer.generate(request).image.tobytes()
    (net,) = drawer._models.nets._nets.values()
    with net.module.register_forward_pre_hook(run_out), pytest.raises(GenerationError, match="smaller picture"):
        drawer.generate(request)
    assert drawer.generate(request).image.tobytes() == controlled
    assert drawer.generate(ask()).image.tobytes() == plain.tobytes()


class TooLarge(ControlNetModel):
    """A ControlNet that finds no place on a GPU at the first try."""

    refused = True

    def _apply(self, function, recurse=True):
        if not self.refused:
            self.refused = True
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._apply(function, recurse)


def test_a_controlnet_that_finds_no_place_beside_the_pipeline_is_an_error(drawer, models, maps):
    drawer.load()
    net = TooLarge.from_pretrained(models / "controlnets" / "canny")
    net.refused = False
    use = ControlUse(type="canny", image=Path("drawn"), picture=maps[0], is_map=True)
    plans = plan_controls(drawer.configs, drawer.profile, [use], STEPS)
    beside = attached(drawer.load(), [LoadedNet(module=net, sha256={})], plans, drawer.profile.memory)
    with pytest.raises(GenerationError, match=r"out of GPU memory.*model_offload"), beside:
        pass
    assert net.refused


def test_a_control_of_a_union_controlnet_costs_no_pass_once_its_window_is_over(drawer, maps):
    early = {"type": "pose", "model": "union", "picture": maps[0], "start": 0.0, "end": 0.5}
    whole = {"type": "depth", "model": "union", "picture": maps[1], "start": 0.0, "end": 1.0}
    drawer.generate(ask(early))
    (net,) = drawer._models.nets._nets.values()
    acting = []
    with net.module.register_forward_pre_hook(
        lambda _, __, given: acting.append(given["control_type_idx"]), with_kwargs=True
    ):
        drawer.generate(ask(early))
        assert acting == [[0], [0]], "at two of four steps"
        acting.clear()
        drawer.generate(ask(early, whole))
    assert acting == [[0, 1], [0, 1], [1], [1]]


@pytest.mark.parametrize("window", [{"start": 0.3, "end": 0.45}, {"start": 0.8, "end": 0.9}], ids=str)
def test_a_window_without_a_step_is_refused_for_a_union_controlnet_too_unless_its_scale_is_0(
    drawer, maps, plain, window
):
    elapsed = {"type": "pose", "model": "union", "picture": maps[0], **window}
    with pytest.raises(InvalidValueError, match=r"controls\[0\]\.start and end must be .* one of 4 steps"):
        drawer.generate(ask(elapsed))
    assert drawer.generate(ask(elapsed | {"scale": 0.0})).image.tobytes() == plain.tobytes()


def test_the_record_says_how_a_control_acted_and_draws_the_picture_again(drawer, maps, tmp_path):
    maps[0].save(tmp_path / "source.png")
    request = ask({"type": "canny", "image": tmp_path / "source.png", "is_map": False, "scale": None, "end": 0.8})
    drawn = drawer.generate(request)
    (control,) = drawn.record.controls
    assert (control.type, control.model, control.scale, control.start, control.end) == (
        "canny", "dedicated", 0.7, 0.0, 0.8,
    )  # fmt: skip
    assert control.image_sha256 == pixels_sha256(maps[0])
    assert control.map_sha256 == pixels_sha256(drawn.control_maps[0])
    assert control.preprocessor == "canny"
    assert list(control.model_sha256) == ["diffusion_pytorch_model.safetensors"]
    assert all(len(digest) == 64 for digest in control.model_sha256.values())
    record = GenerationRecord.from_json(drawn.record.to_json())
    assert record == drawn.record
    again = drawer.generate(record.to_request())
    assert again.image.tobytes() == drawn.image.tobytes()
    assert again.record == drawn.record


def test_a_picture_that_was_in_memory_only_is_asked_for_by_its_hash(drawer, maps):
    uses = control_uses([{"type": "pose", "image": maps[0], "is_map": True}])
    record = drawer.generate(replace(ask(), controls=uses)).record
    assert record.controls[0].image.name == pixels_sha256(maps[0])
    with pytest.raises(InvalidValueError, match="in memory only, use its map"):
        drawer.generate(record.to_request())


def test_maps_are_saved_beside_the_picture(drawer, maps, tmp_path):
    drawer.generate_character(
        None, "on the beach", seed=3, width=SIDE, height=SIDE, quality_preset="draft",
        use_controlnet=True, control_type="canny", control_image=maps[0], controlnet_scale=0.9,
        controls=[{"type": "seg", "image": maps[1], "is_map": True}],
        output_path=tmp_path / "beach.png",
    )  # fmt: skip
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["beach.control-0-canny.png", "beach.control-1-seg.png", "beach.png"]
    record = read_record(tmp_path / "beach.png")
    assert [control.scale for control in record.controls] == [0.9, 0.7]
    for index, control in enumerate(record.controls):
        saved = Image.open(tmp_path / f"beach.control-{index}-{control.type}.png")
        assert pixels_sha256(saved) == control.map_sha256


def test_a_batch_keeps_its_control_maps_once(drawer, maps, tmp_path):
    with BatchImageGenerator(generator=drawer) as batches:
        result = batches.generate_batch(
            "luca", "on the beach", num_images=2, quality_preset="draft", enable_consistency_check=False,
            output_dir=tmp_path / "batch", width=SIDE, height=SIDE, progress=False,
            controls=[{"type": "canny", "image": maps[0]}],
        )  # fmt: skip
    assert result.total_generated == 2
    record = read_record(tmp_path / "batch" / result.items[0].path)
    name = f"control-0-canny-{record.controls[0].map_sha256[:8]}.png"
    assert [path.name for path in (tmp_path / "batch").glob("*.png")] == [name]


def test_a_batch_whose_control_shows_nothing_is_refused_before_a_model_is_loaded_or_a_folder_made(configs, tmp_path):
    with CharacterGenerator("puppet", "cpu", with_controls(configs)) as drawer:
        with pytest.raises(ControlMapError, match="of one colour"), BatchImageGenerator(generator=drawer) as batches:
            batches.generate_batch(
                "luca", "on the beach", num_images=2, enable_consistency_check=False, output_dir=tmp_path / "batch",
                progress=False, controls=[{"type": "canny", "image": Image.new("RGB", (SIDE, SIDE), "grey")}],
            )  # fmt: skip
        assert not drawer.is_loaded
    assert not (tmp_path / "batch").exists()


def test_the_maps_of_a_request_are_those_that_it_is_drawn_with(drawer, maps):
    request = ask({"type": "canny", "picture": maps[0], "is_map": False})
    made = drawer.control_maps(request)
    assert [item.image.tobytes() for item in made] == [
        image.tobytes() for image in drawer.generate(request).control_maps
    ]


@pytest.mark.parametrize(
    "fault", ["no config", "another class", "another size", "truncated", "missing tensors", "two nets"]
)
def test_a_folder_that_is_no_controlnet_for_this_unet_is_refused(configs, drawer, models, maps, fault):
    folder = models / "controlnets" / fault.replace(" ", "_")
    net = plain_net(drawer.pipeline.unet, 5)
    net.save_pretrained(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    if fault == "no config":
        (folder / "config.json").unlink()
    elif fault == "another class":
        (folder / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    elif fault == "another size":
        ControlNetModel(
            block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2, mid_block_type="UNetMidBlock2D",
            norm_num_groups=8, layers_per_block=1, conditioning_embedding_out_channels=(16, 16),
        ).save_pretrained(folder)  # fmt: skip
    elif fault == "two nets":
        file.with_name("diffusion_pytorch_model_promax.safetensors").write_bytes(file.read_bytes())
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        kept = {name: value for name, value in load_file(file).items() if "controlnet_mid_block" not in name}
        save_file(kept, file, metadata={"format": "pt"})
    own = with_controls(configs, models={"pose": folder.name})
    use = ControlUse(type="pose", image=Path("drawn"), picture=maps[0], is_map=True)
    with pytest.raises(ModelFileError) as refusal:
        load_controlnet(plan_controls(own, drawer.profile, [use], STEPS)[0], drawer.load())
    assert folder.name in str(refusal.value)


@pytest.mark.parametrize(
    ("control", "error", "word"),
    [
        ({"type": "pose", "image": "no/such.png"}, ImageFileError, "no/such.png"),
        ({"type": "normal", "image": "x.png"}, ModelNotFoundError, "normal ControlNet"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_loaded(
    configs, maps, tmp_path, monkeypatch, control, error, word
):
    monkeypatch.chdir(tmp_path)
    maps[0].save("x.png")
    own = with_controls(configs, union={"puppet": Source(folder="controlnets/nowhere")})
    with CharacterGenerator("puppet", "cpu", own) as drawer:
        with pytest.raises(error, match=word):
            drawer.generate_character(None, "on the beach", controls=[control | {"is_map": True}])
        assert not drawer.is_loaded


SDXL_UNET = {
    "block_out_channels": (320, 640, 1280), "layers_per_block": 2, "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip


def net_of_sdxls_size(configs, kind):
    """Without memory, and the configuration's estimate of what it takes in float16, in GiB."""
    with torch.device("meta"):
        net = kind.from_unet(UNet2DConditionModel(**SDXL_UNET), load_weights_from_unet=False)
    config = configs.controlnet
    return net, config.union_vram_gib if kind is ControlNetUnionModel else config.by_name["pose"].vram_gib


@pytest.mark.parametrize("kind", [ControlNetModel, ControlNetUnionModel])
def test_the_estimate_of_a_controlnets_memory_fits_its_parameters(configs, kind):
    net, estimate_gib = net_of_sdxls_size(configs, kind)
    assert sum(value.numel() for value in net.parameters()) * 2 / 2**30 == pytest.approx(estimate_gib, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", [ControlNetModel, ControlNetUnionModel])
def test_the_estimate_of_a_controlnets_memory_fits_the_gpu(configs, kind):
    net, estimate_gib = net_of_sdxls_size(configs, kind)
    before = torch.cuda.memory_allocated()
    net = net.half().to_empty(device="cuda")
    assert (torch.cuda.memory_allocated() - before) / 2**30 == pytest.approx(estimate_gib, rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("policy", ["resident", "text_encoder_offload", "model_offload", "sequential_offload"])
def test_a_control_acts_under_every_memory_policy(configs, maps, policy):
    own = with_memory(with_controls(configs), policy=policy)
    controls = [{"type": "pose", "picture": maps[0]}, {"type": "seg", "picture": maps[1]}]
    with CharacterGenerator("puppet", "cuda", own) as drawer:
        plain = drawer.generate(ask()).image
        assert drawer.generate(ask(*controls)).image.tobytes() != plain.tobytes()
        assert drawer.generate(ask()).image.tobytes() == plain.tobytes()


def test_a_control_set_is_several_controlnets_to_diffusers(models):
    nets = [read(ControlNetModel, models / "controlnets" / name) for name in ("pose", "canny")]
    together = ControlSet(nets, (0, 3))
    assert isinstance(together, MultiControlNetModel)
    sample = torch.zeros(2, 4, 8, 8)
    assert together(sample, 1, None, [None, None], [0.0, 0.0], return_dict=False) == (None, None)
