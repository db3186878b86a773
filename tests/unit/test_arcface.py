import gc
import io
import json
import logging
import math
import shutil
import sys
import weakref
import zipfile

import numpy as np
import pytest
from handmade_pack import LANDMARKS, plain, write_pack
from PIL import Image

from imagelab.arcface import FaceEncoder
from imagelab.config import load_configs
from imagelab.errors import ImageFileError, InvalidValueError, ModelFileError, ModelNotFoundError, ProfileError
from imagelab.faces import Face, FaceEncoderId, FaceLimits, read_faces
from imagelab.models import file_sha256
from imagelab.rgb import to_rgb


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The puppet profile with a handmade face pack in $IMAGELAB_MODELS/face."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    return with_pack("face")


def with_pack(folder, detector_size_px=(128, 128)):
    puppet = load_configs().profile("puppet")
    source = type(puppet.face.source)(folder=folder)
    pack = puppet.face.model_copy(update={"source": source, "detector_size_px": detector_size_px})
    return puppet.model_copy(update={"face": pack})


def face(side=50.0, score=0.9, visible=1.0, embedding=(1.0, 0.0)):
    vector = None if embedding is None else np.array(embedding, np.float32)
    box = (0.0, 0.0, side, side + 10)
    return Face(box=box, landmarks=LANDMARKS, score=score, visible_fraction=visible, embedding=vector)


@pytest.mark.parametrize(("colour", "direction"), [("red", (1, -1, -1)), ("lime", (-1, 1, -1)), ("blue", (-1, -1, 1))])
def test_the_recogniser_sees_red_as_red(profile, tmp_path, colour, direction):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        (found,) = encoder.faces(plain(colour))
    assert found.embedding == pytest.approx(np.array(direction) / math.sqrt(3), abs=1e-3)
    assert found.embedding.dtype == np.float32


def test_boxes_and_landmarks_are_in_the_pictures_own_pixels(profile, tmp_path):
    write_pack(tmp_path / "face", ((((32, 16, 80, 80)), 0.9),))
    with FaceEncoder(profile, "cpu") as encoder:
        (found,) = encoder.faces(plain("red", (256, 256)))
    assert found.box == pytest.approx((64, 32, 160, 160))
    assert found.size_px == pytest.approx(96)
    assert found.landmarks == pytest.approx(np.array([64, 32]) + LANDMARKS * np.array([96, 128]), abs=1e-2)
    assert found.score == pytest.approx(0.9)


@pytest.mark.parametrize("size", [(96, 160), (160, 96), (64, 64), (640, 360)])
def test_a_picture_of_another_shape_is_scaled_into_the_upper_left_corner(profile, tmp_path, size):
    write_pack(tmp_path / "face", (((8, 8, 40, 40), 0.9),))
    scale = max(size) / 128
    with FaceEncoder(profile, "cpu") as encoder:
        (found,) = encoder.faces(plain("red", size))
    assert found.box == pytest.approx(np.array([8, 8, 40, 40]) * scale, rel=0.02)


def test_a_box_over_the_border_says_how_much_of_it_is_visible(profile, tmp_path):
    write_pack(tmp_path / "face", (((-32, 32, 32, 96), 0.9),))
    with FaceEncoder(profile, "cpu") as encoder:
        (found,) = encoder.faces(plain("red"))
    assert found.visible_fraction == pytest.approx(0.5)


def test_the_surest_face_comes_first(profile, tmp_path):
    write_pack(tmp_path / "face", (((0, 0, 40, 40), 0.6), ((72, 72, 120, 120), 0.8), ((72, 0, 120, 40), 0.3)))
    with FaceEncoder(profile, "cpu") as encoder:
        assert [round(found.score, 3) for found in encoder.faces(plain("red"))] == [0.8, 0.6]


def test_the_encoder_says_what_its_embeddings_depend_on(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        identity = encoder.encoder
        assert encoder.providers == ("CPUExecutionProvider",)
    assert identity.pack == "puppet_face"
    assert identity.detector_sha256 == file_sha256(tmp_path / "face" / "det.onnx")
    assert identity.recogniser_sha256 == file_sha256(tmp_path / "face" / "w_mean_colour.onnx")
    assert identity.detector_size_px == (128, 128)
    assert FaceEncoderId.from_json(identity.to_json()) == identity


def test_nothing_is_printed_while_the_models_load(profile, tmp_path, capfd):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        encoder.faces(plain("red"))
    assert capfd.readouterr() == ("", "")


def test_a_detector_of_another_size_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    write_pack(tmp_path / "face")
    with FaceEncoder(with_pack("face", (640, 640)), "cpu") as encoder, pytest.raises(ModelFileError, match="128, 128"):
        encoder.faces(plain("red"))


@pytest.mark.parametrize("name", ["det.onnx", "w_mean_colour.onnx"])
def test_a_truncated_model_is_named(profile, tmp_path, name):
    path = write_pack(tmp_path / "face") / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelFileError, match="truncated") as caught:
        encoder.faces(plain("red"))
    assert caught.value.path == path


