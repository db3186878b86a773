"""Inspecting a LoRA file tells the truth about it, whatever base it is for, and loads no model."""

import hashlib
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from handmade_lora import write
from safetensors.torch import save

import imagelab
from imagelab import ModelFileError, ModelNotFoundError, cli
from imagelab.commands.options import BAD_INPUT, FAILED
from imagelab.lora import inspect_lora, profile_base
from imagelab.lora.trigger_words import find_trigger_words
from imagelab.models import resolve_lora

PROJ_IN = "mid_block.attentions.0.proj_in"
LUCA = str(Path(imagelab.__file__).parent / "puppets/weights/loras/luca.safetensors")


@pytest.fixture(scope="module")
def base(configs):
    return profile_base(configs.profile("puppet"))


def two_modules(width=128):
    generator = torch.Generator().manual_seed(0)
    return {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.randn(4, 160, generator=generator),
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.randn(160, 4, generator=generator),
        "lora_unet_mid_block_attentions_0_proj_in.alpha": torch.tensor(2.0),
        "lora_unet_down_blocks_1_x_attn2_to_k.lora_down.weight": torch.randn(2, width, generator=generator).half(),
        "lora_unet_down_blocks_1_x_attn2_to_k.lora_up.weight": torch.randn(128, 2, generator=generator).half(),
    }


def test_each_module_is_told_with_its_rank_alpha_block_and_norm(tmp_path, base):
    tensors = two_modules()
    report = inspect_lora(write(tmp_path / "a.safetensors", tensors), base=base)
    fits, stray = report.modules[1], report.modules[0]
    down, up, _ = list(tensors.values())[:3]

    assert (fits.component, fits.module, fits.block, fits.kind) == ("unet", PROJ_IN, "mid_block", "LoRA")
    assert (fits.rank, fits.alpha, fits.scale, fits.dtype) == (4, 2.0, 0.5, "float32")
    assert fits.norm == pytest.approx(float(0.5 * (up @ down).norm()), rel=1e-5)
    assert (stray.module, stray.rank, stray.alpha, stray.scale, stray.dtype) == (None, 2, None, 1.0, "float16")
    assert report.block_norms.keys() == {"unet.mid_block", "unet.down_blocks.1"}
    assert report.matched_keys == 3
    assert report.unmatched_keys == tuple(sorted(key for key in tensors if "to_k" in key))
    assert any("2 keys that fit nothing" in fault for fault in report.faults)
    frame = report.to_frame()
    assert list(frame["rank"]) == [2, 4]
    assert list(frame["norm"]) == [stray.norm, fits.norm]


def test_without_a_base_nothing_is_called_matched_or_unmatched(tmp_path):
    report = inspect_lora(write(tmp_path / "a.safetensors", two_modules()))

    assert report.matched_keys is None
    assert report.unmatched_keys is None
    assert report.faults == ()


@pytest.mark.parametrize(("width", "name"), [(768, "SD 1.x"), (1024, "SD 2.x"), (2048, "SDXL"), (96, "unknown")])
def test_the_base_is_told_by_shapes_against_what_the_metadata_and_the_name_say(tmp_path, base, width, name):
    facts = {"ss_base_model_version": "sdxl_base_v1-0"}
    report = inspect_lora(write(tmp_path / "flux_sd3_sdxl.safetensors", two_modules(width), facts), base=base)

    assert report.origin.base == name
    assert report.origin.says == "SDXL"
    assert report.origin.context_width == width
    assert any(f"this model's {base.context_width}" in fault for fault in report.faults)


@pytest.mark.parametrize(
    ("key", "metadata", "name"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", {}, "Flux"),
        ("lora_unet_joint_blocks_0_x.lora_down.weight", {}, "SD 3"),
        ("lora_te1_text_model_x.lora_down.weight", {"modelspec.architecture": "stable-diffusion-v1/lora"}, "SD 1.x"),
        ("lora_te_text_model_x.lora_down.weight", {"ss_v2": "True"}, "SD 2.x"),
        ("lora_te_text_model_x.lora_down.weight", {}, "SD 1.x or SD 2.x"),
        ("lora_te2_text_model_x.lora_down.weight", {}, "SDXL"),
        ("diffusion_model.input_blocks.4.1.proj_in.lora_down.weight", {}, "unknown"),
    ],
)
def test_a_file_for_any_base_is_inspected_rather_than_refused(tmp_path, key, metadata, name):
    report = inspect_lora(write(tmp_path / "a.safetensors", {key: torch.ones(2, 8)}, metadata))

    assert report.origin.base == name
    assert any("lacks up" in fault for fault in report.faults)
    report.to_json()


