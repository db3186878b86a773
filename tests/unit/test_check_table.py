"""The table of a check grows on disk and not in memory, and has the columns that the README promises."""

import re
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from imagelab.check_table import CheckParameters, CheckTable, score_column
from imagelab.encoders import EncoderId
from imagelab.errors import InvalidValueError
from imagelab.faces import FaceEncoderId, FaceLimits

README = Path(__file__).parents[2] / "README.md"
ROWS, PART = 4096, 128


def parameters():
    face = FaceEncoderId(
        pack="p", detector_sha256="a", recogniser_sha256="b", detector_size_px=(64, 64), detection_threshold=0.5,
        insightface="1",
    )  # fmt: skip
    clip = EncoderId(label="clip/1", kind="clip", region="picture", weights_sha256="c", preprocessing_sha256="d")
    return CheckParameters(
        source="files",
        encoder=face,
        providers=(),
        several="require_one",
        limits=FaceLimits(),
        thresholds={"luca": 0.65},
        references={},
        calibrations={},
        encoders={"clip": clip},
    )


def row(number):
    return {
        "file": f"picture {number:06d}.png",
        "size_bytes": number,
        "mtime_ns": number,
        "sha256": f"{number // 2:064x}",
        "status": "ok",
        "reason": "",
        "score_luca": number / ROWS,
        score_column("luca", "clip"): number / ROWS,
    }


def test_rows_take_no_memory_of_python_while_the_table_grows(tmp_path):
    with CheckTable(tmp_path / "check.parquet", parameters()) as table:
        table.append([row(number) for number in range(PART)])  # whatever is imported for the first part
        tracemalloc.start()
        for start in range(PART, ROWS, PART):
            table.append([row(number) for number in range(start, start + PART)])
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        final = table.finish({f"picture {number:06d}.png": -number for number in reversed(range(ROWS))})
    assert grown / ROWS < 100  # bytes; a row as a dict has over 1000
    assert final["mtime_ns"].to_pylist() == sorted(-number for number in range(ROWS))
    assert final["duplicate_of"].to_pylist()[:4] == [None, "picture 004095.png", None, "picture 004093.png"]


def test_what_changed_is_said_in_few_words():
    was = parameters()
    other = replace(was.encoders["clip"], weights_sha256="b" * 64)
    assert was.changes(replace(was, encoders={"clip": other})) == ("encoders.clip.weights_sha256 was c, is bbbbbbbb",)
    more = replace(was, encoders={**was.encoders, "clip_face": other}, limits=FaceLimits(min_face_px=20))
    assert was.changes(more) == ("the table was made without clip_face", "limits.min_face_px was 16.0, is 20")
    assert more.changes(was)[0] == "the table was made with clip_face"


def test_parts_of_another_check_are_refused_by_the_name_of_their_folder(tmp_path):
    with CheckTable(tmp_path / "check.parquet", parameters()) as table:
        table.append([row(0)])
    changed = replace(parameters(), several="largest")
    parts = tmp_path / ".check.parquet.parts"
    with (
        pytest.raises(InvalidValueError, match=rf"remove {parts} \(several was require_one, is largest\)"),
        CheckTable(tmp_path / "check.parquet", changed),
    ):
        pass
    shutil.rmtree(parts)  # which is what it says
    with CheckTable(tmp_path / "check.parquet", changed) as table:
        assert table.known == {}


def test_the_readme_has_every_column_in_its_order(tmp_path):
    _, _, after = README.read_text().partition("| column |")
    documented = re.findall(r"^\| `([^|]*)` \|", after.partition("\n\n")[0], re.MULTILINE)
    names = [name for cell in documented for name in cell.split("`, `")]
    with CheckTable(tmp_path / "check.parquet", parameters()) as table:
        table.append([row(0)])
        assert table.finish({row(0)["file"]: 0}).column_names == names
