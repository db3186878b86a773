"""A folder of pictures becomes a table, and stays one through kills, changes and a second run."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from imagelab import cli
from imagelab.acceptance import configured_limits
from imagelab.calibration import calibrate
from imagelab.check_table import read_check_table
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.errors import InvalidValueError, UnknownNameError
from imagelab.faces import SEVERAL_FACES, FaceLimits, face_choice
from imagelab.folder_check import check_folder
from imagelab.rgb import to_rgb

ROOT = Path(__file__).parents[2]
LUCA = ROOT / "imagelab/puppets/weights/references/luca"
ALBERTO = ROOT / "imagelab/puppets/weights/references/alberto"


@pytest.fixture
def folder(tmp_path):
    """A reference of luca, a picture of him twice, one of alberto, an empty one, a broken one, and other things."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    first, second, *_ = sorted(LUCA.glob("*.png"))
    shutil.copy(first, folder / "a.png")
    Image.open(second).save(folder / "b.png", compress_level=0)  # a reference's pixels in another file
    shutil.copy(folder / "b.png", folder / "c.png")
    shutil.copy(min(ALBERTO.glob("*.png")), folder / "d.png")
    Image.new("RGB", (64, 64), "green").save(folder / "e.jpg")
    (folder / "f.png").write_text("not a picture")
    (folder / "notes.txt").write_text("not named like one")
    (folder / ".hidden.png").write_text("not looked at")
    shutil.copy(first, folder / "more" / "a.png")
    return folder


def test_a_folder_becomes_a_row_for_each_picture(checker, luca, folder, tmp_path, capfd):
    result = check_folder(folder, luca, tmp_path / "check.parquet", checker=checker, threshold=0.65)
    table = result.table.set_index("file")
    assert list(table.index) == ["a.png", "b.png", "c.png", "d.png", "e.jpg", "f.png"]
    assert list(table["status"]) == ["ok"] * 4 + ["no_face", "decode_error"]
    assert list(table["consistent_luca"].dropna()) == [True] * 3 + [False]
    assert table["score_luca"].notna().sum() == table["sharpness"].notna().sum() == 4
    assert list(table["duplicate_of"].dropna().items()) == [("c.png", "b.png")]
    assert table.loc["b.png", "score_luca"] == table.loc["c.png", "score_luca"]
    assert "isn't a PNG" in table.loc["f.png", "reason"]
    assert set(table["threshold_luca"]) == {0.65}
    assert set(table["encoder"]) == {checker.encoder.label}
    assert not table["calibrated_luca"].any()
    assert table["sha256"].str.len().eq(64).all()
    assert (result.checked, result.kept, result.skipped) == (6, 0, 1)
    summary = result.summaries["luca"]
    assert (summary.ok, summary.total, summary.consistent) == (3, 5, 2)  # without the reference
    assert summary.mean_similarity == pytest.approx(table["score_luca"].drop("a.png").mean())
    assert capfd.readouterr() == ("", "")  # no bar without a terminal
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.parquet", "pictures"]
    pd.testing.assert_frame_equal(pd.read_parquet(result.path), result.table)


def test_scores_are_those_of_single_checks(checker, luca, folder, tmp_path):
    result = check_folder(folder, luca, tmp_path / "check.parquet", checker=checker)
    for row in result.table[result.table["status"] == "ok"].itertuples():
        single = luca.similarity(checker.embed(folder / row.file))
        assert row.score_luca == pytest.approx(single, abs=1e-6)


def test_references_among_the_pictures_are_named_and_enter_no_mean(checker, luca, alberto, folder, tmp_path):
    given = {"checker": checker, "encoders": ["clip"]}
    result = check_folder(folder, [luca, alberto], tmp_path / "check.parquet", **given)
    table = result.table.set_index("file")
    assert table["copy_of_reference_luca"].dropna().to_dict() == {"a.png": luca.names[0]}
    assert table["copy_of_reference_alberto"].dropna().to_dict() == {"d.png": alberto.names[0]}
    assert result.copies == {"luca": 1, "alberto": 1}
    (folder / "a.png").unlink()
    without = check_folder(folder, [luca, alberto], tmp_path / "without.parquet", **given)
    assert without.summaries["luca"] == result.summaries["luca"]
    for line in without.to_text().partition("\n\n")[0].splitlines():
        assert line in result.to_text()  # the other encoder's mean, too
    only = check_folder([folder / "d.png"], alberto, tmp_path / "only.parquet", checker=checker)
    assert "similarity    none" in only.to_text()