def test_without_a_base_what_is_no_lora_is_a_fault_all_the_same(tmp_path):
    alone = inspect_lora(write(tmp_path / "a.safetensors", {"conv_in.weight": torch.ones(2, 2)}))
    beside = inspect_lora(write(tmp_path / "b.safetensors", two_modules() | {"surprise": torch.ones(2)}))

    assert "has no LoRA tensors at all" in alone.faults[0]
    assert "1 keys that no LoRA has: surprise" in beside.faults[0]
    assert "not compared with a base" in beside.to_text()


def test_what_a_file_says_can_not_steer_the_terminal(tmp_path):
    report = inspect_lora(write(tmp_path / "a.safetensors", two_modules(), {"ss_title": "\x1b[2Jboo\nfault"}))

    assert "\x1b" not in report.to_text()
    assert "boo\\nfault" in report.to_text()


def test_every_fault_is_listed_at_once(tmp_path, base):
    tensors = two_modules(768)
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"][0] = torch.nan
    tensors["lora_te1_text_model_x.lora_down.weight"] = torch.ones(4, 4, dtype=torch.int8)
    faults = "; ".join(inspect_lora(write(tmp_path / "a.safetensors", tensors), base=base).faults)

    for words in ("SD 1.x", "fit nothing", "NaN or infinity in lora_unet_mid", "quantised"):
        assert words in faults


def test_numbers_that_json_lacks_are_null(tmp_path):
    tensors = two_modules()
    tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"][0] = torch.nan
    tensors["lora_unet_mid_block_attentions_0_proj_in.alpha"] = torch.tensor(float("inf"))
    module = inspect_lora(write(tmp_path / "a.safetensors", tensors)).modules[1]

    assert (module.alpha, module.scale, module.norm, module.is_finite) == (None, None, None, False)
    assert json.loads(module.to_json())["norm"] is None


def test_hashes_are_those_that_kohya_and_a1111_compute(tmp_path):
    # as kohya's precalculate_safetensors_hashes does: over the file with none but its ss_ facts
    tensors = {"a.lora_up.weight": torch.arange(400_000, dtype=torch.float32).reshape(100_000, 4)}
    facts = {"ss_network_dim": "4", "ss_tag_frequency": '{"ü": {"a": 1}}'}
    plain = save(tensors, facts)
    stream = io.BytesIO(plain)
    stream.seek(0x100000)
    legacy = hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]
    payload = plain[8 + struct.unpack("<Q", plain[:8])[0] :]
    stored = {"sshs_model_hash": hashlib.sha256(payload).hexdigest(), "sshs_legacy_hash": legacy}
    path = write(tmp_path / "a.safetensors", tensors, facts | stored | {"modelspec.title": "a", "other": "x" * 999})
    hashes = inspect_lora(path).hashes

    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (hashes.sha256, hashes.autov2) == (whole, whole[:10])
    assert (hashes.model_hash, hashes.autov3) == (stored["sshs_model_hash"], stored["sshs_model_hash"][:12])
    assert hashes.legacy_hash == legacy
    assert {known.name: known.is_true for known in hashes.stored} == dict.fromkeys(stored, True)


def test_a_legacy_hash_over_a_long_header_can_not_be_checked(tmp_path):
    facts = {"ss_tag_frequency": "x" * 2**20, "sshs_legacy_hash": "12345678"}
    hashes = inspect_lora(write(tmp_path / "a.safetensors", two_modules(), facts)).hashes

    assert hashes.legacy_hash is None
    assert [known.is_true for known in hashes.stored] == [None]


def test_the_norm_of_a_dora_is_unknown(tmp_path):
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {key: tensor for key, tensor in two_modules().items() if key.startswith(stem)}
    report = inspect_lora(write(tmp_path / "a.safetensors", tensors | {f"{stem}.dora_scale": torch.ones(160, 1)}))

    assert report.block_norms == {"unet.mid_block": None}
    assert "mid_block: unknown (DoRA)" in report.to_text()


def test_a_stored_hash_that_is_false_is_called_so(tmp_path):
    facts = {"sshs_model_hash": "0" * 64, "modelspec.hash_sha256": "0x12"}
    report = inspect_lora(write(tmp_path / "a.safetensors", two_modules(), facts))

    assert {known.name: known.is_true for known in report.hashes.stored} == {
        "sshs_model_hash": False,
        "modelspec.hash_sha256": None,
    }
    assert "sshs_model_hash is false" in report.to_text()


