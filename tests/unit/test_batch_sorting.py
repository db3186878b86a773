import json
import math
from resource import RLIMIT_FSIZE, getrlimit, setrlimit

import numpy as np
import pytest
from handmade_pack import handmade_configs, plain, write_pack
from PIL import Image

from imagelab.batch import BatchImageGenerator, is_blank
from imagelab.character import CharacterGenerator
from imagelab.config import configs_root
from imagelab.errors import (
    GenerationError,
    ImageFileError,
    InvalidValueError,
    ModelNotFoundError,
    ReferenceStoreError,
    RunFolderError,
    UnknownNameError,
)
from imagelab.imagefiles import read_record
from imagelab.models import file_sha256
from imagelab.references import CharacterReferenceManager
from imagelab.results import Generation, GenerationRecord
from imagelab.runs import read_batch

CONFIGS = configs_root()
RED_ONES, BLUE_ONES = ((255, 80, 40), (255, 40, 80), (240, 60, 60)), ((40, 80, 255), (80, 40, 255), (60, 60, 240))
OF_THE_RUN = {".lock", "plan.json", "ledger.jsonl", "metadata.json", "index.html"}


def painting(colour):
    """Return a picture whose mean is a colour, but which is not blank."""
    picture = np.array(plain(colour))
    picture[::2] = np.clip(picture[::2].astype(int) - 40, 0, 255)
    return Image.fromarray(picture)


def shaded(colour, width_px):
    """Return a painting with a dark part, which makes it look like no copy of another one."""
    picture = np.array(painting(colour))
    picture[:, :width_px] = picture[:, :width_px] // 2
    return Image.fromarray(picture)


class Painter(CharacterGenerator):
    """Draws what `answers` says, from the first seed on: a colour, a picture, or an error to raise."""

    def __init__(self, configs, answers):
        super().__init__(profile="puppet", device="cpu", configs=configs)
        self.answers = answers
        self.loads = 0
        self.cleaned_up = False

    def load(self):
        self.loads += 1

    def generate(self, request, on_step=None):  # noqa: ARG002
        answer = self.answers[request.seed % len(self.answers)]
        if isinstance(answer, BaseException):
            raise answer
        image = answer if isinstance(answer, Image.Image) else painting(answer)
        return Generation(image=image, record=record(request))

    def cleanup(self):
        self.cleaned_up = True


def record(request):
    return GenerationRecord(
        profile="puppet", base_model="none", model_sha256={}, character=request.character,
        scene_description=request.scene_description, style=None, quality_preset="standard", prompt="a painting",
        negative_prompt="", seed=request.seed, width=128, height=128, steps=1, guidance_scale=1.0, scheduler="euler",
        loras=(), device="cpu", dtype="float32", memory_policy="resident",
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(CONFIGS))
    write_pack(tmp_path / "face")
    (tmp_path / "luca").mkdir()
    painting("red").save(tmp_path / "luca" / "red.png")
    return tmp_path


@pytest.fixture
def batch(folder):
    """Return a function that makes a batch generator which paints what it is told."""
    made = []

    def make(*answers, painter=Painter):
        configs = without_loras(handmade_configs({"luca": "luca"}))
        references = CharacterReferenceManager(store=folder / "store", profile="puppet", configs=configs, device="cpu")
        made.append(references)
        return BatchImageGenerator(painter(configs, answers), references)

    yield make
    for references in made:
        references.cleanup()


def without_loras(configs):
    """Return the configuration with characters that need no LoRA file."""
    characters = {
        name: character.model_copy(update={"loras": ()})
        for name, character in configs.character_presets.characters.items()
    }
    presets = configs.character_presets.model_copy(update={"characters": characters})
    return type(configs)(
        root=configs.root, sdxl=configs.sdxl, lora_registry=configs.lora_registry, controlnet=configs.controlnet,
        character_presets=presets,
    )  # fmt: skip


def draw(batch_generator, folder, **options):
    options = {"num_images": len(batch_generator.generator.answers), "output_dir": folder / "out", **options}
    return batch_generator.generate_batch("luca", "on the beach", progress=False, **options)


def files(folder):
    """List the pictures and what else lies there, without what every run has."""
    there = (path for path in folder.rglob("*") if path.is_file() and path.name not in OF_THE_RUN)
    return sorted(path.relative_to(folder).as_posix() for path in there)