def test_a_text_file_named_onnx_is_named(profile, tmp_path):
    path = write_pack(tmp_path / "face") / "det.onnx"
    path.write_text("not a model")
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelFileError) as caught:
        encoder.faces(plain("red"))
    assert caught.value.path == path


def test_a_model_that_was_changed_is_refused_where_hashes_are_listed(profile, tmp_path):
    folder = write_pack(tmp_path / "face")
    sums = {path.name: "0" * 64 for path in folder.iterdir()}
    (folder / "SHA256SUMS.json").write_text(json.dumps(sums))
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelFileError, match="sha256"):
        encoder.faces(plain("red"))


@pytest.mark.parametrize(("gone", "task"), [("det.onnx", "detect"), ("w_mean_colour.onnx", "recognition")])
def test_half_a_pack_is_refused(profile, tmp_path, gone, task):
    (write_pack(tmp_path / "face") / gone).unlink()
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelFileError, match=task):
        encoder.faces(plain("red"))


def test_a_missing_pack_says_what_to_put_where(profile, tmp_path):
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelNotFoundError, match="puppet_face"):
        encoder.faces(plain("red"))
    (tmp_path / "face").mkdir()
    (tmp_path / "face" / "readme.txt").write_text("the models were not copied")
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelNotFoundError, match=r"\.onnx"):
        encoder.faces(plain("red"))


def test_a_pack_that_was_unpacked_into_a_folder_of_its_own_name_says_what_to_move(profile, tmp_path):
    nested = write_pack(tmp_path / "face" / "face")
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelNotFoundError) as caught:
        encoder.faces(plain("red"))
    assert f"{nested}: move them up into {tmp_path / 'face'}" in str(caught.value)


def hostile_zips():
    """Yield archives that no one should unpack: out of the folder, through a link, endlessly, or well-formed."""
    link = zipfile.ZipInfo("w600k.onnx")
    link.external_attr = 0o120777 << 16
    for name, content in (
        ("../escaped.onnx", b"x"),
        ("/escaped.onnx", b"x"),
        (link, b"/etc/passwd"),
        ("bomb.onnx", bytes(2**25)),
        ("det.onnx", b"x"),
    ):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        yield stream.getvalue()


@pytest.mark.parametrize("content", list(hostile_zips()), ids=["parent", "absolute", "link", "bomb", "whole"])
def test_a_zip_in_the_place_of_a_pack_is_refused_and_never_unpacked(profile, tmp_path, content):
    (tmp_path / "face").mkdir()
    (tmp_path / "face" / "buffalo_l.zip").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ModelNotFoundError, match="face pack"):
        encoder.faces(plain("red"))
    shutil.rmtree(tmp_path / "face")
    (tmp_path / "face").write_bytes(content)
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises((ModelNotFoundError, ModelFileError)):
        encoder.faces(plain("red"))
    assert before == [tmp_path / "face", tmp_path / "face" / "buffalo_l.zip"]
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "face"]


@pytest.mark.parametrize("factor", [0.0, math.nan, math.inf])
def test_a_face_whose_embedding_is_none_is_of_low_quality_and_says_why(profile, tmp_path, factor):
    write_pack(tmp_path / "face", factor=factor)
    with FaceEncoder(profile, "cpu") as encoder:
        (found,) = encoder.faces(plain("red"))
        (among_many,) = next(encoder.faces_in([plain("red")])).faces
    assert found.embedding is among_many.embedding is None
    reading = read_faces([found], FaceLimits())
    assert (reading.status, reading.reason) == ("low_quality", "the recogniser gave no embedding")


@pytest.mark.parametrize("library", ["insightface.app.face_analysis", "onnxruntime"])
def test_a_library_that_cannot_be_imported_says_how_to_repair_that(profile, tmp_path, monkeypatch, library):
    write_pack(tmp_path / "face")
    monkeypatch.setitem(sys.modules, library, None)
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(ProfileError, match="make setup") as caught:
        encoder.faces(plain("red"))
    assert library in caught.value.reason


