import gc
import json
import pickle
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import transformers
from handmade_encoders import WRITERS, folder_encoder, profile_with, write_ccip, write_clip, write_dinov2
from PIL import Image

from imagelab.arcface import FaceEncoder
from imagelab.config import FacePack, Source
from imagelab.config.encoders import Encoder
from imagelab.encoders import open_clip, open_encoder, open_encoders
from imagelab.encoders.base import EncoderId
from imagelab.encoders.face import crop_face
from imagelab.errors import (
    InvalidValueError,
    ModelFileError,
    ModelNotFoundError,
    ProfileError,
    UnknownNameError,
)
from imagelab.faces import FaceLimits, read_faces
from imagelab.puppets.render import render
from imagelab.puppets.world import HELD_OUT_SEED, sample_scene

KINDS = tuple(WRITERS)


def puppet(k, *, figures=1):
    """A held-out render as (h, w, 3) RGB."""
    return render(sample_scene(np.random.default_rng(HELD_OUT_SEED + 70_000 + k), figures=figures)).image


@pytest.fixture(scope="module")
def pictures():
    return [puppet(k) for k in range(5)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model root with one tiny model a kind."""
    root = tmp_path_factory.mktemp("models")
    for kind, write in WRITERS.items():
        write(root / kind)
    return root


@pytest.fixture
def tiny(models, monkeypatch):
    """Open a tiny encoder by its kind; closed after the test."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(models))
    with ExitStack() as stack:

        def open_kind(kind, **given):
            profile = profile_with({kind: folder_encoder(kind, **given)})
            return stack.enter_context(open_encoder(kind, profile, device="cpu"))

        yield open_kind


def embeddings(encoder, pictures):
    return np.stack([reading.embedding for reading in encoder.embed(pictures)])


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_unit_vectors_in_float32_one_a_picture(tiny, pictures, kind):
    found = embeddings(tiny(kind), pictures)
    assert found.dtype == np.float32
    assert len(found) == len(pictures)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.ptp(found, axis=0).max() > 1e-3  # they differ from picture to picture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("region", ["picture", "face"])
def test_a_batch_of_unlike_sizes_embeds_as_its_pictures_do_one_by_one(tiny, pictures, kind, region):
    mixed = [*pictures, np.asarray(Image.fromarray(pictures[0]).resize((200, 150)))] * 4  # more than one batch
    encoder = tiny(kind, region=region)
    singles = [encoder.embed([picture])[0] for picture in mixed]
    for together, single in zip(encoder.embed(mixed), singles, strict=True):
        assert together.status == single.status
        if single.embedding is not None:
            assert together.embedding == pytest.approx(single.embedding, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_embeds_alike_as_file_pil_picture_and_rgb_array_and_unlike_with_its_channels_swapped(
    tiny, pictures, kind, tmp_path
):
    rgb = pictures[0]
    Image.fromarray(rgb).save(tmp_path / "picture.png")
    encoder = tiny(kind)
    array, pil, file, path, bgr = embeddings(
        encoder, [rgb, Image.fromarray(rgb), str(tmp_path / "picture.png"), tmp_path / "picture.png", rgb[:, :, ::-1]]
    )
    for other in (pil, file, path):
        assert other == pytest.approx(array, abs=1e-6)
    assert np.abs(bgr - array).max() > 1e-3


@pytest.mark.parametrize(("kind", "class_name"), [("clip", "CLIPModel"), ("dinov2", "Dinov2Model")])
def test_an_embedding_is_what_transformers_own_model_and_processor_give(tiny, models, pictures, kind, class_name):
    network = getattr(transformers, class_name).from_pretrained(models / kind).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(models / kind)
    inputs = processor(images=[Image.fromarray(picture) for picture in pictures], return_tensors="pt")
    with torch.no_grad():
        output = network.get_image_features(**inputs) if kind == "clip" else network(**inputs)
    wanted = torch.nn.functional.normalize(output.pooler_output, dim=1).numpy()
    assert embeddings(tiny(kind), pictures) == pytest.approx(wanted, abs=1e-6)


def test_ccip_is_given_red_first_normalised_as_clip_is_and_stretched(tiny):
    red = np.zeros((50, 90, 3), np.uint8)
    red[:, :, 0] = 255
    (found,) = embeddings(tiny("ccip"), [red])
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    wanted = np.array([*(np.array([1, 0, 0]) - mean) / std, 1])  # of the handmade network: the means and a 1
    assert found == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-3)  # a mean of 147,456 floats


@pytest.mark.parametrize("kind", KINDS)
def test_two_encoders_of_the_same_files_give_the_same_bits_and_the_same_id(tiny, pictures, kind):
    one, other = tiny(kind), tiny(kind)
    assert np.array_equal(embeddings(one, pictures), embeddings(other, pictures))
    assert one.id == other.id


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_hashes_the_weights_and_goes_through_json(tiny, models, kind):
    from hashlib import sha256

    (weights,) = [path for path in (models / kind).iterdir() if path.suffix in {".safetensors", ".onnx"}]
    made_by = tiny(kind).id
    assert made_by.weights_sha256 == sha256(weights.read_bytes()).hexdigest()
    assert EncoderId.from_json(made_by.to_json()) == made_by
    assert (made_by.kind, made_by.region) == (kind, "picture")


@pytest.mark.parametrize("write", [write_clip, write_dinov2])
def test_other_weights_have_another_id(write, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    kind = {write_clip: "clip", write_dinov2: "dinov2"}[write]
    ids = []
    for seed in range(2):
        write(tmp_path / kind, seed)
        with open_encoder("e", profile_with({"e": folder_encoder(kind)}), device="cpu") as encoder:
            ids.append(encoder.id)
    assert ids[0].weights_sha256 != ids[1].weights_sha256
    assert ids[0].preprocessing_sha256 == ids[1].preprocessing_sha256
    assert ids[0].label != ids[1].label


def test_another_preprocessing_has_another_id(tiny, tmp_path, monkeypatch):
    plain, face, wide = tiny("clip"), tiny("clip", region="face"), tiny("clip", region="face", margin=0.5)
    hashes = {encoder.id.preprocessing_sha256 for encoder in (plain, face, wide)}
    assert len(hashes) == len({encoder.id.label for encoder in (plain, face, wide)}) == 3
    assert len({encoder.id.weights_sha256 for encoder in (plain, face, wide)}) == 1
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    path = write_clip(tmp_path / "clip") / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    with open_encoder("clip", profile_with({"clip": folder_encoder("clip")}), device="cpu") as changed:
        assert changed.id.preprocessing_sha256 not in hashes


def test_a_picture_without_a_face_is_a_status_where_the_face_is_looked_at_and_none_where_the_picture_is(tiny):
    empty, one, three = puppet(0, figures=0), puppet(0), puppet(3, figures=3)
    faces = tiny("clip", region="face").embed([empty, one, three])
    assert [reading.status for reading in faces] == ["no_face", "ok", "several_faces"]
    assert [reading.embedding is None for reading in faces] == [True, False, True]
    whole = tiny("clip").embed([empty, one, three])
    assert {reading.status for reading in whole} == {"ok"}


@pytest.mark.parametrize("region", ["picture", "face"])
def test_a_file_that_is_no_picture_is_a_status_and_ends_nothing(tiny, pictures, tmp_path, region):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    readings = tiny("clip", region=region).embed([tmp_path / "broken.png", pictures[0], tmp_path / "absent.png"])
    assert [reading.status for reading in readings] == ["decode_error", "ok", "decode_error"]


def test_a_network_that_sees_nothing_is_a_status_and_no_score(tmp_path, monkeypatch, pictures):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    network = transformers.Dinov2Model.from_pretrained(write_dinov2(tmp_path / "dinov2"))
    with torch.no_grad():
        network.layernorm.weight.zero_()
        network.layernorm.bias.zero_()
    network.save_pretrained(tmp_path / "dinov2")
    with open_encoder("e", profile_with({"e": folder_encoder("dinov2")}), device="cpu") as encoder:
        (reading,) = encoder.embed(pictures[:1])
    assert (reading.status, reading.embedding) == ("low_quality", None)


def test_nothing_to_embed_gives_nothing(tiny):
    assert tiny("clip").embed([]) == []


@pytest.mark.parametrize("given", ["picture.png", 3, np.zeros((8, 8, 3), np.uint8)])
def test_one_picture_where_a_list_is_expected_is_refused(tiny, given):
    with pytest.raises(InvalidValueError, match="pictures must be a list of pictures"):
        tiny("clip").embed(given)


@pytest.mark.parametrize("given", [None, 3.5, np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)])
@pytest.mark.parametrize("region", ["picture", "face"])
def test_what_is_no_picture_is_refused(tiny, given, region):
    with pytest.raises(InvalidValueError, match="picture must be a file, a PIL picture or an RGB array"):
        tiny("clip", region=region).embed([given])


@pytest.mark.parametrize("kind", KINDS)
def test_closing_twice_is_fine_and_using_a_closed_encoder_is_not(tiny, pictures, kind):
    encoder = tiny(kind, region="face")
    encoder.embed(pictures[:1])
    encoder.close()
    encoder.close()
    with pytest.raises(InvalidValueError, match="closed"):
        encoder.embed(pictures[:1])


def test_an_encoder_that_nobody_closed_says_so(models, monkeypatch, pictures):
    monkeypatch.setenv("IMAGELAB_MODELS", str(models))
    encoder = open_encoder("clip", profile_with({"clip": folder_encoder("clip")}), device="cpu")
    encoder.embed(pictures[:1])
    gc.collect()
    with pytest.warns(ResourceWarning, match="encoder clip was not closed"):
        del encoder  # the last reference: it goes at once


def failing(tmp_path, monkeypatch, kind):
    """What opening and asking a broken encoder raises."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    profile = profile_with({"e": folder_encoder(kind, "model")})
    raises = pytest.raises((ModelFileError, ModelNotFoundError))
    with open_encoder("e", profile, device="cpu") as encoder, raises as caught:
        _ = encoder.id
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_model_says_what_to_put_where(tmp_path, monkeypatch, kind):
    error = failing(tmp_path, monkeypatch, kind)
    assert isinstance(error, ModelNotFoundError)
    assert f"nothing at {tmp_path}/model. Put the folder there" in str(error)
    assert ("model_feat.onnx" if kind == "ccip" else "preprocessor_config.json") in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_weights_is_refused(tmp_path, monkeypatch, kind):
    folder = WRITERS[kind](tmp_path / "model")
    for path in folder.iterdir():
        if path.suffix in {".safetensors", ".onnx"}:
            path.unlink()
    (folder / "README.md").touch()
    assert any(word in str(failing(tmp_path, monkeypatch, kind)) for word in (".safetensors", "model_feat.onnx"))


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(("kind", "name"), [("clip", "pytorch_model.bin"), ("dinov2", "pytorch_model.bin")])
def test_pickled_weights_are_refused_and_never_run(tmp_path, monkeypatch, kind, name):
    folder = WRITERS[kind](tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    assert f"{name}: is pickled, which can run code" in str(failing(tmp_path, monkeypatch, kind))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("kind", "name"), [("clip", "model.safetensors"), ("ccip", "model_feat.onnx")])
def test_a_pickle_under_another_name_is_refused_and_never_run(tmp_path, monkeypatch, kind, name):
    folder = WRITERS[kind](tmp_path / "model")
    (folder / name).write_bytes(pickle.dumps(Canary(tmp_path / "ran")) + b"\0" * 64)
    assert isinstance(failing(tmp_path, monkeypatch, kind), ModelFileError)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(("kind", "other"), [("clip", "dinov2"), ("dinov2", "clip")])
def test_a_model_of_another_class_is_refused(tmp_path, monkeypatch, kind, other):
    WRITERS[other](tmp_path / "model")
    assert f"is of a {other} model, not of a" in str(failing(tmp_path, monkeypatch, kind))


@pytest.mark.parametrize("given", [{"side_px": 224}, {"channels": 4}])
def test_an_onnx_file_of_another_shape_is_refused(tmp_path, monkeypatch, given):
    write_ccip(tmp_path / "model", **given)
    assert "not one input (n, 3, 384, 384)" in str(failing(tmp_path, monkeypatch, "ccip"))


def test_weights_that_lack_a_tensor_are_refused(tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    path = write_clip(tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    assert "lacks 1 tensors, visual_projection.weight among them" in str(failing(tmp_path, monkeypatch, "clip"))


def test_arcface_is_the_face_pack_itself(configs, pictures):
    profile = configs.profile("puppet")
    with open_encoder("arcface", profile, device="cpu") as arcface, FaceEncoder(profile, "cpu") as pack:
        readings = arcface.embed(pictures)
        for reading, picture in zip(readings, pictures, strict=True):
            own = read_faces(pack.faces(picture), FaceLimits())
            assert reading.status == own.status
            assert np.array_equal(reading.embedding, own.embedding)
        assert arcface.id.label == pack.encoder.label


def test_arcface_may_be_another_pack_than_the_profiles(configs):
    own = configs.profile("puppet").face
    pack = FacePack(**{**own.model_dump(), "name": "another", "source": Source(package="puppets/weights/face")})
    profile = profile_with({"a": Encoder(kind="arcface", pack=pack), "b": Encoder(kind="arcface")})
    with ExitStack() as stack:
        encoders = open_encoders(profile, device="cpu", stack=stack)
        assert encoders["a"].id.label.startswith("another/")
        assert encoders["b"].id.label.startswith("puppet_face/")


def test_a_face_is_cut_out_as_arcface_sees_it_with_more_around_it_where_a_margin_is_asked_for(configs, pictures):
    from insightface.utils.face_align import norm_crop

    with FaceEncoder(configs.profile("puppet"), "cpu") as pack:
        face = pack.faces(pictures[0])[0]
    own = norm_crop(pictures[0], face.landmarks, 112)
    assert np.abs(np.asarray(crop_face(pictures[0], face, 112, 0.0), int) - own).max() <= 1
    # A margin of a quarter on each side: ArcFace's crop is the middle two thirds.
    wide = crop_face(pictures[0], face, 168, 0.25)
    assert np.abs(np.asarray(wide, int)[28:140, 28:140] - own).mean() < 1


def test_the_puppet_profiles_encoders_are_real_and_complete(pictures):
    with ExitStack() as stack:
        encoders = open_encoders("puppet", device="cpu", stack=stack)
        assert list(encoders) == ["arcface", "clip", "clip_face"]
        assert len({encoder.id.label for encoder in encoders.values()}) == 3
        for encoder in encoders.values():
            assert [reading.status for reading in encoder.embed(pictures)] == ["ok"] * len(pictures)


def test_an_unknown_encoder_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="unknown encoder 'arcfase'; did you mean 'arcface'"):
        open_encoder("arcfase", "puppet")


def test_clip_reads_texts_and_says_what_it_could_not_read():
    with open_clip("puppet", device="cpu") as clip:
        texts, beyond = clip.embed_texts(["on the beach", "waving " * 100])
        assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-6)
        assert beyond == (0, 100 + 2 - 77)
        with pytest.raises(InvalidValueError, match="prompt must be a text"):
            clip.embed_texts(["fine", None])


def test_a_text_embeds_alike_alone_and_beside_a_longer_one():
    with open_clip("puppet", device="cpu") as clip:
        (together, _), _ = clip.embed_texts(["on the beach", "a girl with long red hair waving in the town square"])
        (alone,), _ = clip.embed_texts(["on the beach"])
    assert together == pytest.approx(alone, abs=1e-6)


def test_a_profile_without_clip_says_so(configs):
    profile = configs.profile("puppet").model_copy(update={"clip": None})
    with pytest.raises(ProfileError, match="no CLIP yet"):
        open_clip(profile)


def test_copies_of_weights_beside_pickles_are_read(tmp_path, monkeypatch, models, pictures):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    shutil.copytree(models / "clip", tmp_path / "clip")
    (tmp_path / "clip" / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "ran")))
    with open_encoder("e", profile_with({"e": folder_encoder("clip")}), device="cpu") as encoder:
        assert encoder.embed(pictures[:1])[0].status == "ok"
    assert not (tmp_path / "ran").exists()
