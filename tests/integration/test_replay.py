"""A picture is drawn again from what it carries: the same, or everything that changed has a name."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, PngImagePlugin

import imagelab
from imagelab import GenerationRequest, ImageFileError, InvalidValueError, UnknownNameError, cli
from imagelab.batch import BatchImageGenerator, batch_request
from imagelab.config.sweeps import SweepConfig
from imagelab.imagefiles import control_map_path, open_image, read_picture_chunk, save_picture, save_png
from imagelab.redraw import Change, compare_records, replay
from imagelab.results import ControlUse, LoraUse
from imagelab.sweeps import sweep_request

STEPS = 4
LUCA = Path(__file__).parents[2] / "imagelab/puppets/weights/references/luca/luca_1.png"


@pytest.fixture(scope="module")
def with_loras(generator):
    """A picture with the character's own LoRA and one more that acts in part."""
    more = LoraUse(name="portorosso_town", weight=0.7, blocks="OUTD", stop=0.5)
    request = GenerationRequest(
        character="luca", scene_description="at night", seed=3, steps=STEPS, additional_loras=(more,)
    )
    return generator.generate(request)


@pytest.fixture(scope="module")
def with_control(generator):
    use = ControlUse(type="canny", image=LUCA, scale=0.9)
    return generator.generate(GenerationRequest(character="luca", seed=5, steps=STEPS, controls=(use,)))


def save(generation, path):
    """Write a picture and its maps as `generate_character` does."""
    save_picture(generation.image, path, generation.record)
    for index, (made, control) in enumerate(zip(generation.control_maps, generation.record.controls, strict=True)):
        save_png(made, control_map_path(path, index, control.type))
    return path


@pytest.mark.parametrize("name", ["luca.png", "luca.webp", "luca.jpg"])
def test_a_picture_with_loras_comes_back_pixel_for_pixel(generator, with_loras, tmp_path, name):
    outcome = replay(save(with_loras, tmp_path / name), generator)
    assert outcome.identical
    assert (outcome.difference, outcome.inputs_changed, outcome.environment_changed) == (None, (), ())
    assert outcome.generation.image.tobytes() == with_loras.image.tobytes()
    compressed = ", before it was compressed" if name.endswith(".jpg") else ""
    assert outcome.to_text() == f"identical: the same picture, pixel for pixel{compressed}"


def edit(image):
    ImageDraw.Draw(image).rectangle((0, 0, 80, 80), fill="black")
    return image


@pytest.mark.parametrize(
    ("change", "said"),
    [(edit, "pixels"), (lambda image: image.crop((0, 0, 64, 64)), "another size"), (lambda image: image, "pixels")],
    ids=["painted on", "cropped", "compressed once more"],
)
def test_a_jpeg_that_was_changed_afterwards_is_not_the_same_picture(generator, with_loras, tmp_path, change, said):
    path = save(with_loras, tmp_path / "luca.jpg")
    with Image.open(path) as opened:
        exif = opened.info["exif"]
        change(opened.copy()).save(path, exif=exif, quality=60)
    outcome = replay(path, generator)
    assert not outcome.identical
    assert (outcome.file_changed, outcome.as_recorded, outcome.inputs_changed) == (True, True, ())
    assert outcome.to_text().splitlines()[1].startswith("the file was changed since it was drawn")
    assert said in outcome.to_text().splitlines()[0]


def test_a_jpeg_that_comes_out_otherwise_is_different_even_where_compression_hides_that(
    generator, with_loras, tmp_path
):
    other = with_loras.image.copy()
    other.putpixel((5, 5), tuple(255 - value for value in other.getpixel((5, 5))))
    path = save_picture(other, tmp_path / "luca.jpg", with_loras.record)
    outcome = replay(path, generator)
    assert not outcome.identical
    assert 0 < outcome.difference.pixels < 500
    assert (outcome.file_changed, outcome.inputs_changed) == (False, ())  # the file may well be as it was written
    assert "the record doesn't draw the picture that it came with" in outcome.to_text()


