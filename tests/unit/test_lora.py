"""LoRAs act as diffusers and peft would have them act, and leave without a trace."""

import json
import struct

import pytest
import torch
from handmade_lora import LAYERS, kohya_tensors, peft_tensors, random_pairs, write

from imagelab import CharacterGenerator, GenerationError, ModelFileError, ModelNotFoundError
from imagelab.lora import LoraPatcher, read_lora
from imagelab.results import LoraRecord

COMPONENTS = tuple(LAYERS)


@pytest.fixture(scope="module")
def pipe(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        yield generator.pipeline


@pytest.fixture
def patcher(pipe):
    patcher = LoraPatcher(pipe=pipe)
    yield patcher
    patcher.clear()


def record(name="a", weight=1.0, text_encoder_weight=None):
    text = weight if text_encoder_weight is None else text_encoder_weight
    return LoraRecord(name=name, weight=weight, text_encoder_weight=text, sha256="")


def weights(pipe):
    return {
        f"{component}.{key}": value.clone()
        for component in COMPONENTS
        for key, value in getattr(pipe, component).state_dict().items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def outputs(pipe):
    """What the three patched models say to fixed inputs."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, pipe.text_encoder.config.vocab_size, (1, 77), generator=generator)
    config = pipe.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    with torch.no_grad():
        texts = [encoder(ids)[0] for encoder in (pipe.text_encoder, pipe.text_encoder_2)]
        noise = pipe.unet(
            torch.randn(1, 4, 16, 16, generator=generator),
            500,
            torch.randn(1, 77, config.cross_attention_dim, generator=generator),
            added_cond_kwargs={
                "text_embeds": torch.randn(1, pooled, generator=generator),
                "time_ids": torch.ones(1, 6),
            },
        ).sample
    return [noise, *texts]


def outputs_with_peft(configs, path, weight):
    """The same as diffusers and peft have it, on models of their own: they leave residues."""
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        generator.pipeline.load_lora_weights(path, adapter_name="reference")
        generator.pipeline.set_adapters("reference", adapter_weights=weight)
        return outputs(generator.pipeline)


@pytest.mark.parametrize("alpha", [4.0, 1.0])
def test_a_kohya_file_acts_as_with_diffusers_and_peft(configs, pipe, patcher, tmp_path, alpha):
    path = write(tmp_path / "kohya.safetensors", kohya_tensors(random_pairs(pipe, size=0.3), alpha=alpha))
    patcher.apply([(path, record(weight=0.8))])
    ours, theirs = outputs(pipe), outputs_with_peft(configs, path, 0.8)
    patcher.clear()
    base = outputs(pipe)
    for mine, reference, untouched in zip(ours, theirs, base, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(mine, untouched, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "unet_config", [None, {"lora_alpha": 8}, {"lora_alpha": 8, "alpha_pattern": {"conv1": 12}}, {"use_rslora": True}]
)
def test_a_peft_file_acts_as_with_diffusers_and_peft(configs, pipe, patcher, tmp_path, unet_config):
    metadata = None
    if unet_config:  # peft's LoraConfig, as diffusers saves it
        parts = {part: {"r": 4, "lora_alpha": 6, "target_modules": list(LAYERS[part])} for part in COMPONENTS}
        parts["unet"] |= unet_config
        flat = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
        metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(flat)}
    path = write(tmp_path / "peft.safetensors", peft_tensors(random_pairs(pipe, size=0.3)), metadata)
    patcher.apply([(path, record(weight=-0.7))])
    for mine, reference in zip(outputs(pipe), outputs_with_peft(configs, path, -0.7), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


def test_text_encoders_have_a_weight_of_their_own(pipe, patcher, tmp_path):
    path = write(tmp_path / "a.safetensors", peft_tensors(random_pairs(pipe, size=0.3)))
    before = weights(pipe)
    patcher.apply([(path, record(weight=1.0, text_encoder_weight=0.0))])
    after = weights(pipe)
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"unet"}


def test_without_its_loras_a_model_is_what_it_was_to_the_bit(pipe, patcher, tmp_path):
    before, base = weights(pipe), outputs(pipe)
    pairs = [random_pairs(pipe, seed=seed, size=0.3) for seed in (1, 2)]
    paths = [write(tmp_path / f"{index}.safetensors", kohya_tensors(pair)) for index, pair in enumerate(pairs)]
    for weight in (0.3, 1.0, -1.5):
        patcher.apply([(path, record(name=path.stem, weight=weight)) for path in paths])
        assert not same(before, weights(pipe))
    patcher.clear()
    assert same(before, weights(pipe))
    assert all(torch.equal(one, other) for one, other in zip(base, outputs(pipe), strict=True))
    assert patcher.applied == ()


def test_the_order_of_loras_makes_no_difference_to_the_bit(pipe, patcher, tmp_path):
    pairs = [random_pairs(pipe, seed=seed, size=0.3) for seed in range(3)]
    loras = [
        (write(tmp_path / f"{index}.safetensors", peft_tensors(pair)), record(name=str(index), weight=0.3 + index))
        for index, pair in enumerate(pairs)
    ]
    patcher.apply(loras)
    forwards = weights(pipe)
    patcher.clear()
    patcher.apply(loras[::-1])
    assert same(forwards, weights(pipe))


def test_loras_add_up(pipe, patcher, tmp_path):
    layers = {"unet": ("mid_block.attentions.0.proj_in",)}
    one, other = (random_pairs(pipe, seed=seed, layers=layers) for seed in (1, 2))
    parameter = pipe.unet.mid_block.attentions[0].proj_in.weight
    pristine, address = parameter.clone(), parameter.data_ptr()
    loras = [(write(tmp_path / f"{i}.safetensors", peft_tensors(p)), i) for i, p in enumerate((one, other))]
    patcher.apply([(path, record(name=str(i), weight=0.5 + i)) for path, i in loras])
    (down_1, up_1), (down_2, up_2) = next(iter(one.values())), next(iter(other.values()))
    torch.testing.assert_close(parameter.data, pristine + 0.5 * up_1 @ down_1 + 1.5 * up_2 @ down_2)
    assert parameter.data_ptr() == address, "rewritten in place"


def test_the_same_loras_again_cost_nothing(pipe, patcher, tmp_path):
    path = write(tmp_path / "a.safetensors", peft_tensors(random_pairs(pipe)))
    patcher.apply([(path, record())])
    path.unlink()
    patcher.apply([(path, record())])
    assert patcher.applied == (record(),)


def test_a_missing_lora_is_not_found(pipe, tmp_path):
    with pytest.raises(ModelNotFoundError, match="nothing at"):
        read_lora(tmp_path / "a.safetensors", pipe)


def test_after_a_failed_lora_the_model_is_pristine(pipe, patcher, tmp_path):
    before = weights(pipe)
    good = write(tmp_path / "good.safetensors", peft_tensors(random_pairs(pipe)))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(struct.pack("<Q", 10**6))
    patcher.apply([(good, record("good"))])
    with pytest.raises(ModelFileError):
        patcher.apply([(good, record("good")), (bad, record("bad"))])
    assert same(before, weights(pipe))
    assert patcher.applied == ()


def test_an_overflow_is_an_error_and_leaves_the_model_pristine(pipe, patcher, tmp_path):
    before = weights(pipe)
    path = write(tmp_path / "a.safetensors", peft_tensors(random_pairs(pipe, size=1e19)))
    with pytest.raises(GenerationError, match="overflow"):
        patcher.apply([(path, record(weight=2.0))])
    assert same(before, weights(pipe))