@pytest.fixture
def cuda_for_torch_alone(monkeypatch):
    """A machine where torch has CUDA and the onnxruntime that is installed hasn't."""
    onnxruntime, torch = pytest.importorskip("onnxruntime"), pytest.importorskip("torch")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("imagelab.arcface.version", lambda _: "1.0")  # onnxruntime-gpu is listed as installed


@pytest.mark.usefixtures("cuda_for_torch_alone")
def test_who_insists_on_cuda_is_told_when_onnxruntime_falls_back(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cuda") as encoder, pytest.raises(ProfileError, match="not on CUDAExecutionProvider"):
        encoder.faces(plain("red"))


@pytest.mark.usefixtures("cuda_for_torch_alone")
def test_a_fall_back_to_the_cpu_is_logged_and_recorded(profile, tmp_path, caplog):
    write_pack(tmp_path / "face")
    with caplog.at_level(logging.WARNING), FaceEncoder(profile, "auto") as encoder:
        assert encoder.providers == ("CPUExecutionProvider",)
    assert "Exactly one onnxruntime may be installed" in caplog.text


COLOURS = ("red", "lime", "blue", "white", "yellow", "cyan", "magenta")


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("workers", [1, 2])
def test_many_pictures_give_what_each_gives_alone_in_their_order(profile, tmp_path, chunk, workers):
    write_pack(tmp_path / "face", (((8, 8, 48, 48), 0.9), ((60, 60, 110, 120), 0.8)))
    with FaceEncoder(profile, "cpu") as encoder:
        alone = [encoder.faces(plain(colour)) for colour in COLOURS]
        many = list(encoder.faces_in((plain(colour) for colour in COLOURS), chunk=chunk, workers=workers))
    assert len(many) == len(COLOURS)
    for found, expected in zip(many, alone, strict=True):
        assert [face.box for face in found.faces] == [face.box for face in expected]
        assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(found.faces, expected, strict=True))


def test_a_fault_in_one_picture_of_many_is_that_pictures(profile, tmp_path):
    write_pack(tmp_path / "face")
    (tmp_path / "notes.png").write_text("not a picture")
    pictures = [
        plain("red"),
        tmp_path / "notes.png",
        tmp_path / "gone.png",
        None,
        plain("red", (1, 1000)),
        plain("blue"),
    ]
    with FaceEncoder(profile, "cpu") as encoder:
        found = list(encoder.faces_in(pictures, chunk=4))
    assert [len(one.faces) for one in found] == [1, 0, 0, 0, 0, 1]
    kinds = [None, ImageFileError, ImageFileError, InvalidValueError, None, None]
    assert [type(one.fault) if one.fault else None for one in found] == kinds


def test_pictures_are_taken_as_they_are_needed(profile, tmp_path):
    write_pack(tmp_path / "face")
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield plain("red")

    with FaceEncoder(profile, "cpu") as encoder:
        found = encoder.faces_in(endless(), chunk=4, workers=2)
        for _ in range(10):
            next(found)
        found.close()
    assert len(taken) <= 10 + 4 * 3


@pytest.mark.parametrize("bad", [{"chunk": 0}, {"chunk": 2.5}, {"workers": 0}])
def test_chunks_and_workers_are_whole_numbers_from_one(profile, bad):
    with FaceEncoder(profile, "cpu") as encoder, pytest.raises(InvalidValueError, match=next(iter(bad))):
        next(encoder.faces_in([plain("red")], **bad))