def test_pictures_are_sorted_by_what_became_of_them(batch, folder):
    out_of_memory = GenerationError("out of memory")
    result = draw(batch("red", "blue", plain("red"), out_of_memory, "red"), folder, seed=5 * 8)
    assert [item.status for item in result.items] == ["accepted", "rejected", "failed", "failed", "accepted"]
    reasons = ["below the threshold", "blank: the picture shows nothing", str(out_of_memory)]
    assert [item.reason for item in result.items][1:4] == reasons
    assert result.counts == {"accepted": 2, "rejected": 1, "unscorable": 0, "failed": 2, "pending": 0}
    assert sum(result.counts.values()) == result.requested == 5
    assert (result.total_generated, result.total_accepted) == (3, 2)
    assert files(folder / "out") == [
        "accepted/0000_seed40.png",
        "accepted/0004_seed44.png",
        "rejected/0001_seed41.png",
    ]


def test_each_picture_is_drawn_from_the_next_seed(batch, folder):
    result = draw(batch("red"), folder, num_images=3, seed=42)
    assert [(item.index, item.seed) for item in result.items] == [(0, 42), (1, 43), (2, 44)]


def test_scores_are_those_of_the_pictures_that_were_compared(batch, folder):
    result = draw(batch("red", plain("red"), GenerationError("no"), "blue"), folder)
    assert result.consistency_scores == pytest.approx((1.0, result.items[3].similarity_score))
    assert result.mean_similarity == pytest.approx(sum(result.consistency_scores) / 2)


def test_a_picture_without_a_face_is_unscorable_and_never_scored_zero(batch, folder):
    with_faces = batch("red")
    references = with_faces.references.references("luca")
    write_pack(folder / "face", ())
    blind = batch("red")
    blind.references._configured["luca"] = references
    result = draw(blind, folder, num_images=2)
    assert [(item.status, item.reason, item.similarity_score) for item in result.items] == [
        ("unscorable", "no_face", None)
    ] * 2
    assert result.consistency_scores == ()
    assert math.isnan(result.mean_similarity)
    assert json.loads((folder / "out" / "metadata.json").read_text())["summary"]["mean_similarity"] is None
    assert files(folder / "out" / "rejected") == ["0000_seed0.png", "0001_seed1.png"]


def test_a_picture_with_two_faces_is_unscorable(batch, folder):
    seeing_one = batch("red")
    references = seeing_one.references.references("luca")
    write_pack(folder / "face", (((8, 8, 56, 56), 0.9), ((72, 72, 120, 120), 0.9)))
    seeing_two = batch("red")
    seeing_two.references._configured["luca"] = references
    assert draw(seeing_two, folder).items[0].reason == "several_faces"


def test_what_is_rejected_is_listed_even_when_it_is_not_saved(batch, folder):
    result = draw(batch("red", "blue"), folder, save_rejected=False)
    assert files(folder / "out") == ["accepted/0000_seed0.png"]
    assert result.items[1].path is None
    assert result.items[1].similarity_score is not None
    assert result.items[1].perceptual_hash is not None


def test_without_the_consistency_check_all_but_blank_pictures_are_accepted(batch, folder):
    (folder / "face" / "det.onnx").unlink()  # proof that no face is looked for
    result = draw(batch("red", "blue", plain("red")), folder, enable_consistency_check=False)
    assert [item.status for item in result.items] == ["accepted", "accepted", "failed"]
    assert (result.threshold, result.encoder, result.consistency_scores) == (None, None, ())


def test_the_threshold_is_the_characters_for_batches_unless_given(batch, folder):
    generator = batch("yellow")
    configured = generator.generator.configs.character("luca").thresholds.batch
    strict = draw(generator, folder)
    lax = draw(generator, folder, output_dir=folder / "lax", consistency_threshold=0.1)
    assert (strict.threshold, strict.total_accepted) == (configured, 0)
    assert (lax.threshold, lax.total_accepted) == (0.1, 1)


def test_a_stored_calibration_gives_the_threshold_and_is_named(batch, folder):
    generator = batch("red", "blue")
    reds, blues = ([shaded(colour, 30 * n) for n, colour in enumerate(ones, 1)] for ones in (RED_ONES, BLUE_ONES))
    calibration = generator.references.calibrate("luca", reds, {"alberto": blues}, resamples=100).calibration
    result = draw(generator, folder, seed=2)
    assert (
        result.threshold
        == calibration.threshold.value
        != generator.generator.configs.character("luca").thresholds.batch
    )
    assert "3 genuine, 3 impostor" in result.calibration
    assert [item.verdict.calibrated for item in result.items] == [True, True]
    generator.references.calibrate("luca", reds[:2], {"alberto": blues[:2]}, resamples=100)
    with pytest.raises(InvalidValueError, match=r"calibration was .*, is .*2 genuine, 2 impostor"):
        draw(generator, folder, seed=2)


def test_accepting_is_monotone_in_the_threshold(batch, folder):
    generator = batch("red", "yellow", "blue", (255, 80, 40))
    accepted = [
        draw(generator, folder, output_dir=folder / str(threshold), consistency_threshold=threshold).total_accepted
        for threshold in (-1, -0.5, 0, 0.5, 0.9, 1)
    ]
    assert accepted == sorted(accepted, reverse=True)
    assert accepted[0] == 4