def with_chunk(path, edit):
    """Write a picture's file anew with another chunk in it, and its pixels as they were."""
    with Image.open(path) as opened:
        info = PngImagePlugin.PngInfo()
        chunk = json.loads(opened.text["imagelab"])
        edit(chunk)
        info.add_text("imagelab", json.dumps(chunk))
        opened.save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("change", [{"seed": 4}, {"steps": STEPS + 1}], ids=["seed", "steps"])
def test_a_record_that_was_edited_is_said_not_to_draw_its_picture(generator, with_loras, tmp_path, change):
    path = with_chunk(save(with_loras, tmp_path / "a.png"), lambda chunk: chunk["record"].update(change))
    outcome = replay(path, generator)
    assert (outcome.identical, outcome.as_recorded, outcome.file_changed) == (False, False, False)
    (said,) = outcome.to_text().splitlines()[1:]
    assert said.startswith("the record doesn't draw the picture that it came with: it was edited, or something")


def test_where_something_changed_that_may_be_why(generator, with_loras, tmp_path):
    changes = {"seed": 4, "versions": {"torch": "2.0.0"}}
    path = with_chunk(save(with_loras, tmp_path / "a.png"), lambda chunk: chunk["record"].update(changes))
    assert "the picture that it came with: what changed may be why" in replay(path, generator).to_text()


def test_a_chunk_that_doesnt_say_what_was_drawn_leaves_the_cause_open(generator, with_loras, tmp_path):
    path = save(with_loras, tmp_path / "a.png")
    path = with_chunk(path, lambda chunk: (chunk.pop("pixels_sha256"), chunk["record"].update(seed=4)))
    outcome = replay(path, generator)
    assert (outcome.as_recorded, outcome.file_changed) == (None, False)
    assert outcome.to_text().splitlines()[1:] == ["nothing that the record names has changed"]


def test_a_picture_that_was_drawn_beside_others_is_said_to_be_another_in_its_last_bits(generator, tmp_path):
    request = GenerationRequest(character="luca", width=64, height=64, steps=2)
    one, *_ = generator.generate_together(request, [1, 2, 3])
    bound = "it was one of 3 drawn at once (determinism fast) and is drawn alone now, which moves the last bits"
    outcome = replay(save_picture(one.image, tmp_path / "a.png", one.record), generator)
    assert outcome.identical or (outcome.difference.largest <= 1 and bound in outcome.to_text())
    off = outcome.generation.image.copy()  # what another machine may draw
    off.putpixel((5, 5), tuple(value + 1 if value < 255 else 254 for value in off.getpixel((5, 5))))
    outcome = replay(save_picture(off, tmp_path / "b.png", one.record), generator)
    assert outcome.difference.largest == 1
    assert bound in outcome.to_text().splitlines()[1]
    assert "batch_size: 3, now 1" in outcome.to_text()
    assert "the record doesn't draw" not in outcome.to_text()
    other = save_picture(off, tmp_path / "c.png", replace(one.record, seed=9))  # beyond the bound
    assert "the record doesn't draw" in replay(other, generator).to_text()


def test_a_picture_with_a_control_comes_back_from_the_map_beside_it(generator, with_control, tmp_path):
    outcome = replay(save(with_control, tmp_path / "luca.png"), generator)
    assert outcome.identical
    assert (outcome.inputs_changed, outcome.environment_changed) == ((), ())


@pytest.mark.parametrize("kind", ["batch", "sweep"])
def test_a_runs_picture_with_a_control_comes_back_from_the_map_in_its_folder(generator, tmp_path, kind):
    base = {"character": "luca", "scene": "at night", "steps": 1, "size": [64, 64]}
    control = {"type": "canny", "image": str(LUCA)}
    with BatchImageGenerator(generator) as batches:
        if kind == "sweep":
            axes = {"controls": {"canny": [0.5, 1.0]}}
            file = {"base": {**base, "controls": [control]}, "axes": axes, "compare_faces": False}
            request = sweep_request(SweepConfig.model_validate(file))
        else:
            asked = GenerationRequest(
                character="luca", seed=1, steps=1, width=64, height=64, controls=(ControlUse(type="canny", image=LUCA),)
            )
            request = batch_request(asked, 1, enable_consistency_check=False)
        result = batches.run(request, tmp_path / "run", progress=False)
    for item in result.items:
        assert replay(tmp_path / "run" / item.path, generator).identical
    assert len(list((tmp_path / "run").glob("*.png"))) == 1


