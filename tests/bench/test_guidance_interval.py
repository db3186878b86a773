"""What guidance at a part of the steps costs and saves, on the puppets.

The same prompts and seeds with each interval, by turns: held-out scenes, whose attributes an oracle reads from the
pictures, and luca in changing scenes, whose face is compared with his references. Seconds are those of the CPU.
"""

from dataclasses import replace
from statistics import mean, median

import numpy as np
import torch
from turns import cpu_seconds, say

from imagelab import CharacterConsistencyChecker, CharacterReferenceManager, GenerationRequest
from imagelab.benchmark import paired_ratio
from imagelab.puppets.measures.pictures import load_oracle
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.oracle import labels_of
from imagelab.puppets.world import EXPRESSIONS, PLACES, POSES, full_caption

INTERVALS = ((0.0, 1.0), (0.0, 0.75), (0.0, 0.5), (0.25, 1.0), (0.25, 0.75), (0.0, 0.04))
PICTURES = 24
HALF, MOST = (0.0, 0.5), 0.9  # guidance at half of the steps takes so much of the time at most


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


def test_guidance_at_half_of_the_steps_takes_nine_tenths_of_the_time_at_most(generator, tmp_path, keep):
    seen = {interval: {"shown": [], "alike": [], "seconds": [], "off": []} for interval in INTERVALS}
    oracle = load_oracle()
    with CharacterConsistencyChecker("cpu", "puppet", generator.configs) as checker:
        references = CharacterReferenceManager(checker, store=tmp_path)
        usual = {}
        for number in range(PICTURES):
            scene, alone, luca = requests(number)
            for interval in INTERVALS:
                own = {"guidance_start": interval[0], "guidance_stop": interval[1]}
                pictures = []
                for request in (alone, luca):
                    clock = cpu_seconds()
                    pictures.append(generator.generate(replace(request, **own)).image)
                    seen[interval]["seconds"].append(cpu_seconds() - clock)
                seen[interval]["shown"].append(shown(scene, pictures[0], oracle))
                score = references.check_character_consistency("luca", pictures[1]).similarity_score
                seen[interval]["alike"].append(score)
                arrays = [np.asarray(picture, np.float64) for picture in pictures]
                usual.setdefault(number, arrays)
                seen[interval]["off"] += [abs(a - b).mean() for a, b in zip(arrays, usual[number], strict=True)]
            say(f"round {number + 1} of {PICTURES}")
    steps = generator.profile.preset().steps
    keep(
        "guidance-interval-puppet.json",
        f"Guidance between two fractions of the steps alone: {PICTURES} held-out scenes and {PICTURES} pictures of "
        "luca, 128 px, standard preset; by turns, seconds of the CPU",
        facts={"promised_of_the_seconds_at_half_of_the_steps": MOST},
        rows=[row(interval, seen, steps) for interval in INTERVALS],
    )
    assert paired_ratio(seen[HALF]["seconds"], seen[INTERVALS[0]]["seconds"]).high <= MOST


def row(interval, seen, steps):
    """Return what an interval came to, beside guidance at all steps."""
    own, base = seen[interval], seen[INTERVALS[0]]
    guided = sum(interval[0] <= step / steps < interval[1] for step in range(steps))
    scores = [score for score in own["alike"] if score is not None]
    return {
        "guidance": f"{interval[0]:g} to {interval[1]:g}",
        "inputs of the unet per picture": steps + guided,
        "seconds": round(median(own["seconds"]), 3),
        "seconds to all steps": str(paired_ratio(own["seconds"], base["seconds"])),
        "attributes shown": round(mean(own["shown"]), 4),
        "similarity of luca": round(mean(scores), 4),
        "faces found": len(scores),
        "grey levels from all steps": round(mean(own["off"]), 2),
    }