def test_every_file_is_the_one_that_the_metadata_describes(batch, folder):
    result = draw(batch("red", "blue"), folder)
    for item in result.items:
        assert file_sha256(folder / "out" / item.path) == item.sha256
        assert read_record(folder / "out" / item.path).seed == item.seed


def test_the_result_reads_back_from_its_folder(batch, folder):
    result = draw(batch("red", "blue", GenerationError("no")), folder)
    assert read_batch(folder / "out") == result
    metadata = json.loads((folder / "out" / "metadata.json").read_text())
    assert metadata["complete"] is True
    assert metadata["summary"]["accepted"] == 1
    assert metadata["request"]["picture"]["seed"] == 0
    assert metadata["references"]["encoder"]["pack"] == "puppet_face"
    assert metadata["face_providers"] == ["CPUExecutionProvider"]


def test_a_batch_reads_back_from_where_its_folder_is_now(batch, folder, monkeypatch):
    monkeypatch.chdir(folder)
    draw(batch("red"), folder, output_dir="out")
    (folder / "out").rename(folder / "moved")
    monkeypatch.chdir("/")
    result = read_batch(folder / "moved")
    assert (result.output_dir / result.items[0].path).is_file()


def test_a_folder_without_a_batch_is_refused(tmp_path):
    with pytest.raises(InvalidValueError, match=r"metadata\.json"):
        read_batch(tmp_path)


def test_a_batch_without_a_folder_of_its_own_goes_to_the_runs(batch, folder):
    results = [draw(batch("red"), folder, output_dir=None) for _ in range(2)]
    runs = folder / "project" / "reports" / "runs"
    assert {result.output_dir.parent for result in results} == {runs}
    assert all(result.output_dir.name.partition("-")[2].startswith("luca") for result in results)
    assert len({result.output_dir for result in results}) == 2


def test_a_notebooks_own_files_in_the_folder_stay(batch, folder):
    (folder / "out").mkdir()
    (folder / "out" / "notebook.ipynb").write_text("{}")
    draw(batch("red"), folder)
    assert files(folder / "out") == ["accepted/0000_seed0.png", "notebook.ipynb"]


def test_another_batch_is_never_overwritten(batch, folder):
    draw(batch("red"), folder)
    before = {path: (folder / "out" / path).read_bytes() for path in files(folder / "out")}
    with pytest.raises(InvalidValueError, match=r"scene_description was 'on the beach', is 'at home'"):
        batch("blue").generate_batch("luca", "at home", 1, output_dir=folder / "out", progress=False)
    assert {path: (folder / "out" / path).read_bytes() for path in files(folder / "out")} == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"save_rejected": "no"}, "save_rejected"),
        ({"enable_consistency_check": 0}, "enable_consistency_check"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": -1}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"num_images": 2.0}, "num_images"),
        ({"num_images": 10**6}, "num_images"),
        ({"consistency_threshold": 2}, "consistency_threshold"),
        ({"consistency_threshold": float("nan")}, "consistency_threshold"),
        ({"seed": "x"}, "seed"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"seed": 2**63 - 1, "num_images": 2}, "seed"),
        ({"width": 100}, "width"),
        ({"additional_loras": "luca"}, "additional_loras"),
        ({"output_dir": ""}, "output_dir"),
        ({"output_dir": 5}, "output_dir"),
        ({"output_dir": "a\0b"}, "output_dir"),
        ({"output_dir": "x" * 300}, "output_dir"),
    ],
)
def test_a_bad_value_is_refused_before_anything_loads(batch, folder, options, named):
    generator = batch("red")
    before = files(folder)
    with pytest.raises(InvalidValueError, match=named):
        draw(generator, folder, **options)
    assert generator.generator.loads == 0
    assert files(folder) == before
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("options", "nearest"), [({"quality_preset": "hihg"}, "high"), ({"style": "pixxar"}, "pixar")])
def test_an_unknown_name_is_refused_before_anything_loads(batch, folder, options, nearest):
    generator = batch("red")
    with pytest.raises(UnknownNameError, match=nearest):
        draw(generator, folder, **options)
    assert generator.generator.loads == 0


def test_an_unknown_character_is_refused_with_the_nearest_name(batch, folder):
    generator = batch("red")
    with pytest.raises(UnknownNameError, match="did you mean 'luca'"):
        generator.generate_batch("lucca", "on the beach", output_dir=folder / "out")
    assert not (folder / "out").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(batch, folder):
    (folder / "out").write_text("precious")
    for place in (folder / "out", folder / "out" / "deeper"):
        with pytest.raises(InvalidValueError, match="output_dir"):
            draw(batch("red"), folder, output_dir=place)
    assert (folder / "out").read_text() == "precious"


