"""A batch or a sweep that takes what others have drawn of it is, bit for bit, one that drew everything itself."""

from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from imagelab.batch import BatchImageGenerator
from imagelab.cli import main
from imagelab.config.sweeps import SweepConfig
from imagelab.errors import InvalidValueError, RunFolderError
from imagelab.runs import read_batch, read_run
from imagelab.sweeps import estimate_cost, run_sweep, sweep_request

SCENE = "standing in the town, happy expression"
SMALL = {"quality_preset": "draft", "width": 64, "height": 64, "steps": 1, "progress": False}


@pytest.fixture(scope="module")
def batches(generator):
    with BatchImageGenerator(generator) as batches:
        yield batches


@contextmanager
def counting(generator):
    """Give a list of the pictures that are drawn meanwhile, by what the UNet is asked in a picture's only step."""
    drawn = []
    hook = generator.pipeline.unet.register_forward_pre_hook(lambda *_: drawn.append(1))
    try:
        yield drawn
    finally:
        hook.remove()


def pictures(folder):
    """Return a run's pictures by what sets them apart, whatever number they have, and its maps."""
    plan, told = read_run(folder)
    named = {plan.jobs[index].id: (folder / item.path).read_bytes() for index, (item, _) in told.items() if item.path}
    return named | {path.name: path.read_bytes() for path in folder.glob("control-*.png")}


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    path = tmp_path_factory.mktemp("controls") / "canny.png"
    edges = np.zeros((64, 64, 3), np.uint8)
    edges[16:48:8] = 255
    Image.fromarray(edges).save(path)
    return {"controls": [{"type": "canny", "image": path, "is_map": True, "scale": 0.7}]}


def test_a_batch_grows_by_what_is_new_to_it(generator, batches, control, tmp_path):
    whole, few, more = tmp_path / "whole", tmp_path / "few", tmp_path / "more"
    batches.generate_batch("luca", SCENE, 5, output_dir=whole, seed=3, **SMALL, **control)
    batches.generate_batch("luca", SCENE, 3, output_dir=few, seed=4, **SMALL, **control)
    with counting(generator) as drawn:
        result = batches.generate_batch("luca", SCENE, 5, output_dir=more, seed=3, reuse=[few], **SMALL, **control)
    assert len(drawn) == 2, "the first and the last"
    assert result.pending == 0
    assert pictures(more) == pictures(whole)
    assert [item.similarity_score for item in result.items] == [
        item.similarity_score for item in read_batch(whole).items
    ]
    assert sorted(path.name for path in more.rglob("*.png")) == sorted(path.name for path in whole.rglob("*.png"))


def test_a_sweep_grows_by_a_value_in_its_middle_and_a_seed(generator, batches, tmp_path):
    base = {"character": "luca", "scene": "on the beach", "steps": 1, "size": [64, 64]}

    def sweep(weights, seeds, folder, **given):
        axes = {"loras": {"portorosso_town": weights}, "seeds": seeds}
        config = SweepConfig.model_validate({"base": base, "axes": axes, "compare_faces": False})
        return run_sweep(batches, sweep_request(config), folder, progress=False, **given)

    sweep([0.0, 1.0], [3, 1], tmp_path / "old")
    sweep([0.0, 0.5, 1.0], [1, 2, 3], tmp_path / "whole")
    new, old = tmp_path / "new", [tmp_path / "old"]
    with counting(generator) as drawn:
        sweep([0.0, 0.5, 1.0], [1, 2, 3], new, reuse=old)
    assert len(drawn) == 9 - 4
    plan, _ = read_run(new)
    assert estimate_cost(batches, plan, tmp_path / "newer", reuse=old).pending == 9 - 4
    assert pictures(tmp_path / "new") == pictures(tmp_path / "whole")


def test_what_was_harmed_has_failed_or_was_judged_otherwise_is_drawn(generator, batches, tmp_path):
    old = tmp_path / "old"
    kept = batches.generate_batch("luca", SCENE, 3, output_dir=old, **SMALL)
    (old / kept.items[1].path).write_bytes(b"no picture")
    with counting(generator) as drawn:
        batches.generate_batch("luca", SCENE, 3, output_dir=tmp_path / "mended", reuse=[old], **SMALL)
        assert len(drawn) == 1
        batches.generate_batch(
            "luca", SCENE, 3, output_dir=tmp_path / "other", reuse=[old], consistency_threshold=0.9, **SMALL
        )
    assert len(drawn) == 1 + 3


def test_rejected_pictures_that_are_not_to_be_kept_are_told_of_and_not_copied(generator, batches, tmp_path):
    strict = SMALL | {"consistency_threshold": 0.99}
    batches.generate_batch("luca", SCENE, 2, output_dir=tmp_path / "old", **strict)
    with counting(generator) as drawn:
        result = batches.generate_batch(
            "luca", SCENE, 2, output_dir=tmp_path / "new", reuse=[tmp_path / "old"], save_rejected=False, **strict
        )
    assert (drawn, result.pending, result.total_accepted) == ([], 0, 0)
    assert [item.path for item in result.items] == [None, None]
    assert not [*(tmp_path / "new").rglob("*.png")]


def test_a_batch_until_enough_are_accepted_ends_where_it_would_have_ended(generator, batches, tmp_path):
    off = SMALL | {"enable_consistency_check": False}
    batches.generate_batch("luca", SCENE, 3, output_dir=tmp_path / "later", seed=2, **off)
    until = {"until_accepted": 2, "max_images": 6, **off}
    with counting(generator) as drawn:
        result = batches.generate_batch(
            "luca", SCENE, output_dir=tmp_path / "new", seed=1, reuse=[tmp_path / "later"], **until
        )
    assert [item.seed for item in result.items] == [1, 2], "not those that happen to be there"
    assert len(drawn) == 2
    with counting(generator) as drawn:
        more = {**until, "until_accepted": 3}
        result = batches.generate_batch(
            "luca", SCENE, output_dir=tmp_path / "more", seed=1, reuse=[tmp_path / "new"], **more
        )
    assert ([item.seed for item in result.items], len(drawn)) == ([1, 2, 3], 1)


@pytest.mark.parametrize(("reuse", "error"), [(["nowhere"], RunFolderError), ("nowhere", InvalidValueError)])
def test_what_is_no_run_is_refused_and_nothing_is_left(batches, tmp_path, reuse, error):
    with pytest.raises(error, match="nowhere"):
        batches.generate_batch("luca", SCENE, 1, output_dir=tmp_path / "new", reuse=reuse, **SMALL)
    assert not (tmp_path / "new").exists()


def test_the_command_takes_pictures_from_several_runs(monkeypatch, tmp_path):
    def batch(folder, *more):
        size = "--preset draft --width 64 --height 64 --steps 1 --device cpu"
        words = ["imagelab", "batch", "--character", "luca", "--scene", SCENE, *size.split()]
        monkeypatch.setattr("sys.argv", [*words, "--output-dir", str(tmp_path / folder), *more])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code

    assert batch("a", "--num-images", "1") == 0
    assert batch("b", "--num-images", "1", "--seed", "1") == 0
    given = ["--reuse", str(tmp_path / "a"), "--reuse", str(tmp_path / "b")]
    assert batch("c", "--num-images", "2", *given) == 0
    assert pictures(tmp_path / "c") == pictures(tmp_path / "a") | pictures(tmp_path / "b")
