"""Control maps of pictures: by the real estimator classes, at any size and mode, made once."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from handmade_controls import save_annotators, with_controls
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from imagelab import (
    ControlMapError,
    InvalidValueError,
    ModelFileError,
    ModelNotFoundError,
    UnknownNameError,
    make_control_map,
)
from imagelab.config import Source
from imagelab.config.controlnet import Preprocessor
from imagelab.control_maps import PUPPET, canny_map
from imagelab.controls import control_uses, plan_controls, plan_preprocessor
from imagelab.imagefiles import pixels_sha256
from imagelab.preprocess import MapMaker
from imagelab.preprocess.fit import fit_picture
from imagelab.results import ControlUse

ALL = ("pose", "canny", "depth", "seg", "normal")
UNSURE = {"pose": {"threshold": 0.0}}  # an untrained estimator is sure of nothing


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save_annotators(root / "annotators")
    for name in ("union", "pose", "canny", "depth"):  # only looked up here, never read
        (root / "controlnets" / name).mkdir(parents=True)
        (root / "controlnets" / name / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGELAB_MODELS", str(root))
        yield root


@pytest.fixture(scope="module")
def picture():
    """Something with edges, wider than high."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:40, 20:70] = (200, 60, 30)
    pixels[30:55, 60:95] = (30, 90, 220)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def own(configs):
    return with_controls(configs, params=UNSURE)


def planned(own, picture, control_type, **use):
    uses = control_uses([{"type": control_type, "image": picture, **use}])
    return plan_controls(own, own.profile("puppet"), uses, 4)[0]


def colours(picture):
    return {tuple(colour) for colour in np.asarray(picture).reshape(-1, 3).tolist()}


@pytest.mark.parametrize("control_type", ALL)
def test_every_map_has_the_size_of_its_picture_and_is_the_same_each_time(own, picture, control_type):
    made = make_control_map(control_type, picture, "puppet", device="cpu", configs=own)
    again = make_control_map(control_type, picture, "puppet", device="cpu", configs=own)
    assert (made.image.mode, made.image.size, made.type) == ("RGB", picture.size, control_type)
    assert made.sha256 == again.sha256 == pixels_sha256(made.image)
    assert made.picture_sha256 == pixels_sha256(picture)
    assert bool(made.preprocessor_sha256) == (control_type != "canny")


def test_parts_have_the_colours_of_the_palette_that_is_named(own, picture):
    made = make_control_map("seg", picture, "puppet", device="cpu", configs=own)
    assert colours(made.image) <= colours(PUPPET[None])


def test_edges_are_opencvs_with_the_configured_thresholds(configs, picture):
    own = with_controls(configs, params={"canny": {"low_threshold": 10, "high_threshold": 20}})
    made = make_control_map("canny", picture, "puppet", configs=own)
    np.testing.assert_array_equal(np.asarray(made.image), canny_map(np.asarray(picture), 10, 20))
    smaller = with_controls(configs, params={"canny": {"resolution": 64}})
    assert make_control_map("canny", picture, "puppet", configs=smaller).image.size == picture.size


def test_normals_are_flipped_where_the_configuration_says_so(configs, own, picture):
    flipped = with_controls(configs, params={"normal": {"flip_x": True}})
    one, other = (
        np.asarray(make_control_map("normal", picture, "puppet", device="cpu", configs=each).image).astype(int)
        for each in (own, flipped)
    )
    assert np.abs(one[..., 0] + other[..., 0] - 255).max() <= 1
    np.testing.assert_array_equal(one[..., 1:], other[..., 1:])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "YCbCr"])
def test_a_control_picture_may_be_of_any_mode(own, picture, mode):
    grey = picture.convert("L")
    given = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    assert given.mode == mode
    assert make_control_map("canny", given, "puppet", configs=own).image.size == picture.size


def test_a_transparent_picture_lies_on_white(own, picture):
    clear = picture.convert("RGBA")
    clear.putalpha(Image.fromarray((np.asarray(picture).sum(axis=2) > 0).astype(np.uint8) * 255))
    white = np.asarray(picture).copy()
    white[white.sum(axis=2) == 0] = 255
    given = make_control_map("canny", clear, "puppet", configs=own)
    assert given.picture_sha256 == pixels_sha256(Image.fromarray(white))