def test_trigger_words_come_from_five_places_in_order_and_none_twice(tmp_path):
    (tmp_path / "a.json").write_text('{"activation text": "sidecar, Luca"}')
    (tmp_path / "a.civitai.info").write_text('{"trainedWords": ["one, two", "own"]}')
    (tmp_path / "a.metadata.json").write_text('{"civitai": {"trainedWords": ["three"]}}')
    tags = json.dumps({"10_luca": {"luca": 5, "beach": 2}, "5_x": {"beach": 9, " town ": 1}})
    metadata = {"modelspec.trigger_phrase": "own, luca", "ss_tag_frequency": tags}
    words = find_trigger_words(tmp_path / "a.safetensors", metadata, ["luca"])

    assert [(word.text, word.source) for word in words] == [
        ("luca", "registry"),
        ("own", "modelspec.trigger_phrase"),
        ("sidecar", "a.json"),
        ("one", "a.civitai.info"),
        ("two", "a.civitai.info"),
        ("three", "a.metadata.json"),
        ("beach", "ss_tag_frequency"),
        ("town", "ss_tag_frequency"),
    ]
    assert words[6].count == 11


def test_captions_are_split_into_words_as_a1111_does(tmp_path):
    captions = {"x": {"a boy on the beach": 3, "the boy with a red shirt": 2}}
    words = find_trigger_words(tmp_path / "a.safetensors", {"ss_tag_frequency": json.dumps(captions)})

    assert [(word.text, word.count) for word in words[:2]] == [("boy", 5), ("the", 5)]
    assert all(len(word.text) >= 3 for word in words)


@pytest.mark.parametrize("text", ["{", "[]", '{"x": 1}', '{"x": {"a": "many"}}', "null"])
def test_metadata_and_sidecars_that_make_no_sense_name_no_trigger_words(tmp_path, text):
    for suffix in (".json", ".civitai.info", ".metadata.json"):
        (tmp_path / f"a{suffix}").write_text(text)

    assert find_trigger_words(tmp_path / "a.safetensors", {"ss_tag_frequency": text}) == ()


@pytest.mark.parametrize(("name", "error"), [("a.ckpt", ModelFileError), ("a.safetensors", ModelNotFoundError)])
def test_only_what_cant_be_read_is_refused(tmp_path, name, error):
    with pytest.raises(error):
        inspect_lora(tmp_path / name)


def test_no_model_library_is_imported_to_inspect_a_file():
    code = (
        "import sys; from pathlib import Path; from imagelab.lora import inspect_lora;"
        f"assert inspect_lora(Path({LUCA!r})).modules;"
        "print([name for name in ('diffusers', 'transformers', 'peft') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    assert out.strip() == "[]"


def test_the_command_line_tells_all_that_fits_a_profile(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imagelab", "lora", "inspect", LUCA, "--profile", "puppet"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out = capsys.readouterr().out

    assert left.value.code == 0
    assert "348 keys fit the base, 0 don't" in out
    assert "trigger  luca (registry)" in out
    assert "fault    none found" in out


def test_the_command_line_prints_json_of_a_file_for_another_base(monkeypatch, capsys, tmp_path):
    path = write(tmp_path / "a.safetensors", two_modules(768))
    monkeypatch.setattr(sys, "argv", ["imagelab", "lora", "inspect", str(path), "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    report = json.loads(capsys.readouterr().out)

    assert left.value.code == FAILED
    assert report["fixes"]
    assert report["origin"]["base"] == "SD 1.x"
    assert len(report["modules"]) == 2


def test_a_pickle_on_the_command_line_is_bad_input(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["imagelab", "lora", "inspect", str(tmp_path / "a.pt")])
    with pytest.raises(SystemExit) as left:
        cli.main()

    assert left.value.code == BAD_INPUT
    assert "isn't opened" in capsys.readouterr().err


def test_a_lora_missing_under_the_model_root_says_what_to_put_where(configs, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    with pytest.raises(ModelNotFoundError) as missing:
        resolve_lora(configs, "luca", "sdxl")

    assert str(tmp_path / "loras/luca_sdxl.safetensors") in str(missing.value)
    assert "Put the .safetensors file there" in str(missing.value)
