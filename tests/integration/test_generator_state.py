"""What a generator has been through leaves no trace in what it draws next; what has ended says so."""

import dataclasses
import gc
import os
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from threading import Event

import numpy as np
import pytest
from PIL import Image

from imagelab import CharacterGenerator, GenerationError, GenerationRequest, ImageLabError
from imagelab.batch import BatchImageGenerator
from imagelab.consistency import CharacterConsistencyChecker
from imagelab.imagefiles import open_image
from imagelab.references import CharacterReferenceManager
from imagelab.results import ControlUse, LoraUse
from imagelab.runs import read_batch

REQUEST = GenerationRequest(
    character="luca", scene_description="on the beach", quality_preset="draft", width=64, height=64, steps=2, seed=5
)
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def ask(**changes):
    return dataclasses.replace(REQUEST, **changes)


def pixels(generation):
    return generation.image.tobytes()


@pytest.fixture
def control():
    """A ready map of edges."""
    edges = np.zeros((64, 64, 3), np.uint8)
    edges[16:48:8] = 255
    return ControlUse(type="canny", image="drawn", picture=Image.fromarray(edges), is_map=True)


# --- diffusers' own flag


def test_a_picture_that_diffusers_flag_ends_early_is_an_error_and_never_recorded(generator):
    """Matrix F4: `pipe._interrupt` skips the steps that are left, and what comes out looks like a picture."""
    whole = pixels(generator.generate(REQUEST))

    def interrupt(*_):
        generator.pipeline._interrupt = True

    with pytest.raises(GenerationError, match=r"interrupted after step 1 of 2.*Draw it again"):
        generator.generate(REQUEST, on_step=interrupt)
    assert pixels(generator.generate(REQUEST)) == whole, "the flag that was left set stops nothing later"


def test_in_a_batch_it_is_a_failed_picture_that_is_drawn_on_request(generator, tmp_path):
    """Matrix F4."""
    options = {"num_images": 3, "quality_preset": "draft", "width": 64, "height": 64, "steps": 2, "progress": False}
    options |= {"enable_consistency_check": False}

    class Interrupted(CharacterGenerator):
        """Draws by the other generator; the flag is set during the second picture."""

        def load(self):
            return generator.load()

        def generate(self, request, on_step=None):
            def interrupt(*at):
                generator.pipeline._interrupt = request.seed == 1
                on_step(*at)

            return generator.generate(request, interrupt)

    def draw(drawer, folder, **more):
        batches = BatchImageGenerator(drawer)
        return batches.generate_batch("luca", "on the beach", output_dir=folder, **options, **more)

    stopped = draw(Interrupted("puppet", "cpu", generator.configs), tmp_path / "run")
    assert [item.status for item in stopped.items] == ["accepted", "failed", "accepted"]
    assert "interrupted after step 1 of 2" in stopped.items[1].reason
    assert not (tmp_path / "run" / "accepted" / "0001_seed1.png").exists()
    again = draw(generator, tmp_path / "run", retry_failed=True)
    assert again.items == draw(generator, tmp_path / "whole").items
    assert read_batch(tmp_path / "run").total_accepted == 3


def test_with_a_control_the_flag_of_the_other_pipeline_ends_nothing_early(generator, control):
    """Matrix F4: a picture with a control is drawn by a pipeline of its own, and is whole or not at all."""
    whole = pixels(generator.generate(ask(controls=(control,))))

    def interrupt(*_):
        generator.pipeline._interrupt = True

    assert pixels(generator.generate(ask(controls=(control,)), on_step=interrupt)) == whole
    assert pixels(generator.generate(ask(controls=(control,)))) == whole


# --- what goes wrong at a step


@pytest.mark.parametrize("step", range(1, 5))
def test_whatever_is_raised_after_a_step_the_next_picture_of_the_base_is_what_it_was(generator, step):
    """Matrix F3: with LoRAs, one of which acts in some of the steps only."""
    base = ask(use_character_loras=False, steps=4)
    before = pixels(generator.generate(base))
    town = LoraUse(name="portorosso_town", start=0.25, stop=0.75)

    def fail(at, *_):
        if at == step:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generator.generate(ask(steps=4, additional_loras=(town,)), on_step=fail)
    assert pixels(generator.generate(base)) == before


@pytest.mark.parametrize("step", range(1, 5))
def test_nan_at_any_step_is_an_error_that_names_it_and_leaves_nothing(generator, step):
    """Matrix F6."""
    whole, calls = pixels(generator.generate(ask(steps=4))), []

    def spoil(_, __, output):
        calls.append(1)
        return tuple(part * float("nan") for part in output) if len(calls) == step else output

    said = f"NaN or infinity in the latents after step {step} of 4"
    with generator.pipeline.unet.register_forward_hook(spoil), pytest.raises(GenerationError, match=said):
        generator.generate(ask(steps=4))
    assert pixels(generator.generate(ask(steps=4))) == whole


