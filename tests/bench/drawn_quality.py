"""The same pictures drawn in several ways, by turns: what each way shows, and how long it took.

Held-out scenes, whose attributes an oracle reads from the pictures and whose texture, what the oracle's first filters
answer, is held against the scene's render: blur and noise move it. And luca in changing scenes, whose face is compared
with his references. Seconds are those of the CPU.
"""

from dataclasses import dataclass, field, replace
from statistics import mean, median

import numpy as np
import torch
from turns import cpu_seconds, say

from imagelab import CharacterConsistencyChecker, CharacterReferenceManager, GenerationRequest
from imagelab.benchmark import paired_ratio
from imagelab.puppets.measures.concepts import texture
from imagelab.puppets.measures.pictures import load_oracle
from imagelab.puppets.measures.studio import held_out_scene
from imagelab.puppets.oracle import labels_of
from imagelab.puppets.render import render
from imagelab.puppets.world import EXPRESSIONS, PLACES, POSES, full_caption

RENDERS = 128  # that the spread of textures is taken from


@dataclass
class Seen:
    """What one way of drawing came to; two pictures a number, in the order of drawing."""

    shown: list[float] = field(default_factory=list)  # the share of a held-out scene's attributes
    alike: list[float | None] = field(default_factory=list)  # luca's similarity; None without a face
    seconds: list[float] = field(default_factory=list)
    texture: list[float] = field(default_factory=list)  # from the render of the scene, in deviations of renders
    off: list[float] = field(default_factory=list)  # grey levels from the first way, mean of a picture

    def row(self, base):
        """Return it as a row of a table, its seconds beside those of the first way."""
        scores = [score for score in self.alike if score is not None]
        return {
            "seconds": round(median(self.seconds), 3),
            "seconds to the first": str(paired_ratio(self.seconds, base.seconds)),
            "attributes shown": round(mean(self.shown), 4),
            "similarity of luca": round(mean(scores), 4),
            "faces found": len(scores),
            "texture from renders": round(mean(self.texture), 4),
            "grey levels from the first": round(mean(self.off), 2),
        }


def draw_by_turns(generator, store, ways, pictures):
    """Draw `pictures` numbers in each of `ways`, {name: fields of the request that differ}; return {name: Seen}.

    Models are loaded and LoRAs in the weights before a clock starts; every second number is drawn backwards.
    """
    seen, oracle, spread = {name: Seen() for name in ways}, load_oracle(), _spread_of_renders()
    generator.load()
    with CharacterConsistencyChecker("cpu", "puppet", generator.configs) as checker:
        references = CharacterReferenceManager(checker, store=store)
        for number in range(pictures):
            scene, *requests = _requests(number)
            wanted, drawn = texture([render(scene).image]), {}
            for name in list(ways)[:: -1 if number % 2 else 1]:
                drawn[name] = []
                for request in requests:
                    asked = replace(request, **ways[name])
                    generator.make_ready(asked)
                    clock = cpu_seconds()
                    drawn[name].append(generator.generate(asked).image)
                    seen[name].seconds.append(cpu_seconds() - clock)
            arrays = {name: [np.asarray(picture, np.float64) for picture in both] for name, both in drawn.items()}
            first = arrays[next(iter(ways))]
            for name, (alone, luca) in drawn.items():
                seen[name].shown.append(_shown(scene, alone, oracle))
                seen[name].texture.append(float((abs(texture([np.asarray(alone)]) - wanted) / spread).mean()))
                seen[name].alike.append(references.check_character_consistency("luca", luca).similarity_score)
                seen[name].off += [abs(a - b).mean() for a, b in zip(arrays[name], first, strict=True)]
            say(f"round {number + 1} of {pictures}")
    return seen


def _spread_of_renders():
    """Return how much each part of a texture differs from one render to another."""
    return texture([render(held_out_scene(70_000 + number)).image for number in range(RENDERS)]).std(0) + 1e-6


def _requests(number):
    """Return a held-out scene, and what to draw: it, and luca in another one."""
    scene, figure = held_out_scene(50_000 + number), held_out_scene(60_000 + number).figures[0]
    place = PLACES[tuple(PLACES)[number % len(PLACES)]][0]
    words = f"{POSES[figure.pose][0]} {place}, {EXPRESSIONS[figure.expression][0]}, {figure.shirt} shirt"
    alone = GenerationRequest(character=None, scene_description=full_caption(scene), seed=number)
    return scene, alone, GenerationRequest(character="luca", scene_description=words, seed=number)


def _shown(scene, image, oracle):
    """Return the share of a scene's attributes that a picture shows."""
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        found = np.array([int(logits.argmax(1)) for logits in oracle(pixels)])
    wanted = np.array(labels_of(scene))
    return float((found == wanted)[wanted >= 0].mean())
