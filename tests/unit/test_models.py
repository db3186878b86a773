"""Model files: found where the configuration says, and refused unless they are what they should be."""

import hashlib
import json
import struct

import pytest

from imagelab.config import HubModel, Source, load_configs
from imagelab.errors import ModelFileError, ModelNotFoundError, UnknownNameError
from imagelab.models import (
    SDXL,
    check_sha256,
    file_sha256,
    resolve_lora,
    resolve_source,
    verify_weights,
)
from imagelab.safetensors_files import check_safetensors

REVISION = "0123456789abcdef0123456789abcdef01234567"


def safetensors_bytes(header=None, payload=b"\0" * 16):
    if header is None:
        header = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"by": "a test"}}
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + payload


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty model root."""
    root = tmp_path / "models"
    root.mkdir()
    monkeypatch.setenv("IMAGELAB_MODELS", str(root))
    return root


@pytest.fixture
def weights(tmp_path):
    """A weights folder with two models and their hashes, as the package ships one."""
    root = tmp_path / "weights"
    sums = {}
    for name in ("base/unet.safetensors", "loras/luca.safetensors"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(safetensors_bytes())
        sums[name] = hashlib.sha256(safetensors_bytes()).hexdigest()
    (root / "SHA256SUMS.json").write_text(json.dumps(sums))
    return root


# Where


def test_a_folder_is_looked_for_under_the_model_root(models):
    (models / "sdxl").mkdir()
    (models / "sdxl" / "model_index.json").write_text("{}")
    assert resolve_source(Source(folder="sdxl")) == models / "sdxl"


def test_a_single_file_is_looked_for_under_the_model_root(models):
    (models / "sdxl.safetensors").write_bytes(safetensors_bytes())
    assert resolve_source(Source(single_file="sdxl.safetensors")) == models / "sdxl.safetensors"


def test_a_package_folder_is_looked_for_inside_the_package():
    assert (resolve_source(Source(package="config")) / "base.py").is_file()


@pytest.mark.parametrize("variables", [{"HF_HUB_CACHE": "cache/huggingface/hub"}, {"HF_HOME": "cache/huggingface"}])
def test_a_hub_model_is_looked_for_in_the_local_cache(tmp_path, monkeypatch, variables):
    for name in ("HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    snapshot = tmp_path / "cache/huggingface/hub/models--some--model/snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    assert resolve_source(Source(hub=HubModel(repo="some/model", revision=REVISION))) == snapshot


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source(folder="sdxl"), "Put the folder there"),
        (Source(single_file="sdxl.safetensors"), "Put the file there"),
        (Source(package="puppets/nothing_here"), "reinstall the package"),
        (
            Source(hub=HubModel(repo="some/model", revision=REVISION)),
            f"hf download some/model --revision {REVISION} --include '*.json' --include '*.txt' --include '*.safe",
        ),
        (Source(hub=SDXL), "--include '*.fp16.safetensors'"),
    ],
)
@pytest.mark.usefixtures("models")
def test_a_missing_model_says_what_to_put_where(tmp_path, monkeypatch, source, says):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ModelNotFoundError, match="base model: nothing at ") as caught:
        resolve_source(source, "base model")
    assert says in str(caught.value)


def test_an_empty_folder_is_no_model(models):
    (models / "sdxl").mkdir()
    with pytest.raises(ModelNotFoundError):
        resolve_source(Source(folder="sdxl"))


# LoRAs


def test_a_lora_is_found_by_name_for_a_profile(models):
    (models / "loras").mkdir()
    (models / "loras" / "luca_sdxl.safetensors").write_bytes(safetensors_bytes())
    assert resolve_lora(load_configs(), "luca", "sdxl") == models / "loras" / "luca_sdxl.safetensors"


@pytest.mark.usefixtures("models")
def test_a_lora_without_its_file_says_where_it_belongs_even_without_its_folder():
    with pytest.raises(ModelNotFoundError, match=r"of profile sdxl: nothing at .*loras/luca_sdxl\.safetensors"):
        resolve_lora(load_configs(), "luca", "sdxl")


@pytest.mark.usefixtures("models")
def test_an_unknown_lora_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="did you mean 'luca'"):
        resolve_lora(load_configs(), "lucca", "sdxl")


def test_a_lora_that_its_folder_lists_with_another_hash_is_refused(models):
    folder = models / "loras"
    folder.mkdir()
    (folder / "luca_sdxl.safetensors").write_bytes(safetensors_bytes())
    (folder / "SHA256SUMS.json").write_text(json.dumps({"luca_sdxl.safetensors": "0" * 64}))
    with pytest.raises(ModelFileError, match="not the file it should be"):
        resolve_lora(load_configs(), "luca", "sdxl")


# Hashes


def test_a_hash_is_that_of_the_bytes_even_after_they_change(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"one", b"three"):
        path.write_bytes(content)
        assert file_sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_file_of_another_hash_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"one")
    with pytest.raises(ModelFileError, match=r"sha256 is .*, expected 0000"):
        check_sha256(tmp_path / "a.bin", "0" * 64)


def test_listed_weights_are_verified_below_the_folder_that_is_asked_for(weights):
    assert sorted(verify_weights(weights)) == ["base/unet.safetensors", "loras/luca.safetensors"]
    assert sorted(verify_weights(weights / "base")) == ["unet.safetensors"]


def test_one_flipped_bit_is_found(weights):
    raw = bytearray(safetensors_bytes())
    raw[-1] ^= 1
    (weights / "base/unet.safetensors").write_bytes(raw)
    with pytest.raises(ModelFileError, match=r"unet.safetensors: sha256 is"):
        verify_weights(weights)


def test_a_truncated_file_is_called_truncated(weights):
    (weights / "base/unet.safetensors").write_bytes(safetensors_bytes()[:-3])
    with pytest.raises(ModelFileError, match=r"unet.safetensors: is truncated"):
        verify_weights(weights)


def test_a_listed_file_that_is_gone_is_missed(weights):
    (weights / "base/unet.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"unet.safetensors: is missing"):
        verify_weights(weights)


def test_weights_that_nobody_listed_are_refused(weights):
    (weights / "base/extra.safetensors").write_bytes(safetensors_bytes())
    with pytest.raises(ModelFileError, match=r"extra.safetensors: isn't listed"):
        verify_weights(weights)


def test_a_folder_that_no_list_speaks_of_is_refused(weights, tmp_path):
    (weights / "face").mkdir()
    with pytest.raises(ModelFileError, match="lists nothing in"):
        verify_weights(weights / "face")
    with pytest.raises(ModelNotFoundError, match="list of hashes"):
        verify_weights(tmp_path / "elsewhere")


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{"])
def test_a_damaged_list_is_refused(weights, text):
    (weights / "SHA256SUMS.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"SHA256SUMS.json: (can't be read|must map)"):
        verify_weights(weights)


# Headers


def test_the_header_of_a_whole_file_is_returned(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes())
    header = check_safetensors(tmp_path / "a.safetensors")
    assert header["w"]["shape"] == [2, 2]
    assert header["__metadata__"] == {"by": "a test"}


def test_empty_tensors_and_empty_files_of_tensors_are_whole(tmp_path):
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    four = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for header, payload in (({"a": four, "b": empty}, b"\0" * 16), ({}, b"")):
        (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, payload))
        assert check_safetensors(tmp_path / "a.safetensors") == header


def test_a_file_cut_anywhere_is_refused(tmp_path):
    raw = safetensors_bytes()
    for length in range(len(raw)):
        (tmp_path / "a.safetensors").write_bytes(raw[:length])
        with pytest.raises(ModelFileError, match="is truncated"):
            check_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (safetensors_bytes() + b"\0", "is corrupt"),
        (safetensors_bytes(b"not json"), "isn't JSON"),
        (safetensors_bytes(b"[" * 100_000), "isn't JSON"),
        (safetensors_bytes(b"[]"), "isn't a mapping"),
        (safetensors_bytes({"w": 1}), "describes no tensors"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [4]}}), "describes no tensors"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}), "don't fit"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}), "don't fit"),
        (struct.pack("<Q", 1 << 63) + b"{" * 100, "header length makes no sense"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"PK\x03\x04" + b"\0" * 40, "zip archive"),
        (b"\x80\x02}q\x00(X\x04\x00\x00\x00", "pickle"),
    ],
)
def test_a_file_that_is_something_else_says_what_it_is(tmp_path, raw, says):
    (tmp_path / "a.safetensors").write_bytes(raw)
    with pytest.raises(ModelFileError) as caught:
        check_safetensors(tmp_path / "a.safetensors")
    assert says in str(caught.value)


@pytest.mark.parametrize("length", [0x3C, 0x7B, 0x80])
def test_a_header_length_that_looks_like_another_format_is_no_fault(tmp_path, length):
    header = b"{}".ljust(length)
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, b""))
    assert check_safetensors(tmp_path / "a.safetensors") == {}


def test_a_missing_safetensors_file_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match="nothing at"):
        check_safetensors(tmp_path / "a.safetensors")