def test_two_fresh_processes_draw_the_picture_that_this_one_draws(generator):
    """Matrix F11."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as processes:
        others = list(processes.map(drawn_afresh, [REQUEST] * 2))
    assert {process for process, _ in others}.isdisjoint({os.getpid()})
    assert len(dict(others)) == 2
    assert [drawn for _, drawn in others] == [pixels(generator.generate(REQUEST))] * 2


def drawn_afresh(request):
    with CharacterGenerator("puppet", "cpu") as fresh:
        return os.getpid(), pixels(fresh.generate(request))


# --- schedulers


def test_every_scheduler_draws_the_same_after_every_other_one(generator, configs):
    """Matrix F5: all ordered pairs A, B, A; step counters and settings that a scheduler changes are nobody else's."""
    names = sorted(configs.sdxl.schedulers)
    first = {}
    for name in names:
        with CharacterGenerator("puppet", "cpu", configs) as fresh:
            fresh._models = generator._ready()
            first[name] = pixels(fresh.generate(ask(scheduler=name, steps=2)))
            fresh._models = None  # the models are the other one's
    assert len(set(first.values())) > len(names) // 2
    for one, other in combinations(names, 2):
        for name in (one, other, one, other):
            assert pixels(generator.generate(ask(scheduler=name, steps=2))) == first[name], (one, other)


# --- the end


def uses(generator, folder):
    return {
        "generate": lambda: generator.generate(REQUEST),
        "generate_together": lambda: generator.generate_together(REQUEST, [1, 2]),
        "generate_character": lambda: generator.generate_character("luca", output_path=folder / "luca.png"),
        "control_maps": lambda: generator.control_maps(REQUEST),
        "compare_loras": lambda: generator.compare_loras([{"name": "luca"}]),
        "load": generator.load,
        "pipeline": lambda: generator.pipeline,
        "a batch": lambda: BatchImageGenerator(generator).generate_batch(
            "luca", "on the beach", num_images=1, output_dir=folder / "run", enable_consistency_check=False
        ),
    }


def test_cleanup_frees_loras_controls_and_models_even_after_an_interrupt_and_is_final(configs, control, tmp_path):
    """Matrix F12."""
    generator = CharacterGenerator("puppet", "cpu", configs)
    latents = []

    def interrupt(step, _, tensor):
        latents.append(weakref.ref(tensor))
        if step == 2:
            raise KeyboardInterrupt

    generator.generate(ask(controls=(control,)))
    with pytest.raises(KeyboardInterrupt) as stopped:
        generator.generate(ask(controls=(control,)), on_step=interrupt)
    del stopped
    models = generator._models
    living = [weakref.ref(getattr(models.loaded.pipe, part)) for part in PARTS]
    living += [weakref.ref(models.patcher), weakref.ref(models.nets), weakref.ref(models.loaded.pipe)]
    del models
    generator.cleanup()
    gc.collect()
    assert [reference() for reference in [*living, *latents]] == [None] * len([*living, *latents])
    generator.cleanup()
    for name, use in uses(generator, tmp_path).items():
        with pytest.raises(GenerationError, match=r"was cleaned up\. Make a new one"):
            use()
        assert not list(tmp_path.iterdir()), name
    assert generator.vram().allocated_gib == 0
    assert not generator.is_loaded
    assert "cleaned up" in repr(generator)


def test_cleanup_waits_for_the_picture_that_another_thread_draws(configs, tmp_path):
    """Matrix F12."""
    generator, drawing = CharacterGenerator("puppet", "cpu", configs), Event()
    whole = pixels(generator.generate(REQUEST))
    with ThreadPoolExecutor(1) as threads:
        drawn = threads.submit(generator.generate, REQUEST, lambda *_: drawing.set())
        assert drawing.wait(60)
        generator.cleanup()
        assert pixels(drawn.result(60)) == whole
    with pytest.raises(GenerationError, match="cleaned up"):
        generator.generate_character("luca", output_path=tmp_path / "luca.png")


def test_checkers_references_and_batches_are_final_too(configs, luca_image, tmp_path):
    """Matrix F12: with nothing written, and a second cleanup harmless."""
    luca_image.save(tmp_path / "luca.png")
    batches = BatchImageGenerator(profile="puppet", device="cpu", configs=configs)
    checker = CharacterConsistencyChecker("cpu", "puppet", configs)
    references = CharacterReferenceManager(store=tmp_path / "store", profile="puppet", configs=configs, device="cpu")
    for owner in (batches, checker, references):
        owner.cleanup()
        owner.cleanup()
    for use in (
        lambda: batches.generate_batch("luca", "on the beach", num_images=1, output_dir=tmp_path / "run"),
        lambda: checker.faces(tmp_path / "luca.png"),
        lambda: references.create_character_embedding("luca", [tmp_path / "luca.png"]),
        lambda: references.check_character_consistency("luca", tmp_path / "luca.png"),
    ):
        with pytest.raises(ImageLabError, match=r"[Mm]ake a new one"):
            use()
    assert [path.name for path in tmp_path.iterdir()] == ["luca.png"]
    open_image(tmp_path / "luca.png")