def test_a_picture_that_lies_on_its_side_is_turned_upright(own, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    picture.save(tmp_path / "turned.jpg", exif=exif)
    made = make_control_map("canny", tmp_path / "turned.jpg", "puppet", configs=own)
    assert made.image.size == (60, 100)


@pytest.mark.parametrize(
    ("resize", "content"), [("stretch", (64, 64)), ("crop", (64, 64)), ("fill", (64, 38))], ids=str
)
def test_a_picture_comes_to_the_size_that_is_drawn(own, picture, resize, content):
    fitted = fit_picture(picture, (64, 64), resize, control_type="canny", is_map=False)
    assert fitted.content.size == content
    made = MapMaker(device="cpu").fit(planned(own, picture, "canny", resize=resize), 64, 64)
    assert made.image.size == (64, 64)
    rim = np.asarray(made.image)[:10].any()
    assert not rim or resize != "fill", "the border of a picture that is filled up is no edge"


def test_what_is_filled_up_around_normals_faces_the_camera(own, picture):
    made = MapMaker(device="cpu").fit(planned(own, picture, "normal", resize="fill"), 64, 64)
    assert made.image.getpixel((0, 0)) == (128, 128, 255)


def test_a_ready_map_of_the_right_size_is_taken_as_it_is(own, picture):
    for control_type in ALL:
        made = MapMaker().fit(planned(own, picture, control_type, is_map=True), *picture.size)
        assert made.image.tobytes() == picture.tobytes()
        assert made.preprocessor is None


def test_a_ready_map_of_parts_gets_no_colours_in_between(own):
    labels = Image.fromarray(PUPPET[np.random.default_rng(0).integers(0, 7, (30, 50))])
    made = MapMaker().fit(planned(own, labels, "seg", is_map=True, resize="stretch"), 64, 64)
    assert colours(made.image) <= colours(PUPPET[None])


def test_a_map_is_made_once_and_kept_in_the_folder(own, picture, tmp_path):
    control = planned(own, picture, "seg")
    maker = MapMaker(device="cpu", folder=tmp_path)
    first = maker.fit(control, 64, 64)
    (kept,) = tmp_path.iterdir()
    spoilt = Image.new("RGB", (64, 64), "red")
    spoilt.save(kept)  # to see who is asked
    assert maker.fit(control, 64, 64).sha256 == first.sha256, "memory first"
    assert MapMaker(device="cpu", folder=tmp_path).fit(control, 64, 64).sha256 == pixels_sha256(spoilt)
    kept.write_bytes(b"cut off")
    assert MapMaker(device="cpu", folder=tmp_path).fit(control, 64, 64).sha256 == first.sha256, "made again"


def test_no_more_maps_are_kept_than_asked_for(own, picture):
    maker = MapMaker(device="cpu", kept=2)
    for side in (64, 72, 80, 64):
        maker.fit(planned(own, picture, "canny"), side, side)
    assert [image.size for image in maker._maps.values()] == [(80, 80), (64, 64)]


def test_other_parameters_make_another_map(configs, own, picture):
    other = with_controls(configs, params={"canny": {"low_threshold": 1, "high_threshold": 2}})
    maker = MapMaker()
    maker.fit(planned(own, picture, "canny"), 64, 64)
    maker.fit(planned(other, picture, "canny"), 64, 64)
    assert len(maker._maps) == 2


def test_a_picture_that_shows_nobody_says_so(configs, picture, tmp_path):
    picture.save(tmp_path / "empty.png")
    sure = with_controls(configs, params={"pose": {"threshold": 1.0}})
    with pytest.raises(ControlMapError, match=r"empty\.png: shows nobody.*Use a picture that shows a whole person"):
        make_control_map("pose", tmp_path / "empty.png", "puppet", device="cpu", configs=sure)


@pytest.mark.parametrize("control_type", ["canny"])
def test_a_map_without_anything_in_it_says_so(own, control_type):
    grey = Image.new("RGB", (64, 64), "grey")
    with pytest.raises(ControlMapError, match=r"its canny map is of one colour.*ready map"):
        make_control_map(control_type, grey, "puppet", configs=own)


@pytest.mark.parametrize("control_type", ["depth", "normal"])
def test_an_estimator_that_makes_nan_is_found_out(configs, models, picture, control_type):
    folder = models / "annotators" / f"broken_{control_type}"
    good = models / "annotators" / control_type
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(good / "model.safetensors")
    spoilt = {name: value * torch.nan if value.is_floating_point() else value for name, value in weights.items()}
    save_file(spoilt, folder / "model.safetensors", metadata={"format": "pt"})
    broken = with_controls(configs, annotators={control_type: folder.name})
    with pytest.raises(ControlMapError, match="NaN or infinity"):
        make_control_map(control_type, picture, "puppet", device="cpu", configs=broken)


def test_an_estimator_that_lacks_weights_is_refused(configs, models, picture):
    folder = models / "annotators" / "incomplete"
    folder.mkdir()
    for file in (models / "annotators" / "seg").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFileError, match=r"lacks 2 tensors, decode_head\.classifier"):
        make_control_map(
            "seg", picture, "puppet", device="cpu", configs=with_controls(configs, annotators={"seg": "incomplete"})
        )


