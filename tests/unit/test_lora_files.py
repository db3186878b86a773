"""Every LoRA format acts as its own library has it act; every bad file is refused and leaves no trace."""

import copy
import json
import pickle
import struct
import zipfile

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from foreign_lora import CONV, GOOD, QUERY, STRENGTH, lycoris_dora, metadata_of
from handmade_lora import LAYERS, kohya_tensors, peft_tensors, random_pairs, write
from peft.tuners.tuners_utils import BaseTunerLayer

from imagelab import CharacterGenerator, GenerationError, ModelFileError
from imagelab.lora import LoraPatcher, inspect_lora, pipeline_base, read_lora
from imagelab.lora.names import sd_block_name
from imagelab.results import LoraRecord

COMPONENTS = tuple(LAYERS)
STEM = "lora_unet_mid_block_attentions_0_proj_in"
OBLONG = "down_blocks.0.resnets.0.time_emb_proj"
WIDE = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture(scope="module")
def pipe(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        yield generator.pipeline


@pytest.fixture(scope="module")
def pristine(pipe):
    return weights(pipe)


@pytest.fixture
def patcher(pipe):
    patcher = LoraPatcher(pipe=pipe)
    yield patcher
    patcher.clear()


@pytest.fixture(scope="module")
def good(pipe, tmp_path_factory):
    """Write a good file once: (path, what it adds)."""
    written = {}

    def get(name):
        if name not in written:
            path = tmp_path_factory.mktemp(name) / "lora.safetensors"
            written[name] = path, GOOD[name][0](pipe, path)
        return written[name]

    return get


def weights(pipe):
    return {
        (part, name): module.weight.detach().clone()
        for part in COMPONENTS
        for name, module in getattr(pipe, part).named_modules()
        if isinstance(getattr(module, "weight", None), torch.Tensor)
    }


def is_pristine(pipe, pristine):
    return all(torch.equal(weight, pristine[slot]) for slot, weight in weights(pipe).items())


def record(weight=STRENGTH):
    return LoraRecord(name="a", weight=weight, text_encoder_weight=weight, sha256="")


@pytest.mark.parametrize("name", GOOD)
def test_a_good_file_adds_what_its_own_library_says(pipe, pristine, patcher, good, name):
    path, expected = good(name)
    patcher.apply([(path, record())])
    for slot, weight in weights(pipe).items():
        if slot in expected:
            torch.testing.assert_close(weight - pristine[slot], expected[slot], rtol=1e-4, atol=2e-5)
            assert not torch.equal(weight, pristine[slot]), slot
        else:
            assert torch.equal(weight, pristine[slot]), slot
    patcher.clear()
    assert is_pristine(pipe, pristine)


@pytest.mark.parametrize("name", [name for name, (_, by_diffusers) in GOOD.items() if by_diffusers])
def test_a_file_adds_what_diffusers_and_peft_add(pipe, pristine, good, name):
    path, _ = good(name)
    theirs = StableDiffusionXLPipeline(
        **{
            key: copy.deepcopy(part) if key in COMPONENTS else part
            for key, part in pipe.components.items()
            if key not in ("image_encoder", "feature_extractor")
        }
    )
    theirs.load_lora_weights(path, adapter_name="reference")
    theirs.set_adapters("reference", adapter_weights=STRENGTH)
    touched = 0
    ours = {layer.slot: layer for layer in read_lora(path, pipe)}
    for part in COMPONENTS:
        for name_, module in getattr(theirs, part).named_modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
                slot, touched = (part, name_), touched + 1
                added = module.get_base_layer().weight.detach() - pristine[slot]
                torch.testing.assert_close(ours[slot].delta(pristine[slot], STRENGTH), added, rtol=1e-3, atol=2e-5)
    assert touched == len(ours)


@pytest.mark.parametrize(
    ("own", "sd_name"),
    [
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_k",
        ),
        ("down_blocks.2.attentions.1.transformer_blocks.9.ff.net.2", "input_blocks.8.1.transformer_blocks.9.ff.net.2"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        ("up_blocks.1.attentions.2.proj_out", "output_blocks.5.1.proj_out"),
        ("up_blocks.2.resnets.2.conv_shortcut", "output_blocks.8.0.skip_connection"),
    ],
)
def test_modules_of_the_real_sdxl_are_known_by_stabilitys_names(own, sd_name):
    assert sd_block_name(own, depth=2) == sd_name


def test_a_dora_at_strength_zero_adds_nothing(pipe, pristine, tmp_path):
    path = tmp_path / "a.safetensors"
    lycoris_dora(by_rows=True)(pipe, path)
    for layer in read_lora(path, pipe):
        assert not layer.delta(pristine[layer.slot], 0.0).any()


# Bad files. Each takes (pipe, path) and writes; beside it what the refusal must say.


def kohya(**extra):
    """A good kohya file of one module, some of its tensors replaced, None for taken away."""

    def put(pipe, path):
        tensors = kohya_tensors(random_pairs(pipe, layers={"unet": ("mid_block.attentions.0.proj_in",)}))
        changed = {f"{STEM}.{key.replace('__', '.')}": tensor for key, tensor in extra.items()}
        tensors = {key: tensor for key, tensor in (tensors | changed).items() if tensor is not None}
        write(path, tensors)

    return put


def changed(change, make=kohya_tensors, metadata=None, layers=None):
    """A good file, of which a function makes a bad one."""

    def put(pipe, path):
        tensors = make(random_pairs(pipe, layers=layers))
        write(path, change(tensors) or tensors, metadata)

    return put


def raw(*tensors):
    """A file of these tensors alone."""

    def put(_, path):
        write(path, {key: torch.ones(shape) for key, shape in tensors})

    return put


def renamed(old, new):
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


def without(part, keep=1):
    """Take the tensors of one kind away, but for the first."""

    def change(tensors):
        doomed = [key for key in tensors if part in key][keep:]
        return {key: tensor for key, tensor in tensors.items() if key not in doomed}

    return change


def with_value(value, part):
    def change(tensors):
        next(tensor for key, tensor in tensors.items() if part in key).view(-1)[0] = value

    return change


def times_zero(part):
    return lambda tensors: {key: tensor * (part not in key) for key, tensor in tensors.items()}


def for_width(width):
    """A LoRA whose cross-attention reads so many channels."""

    def put(pipe, path):
        out = pipe.unet.get_submodule(WIDE).weight.shape[0]
        name = f"lora_unet_{WIDE.replace('.', '_')}"
        write(path, {f"{name}.lora_down.weight": torch.ones(4, width), f"{name}.lora_up.weight": torch.ones(out, 4)})

    return put


def untrained_dora(pipe, path):
    pairs = random_pairs(pipe, layers={"unet": (QUERY,)})
    tensors = {key: tensor * ("lora_B" not in key) for key, tensor in peft_tensors(pairs).items()}
    lengths = pipe.unet.get_submodule(QUERY).weight.norm(dim=1)
    write(path, tensors | {f"unet.{QUERY}.lora_magnitude_vector": lengths.half()})


def disjoint(tensors):
    """Neither matrix is zero, but their product is."""
    for key, tensor in tensors.items():
        if "lora_down" in key:
            tensor[2:] = 0
        if "lora_up" in key:
            tensor[:, :2] = 0


def lengths_lie(pipe, path, part, module, shape_of):
    """A DoRA whose lengths are as many as the weight has rows or columns, in another shape than those have."""
    tensors = kohya_tensors(random_pairs(pipe, layers={"unet": (module,)}))
    stem = f"lora_unet_{module.replace('.', '_')}"
    shape = pipe.unet.get_submodule(module).weight.shape
    write(path, tensors | {f"{stem}.{part}": ONE(shape_of(shape))})


def twice(pipe, path):
    tensors = peft_tensors(random_pairs(pipe, layers={"unet": (QUERY,)}))
    again = {key.replace("attn1.to_q", "attn1.processor.to_q"): tensor.clone() for key, tensor in tensors.items()}
    write(path, tensors | again)


def of_bytes(content):
    return lambda _, path: path.write_bytes(content)


def cut(pipe, path):
    kohya()(pipe, path)
    path.write_bytes(path.read_bytes()[:-7])


def zipped(_, path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", "x")


def broken_header(pipe, path):
    kohya()(pipe, path)
    content = bytearray(path.read_bytes())
    content[9] ^= 0x55
    path.write_bytes(bytes(content))


def float32_shape_lie(_, path):
    header = json.dumps({f"{STEM}.lora_up.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))


ONE = torch.ones
TWO_NAMES = renamed("lora_unet_mid_block_attentions_0_proj_in", "lora_unet_middle_block_1_proj_in")
PEFT_FLUX = "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"
BAD = {
    "empty": (lambda _, path: write(path, {}), "is empty"),
    "for SD 1.x": (for_width(768), "SD 1.x"),
    "for SD 2.x": (for_width(1024), "SD 2.x"),
    "for the real SDXL": (for_width(2048), "made for SDXL: its cross-attention reads 2048 channels, this model's 128"),
    "for the refiner": (for_width(1280), "refiner"),
    "for nobody knows what": (for_width(96), "another base model"),
    "Flux by kohya": (raw(("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", (4, 8))), "Flux"),
    "Flux by diffusers": (raw((PEFT_FLUX, (4, 8))), "Flux"),
    "SD 3": (raw(("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight", (8, 4))), "SD 3"),
    "a third text encoder": (changed(renamed("lora_te2", "lora_te3")), "SD 3"),
    "half of kohya's ups": (changed(without("lora_up")), "incomplete"),
    "half of peft's Bs": (changed(without("lora_B"), peft_tensors), "incomplete"),
    "no ups at all": (changed(without("lora_up", keep=0)), "incomplete"),
    "alphas alone": (changed(lambda t: {k: v for k, v in t.items() if k.endswith("alpha")}), "has no matrices"),
    "zero ups": (changed(times_zero("lora_up")), "changes nothing"),
    "zero downs": (changed(times_zero("lora_A"), peft_tensors), "changes nothing"),
    "zero alphas": (changed(times_zero("alpha")), "changes nothing"),
    "a product of zero": (changed(disjoint), "changes nothing"),
    "an untrained DoRA": (untrained_dora, "changes nothing"),
    "too few inputs": (
        kohya(lora_down__weight=ONE(4, 32)),
        f"another base model: {STEM} is (4, 32) · (160, 4) for a weight of (160, 160)",
    ),
    "too many outputs": (kohya(lora_up__weight=ONE(999, 4)), "another base model"),
    "ranks that differ": (kohya(lora_up__weight=ONE(160, 5)), "don't fit each other"),
    "rank 0": (kohya(lora_down__weight=ONE(0, 160), lora_up__weight=ONE(160, 0)), "rank 0"),
    "vectors": (kohya(lora_down__weight=ONE(160), lora_up__weight=ONE(160)), "don't fit each other"),
    "a scalar": (kohya(lora_down__weight=torch.tensor(1.0)), "don't fit each other"),
    "a bent kernel": (
        changed(
            lambda t: {k: v.reshape(4, -1, 1, 9) if "lora_down" in k else v for k, v in t.items()},
            layers={"unet": (CONV,)},
        ),
        "another base model",
    ),
    "kohya's names and peft's": (
        lambda pipe, path: write(
            path, kohya_tensors(random_pairs(pipe)) | peft_tensors(random_pairs(pipe, layers={"unet": (QUERY,)}))
        ),
        "mixes naming schemes",
    ),
    "two schemes of kohya's": (changed(TWO_NAMES), "mixes naming schemes"),
    "a module twice": (twice, "twice"),
    "NaN": (changed(with_value(float("nan"), "lora_up")), "NaN or infinity"),
    "infinity": (changed(with_value(float("inf"), "lora_down")), "NaN or infinity"),
    "more than half precision holds": (
        changed(lambda t: {k: (v * 1e9).half() for k, v in t.items()}, peft_tensors),
        "NaN or infinity",
    ),
    "a NaN alpha": (kohya(alpha=torch.tensor(float("nan"))), "NaN or infinity"),
    "an infinite alpha": (kohya(alpha=torch.tensor(float("inf"))), "NaN or infinity"),
    "two alphas": (kohya(alpha=ONE(2)), "alpha"),
    "int8": (changed(lambda t: {k: v.to(torch.int8) for k, v in t.items()}), "quantised"),
    "uint8 downs": (kohya(lora_down__weight=ONE(4, 160, dtype=torch.uint8)), "quantised"),
    "bitsandbytes": (kohya(lora_up__weight__absmax=ONE(4)), "quantised"),
    "an OFT": (raw((f"{STEM}.oft_blocks", (4, 8, 8))), "an OFT"),
    "a GLoRA": (raw((f"{STEM}.a1.weight", (4, 8))), "a GLoRA"),
    "whole differences": (kohya(diff_b=ONE(160)), "whole differences"),
    "norms": (kohya(w_norm=ONE(160)), "whole differences"),
    "an IA3": (raw((f"{STEM}.on_input", (1,))), "an IA3"),
    "biases": (
        changed(lambda t: t | {"unet.mid_block.attentions.0.proj_in.lora_B.bias": ONE(160)}, peft_tensors),
        "biases",
    ),
    "a whole checkpoint": (raw(("model.diffusion_model.out.2.weight", (4, 4))), "a whole checkpoint"),
    "an embedding": (raw(("emb_params", (2, 8))), "an embedding"),
    "a bare model": (raw(("conv_in.weight", (4, 4))), "fit nothing"),
    "half of the lengths": (changed(lambda t: t | {f"{STEM}.dora_scale": ONE(160, 1)}), "1 of its"),
    "peft's lengths of columns": (
        lambda pipe, path: lengths_lie(pipe, path, "lora_magnitude_vector", OBLONG, lambda shape: (1, shape[1])),
        "another base model",
    ),
    "LyCORIS's lengths of rows, lying": (
        lambda pipe, path: lengths_lie(pipe, path, "dora_scale", OBLONG, lambda shape: (1, shape[0])),
        "another base model",
    ),
    "an alpha of peft's that is no number": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": "x", "unet.r": 4})),
        "nothing sensible about alpha",
    ),
    "an alpha of peft's that is none": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": None})),
        "nothing sensible about alpha",
    ),
    "a pattern of alphas that is a list": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": 8, "unet.alpha_pattern": [1]})),
        "nothing sensible about alpha",
    ),
    "a pattern of alphas that is no pattern": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": 8, "unet.alpha_pattern": {"(": 1}})),
        "nothing sensible about alpha",
    ),
    "a pattern of alphas without one": (
        changed(
            lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": 8, "unet.alpha_pattern": {"conv1": None}})
        ),
        "nothing sensible about alpha",
    ),
    "an infinite alpha of peft's": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.lora_alpha": float("inf"), "unet.r": 4})),
        "NaN or infinity for alpha",
    ),
    "an update that rounding swallows": (
        changed(lambda t: {k: v * 1e-6 for k, v in t.items()}, peft_tensors),
        "lost in rounding",
    ),
    "too many lengths": (kohya(dora_scale=ONE(161, 1)), "another base model"),
    "a DoRA without lengths": (
        changed(lambda _: None, peft_tensors, metadata_of({"unet.use_dora": True, "unet.lora_alpha": 4})),
        "is a DoRA with lengths for 0",
    ),
    "half of a LoHa": (raw(*((f"{STEM}.hada_{p}", (4, 4)) for p in ("w1_a", "w1_b", "w2_a"))), "lacks w2_b"),
    "a LoHa of unlike halves": (
        raw(
            (f"{STEM}.hada_w1_a", (160, 4)),
            (f"{STEM}.hada_w1_b", (4, 160)),
            (f"{STEM}.hada_w2_a", (1, 4)),
            (f"{STEM}.hada_w2_b", (4, 160)),
        ),
        "halves",
    ),
    "half of a LoKr": (raw((f"{STEM}.lokr_w1", (4, 4))), "needs either w2"),
    "a LoKr that doesn't multiply out": (
        raw((f"{STEM}.lokr_w1", (4, 4)), (f"{STEM}.lokr_w2", (40, 41))),
        "another base model",
    ),
    "LoRA and LoKr at once": (kohya(lokr_w1=ONE(4, 4)), "mixes"),
    "peft's own without its configuration": (
        changed(renamed("unet.", "base_model.model."), peft_tensors, layers={"unet": (QUERY,)}),
        "adapter_config.json",
    ),
    "a configuration that isn't one": (
        changed(lambda _: None, peft_tensors, {"lora_adapter_metadata": "{"}),
        "LoraConfig",
    ),
    "a configuration that is a list": (
        changed(lambda _: None, peft_tensors, {"lora_adapter_metadata": "[1]"}),
        "LoraConfig",
    ),
    "an unknown block among known ones": (
        changed(lambda t: t | {"unet.no_such_block.lora_A.weight": ONE(2, 2)}, peft_tensors),
        "unet.no_such_block.lora_A.weight",
    ),
    "an unknown part of a module": (
        changed(lambda t: t | {"unet.mid_block.attentions.0.proj_in.surprise": ONE(2, 2)}, peft_tensors),
        "unet.mid_block.attentions.0.proj_in.surprise",
    ),
    "an unknown block": (changed(renamed("mid_block", "mid_block_7")), "fit nothing"),
    "an unknown prefix": (changed(renamed("lora_unet", "lora_net")), "fit nothing"),
    "an adapter's name in the keys": (changed(renamed("lora_A.", "lora_A.default."), peft_tensors), "fit nothing"),
    "a norm's weight": (changed(renamed("proj_in", "norm"), peft_tensors), "fit nothing"),
    "cut off": (cut, "truncated"),
    "a zip": (zipped, "zip"),
    "a pickle by another name": (of_bytes(pickle.dumps({"a": 1})), "pickle"),
    "a pointer of git-lfs": (of_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git-lfs"),
    "a web page": (of_bytes(b"<!doctype html><html></html>"), "web page"),
    "nothing": (of_bytes(b""), "truncated"),
    "a broken header": (broken_header, "isn't JSON"),
    "a header that lies": (float32_shape_lie, "corrupt"),
}


NEEDS_WEIGHTS = {"an untrained DoRA", "an update that rounding swallows"}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_the_reason_and_leaves_no_trace(pipe, pristine, patcher, tmp_path, name):
    path = tmp_path / "lora.safetensors"
    put, reason = BAD[name]
    put(pipe, path)
    with pytest.raises(ModelFileError) as refusal:
        patcher.apply([(path, record())])
    assert reason in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert refusal.value.fix
    assert is_pristine(pipe, pristine)


@pytest.mark.parametrize("name", [name for name in BAD if name not in NEEDS_WEIGHTS])
def test_inspecting_names_the_reason_that_reading_gives(pipe, tmp_path, name):
    path = tmp_path / "lora.safetensors"
    put, reason = BAD[name]
    put(pipe, path)
    try:
        report = inspect_lora(str(path), base=pipeline_base(pipe))
    except ModelFileError as error:  # nothing in it can be read
        said = str(error)
    else:
        said = report.faults[0]
        assert len(report.fixes) == len(report.faults)
    assert reason in said


def test_a_dora_row_without_a_length_stays_as_it_is(pipe, tmp_path):
    path = tmp_path / "a.safetensors"
    lycoris_dora(by_rows=True)(pipe, path)
    layer = next(layer for layer in read_lora(path, pipe) if layer.slot == ("unet", QUERY))
    weight = pipe.unet.get_submodule(QUERY).weight.detach().clone()
    update = layer.factors.product() * layer.scale
    weight[0] = -update[0]
    added = layer.delta(weight)
    assert added.isfinite().all()
    assert torch.equal((weight + added)[0], torch.zeros_like(weight[0]))


def test_of_an_untrained_dora_a_length_that_moved_changes_something(pipe, tmp_path):
    path = tmp_path / "a.safetensors"
    pairs = random_pairs(pipe, layers={"unet": (QUERY,)})
    tensors = {key: tensor * ("lora_B" not in key) for key, tensor in peft_tensors(pairs).items()}
    lengths = pipe.unet.get_submodule(QUERY).weight.detach().norm(dim=1)
    lengths[0] *= 1.0005
    write(path, tensors | {f"unet.{QUERY}.lora_magnitude_vector": lengths})
    assert len(read_lora(path, pipe)) == 1


def test_a_lora_that_acts_on_nothing_is_refused_by_name(pipe, pristine, patcher, tmp_path):
    path = tmp_path / "a.safetensors"
    kohya()(pipe, path)
    idle = LoraRecord(name="luca", weight=0.0, text_encoder_weight=1.0, sha256="")
    with pytest.raises(GenerationError, match="LoRA luca acts on nothing: it changes only unet MID"):
        patcher.apply([(path, idle)])
    assert is_pristine(pipe, pristine)


def test_a_file_that_is_not_the_one_that_was_planned_is_refused(pipe, pristine, patcher, tmp_path):
    path = tmp_path / "a.safetensors"
    kohya()(pipe, path)
    other = LoraRecord(name="luca", weight=1.0, text_encoder_weight=1.0, sha256="1" * 64)
    with pytest.raises(ModelFileError, match="was changed while it was in use"):
        patcher.apply([(path, other)])
    assert is_pristine(pipe, pristine)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".pkl", ".PT"])
def test_a_file_that_may_be_a_pickle_is_refused_unopened(pipe, tmp_path, suffix):
    path = tmp_path / f"lora{suffix}"  # not even there: nothing was opened
    with pytest.raises(ModelFileError, match="isn't opened"):
        read_lora(path, pipe)


def test_a_text_encoder_of_pefts_own_format_is_refused_for_what_it_leaves_open(pipe, tmp_path):
    path = tmp_path / "lora.safetensors"
    pairs = random_pairs(pipe, layers={"text_encoder": ("encoder.layers.0.mlp.fc1",)})
    tensors = {key.replace("text_encoder.", "base_model.model."): tensor for key, tensor in peft_tensors(pairs).items()}
    write(path, tensors)
    path.with_name("adapter_config.json").write_text('{"r": 4, "lora_alpha": 4}')
    with pytest.raises(ModelFileError, match="which of the two text encoders"):
        read_lora(path, pipe)