def test_what_the_map_was_made_of_does_as_well(generator, with_control, tmp_path):
    path = save_picture(with_control.image, tmp_path / "luca.png", with_control.record)
    shutil.copy(LUCA, tmp_path / "renamed.png")
    for given in (tmp_path / "renamed.png", tmp_path):
        outcome = replay(path, generator, controls=[given])
        assert outcome.identical
        assert outcome.inputs_changed == ()


def test_a_missing_map_is_asked_for_and_no_path_of_the_record_is_opened(generator, with_control, tmp_path):
    assert with_control.record.controls[0].image == LUCA  # where it still lies
    path = save_picture(with_control.image, tmp_path / "luca.png", with_control.record)
    with pytest.raises(ImageFileError, match=r"luca\.png: the map of its canny control .* isn't beside it.*--control"):
        replay(path, generator)
    (tmp_path / "luca.control-0-canny.png").write_text("no picture")
    other = save_png(with_control.image, tmp_path / "other.png")
    with pytest.raises(ImageFileError, match="isn't beside it"):
        replay(path, generator, controls=[other])
    with pytest.raises(ImageFileError, match=r"none\.png: doesn't exist"):
        replay(path, generator, controls=[tmp_path / "none.png"])


def test_a_control_of_no_known_kind_is_no_part_of_a_path(generator, with_control, tmp_path):
    control = replace(with_control.record.controls[0], type="../../canny")
    path = save_picture(with_control.image, tmp_path / "a.png", replace(with_control.record, controls=(control,)))
    with pytest.raises(UnknownNameError, match="control type"):
        replay(path, generator)


def test_every_planted_change_is_named(generator, with_loras, tmp_path):
    record = with_loras.record
    first, second = record.loras
    planted = replace(
        record,
        model_sha256=dict(record.model_sha256) | {next(iter(record.model_sha256)): "0" * 64},
        loras=(first, replace(second, sha256="1" * 64)),
        prompt=record.prompt + ", a word",
        scheduler_settings=dict(record.scheduler_settings) | {"use_karras_sigmas": True},
        versions=dict(record.versions) | {"torch": "2.0.0"},
        environment=replace(record.environment, threads=64, cuda="13.0"),
        device="cuda (NVIDIA H100)",
    )
    outcome = replay(save_picture(with_loras.image, tmp_path / "a.png", planted), generator)
    assert outcome.identical  # what was planted is in the record alone
    assert {change.name for change in outcome.inputs_changed} == {
        f"model_sha256.{next(iter(record.model_sha256))}",
        f"loras.{second.name}.sha256",
        "prompt",
        "scheduler_settings.use_karras_sigmas",
    }
    assert {change.name for change in outcome.environment_changed} == {
        "device", "versions.torch", "environment.threads", "environment.cuda",
    }  # fmt: skip
    threads = next(change for change in outcome.environment_changed if change.name == "environment.threads")
    assert (threads.recorded, threads.now) == ("64", str(record.environment.threads))
    assert f"  {threads}" in outcome.to_text().splitlines()


def test_what_a_stranger_wrote_is_shown_without_its_control_characters(generator, with_loras, with_control, tmp_path):
    escape = "\x1b]0;title\x07"
    strange = replace(with_loras.record, base_model=escape, versions={escape: "1"})
    text = replay(save_picture(with_loras.image, tmp_path / "a.png", strange), generator).to_text()
    assert "base_model" in text
    assert "\x1b" not in text
    control = replace(with_control.record.controls[0], image=Path(escape), map_sha256=escape, image_sha256=escape)
    path = save_picture(with_control.image, tmp_path / "b.png", replace(with_control.record, controls=(control,)))
    with pytest.raises(ImageFileError) as refusal:
        replay(path, generator)
    assert "\x1b" not in str(refusal.value)


