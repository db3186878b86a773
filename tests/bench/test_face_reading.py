"""Many pictures judged by a character's references, beside loops over insightface's own `FaceAnalysis.get`."""

import numpy as np
from insightface.app.face_analysis import FaceAnalysis
from PIL import Image
from turns import by_turns

from imagelab import CharacterConsistencyChecker, CharacterReferenceManager
from imagelab.benchmark import paired_ratio
from imagelab.devices import device_name, resolve_device
from imagelab.models import resolve_source
from imagelab.puppets.render import render
from imagelab.puppets.world import CHARACTERS, HELD_OUT_SEED, sample_scene

PICTURES, ROUNDS = 64, 5
DEFAULT, FAIR, ONE_FACE, OURS = (
    "FaceAnalysis with its defaults",
    "FaceAnalysis, detector's size given",
    "FaceAnalysis with its defaults, one face each",
    "check_batch",
)
PROMISED = {DEFAULT: 2.5, FAIR: 1.3}  # times as fast, on two cores
ON_GPU = {DEFAULT: 6.0, FAIR: 3.0}


def pictures(folder):
    """Write held-out pictures of luca, enlarged to the size of SDXL's."""
    paths = [folder / f"{number}.png" for number in range(PICTURES)]
    for number, path in enumerate(paths):
        rng = np.random.default_rng(HELD_OUT_SEED + 70_000 + number)
        scene = sample_scene(rng, figures=1, identity=CHARACTERS["luca"].identity)
        Image.fromarray(render(scene, width=128, height=128).image).resize((1024, 1024)).save(path)
    return paths


def test_checking_pictures_is_as_much_faster_than_a_loop_as_promised(configs, tmp_path, keep):
    pack, files = configs.profile("puppet").face, pictures(tmp_path)
    folder = str(resolve_source(pack.source, "face pack"))
    default, fair = FaceAnalysis(folder), FaceAnalysis(folder, allowed_modules=["detection", "recognition"])
    default.prepare(ctx_id=0)
    fair.prepare(ctx_id=0, det_thresh=pack.detection_threshold, det_size=pack.detector_size_px)
    faces = {}

    def loop(name, analysis, **limits):
        faces[name] = 0
        for path in files:
            with Image.open(path) as opened:
                bgr = np.asarray(opened.convert("RGB"))[:, :, ::-1].copy()
            faces[name] += len(analysis.get(bgr, **limits))

    def check():
        faces[OURS] = sum(verdict.status == "ok" for verdict in checker.check_batch(files, references))

    with CharacterConsistencyChecker("auto", "puppet", configs) as checker:
        references = CharacterReferenceManager(checker, store=tmp_path / "store").references("luca")
        ways = {
            DEFAULT: lambda: loop(DEFAULT, default),
            FAIR: lambda: loop(FAIR, fair),
            ONE_FACE: lambda: loop(ONE_FACE, default, max_num=1),
            OURS: check,
        }
        took = by_turns(ways, ROUNDS)
        on_gpu = "CUDAExecutionProvider" in checker.providers
    promised = ON_GPU if on_gpu else PROMISED
    faster = {name: paired_ratio(took[name].wall, took[OURS].wall) for name in ways}
    less_cpu = {name: paired_ratio(took[name].cpu, took[OURS].cpu) for name in ways}
    keep(
        "faces-in-many-gpu.json" if on_gpu else "faces-in-many-2-cores-20261126.json",
        f"Consistency of {PICTURES} pictures of 1024 px checked, files read included, {ROUNDS} rounds by turns",
        facts={"promised_times_as_fast": promised[DEFAULT], "promised_to_a_fair_loop": promised[FAIR]},
        rows=[
            {
                "way": name,
                "seconds": round(float(np.median(took[name].wall)), 2),
                "cpu_seconds": round(float(np.median(took[name].cpu)), 2),
                "faces": faces[name],
                "check_batch_is_times_as_fast": "" if name == OURS else str(faster[name]),
                "check_batch_takes_times_less_cpu": "" if name == OURS else str(less_cpu[name]),
            }
            for name in ways
        ],
        machine={"device": device_name(resolve_device("auto" if on_gpu else "cpu")), "pack": pack.name},
    )
    assert faces[OURS] >= 0.95 * PICTURES
    assert {name: faster[name].low >= least for name, least in promised.items()} == dict.fromkeys(promised, True)
