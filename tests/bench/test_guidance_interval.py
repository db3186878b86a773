"""Measure what guidance at a part of the steps costs and saves, on the puppets, and write it as JSON.

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_guidance.py reports/benchmarks/guidance-interval-puppet.json

The same prompts and seeds with each interval, by turns: held-out scenes, whose attributes an oracle reads from the
pictures, and luca in changing scenes, whose face is compared with his references. Seconds are those of the CPU.
"""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from imagelab import CharacterConsistencyChecker, CharacterGenerator, CharacterReferenceManager, GenerationRequest
from imagelab.puppets.measures.pictures import load_oracle
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.oracle import labels_of
from imagelab.puppets.world import EXPRESSIONS, PLACES, POSES, full_caption
from imagelab.reporting import write_measurement
from imagelab.reporting.measurement import Measurement
from imagelab.versions import drawing_versions

INTERVALS = ((0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.25, 1.0), (0.25, 0.75), (0.0, 0.04))
PICTURES = 24


def requests(number):
    """Return what to draw: a held-out scene, and luca in another one."""
    scene, figure = held_out_scene(50_000 + number), held_out_scene(60_000 + number).figures[0]
    place = PLACES[tuple(PLACES)[number % len(PLACES)]][0]
    words = f"{POSES[figure.pose][0]} {place}, {EXPRESSIONS[figure.expression][0]}, {figure.shirt} shirt"
    alone = GenerationRequest(character=None, scene_description=full_caption(scene), seed=number)
    return scene, alone, GenerationRequest(character="luca", scene_description=words, seed=number)


def shown(scene, image, oracle):
    """Return the share of a scene's attributes that a picture shows."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        found = np.array([int(logits.argmax(1)) for logits in oracle(pixels)])
    wanted = np.array(labels_of(scene))
    return float((found == wanted)[wanted >= 0].mean())


def main(path):
    """Draw, judge and write."""
    seen = {interval: {"shown": [], "alike": [], "seconds": [], "off": []} for interval in INTERVALS}
    oracle = load_oracle()
    with CharacterGenerator("puppet", "cpu") as generator, CharacterConsistencyChecker("cpu") as checker:
        references = CharacterReferenceManager(checker, store="nowhere")
        usual = {}
        for number in range(PICTURES):
            scene, alone, luca = requests(number)
            for interval in INTERVALS:
                own = {"guidance_start": interval[0], "guidance_stop": interval[1]}
                pictures = []
                for request in (alone, luca):
                    clock = time.process_time()
                    pictures.append(generator.generate(type(request)(**{**fields(request), **own})).image)
                    seen[interval]["seconds"].append(time.process_time() - clock)
                seen[interval]["shown"].append(shown(scene, pictures[0], oracle))
                score = references.check_character_consistency("luca", pictures[1]).similarity_score
                seen[interval]["alike"].append(score)
                arrays = [np.asarray(picture, np.float64) for picture in pictures]
                usual.setdefault(number, arrays)
                seen[interval]["off"] += [abs(a - b).mean() for a, b in zip(arrays, usual[number], strict=True)]
        steps = generator.profile.preset().steps
    rows = tuple(row(interval, seen, steps) for interval in INTERVALS)
    machine = {"device": "cpu", "threads": str(torch.get_num_threads()), **drawing_versions()}
    machine["measured"] = datetime.now(UTC).date().isoformat()
    what = (
        f"Guidance between two fractions of the steps alone: {PICTURES} held-out scenes and {PICTURES} pictures of luca"
    )
    what += ", 128 px, standard preset; by turns, seconds of the CPU"
    command = f"OMP_NUM_THREADS=1 .venv/bin/python tests/bench/measure_guidance.py {path}"
    write_measurement(Measurement(what=what, command=command, machine=machine, rows=rows), Path(path))


def fields(request):
    """Return the fields of a request, by name."""
    return {name: getattr(request, name) for name in type(request).__dataclass_fields__}


def row(interval, seen, steps):
    """Return what an interval came to, beside guidance at all steps."""
    own, base = seen[interval], seen[INTERVALS[0]]
    guided = sum(interval[0] <= step / steps < interval[1] for step in range(steps))
    scores = [score for score in own["alike"] if score is not None]
    ratios = [one / other for one, other in zip(own["seconds"], base["seconds"], strict=True)]
    return {
        "guidance": f"{interval[0]:g} to {interval[1]:g}",
        "inputs of the unet per picture": steps + guided,
        "seconds": round(median(own["seconds"]), 3),
        "seconds to all steps": round(median(ratios), 3),
        "attributes shown": round(mean(own["shown"]), 4),
        "similarity of luca": round(mean(scores), 4),
        "faces found": len(scores),
        "grey levels from all steps": round(mean(own["off"]), 2),
    }


if __name__ == "__main__":
    main(sys.argv[1])
