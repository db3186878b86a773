"""A sweep is drawn by the puppet models as a batch is: resumed, counted, and told of in a table and on a sheet."""

import json
import sys
from dataclasses import replace

import pandas as pd
import pytest

from imagelab import InvalidValueError, cli
from imagelab.batch import BatchImageGenerator
from imagelab.config.sweeps import SweepConfig
from imagelab.imagefiles import open_image, read_record
from imagelab.models import file_sha256
from imagelab.results import GenerationRequest
from imagelab.runs import read_batch
from imagelab.sweeps import estimate_cost, run_sweep, sweep_request, sweep_table

SWEEP = {
    "base": {"character": "luca", "scene": "on the beach", "steps": 1, "size": [64, 64]},
    "axes": {"loras": {"portorosso_town": [0.0, 1.0]}, "seeds": [3, 1]},
    "compare_faces": False,
}


@pytest.fixture(scope="module")
def batches(generator):
    with BatchImageGenerator(generator) as batches:
        yield batches


@pytest.fixture(scope="module")
def request_():
    return sweep_request(SweepConfig.model_validate(SWEEP))


@pytest.fixture(scope="module")
def drawn(batches, request_, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    run_sweep(batches, request_, folder, progress=False)
    return folder


def test_each_setting_is_drawn_from_each_seed_and_the_table_tells_how(drawn):
    table = pd.read_parquet(drawn / "pictures.parquet")

    assert table.columns[:2].tolist() == ["lora portorosso_town", "seed"]
    told = table[["lora portorosso_town", "seed", "index"]].to_numpy().tolist()
    assert told == [[0, 3, 0], [0, 1, 1], [1, 3, 2], [1, 1, 3]]
    assert (table["status"] == "accepted").all()
    assert (table["sharpness"] > 0).all()
    named = read_record(drawn / table["file"][0])
    for row in table.itertuples():
        said = (row.scheduler, row.sampler, row.schedule_type)
        assert said == (named.scheduler, named.sampler, named.schedule_type)
    assert (table["seconds"] > 0).all()
    for row in table.itertuples():
        record = read_record(drawn / row.file)
        assert file_sha256(drawn / row.file) == row.sha256
        assert (record.seed, record.steps, record.width) == (row.seed, row.steps, row.width) == (row.seed, 1, 64)
        weights = {lora.name: lora.weight for lora in record.loras}
        assert weights.get("portorosso_town", 0) == table.loc[row.Index, "lora portorosso_town"]
    assert open_image(drawn / "sheet.png").width > 300
    assert "lora portorosso_town 1.0" in (drawn / "index.html").read_text()


def test_a_sweeps_picture_is_the_one_that_its_request_draws_alone(generator, drawn, request_):
    variant = request_.swept[1]
    alone = generator.generate(variant.picture)
    table = sweep_table(drawn)
    file = table[(table["lora portorosso_town"] == 1) & (table["seed"] == variant.picture.seed)]["file"].item()
    assert open_image(drawn / file).tobytes() == alone.image.tobytes()


def test_what_is_drawn_already_is_not_drawn_again_and_a_stopped_sweep_ends_the_same(batches, drawn, request_, tmp_path):
    def stop_at_the_third(request, on_step=None):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(request)
        return original(request, on_step)

    generator, calls, folder = batches.generator, [], tmp_path / "run"
    original = generator.generate
    generator.generate = stop_at_the_third
    try:
        with pytest.raises(KeyboardInterrupt):
            run_sweep(batches, request_, folder, progress=False)
    finally:
        del generator.generate
    assert read_batch(folder).counts["pending"] == 2
    before = sweep_table(folder)
    assert before["status"].tolist() == ["accepted"] * 2 + ["pending"] * 2
    assert estimate_cost(batches, batches.plan(request_), folder).pending == 2

    run_sweep(batches, request_, folder, progress=False)
    kept, again = sweep_table(folder), sweep_table(drawn)
    assert kept["sha256"].tolist() == again["sha256"].tolist()
    assert kept["seconds"][:2].tolist() == before["seconds"][:2].tolist()


def test_another_sweep_in_the_folder_is_refused_and_what_differs_is_named(batches, drawn):
    axes = {**SWEEP["axes"], "loras": {"portorosso_town": [0.0, 0.5]}}
    other = sweep_request(SweepConfig.model_validate({**SWEEP, "axes": axes}))
    with pytest.raises(InvalidValueError, match=r"swept\.1\.settings\.lora portorosso_town was 1\.0, is 0\.5"):
        run_sweep(batches, other, drawn, progress=False)


def test_cost_is_estimated_from_earlier_pictures_or_from_one_that_is_measured(
    batches, drawn, request_, monkeypatch, tmp_path
):
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(batches.generator.configs.root))
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    plan = batches.plan(request_)
    measured = estimate_cost(batches, plan)
    assert "one picture that was drawn for it" in measured.to_text()
    assert (measured.pictures, measured.pending) == (4, 4)

    runs = tmp_path / "reports" / "runs"
    runs.mkdir(parents=True)
    (runs / "earlier").symlink_to(drawn)
    earlier = estimate_cost(batches, plan)
    assert "4 earlier pictures of puppet on cpu" in earlier.basis
    assert earlier.seconds == pytest.approx(sweep_table(drawn)["seconds"].median() * 4)
    assert estimate_cost(batches, plan, drawn).seconds == 0
    shared = estimate_cost(batches, plan, workers=3)
    assert (shared.seconds, shared.workers) == (pytest.approx(earlier.seconds / 3), 3)
    assert estimate_cost(batches, plan, workers=9).seconds == pytest.approx(earlier.seconds / 4)