@pytest.mark.parametrize(
    ("params", "error", "said"),
    [
        ({"palette": "ade20k"}, ModelFileError, "knows 7 labels, and the palette ade20k has 150 colours"),
        ({"palette": "pupet"}, UnknownNameError, "unknown palette 'pupet'; did you mean 'puppet'"),
    ],
    ids=["another", "unknown"],
)
def test_a_palette_that_is_not_the_estimators_is_refused(configs, picture, params, error, said):
    own = with_controls(configs, params={"seg": params})
    with pytest.raises(error, match=said):
        make_control_map("seg", picture, "puppet", device="cpu", configs=own)


def test_an_estimator_of_other_labels_than_its_palettes_is_refused(configs, picture):
    with pytest.raises(ModelFileError, match="knows 5 labels, and the palette puppet has 7 colours"):
        make_control_map(
            "seg", picture, "puppet", device="cpu", configs=with_controls(configs, annotators={"seg": "five"})
        )
    with pytest.raises(ModelFileError, match="5 outputs, not x, y and z"):
        make_control_map(
            "normal", picture, "puppet", device="cpu", configs=with_controls(configs, annotators={"normal": "five"})
        )


def save_detector(folder):
    """One that knows people, untrained: it finds somebody or nobody."""
    yolos = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[64, 64],
        patch_size=16, num_detection_tokens=4, id2label={0: "person"}, label2id={"person": 0},
        use_mid_position_embeddings=False,
    )  # fmt: skip
    YolosForObjectDetection(yolos).save_pretrained(folder)
    YolosImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)


def test_a_detector_that_ships_with_the_package_must_be_the_one_that_is_listed(own, picture, tmp_path):
    folder = tmp_path / "detector"
    save_detector(folder)
    pose = plan_preprocessor(own, own.profile("puppet"), own.control("pose"))
    shipped = replace(pose, detector=folder, detector_packaged=True)
    with pytest.raises(ModelNotFoundError, match="list of hashes"):
        MapMaker(device="cpu").make("pose", picture, shipped, "picture")
    (folder / "SHA256SUMS.json").write_text(json.dumps({"model.safetensors": "0" * 64}))
    with pytest.raises(ModelFileError, match="not the file it should be"):
        MapMaker(device="cpu").make("pose", picture, shipped, "picture")
    with contextlib.suppress(ControlMapError):  # it may find nobody
        _, hashes = MapMaker(device="cpu").make("pose", picture, replace(shipped, detector_packaged=False), "picture")
        assert {"detector/model.safetensors", "model/model.safetensors"} == set(hashes)