def test_subfolders_lists_and_tables_are_sources_too(checker, luca, folder, tmp_path):
    deep = check_folder(folder, luca, tmp_path / "deep.parquet", checker=checker, recursive=True)
    assert list(deep.table["file"])[-1] == "more/a.png"
    assert deep.table["duplicate_of"].iloc[-1] == "a.png"
    files = [folder / "d.png", folder / "gone.png", folder / "notes.txt", folder / "d.png"]
    listed = check_folder(files, luca, tmp_path / "list.parquet", checker=checker)
    assert list(listed.table["status"]) == ["ok", "decode_error", "decode_error"]
    frame = pd.DataFrame({"file": [str(path) for path in files], "seed": range(4)})
    as_table = check_folder(frame, luca, tmp_path / "frame.parquet", checker=checker)
    pd.testing.assert_frame_equal(as_table.table, listed.table)


def test_several_characters_are_columns_side_by_side(checker, luca, alberto, folder, tmp_path):
    table = check_folder(folder, [luca, alberto], tmp_path / "both.parquet", checker=checker).table.set_index("file")
    assert table.loc["a.png", "score_luca"] > table.loc["a.png", "score_alberto"]
    assert table.loc["d.png", "score_luca"] < table.loc["d.png", "score_alberto"]


@pytest.fixture
def couple(tmp_path):
    """A folder with luca and alberto side by side, in either order, and each of them alone."""
    folder = tmp_path / "couple"
    folder.mkdir()
    one, other = to_rgb(min(LUCA.glob("*.png"))), to_rgb(min(ALBERTO.glob("*.png")))
    for name, shown in (("a", [one, other]), ("b", [other, one]), ("c", [other]), ("d", [one])):
        Image.fromarray(np.hstack(shown)).save(folder / f"{name}.png", compress_level=0)
    Image.new("RGB", (64, 64), "green").save(folder / "e.png")
    return folder


def test_of_several_faces_each_character_is_judged_by_its_own(configs, luca, alberto, couple, tmp_path):
    with CharacterConsistencyChecker("cpu", "puppet", configs, several="best_match") as checker:
        result = check_folder(couple, [luca, alberto], tmp_path / "check.parquet", checker=checker, threshold=0.65)
        alone = check_folder(couple, luca, tmp_path / "luca.parquet", checker=checker, threshold=0.65)
    table = result.table.set_index("file")
    assert list(table["status"]) == ["ok"] * 4 + ["no_face"]
    for name, there in (("luca", ["a.png", "b.png", "d.png"]), ("alberto", ["a.png", "b.png", "c.png"])):
        assert table.loc[there, f"consistent_{name}"].eq(True).all()
        assert table.loc[~table.index.isin(there), f"score_{name}"].isna().all()
        summary = result.summaries[name]
        assert (summary.ok, summary.counts["no_face"], summary.consistent) == (3, 2, 3)
    single = alone.table.set_index("file")["score_luca"]
    assert table.loc[["a.png", "b.png"], "score_luca"].tolist() == single[["a.png", "b.png"]].tolist()


@pytest.mark.parametrize("several", SEVERAL_FACES)
def test_there_is_a_verdict_where_there_is_a_score_and_nowhere_else(
    configs, luca, alberto, folder, couple, tmp_path, several
):
    files = sorted([*folder.glob("?.*"), *couple.iterdir()])
    with CharacterConsistencyChecker("cpu", "puppet", configs, several=several) as checker:
        for sought in ([luca], [luca, alberto]):
            names = [references.character_name for references in sought]
            check_folder(files, sought, tmp_path / f"{len(sought)}.parquet", checker=checker)
            table = pd.read_parquet(tmp_path / f"{len(sought)}.parquet")
            scored = table[[f"score_{name}" for name in names]].notna().to_numpy()
            judged = table[[f"consistent_{name}" for name in names]]
            assert (judged.dtypes == "boolean").all()
            assert (judged.notna().to_numpy() == scored).all()
            assert (scored.any(axis=1) == (table["status"] == "ok")).all()
            assert set(table["status"]) >= {"ok", "no_face", "decode_error"}
            passed = table[table["consistent_luca"]]  # a mask
            assert (passed["score_luca"] >= passed["threshold_luca"]).all()