def test_a_text_file_among_the_references_is_refused_before_anything_is_drawn(batch, folder):
    (folder / "luca" / "notes.png").write_text("not a picture")
    generator = batch("red")
    with pytest.raises(ReferenceStoreError, match=r"notes\.png"):
        draw(generator, folder)
    assert generator.generator.loads == 0
    assert not (folder / "out").exists()


def test_a_stale_store_is_refused_before_anything_is_drawn(batch, folder):
    batch("red").references.create_character_embedding("luca", [painting("red")])
    write_pack(folder / "face", (((30, 30, 90, 90), 0.8),))
    generator = batch("red")
    with pytest.raises(ReferenceStoreError, match="stale: detector_sha256"):
        draw(generator, folder)
    assert generator.generator.loads == 0
    assert not (folder / "out").exists()


def test_models_that_are_missing_leave_no_folder_behind(batch, folder):
    with pytest.raises(ModelNotFoundError):
        draw(batch(ModelNotFoundError("base", folder / "base")), folder)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImageFileError("x.png", "can't be written")])
def test_a_batch_that_is_stopped_lists_what_it_has(batch, folder, error):
    with pytest.raises(type(error)):
        draw(batch("red", error), folder, num_images=4)
    metadata = json.loads((folder / "out" / "metadata.json").read_text())
    assert metadata["complete"] is False
    assert metadata["summary"]["accepted"] == 1
    assert files(folder / "out") == ["accepted/0000_seed0.png"]


def test_a_picture_that_cannot_be_written_is_pending_and_drawn_by_the_same_call(batch, folder):
    """B3: RLIMIT_FSIZE."""
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    generator = batch("red", Image.fromarray(noise))
    limits = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (30_000, limits[1]))  # bytes: more than the list takes, less than the noise
    try:
        with pytest.raises(RunFolderError, match=r"File too large.*the same call then goes on"):
            draw(generator, folder, consistency_threshold=-1)
    finally:
        setrlimit(RLIMIT_FSIZE, limits)
    assert read_batch(folder / "out").counts == {
        "accepted": 1, "rejected": 0, "unscorable": 0, "failed": 0, "pending": 1,
    }  # fmt: skip
    assert files(folder / "out") == ["accepted/0000_seed0.png"]
    assert draw(generator, folder, consistency_threshold=-1).total_accepted == 2


def test_the_list_grows_with_the_batch(batch, folder, monkeypatch):
    monkeypatch.setattr("imagelab.runs.folder._PUBLISH_SECONDS", 0)
    lengths = []

    class Reader(Painter):
        def generate(self, request, on_step=None):
            listed = folder / "out" / "metadata.json"
            lengths.append(len(json.loads(listed.read_text())["result"]["items"]) if listed.exists() else 0)
            return super().generate(request, on_step)

    draw(batch("red", painter=Reader), folder, num_images=4)
    assert lengths[:2] == [0, lengths[1]]
    assert all(number - 1 <= length <= number for number, length in enumerate(lengths[1:], start=1))


def test_a_batch_in_which_every_picture_fails_is_no_error(batch, folder):
    result = draw(batch(GenerationError("out of memory")), folder, num_images=3)
    assert result.counts["failed"] == 3
    assert result.acceptance_rate == 0


def test_cleanup_closes_only_what_was_made_here(batch, folder):
    given = batch("red")
    draw(given, folder)
    given.cleanup()
    given.cleanup()
    assert not given.generator.cleaned_up
    assert given.references.check_character_consistency("luca", painting("red")).is_consistent


def test_cleanup_of_what_was_made_here_is_harmless_twice(folder):  # noqa: ARG001
    with BatchImageGenerator(profile="puppet", device="cpu") as own:
        own.cleanup()
    with pytest.raises(GenerationError, match="cleaned up"):
        own.generator.load()


def test_generator_and_references_of_two_profiles_are_refused(batch, folder):  # noqa: ARG001
    generator = batch("red")
    with pytest.raises(InvalidValueError, match="puppet, sdxl"):
        BatchImageGenerator(generator.generator, profile="sdxl")
    with pytest.raises(InvalidValueError, match="puppet, sdxl"):
        BatchImageGenerator(CharacterGenerator(profile="sdxl"), generator.references)


@pytest.mark.parametrize("colour", ["black", "white", (127, 127, 127)])
def test_a_picture_of_one_colour_is_blank(colour):
    assert is_blank(plain(colour))


def test_a_picture_of_two_colours_with_the_same_brightness_is_not_blank():
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[:4] = (255, 0, 0)
    picture[4:] = (0, 0, 255)
    assert not is_blank(Image.fromarray(picture))
