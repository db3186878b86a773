"""The maps that a run's pictures follow: part of what the run promises, as its pictures are."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from handmade_runs import content, handmade_plan, paint, run
from PIL import Image

from imagelab.imagefiles import pixels_sha256
from imagelab.preprocess import ControlMap
from imagelab.results import ControlRecord

EDGES = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
SHA256 = pixels_sha256(EDGES)
NAME = f"control-0-canny-{SHA256[:8]}.png"
RECORD = ControlRecord(
    type="canny", model="dedicated", model_sha256={}, scale=0.7, start=0.0, end=1.0, resize="crop", is_map=False,
    image=Path("edges.png"), image_sha256="00", map_sha256=SHA256, preprocessor="canny",
)  # fmt: skip
MAP = ControlMap(
    image=EDGES, type="canny", sha256=SHA256, picture_sha256="00", preprocessor="canny", params={},
    preprocessor_sha256={},
)  # fmt: skip


def plan(count=5):
    return handmade_plan(count=count, controls=[{"type": "canny", "scale": 0.7, "map_sha256": SHA256}])


def paint_along(job):
    item, generation = paint(job)
    if generation is None:
        return item, None
    return item, replace(generation, record=replace(generation.record, controls=(RECORD,)), control_maps=(EDGES,))


def make_maps(request):
    assert request.scene_description == "on the beach"
    return (MAP,)


def all_of(folder):
    return content(folder) | {path.name: path.read_bytes() for path in folder.glob("control-*")}


@pytest.mark.parametrize("drawn", [2, 5])
@pytest.mark.parametrize("harm", ["removed", "truncated", "another picture", "linked", "replaced by a folder"])
def test_a_map_that_was_harmed_is_made_again_and_the_harmed_one_kept(tmp_path, harm, drawn):
    """A11, of what pictures follow: without it none of them could be drawn again; also where the run has ended."""
    run(tmp_path / "whole", plan(), draw=paint_along)
    folder = tmp_path / "run"
    run(folder, plan(), draw=paint_along, at_most=drawn)
    path = folder / NAME
    data = path.read_bytes()
    path.unlink()
    if harm == "truncated":
        path.write_bytes(data[:100])
    elif harm == "another picture":
        Image.new("RGB", (16, 16)).save(path)
    elif harm == "linked":
        (tmp_path / "canary.png").write_bytes(data)
        path.symlink_to(tmp_path / "canary.png")
    elif harm == "replaced by a folder":
        path.mkdir()
    run(folder, plan(), draw=paint_along, make_maps=make_maps)
    kept = list(folder.glob("set_aside/*"))
    assert [one.name.partition("-")[2] for one in kept] == ([] if harm == "removed" else [NAME])
    for one in kept:
        one.rmdir() if one.is_dir() and not one.is_symlink() else one.unlink()
    assert all_of(folder) == all_of(tmp_path / "whole")
    assert not path.is_symlink()


def test_maps_that_are_whole_are_left_and_none_is_made(tmp_path):
    run(tmp_path / "run", plan(), draw=paint_along)
    before = (tmp_path / "run" / NAME).stat()
    run(tmp_path / "run", plan(), draw=paint_along, make_maps=None)
    after = (tmp_path / "run" / NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_no_map_is_made_for_a_run_without_pictures(tmp_path):
    run(tmp_path / "run", plan(), draw=paint_along, at_most=0)
    run(tmp_path / "run", plan(), draw=paint_along, at_most=0, make_maps=None)
    assert not (tmp_path / "run").exists()