def test_a_second_run_looks_at_what_is_new_or_has_changed_only(checker, luca, folder, tmp_path):
    def again():
        return check_folder(folder, luca, tmp_path / "check.parquet", checker=checker)

    first = again()
    assert (again().checked, again().kept) == (0, 6)
    pd.testing.assert_frame_equal(again().table, first.table)
    os.utime(folder / "a.png", (1, 1))  # as a copy of the same bytes has it
    assert again().checked == 0
    shutil.copy(folder / "d.png", folder / "b.png")
    shutil.copy(folder / "a.png", folder / "z.png")
    (folder / "f.png").unlink()
    changed = again()
    assert changed.checked == 2
    assert list(changed.table["file"]) == ["a.png", "b.png", "c.png", "d.png", "e.jpg", "z.png"]
    fresh = check_folder(folder, luca, tmp_path / "fresh.parquet", checker=checker)
    pd.testing.assert_frame_equal(changed.table, fresh.table)


def test_what_rows_depend_on_may_not_change_between_runs(checker, configs, luca, alberto, folder, tmp_path):
    output = tmp_path / "check.parquet"
    check_folder(folder, luca, output, checker=checker, threshold=0.65)
    before = output.read_bytes()
    with pytest.raises(InvalidValueError, match=r"thresholds\.luca was 0\.65, is 0\.7"):
        check_folder(folder, luca, output, checker=checker, threshold=0.7)
    with pytest.raises(InvalidValueError, match=r"\(the table was made without alberto; .* made with luca\)"):
        check_folder(folder, alberto, output, checker=checker, threshold=0.65)
    with pytest.raises(InvalidValueError, match="source was"):
        check_folder(folder / "more", luca, output, checker=checker, threshold=0.65)
    with (
        CharacterConsistencyChecker("cpu", "puppet", configs, several="largest", limits=FaceLimits()) as other,
        pytest.raises(InvalidValueError, match="several was require_one, is largest"),
    ):
        check_folder(folder, luca, output, checker=other, threshold=0.65)
    with pytest.raises(InvalidValueError, match="recursive was False, is True"):
        check_folder(folder, luca, output, checker=checker, threshold=0.65, recursive=True)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["check.parquet", "pictures"]


def test_rows_that_go_are_counted_and_another_list_is_another_check(checker, luca, folder, tmp_path):
    output = tmp_path / "check.parquet"
    first, other = [folder / "a.png", folder / "b.png"], [folder / "d.png", folder / "e.jpg"]
    check_folder(first, luca, output, checker=checker)
    before = output.read_bytes()
    with pytest.raises(InvalidValueError, match="another file: it has 2 pictures, and none of these 2"):
        check_folder(other, luca, output, checker=checker)
    assert output.read_bytes() == before
    overlapping = check_folder([*first[1:], *other], luca, output, checker=checker)
    assert (overlapping.checked, overlapping.kept, overlapping.gone) == (2, 1, 1)
    assert "1 rows went" in overlapping.to_text()
    assert "went" not in check_folder([*first[1:], *other], luca, output, checker=checker).to_text()


def test_a_calibrated_threshold_is_used_said_and_held_to(checker, luca, folder, tmp_path):
    chosen = face_choice("require_one", configured_limits(checker.configs, "luca"))
    of_these = {
        "encoder": checker.encoder.label, "references_sha256": luca.references_sha256, "face_choice": chosen,
    }  # fmt: skip
    calibration = calibrate([0.9, 0.8, 0.85, 0.7], [0.1, 0.2, 0.0, 0.3], resamples=100, **of_these)
    output = tmp_path / "check.parquet"
    result = check_folder(folder, luca, output, checker=checker, calibrations={"luca": calibration})
    assert result.table["calibrated_luca"].all()
    assert set(result.table["threshold_luca"]) == {calibration.threshold.value}
    assert "luca, from 0.500 on (calibrated: eer at 0.500" in result.to_text()
    with pytest.raises(InvalidValueError, match=r"calibrations\.luca was eer"):
        check_folder(folder, luca, output, checker=checker, calibrations={"luca": None})


