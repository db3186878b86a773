"""Batches that are stopped and go on, with a LoRA and a ControlNet: the same bits as in one go."""

import json
import os
import signal
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from resource import RLIMIT_FSIZE, setrlimit

import numpy as np
import pytest
import torch
import typer
from forks import fork, wait_for
from PIL import Image

from imagelab.batch import BatchImageGenerator
from imagelab.batch.drawing import attempt, judge_attempt
from imagelab.batch.planning import plan_batch
from imagelab.character import CharacterGenerator
from imagelab.cli import main
from imagelab.commands.draw import _resumable
from imagelab.errors import InvalidValueError
from imagelab.imagefiles import read_record
from imagelab.references import CharacterReferenceManager
from imagelab.runs import RunFolder, read_batch, read_run

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # it forks
SCENE = "standing in the town, happy expression"
SMALL = {"num_images": 4, "quality_preset": "draft", "width": 64, "height": 64, "steps": 2, "progress": False}


@pytest.fixture(scope="module")
def manager(generator, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    with CharacterReferenceManager(store=store, profile="puppet", configs=generator.configs, device="cpu") as manager:
        yield manager


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A batch with two LoRAs and a ControlNet."""
    path = tmp_path_factory.mktemp("controls") / "canny.png"
    edges = np.zeros((64, 64, 3), np.uint8)
    edges[16:48:8] = 255
    Image.fromarray(edges).save(path)
    control = {"type": "canny", "image": path, "is_map": True, "scale": 0.7}
    return SMALL | {"additional_loras": [{"name": "beach", "weight": 0.5}], "controls": [control]}


class Stopping(CharacterGenerator):
    """Draws by another generator and lets something happen before, or at a step of, the n-th picture."""

    def __init__(self, real, number, happen, at_step=None):
        super().__init__(profile=real.profile.name, device=real.device, configs=real.configs)
        self.real, self.number, self.happen, self.at_step, self.drawn = real, number, happen, at_step, 0

    def load(self):
        return self.real.load()

    def generate(self, request, on_step=None):
        self.drawn += 1
        if self.drawn != self.number:
            return self.real.generate(request, on_step)
        if self.at_step is None:
            self.happen(None)
        return self.real.generate(request, lambda step, _, latents: step == self.at_step and self.happen(latents))


def stop(_):
    raise KeyboardInterrupt


def draw(generator, manager, folder, options):
    return BatchImageGenerator(generator, manager).generate_batch("luca", SCENE, output_dir=folder, **options)


def content(folder):
    """Return what a batch left: its pictures as bytes, and its metadata without times and places."""
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata["result"]["seconds"], metadata["result"]["output_dir"]
    pictures = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    return pictures | {"metadata": metadata, "page": (folder / "index.html").read_text()}


@pytest.fixture(scope="module")
def uninterrupted(generator, manager, options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = draw(generator, manager, folder, options)
    assert result.pending == 0
    assert sum(result.counts.values()) == 4
    return content(folder)


@pytest.mark.parametrize(("number", "at_step"), [(1, 1), (2, None), (3, 1), (4, 2)])
def test_a_stopped_and_resumed_batch_is_bitwise_one_that_was_not_stopped(
    generator, manager, options, uninterrupted, tmp_path, number, at_step
):
    """A8, F3, F10: with LoRAs and a ControlNet, stopped before a picture and after a step of one."""
    with pytest.raises(KeyboardInterrupt):
        draw(Stopping(generator, number, stop, at_step), manager, tmp_path / "run", options)
    if number > 1:
        stopped = read_batch(tmp_path / "run")
        assert (len(stopped.items), stopped.pending) == (number - 1, 5 - number)
    draw(generator, manager, tmp_path / "run", options)
    assert content(tmp_path / "run") == uninterrupted


def test_a_batch_is_bitwise_the_same_in_another_order(generator, manager, options, uninterrupted, tmp_path):
    """F10."""
    given = {name: value for name, value in options.items() if name != "progress"}
    batches = BatchImageGenerator(generator, manager)
    done = batches.generate_batch("luca", SCENE, output_dir=tmp_path / "one", **given, progress=False)
    request = batches_request(batches, given)
    plan, judges = plan_batch(batches.generator, batches.references, request)
    with RunFolder(tmp_path / "two", plan) as run:
        for job in reversed(run.pending_jobs()):
            drawn = judge_attempt(request, judges, attempt(generator, request, job))
            run.commit(job, drawn.item, drawn.generation, 0.0)
    assert done.pending == 0
    assert content(tmp_path / "two") == content(tmp_path / "one") == uninterrupted


def test_two_threads_with_one_generator_draw_what_one_thread_draws(
    generator, manager, options, uninterrupted, tmp_path
):
    """C5."""
    folders = [tmp_path / "one", tmp_path / "two"]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda folder: draw(generator, manager, folder, options), folders))
    assert [content(folder) for folder in folders] == [uninterrupted] * 2


def batches_request(batches, given):
    """Return the request that a batch would be drawn by."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "run", lambda request, *_, **__: caught.append(request))
        batches.generate_batch("luca", SCENE, **given)
    return caught[0]


def test_other_weights_of_a_lora_are_refused_and_named(generator, manager, options, tmp_path):
    """A10."""
    with pytest.raises(KeyboardInterrupt):
        draw(Stopping(generator, 2, stop), manager, tmp_path / "run", options)
    changed = options | {"additional_loras": [{"name": "beach", "weight": 0.6}]}
    with pytest.raises(InvalidValueError, match=r"loras\.beach\.weight was 0\.5, is 0\.6"):
        draw(generator, manager, tmp_path / "run", changed)
    changed = options | {"controls": [options["controls"][0] | {"scale": 0.8}]}
    with pytest.raises(InvalidValueError, match=r"controls\.0\.scale was 0\.7, is 0\.8"):
        draw(generator, manager, tmp_path / "run", changed)


def test_nothing_of_a_picture_stays_in_memory_after_an_interrupt(generator, manager, tmp_path):
    """F13: although a notebook keeps the exception, and with it the frames."""
    latents = []

    def stop_here(tensor):
        latents.append(weakref.ref(tensor))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as kept:
        draw(Stopping(generator, 2, stop_here, at_step=1), manager, tmp_path / "run", SMALL)
    assert kept.value is not None
    assert [reference() for reference in latents] == [None]


def test_latents_that_turn_to_nan_are_a_failed_picture_and_the_others_are_as_without_it(generator, manager, tmp_path):
    """F6: NaN at a step of one picture, for each picture."""
    whole = draw(generator, manager, tmp_path / "whole", SMALL)
    for number in range(1, 5):
        folder = tmp_path / str(number)
        result = draw(
            Stopping(generator, number, lambda latents: latents.fill_(float("nan")), 1), manager, folder, SMALL
        )
        assert [item.status == "failed" for item in result.items] == [index == number - 1 for index in range(4)]
        assert "NaN or infinity" in result.items[number - 1].reason
        others = [
            (one, other) for one, other in zip(whole.items, result.items, strict=True) if other.status != "failed"
        ]
        assert all(one == other for one, other in others)
        again = BatchImageGenerator(generator, manager)
        again.generate_batch("luca", SCENE, output_dir=folder, retry_failed=True, **SMALL)
        assert content(folder) == content(tmp_path / "whole")


@pytest.mark.parametrize("level", [0, 1, 254])
def test_a_picture_that_shows_nothing_has_failed(generator, manager, tmp_path, level):
    """F2: black, nearly black, nearly white."""
    rng = np.random.default_rng(0)

    class Blank(Stopping):
        def generate(self, request, on_step=None):
            generation = super().generate(request, on_step)
            pixels = np.clip(level + rng.integers(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
            return type(generation)(image=Image.fromarray(pixels), record=generation.record)

    result = draw(Blank(generator, 0, stop), manager, tmp_path / "run", SMALL | {"num_images": 1})
    assert [(item.status, item.path) for item in result.items] == [("failed", None)]
    assert "blank" in result.items[0].reason


def test_until_enough_are_accepted_the_pictures_are_those_of_a_longer_batch(generator, manager, tmp_path):
    given = SMALL | {"enable_consistency_check": False}
    until = draw(generator, manager, tmp_path / "until", given | {"until_accepted": 2, "max_images": 4})
    assert (until.requested, until.total_accepted, until.pending) == (2, 2, 0)
    four = draw(generator, manager, tmp_path / "four", given)
    assert until.items == four.items[:2]


def test_a_plan_and_its_pictures_records_describe_the_machine_in_the_same_words(generator, manager, tmp_path):
    """A12: whatever chooses the last bit, the precision of products, say, is part of the plan."""
    given = SMALL | {"num_images": 1, "enable_consistency_check": False}
    result = draw(generator, manager, tmp_path / "run", given)
    plan, _ = read_run(tmp_path / "run")
    record = read_record(tmp_path / "run" / result.items[0].path)
    assert plan.environment.items() >= record.environment.to_dict().items()
    assert (plan.environment["device"], plan.environment["dtype"]) == (record.device, record.dtype)
    assert plan.environment["versions"].items() >= record.versions.items()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(InvalidValueError, match=r"environment\.precision was 'highest', is 'medium'"):
            draw(generator, manager, tmp_path / "run", given)
    finally:
        torch.set_float32_matmul_precision(before)


COMMAND = [
    "batch", "--character", "luca", "--scene", SCENE, "--num-images", "3", "--seed", "7", "--preset", "draft",
    "--width", "64", "--height", "64", "--steps", "2", "--lora", "beach=0.5", "--no-consistency-check",
    "--profile", "puppet", "--device", "cpu",
]  # fmt: skip


def imagelab(*arguments):
    """Begin a command in a process of its own; return its id."""

    def work():
        sys.argv = ["imagelab", *map(str, arguments)]
        try:
            main()
        except SystemExit as end:
            os._exit(end.code or 0)

    return fork(work)


def test_the_same_command_goes_on_after_sigterm_and_draws_what_one_process_draws(generator, manager, tmp_path, capfd):
    """A7, F11: SIGTERM ends it with 3, a changed option is refused with 2, the same command ends it with 0."""
    generator.load()  # what this imports, the forks needn't
    folder = tmp_path / "run"
    count = 12  # enough not to be through with them before the signal comes
    command = [*COMMAND, "--num-images", count, "--output-dir", folder]
    running = imagelab(*command)
    end = time.monotonic() + 240
    while time.monotonic() < end and not ((folder / "ledger.jsonl").exists() and read_batch(folder).items):
        time.sleep(0.005)
    clock = time.monotonic()
    os.kill(running, signal.SIGTERM)
    assert wait_for(running) == 3
    assert time.monotonic() - clock < 10, "schedulers kill what hasn't ended soon after SIGTERM"
    assert f"{folder} has what was drawn" in capfd.readouterr().err
    left = count - len(read_batch(folder).items)
    for only in ([], ["--dry-run"]):
        assert wait_for(imagelab(*command, "--scene", "at night", *only)) == 2
        assert "scene_description was" in capfd.readouterr().err
    assert wait_for(imagelab(*command, "--dry-run")) == 0
    assert f"left       {left} of {count}" in capfd.readouterr().out
    assert wait_for(imagelab(*command)) == 0
    assert f"{count} pictures: {count} accepted" in capfd.readouterr().out
    given = {"num_images": count, "seed": 7, "additional_loras": [{"name": "beach", "weight": 0.5}]}
    draw(generator, manager, tmp_path / "here", SMALL | given | {"enable_consistency_check": False})
    assert content(folder) == content(tmp_path / "here")


def test_a_full_disk_ends_the_command_with_3_and_a_dry_run_draws_nothing(generator, tmp_path, capfd):
    """B3: files of at most 15,000 bytes, which a picture doesn't fit into."""
    generator.load()

    def limited():
        setrlimit(RLIMIT_FSIZE, (15_000, 15_000))
        os._exit(wait_for(imagelab(*COMMAND, "--width", 128, "--height", 128, "--output-dir", tmp_path / "run")))

    assert wait_for(fork(limited)) == 3
    assert "File too large" in capfd.readouterr().err
    assert wait_for(imagelab(*COMMAND, "--output-dir", tmp_path / "dry", "--dry-run")) == 0
    assert "3, seeds 7 to 9" in capfd.readouterr().out
    assert not (tmp_path / "dry").exists()


def test_a_damaged_ledger_is_bad_input_as_the_same_command_would_never_go_on(generator, tmp_path, capfd):
    generator.load()
    command = [*COMMAND, "--num-images", 1, "--output-dir", tmp_path / "run"]
    assert wait_for(imagelab(*command)) == 0
    with (tmp_path / "run" / "ledger.jsonl").open("a") as ledger:
        ledger.write("no record\n")
    assert wait_for(imagelab(*command)) == 2
    assert "line 2 is damaged" in capfd.readouterr().err


def test_a_batch_of_which_too_few_are_accepted_ends_with_1_and_says_how_many(generator, tmp_path, capfd):
    generator.load()
    asked = ["--consistency-check", "--threshold", 0.999, "--until-accepted", 2, "--max-images", 2, "--steps", 1]
    for _ in range(2):  # going on with it draws nothing
        assert wait_for(imagelab(*COMMAND, *asked, "--output-dir", tmp_path / "run")) == 1
        assert "0 of 2 wanted were accepted" in capfd.readouterr().out


def test_a_run_that_is_stopped_before_it_has_begun_says_that_nothing_was_drawn(tmp_path, capsys):
    with pytest.raises(typer.Exit) as end, _resumable(tmp_path / "run"):
        raise KeyboardInterrupt
    assert end.value.exit_code == 3
    assert capsys.readouterr().err == "stopped; nothing was drawn\n"