def test_no_pictures_are_no_faces(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        assert list(encoder.faces_in([])) == []


def test_a_face_over_the_middle_of_the_picture_is_central_and_one_in_a_corner_is_not(profile, tmp_path):
    write_pack(tmp_path / "face", (((32, 24, 96, 104), 0.9), ((-10, -10, 10, 10), 0.8)))
    with FaceEncoder(profile, "cpu") as encoder:
        middle, corner = encoder.faces(plain("red"))
    assert middle.off_centre == pytest.approx(0, abs=1e-6)
    assert corner.off_centre == pytest.approx(1, abs=1e-6)


def test_unknown_device_is_refused(profile):
    with pytest.raises(InvalidValueError, match="auto, cpu, cuda or"):
        FaceEncoder(profile, "gpu")


def test_closing_twice_is_harmless_and_using_a_closed_encoder_is_not(profile, tmp_path):
    write_pack(tmp_path / "face")
    encoder = FaceEncoder(profile, "cpu")
    encoder.faces(plain("red"))
    encoder.close()
    encoder.close()
    assert not encoder.is_loaded
    with pytest.raises(InvalidValueError, match="closed"):
        encoder.faces(plain("red"))


def test_closing_gives_the_models_back_at_once(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        encoder.faces(plain("red"))
        models = encoder._analysis.models.values()
        alive = [weakref.ref(owner) for model in models for owner in (model, model.session)]
        del models
    assert [owner() for owner in alive] == [None] * 4


def test_encoders_of_one_pack_share_its_models_until_the_last_is_closed(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as one, FaceEncoder(profile, "cpu") as other:
        (before,) = one.faces(plain("red"))
        assert other.encoder == one.encoder
        assert other._analysis is one._analysis
        alive = weakref.ref(one._analysis)
        one.close()
        (after,) = other.faces(plain("red"))
        assert np.array_equal(after.embedding, before.embedding)
    assert alive() is None


def test_a_pack_that_has_changed_since_it_was_opened_is_opened_anew(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as before:
        assert len(before.faces(plain("red"))) == 1
        write_pack(tmp_path / "face", ())
        with FaceEncoder(profile, "cpu") as after:
            assert after.faces(plain("red")) == ()
            assert after.encoder != before.encoder
        of_another_threshold = profile.model_copy(
            update={"face": profile.face.model_copy(update={"detection_threshold": 0.95})}
        )
        with FaceEncoder(of_another_threshold, "cpu") as stricter:
            assert stricter.encoder.detection_threshold == 0.95


def test_an_encoder_that_was_left_open_warns(profile, tmp_path):
    write_pack(tmp_path / "face")
    encoder = FaceEncoder(profile, "cpu")
    encoder.faces(plain("red"))
    with pytest.warns(ResourceWarning, match="not closed"):
        del encoder


def test_an_encoder_that_never_loaded_needs_no_closing(profile):
    FaceEncoder(profile, "cpu")
    gc.collect()


@pytest.mark.parametrize(
    ("faces", "status"),
    [
        ([], "no_face"),
        ([face()], "ok"),
        ([face(), face()], "several_faces"),
        ([face(), face(side=8)], "ok"),
        ([face(side=8)], "low_quality"),
        ([face(score=0.2)], "low_quality"),
        ([face(visible=0.3)], "low_quality"),
        ([face(embedding=None)], "low_quality"),
    ],
)
def test_only_usable_faces_count(faces, status):
    reading = read_faces(faces, FaceLimits(min_face_px=16, min_score=0.5))
    assert reading.status == status
    assert (reading.embedding is not None) == (status == "ok")


def test_a_text_file_named_png_is_no_picture(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ImageFileError) as caught:
        to_rgb(path)
    assert caught.value.path == path


def turned(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture, {"exif": exif}


@pytest.mark.parametrize(
    ("picture", "options"),
    [
        turned(Image.linear_gradient("L").convert("RGB").resize((40, 20))),
        (Image.merge("LA", (Image.new("L", (8, 8)), Image.linear_gradient("L").resize((8, 8)))), {}),
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), {}),
    ],
    ids=["turned", "transparent", "16 bits"],
)
def test_a_picture_is_the_same_as_a_file_and_as_pil_opened_it(tmp_path, picture, options):
    picture.save(tmp_path / "a.png", **options)
    from_file = to_rgb(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(to_rgb(opened), from_file)
    assert 0 < from_file.mean() < 255


@pytest.mark.parametrize("size", [(0, 0), (0, 8), (1, 129), (1, 1000), (4, 3000)])
def test_a_picture_too_thin_for_the_detector_has_no_face(profile, tmp_path, size):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        assert encoder.faces(plain("red", size)) == ()
        assert encoder.faces(plain("red", size[::-1])) == ()


def test_the_thinnest_picture_that_the_detector_can_see_is_looked_at(profile, tmp_path):
    write_pack(tmp_path / "face")
    with FaceEncoder(profile, "cpu") as encoder:
        assert len(encoder.faces(plain("red", (1, 128)))) == len(encoder.faces(plain("red", (128, 1)))) == 1


@pytest.mark.parametrize("bad", [None, 3, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3))])
def test_what_is_no_picture_is_refused(bad):
    with pytest.raises(InvalidValueError, match="RGB array"):
        to_rgb(bad)