@pytest.fixture
def choosy(configs):
    """The configuration with limits on luca's pose and on alberto's sharpness."""
    presets = configs.character_presets
    limits = {"luca": {"max_yaw_degrees": 5.0, "min_face_px": 20}, "alberto": {"min_sharpness": 0.001}}
    characters = {
        name: own.model_copy(update={"thresholds": own.thresholds.model_copy(update=limits[name])})
        for name, own in presets.characters.items()
    }
    return replace(configs, character_presets=presets.model_copy(update={"characters": characters}))


def test_the_limits_of_all_characters_hold_for_each_face(choosy, luca, alberto, folder, tmp_path):
    with CharacterConsistencyChecker("cpu", "puppet", choosy) as checker:
        both = check_folder(folder, [luca, alberto], tmp_path / "check.parquet", checker=checker)
    _, parameters = read_check_table(both.path)
    asked = FaceLimits(min_face_px=20, min_score=0.5, min_sharpness=0.001, max_yaw_degrees=5.0)
    assert parameters.limits == asked
    turned = both.table["yaw_degrees"].abs() > 5
    assert turned.sum() > 0
    assert set(both.table.loc[turned, "status"]) == {"low_quality"}
    assert both.table.loc[turned, "reason"].str.contains("max_yaw_degrees 5").all()


def test_a_calibration_holds_for_no_stricter_limits(choosy, luca, alberto, folder, tmp_path):
    with CharacterConsistencyChecker("cpu", "puppet", choosy) as checker:
        of_these = {
            "encoder": checker.encoder.label,
            "references_sha256": luca.references_sha256,
            "face_choice": face_choice("require_one", configured_limits(choosy, "luca")),
        }
        calibrations = {"luca": calibrate([0.9, 0.8, 0.85, 0.7], [0.1, 0.2, 0.0, 0.3], resamples=100, **of_these)}
        given = {"checker": checker, "calibrations": calibrations}
        assert check_folder(folder, luca, tmp_path / "one.parquet", **given).table["calibrated_luca"].all()
        with pytest.raises(InvalidValueError, match="check the characters apart"):
            check_folder(folder, [luca, alberto], tmp_path / "both.parquet", **given)


def test_a_calibration_of_other_references_or_of_nobody_is_refused(checker, luca, folder, tmp_path):
    foreign = calibrate([0.9, 0.8], [0.1, 0.2], resamples=100, encoder=checker.encoder.label, references_sha256="ab")
    with pytest.raises(InvalidValueError, match="calibrate again"):
        check_folder(folder, luca, tmp_path / "a.parquet", checker=checker, calibrations={"luca": foreign})
    with pytest.raises(UnknownNameError, match="did you mean 'luca'"):
        check_folder(folder, luca, tmp_path / "a.parquet", checker=checker, calibrations={"lucca": foreign})


def test_a_name_of_any_bytes_and_a_link_to_itself_end_nothing(checker, luca, folder, tmp_path):
    (folder / os.fsdecode(b"bad\xff.png")).write_text("not a picture")
    (folder / "loop.png").symlink_to("loop.png")
    table = check_folder(folder, luca, tmp_path / "check.parquet", checker=checker, threshold=0.65).table
    assert set(table.set_index("file").loc[["bad\\xff.png", "loop.png"], "status"]) == {"decode_error"}


def test_a_file_that_could_not_be_read_is_looked_at_again(checker, luca, folder, tmp_path):
    given = {"checker": checker, "threshold": 0.65}
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "away.png")
    assert check_folder(folder, luca, tmp_path / "check.parquet", **given).table["status"].iloc[0] == "decode_error"
    shutil.copy(min(LUCA.glob("*.png")), tmp_path / "away.png")
    again = check_folder(folder, luca, tmp_path / "check.parquet", **given)
    assert again.table["status"].iloc[0] == "ok"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("gone", "a folder of pictures"),
        (3, "a folder of pictures"),
        ([], "at least one file"),
        (pd.DataFrame({"path": ["a.png"]}), "column 'file'"),
    ],
)
def test_what_is_no_source_is_refused(checker, luca, tmp_path, source, said):
    with pytest.raises(InvalidValueError, match=said):
        check_folder(source, luca, tmp_path / "check.parquet", checker=checker)
    assert not list(tmp_path.iterdir())