@pytest.mark.parametrize(
    ("source", "packaged"),
    [
        (Source(package="puppets/weights/annotators/pose"), True),
        (Source(folder="annotators/pose"), False),
        (None, False),
    ],
    ids=str,
)
def test_a_detector_is_checked_against_the_packages_list_where_the_package_brings_it(own, source, packaged):
    pose = own.control("pose")
    given = Preprocessor(name="vitpose", model=Source(folder="annotators/pose"), detector=source)
    pose = pose.model_copy(update={"preprocessors": {"puppet": given}})
    pose._name = "pose"
    controls = own.controlnet.model_copy(update={"controls": own.controlnet.controls | {"pose": pose}})
    planned = plan_preprocessor(replace(own, controlnet=controls), own.profile("puppet"), pose)
    assert (planned.packaged, planned.detector_packaged) == (False, packaged)


def test_an_estimator_of_another_kind_is_refused(configs, picture):
    other = with_controls(configs, annotators={"depth": "seg"})
    with pytest.raises(ModelFileError, match="is of a SegformerForSemanticSegmentation, not of a …ForDepthEstimation"):
        make_control_map("depth", picture, "puppet", device="cpu", configs=other)


def test_an_estimator_that_is_not_there_says_where_it_should_be(configs, picture):
    absent = with_controls(configs, annotators={"depth": "nowhere"})
    with pytest.raises(ModelNotFoundError, match=r"depth estimator of profile 'puppet': nothing at .*nowhere"):
        make_control_map("depth", picture, "puppet", configs=absent)


def test_pickled_weights_are_not_read(configs, models, picture):
    folder = models / "annotators" / "pickled"
    model = SegformerForSemanticSegmentation.from_pretrained(models / "annotators" / "seg")
    model.config.save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    pickled = with_controls(configs, annotators={"seg": "pickled"})
    with pytest.raises(ModelFileError, match=r"no \.safetensors weights"):
        make_control_map("seg", picture, "puppet", configs=pickled)


def test_a_long_picture_that_is_filled_up_leaves_a_line():
    line = Image.linear_gradient("L").resize((2000, 2)).convert("RGB")
    assert fit_picture(line, (64, 64), "fill", control_type="depth", is_map=True).content.size == (64, 1)


def test_a_ready_map_without_anything_in_it_says_so(own):
    black = Image.new("RGB", (64, 64))
    with pytest.raises(ControlMapError, match="of one colour"):
        MapMaker().fit(planned(own, black, "canny", is_map=True), 64, 64)


@pytest.mark.parametrize(("control_type", "colour"), [("canny", (0, 0, 0)), ("normal", (128, 128, 255))])
def test_a_transparent_ready_map_lies_on_the_background_of_its_kind(own, control_type, colour):
    clear = Image.new("RGBA", (4, 4))
    assert planned(own, clear, control_type, is_map=True).picture.getpixel((0, 0)) == colour


def test_a_window_that_holds_no_step_is_refused_unless_the_scale_is_0(own, picture):
    with pytest.raises(InvalidValueError, match="one of 4 steps"):
        planned(own, picture, "canny", start=0.3, end=0.4)
    assert planned(own, picture, "canny", start=0.3, end=0.4, scale=0.0).scale == 0
    use = control_uses([{"type": "canny", "image": picture}])
    assert plan_controls(own, own.profile("puppet"), use, 1)[0].end == 1


def test_a_map_that_can_not_be_kept_is_made_all_the_same(own, picture, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="isn't kept"):
        MapMaker(folder=tmp_path / "file").fit(planned(own, picture, "canny"), 64, 64)


def test_a_control_use_is_looked_at_as_a_mapping_is(picture):
    (use,) = control_uses([ControlUse(type="canny", image="pose.png", picture=picture.convert("RGBA"))])
    assert (use.image.name, use.picture.mode) == ("pose.png", "RGB")
    with pytest.raises(InvalidValueError, match=r"controls\[0\]\.picture"):
        control_uses([ControlUse(type="canny", image="pose.png", picture="x")])


def test_a_maker_keeps_the_maps_of_several_calls(own, picture):
    maker = MapMaker()
    made = [make_control_map("canny", picture, "puppet", configs=own, maker=maker).image for _ in range(2)]
    assert made[0] is made[1]