def test_cost_counts_guided_steps_and_controlnets(batches, drawn, request_, monkeypatch, tmp_path):
    monkeypatch.setenv("IMAGELAB_CONFIGS", str(batches.generator.configs.root))
    monkeypatch.setenv("IMAGELAB_ROOT", str(tmp_path))
    (tmp_path / "reports" / "runs").mkdir(parents=True)
    (tmp_path / "reports" / "runs" / "earlier").symlink_to(drawn)
    plan = batches.plan(request_)

    def seconds(**changed):
        other = replace(plan, recipes=tuple({**recipe, **changed} for recipe in plan.recipes))
        return estimate_cost(batches, other).seconds / estimate_cost(batches, plan).seconds

    assert plan.recipe["guidance_scale"] > 1
    assert seconds(guidance_scale=1.0) == pytest.approx(1 / 2)
    assert seconds(guidance_start=0.25, guidance_stop=0.75) == pytest.approx(3 / 4)
    assert seconds(steps=2 * plan.recipe["steps"]) == pytest.approx(2)
    assert 1 < seconds(controls=[{"type": "pose"}]) < seconds(controls=[{"type": "pose"}] * 2) < 2


def test_batch_has_a_table_too(batches, tmp_path):
    batches.generate_batch(
        "luca", "on the beach", 1, steps=1, width=64, height=64, enable_consistency_check=False,
        output_dir=tmp_path / "batch", progress=False,
    )  # fmt: skip
    assert sweep_table(tmp_path / "batch")["seed"].tolist() == [0]


def test_the_command_draws_and_goes_on_and_a_dry_run_keeps_nothing(monkeypatch, capsys, tmp_path):
    def imagelab(*arguments):
        monkeypatch.setattr(sys, "argv", ["imagelab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, capsys.readouterr()

    file, folder = tmp_path / "small.yaml", tmp_path / "out"
    one = {**SWEEP, "axes": {"seeds": [0, 1]}, "mode": "paired"}
    file.write_text(json.dumps(one))
    code, said = imagelab("sweep", file, "--output-dir", folder, "--profile", "puppet", "--device", "cpu")
    assert (code, read_batch(folder).counts["accepted"]) == (0, 2)
    assert "wrote" in said.out
    assert {"sheet.png", "pictures.parquet"} < {path.name for path in folder.iterdir()}

    before = (folder / "ledger.jsonl").read_bytes()
    assert imagelab("sweep", file, "--output-dir", folder, "--profile", "puppet", "--device", "cpu")[0] == 0
    assert (folder / "ledger.jsonl").read_bytes() == before

    code, said = imagelab("sweep", file, "--output-dir", folder, "--profile", "puppet", "--device", "cpu", "--dry-run")
    assert code == 0
    assert "left       0 of 2" in said.out

    (folder / read_batch(folder).items[0].path).unlink()
    code, said = imagelab("sweep", file, "--output-dir", folder, "--profile", "puppet", "--device", "cpu", "--dry-run")
    assert "left       1 of 2" in said.out
    assert (folder / "ledger.jsonl").read_bytes() == before

    file.write_text(json.dumps({**one, "axes": {"seeds": [0, 1, 2]}}))
    for only in ([], ["--dry-run"]):
        given = ["--output-dir", folder, "--profile", "puppet", "--device", "cpu", *only]
        code, said = imagelab("sweep", file, *given)
        assert (code, said.out) == (2, "")
        assert "swept.0.seeds was '0, 1', is '0, 1, 2'" in said.err

    for wrong, says in ({"--workers": 0}, "workers must be"), ({"--workers": 2, "--ray": "nonsense"}, "ray must be"):
        arguments = [part for pair in wrong.items() for part in pair]
        code, said = imagelab("sweep", file, *arguments, "--output-dir", tmp_path / "none", "--dry-run")
        assert (code, said.out) == (2, "")
        assert says in said.err
    code, said = imagelab("sweep", file, "--output-dir", "/proc/none", "--dry-run")
    assert code == 2
    assert "a folder that can be written" in said.err

    file.write_text(json.dumps({**one, "axes": {"stepps": [2]}}))
    code, said = imagelab("sweep", file, "--output-dir", tmp_path / "none", "--profile", "puppet")
    assert code == 2
    assert "did you mean 'steps'" in said.err
    assert not (tmp_path / "none").exists()


def test_two_characters_are_each_judged_by_their_own_references(generator, tmp_path):
    config = {**SWEEP, "compare_faces": True, "axes": {"character": ["luca", "alberto"]}}
    config["base"] = {**config["base"], "steps": 4, "size": [128, 128], "quality_preset": "draft"}
    with BatchImageGenerator(generator) as batches:
        result = run_sweep(batches, sweep_request(SweepConfig.model_validate(config)), tmp_path / "run", progress=False)
    assert [item.verdict.character_name for item in result.items] == ["luca", "alberto"]
    metadata = json.loads((tmp_path / "run" / "metadata.json").read_text())
    assert set(metadata["references"]) == {"luca", "alberto"}
    request = GenerationRequest.from_dict(metadata["request"]["swept"][1]["picture"])
    assert request.character == "alberto"