def test_a_foreign_or_damaged_table_is_left_alone(checker, luca, folder, tmp_path):
    output = tmp_path / "mine.parquet"
    pd.DataFrame({"file": ["a.png"]}).to_parquet(output)
    before = output.read_bytes()
    with pytest.raises(InvalidValueError, match="a table of a check"):
        check_folder(folder, luca, output, checker=checker)
    assert output.read_bytes() == before
    output.write_bytes(before[:100])
    with pytest.raises(InvalidValueError, match="a table of a check"):
        check_folder(folder, luca, output, checker=checker)
    with pytest.raises(InvalidValueError, match=r"ends in \.parquet"):
        check_folder(folder, luca, tmp_path / "check.csv", checker=checker)


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from imagelab.consistency import CharacterConsistencyChecker
from imagelab import folder_check
from imagelab.references import CharacterReferenceManager

folder, output = map(Path, sys.argv[1:])
folder_check.PART_PICTURES = 4

def kill():
    while not list(output.with_name(f".{output.name}.parts").glob("000002.parquet")):
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill, daemon=True).start()
with CharacterConsistencyChecker("cpu", "puppet") as checker:
    references = CharacterReferenceManager(checker, store="nowhere").references("luca")
    folder_check.check_folder(folder, references, output, checker=checker)
"""


def test_a_killed_check_goes_on_to_the_table_of_one_that_was_not(checker, luca, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    originals = [*sorted(LUCA.glob("*.png")), *sorted(ALBERTO.glob("*.png"))]
    for number in range(160):
        shutil.copy(originals[number % len(originals)], folder / f"{number:03d}.png")
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "killed.parquet")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed.parquet").exists()
    (tmp_path / ".killed.parquet.parts" / "left.tmp").write_bytes(b"half a part")

    resumed = check_folder(folder, luca, tmp_path / "killed.parquet", checker=checker)
    assert 12 <= resumed.kept < 160
    assert resumed.checked == 160 - resumed.kept
    whole = check_folder(folder, luca, tmp_path / "whole.parquet", checker=checker)
    pd.testing.assert_frame_equal(resumed.table, whole.table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.parquet", "pictures", "whole.parquet"]


def test_the_command_prints_a_summary(folder, tmp_path, monkeypatch, capsys):
    output = tmp_path / "check.parquet"
    command = ["imagelab", "check", str(folder), "--character", "luca", "--output", str(output), "--recursive"]
    monkeypatch.setattr(sys, "argv", [*command, "--profile", "puppet"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr().out
    assert caught.value.code == 0
    assert "no_face       1/5" in said
    assert "mean over 3 ok" in said
    assert "2 pictures are references themselves" in said
    assert "7 pictures, 7 of them looked at now; 1 other files skipped" in said
    assert len(pd.read_parquet(output)) == 7


@pytest.mark.usefixtures("folder")
def test_the_command_names_each_folders_table_after_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for given in ("pictures", "pictures/more"):
        monkeypatch.setattr(sys, "argv", ["imagelab", "check", given, "--character", "luca", "--device", "cpu"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 0, capsys.readouterr().err
    assert {path.name for path in tmp_path.glob("*.parquet")} == {"check-pictures.parquet", "check-more.parquet"}


def test_the_command_refuses_what_it_cannot_use(folder, monkeypatch, capsys):
    for wrong, said in (
        (["--character", "lucca"], "unknown character 'lucca'; did you mean 'luca'?"),
        (["--character", "luca", "--several", "biggest"], "unknown policy for several faces 'biggest'"),
        (["--character", "luca", "--threshold", "2"], "threshold must be"),
        (["--character", "luca", "--output", "check.csv"], "output must be"),
        (["--character", "luca", "--device", "gpu"], "device must be"),
    ):
        monkeypatch.setattr(sys, "argv", ["imagelab", "check", str(folder), *wrong])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