def test_a_changed_configuration_draws_another_picture_and_is_named(configs, with_loras, tmp_path):
    schedulers = dict(configs.sdxl.schedulers)
    name = with_loras.record.scheduler
    schedulers[name] = schedulers[name].model_copy(update={"kwargs": {"timestep_spacing": "trailing"}})
    changed = replace(configs, sdxl=configs.sdxl.model_copy(update={"schedulers": schedulers}))
    path = save(with_loras, tmp_path / "a.png")
    outcome = replay(path, configs=changed, device="cpu")
    assert not outcome.identical
    expected = Change(name="scheduler_settings.timestep_spacing", recorded="nothing", now="trailing")
    assert outcome.inputs_changed == (expected,)
    assert outcome.difference.of == 128 * 128
    assert outcome.difference.pixels > 0
    assert "different: " in outcome.to_text()


def test_a_picture_that_was_painted_on_differs_where_it_was(generator, with_loras, tmp_path):
    painted = with_loras.image.copy()
    painted.paste((255, 0, 0), (0, 0, 2, 3))
    path = save_picture(with_loras.image, tmp_path / "a.png", with_loras.record)
    with Image.open(path) as opened:
        texts = opened.text
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    painted.save(path, pnginfo=info)
    outcome = replay(path, generator)
    assert not outcome.identical
    assert outcome.difference.pixels == 6
    assert (outcome.file_changed, outcome.as_recorded, outcome.inputs_changed) == (True, True, ())
    assert outcome.to_text().splitlines()[1].startswith("the file was changed since it was drawn")
    painted.resize((64, 64)).save(path, pnginfo=info)
    assert "another size" in replay(path, generator).to_text()


def test_an_old_record_says_less_and_less_is_compared(generator, with_loras, tmp_path):
    old = replace(with_loras.record, environment=None, scheduler_settings={}, sampler="")
    assert compare_records(old, with_loras.record) == ((), ())
    assert replay(save_picture(with_loras.image, tmp_path / "a.png", old), generator).identical


def test_a_picture_of_another_profile_or_of_none_is_refused(generator, with_loras, tmp_path):
    other = save_picture(with_loras.image, tmp_path / "a.png", replace(with_loras.record, profile="sdxl"))
    with pytest.raises(InvalidValueError, match="of the picture's profile, sdxl"):
        replay(other, generator)
    with pytest.raises(ImageFileError, match="no imagelab record"):
        replay(LUCA, generator)


def test_the_public_name_is_the_function_whatever_was_imported_before():
    assert imagelab.replay is replay


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command line; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagelab", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


def test_the_command_says_in_its_exit_code_what_came_of_it(call, with_loras, tmp_path):
    path = save(with_loras, tmp_path / "a.png")
    code, out, _ = call("replay", path, "--output", tmp_path / "again.png")
    assert (code, out.splitlines()[0]) == (0, "identical: the same picture, pixel for pixel")
    assert open_image(tmp_path / "again.png").tobytes() == with_loras.image.tobytes()
    assert read_picture_chunk(tmp_path / "again.png").record.loras == with_loras.record.loras

    other = save_picture(with_loras.image, path, replace(with_loras.record, seed=4))
    code, out, _ = call("replay", other)
    assert code == 1
    assert out.startswith("different: ")
    assert "the record doesn't draw the picture that it came with: it was edited" in out

    code, out, err = call("replay", LUCA)
    assert (code, out) == (2, "")
    assert "carries no imagelab record" in err
    assert call("replay", path, "-o", tmp_path / "a.gif")[0] == 2


def test_a_generator_of_its_own_is_closed_again(with_loras, tmp_path):
    path = save(with_loras, tmp_path / "a.png")
    assert replay(path).identical  # a ResourceWarning would be an error
