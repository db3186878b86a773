"""The characters' LoRAs: is it them?"""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from imagelab.puppets.measures.studio import Row, Studio
from imagelab.puppets.world import CHARACTERS


def measure_characters(studio: Studio) -> list[Row]:
    """Measure what each character's LoRA does to the similarity to that character's references."""
    rows = []
    for name in CHARACTERS:
        scores = {}
        for with_lora in (True, False):
            verdicts = [
                studio.references.check_character_consistency(name, image)
                for image in studio.draw_character(name, with_lora=with_lora)
            ]
            scores[with_lora] = [v.similarity_score for v in verdicts if v.similarity_score is not None]
        labels = [1] * len(scores[True]) + [0] * len(scores[False])
        threshold = studio.generator.configs.character(name).thresholds.batch
        n = studio.count(64)
        auroc = float(roc_auc_score(labels, scores[True] + scores[False]))
        mean = {on: float(np.mean(values)) for on, values in scores.items()}
        accepted = {on: sum(s >= threshold for s in values) / n for on, values in scores.items()}
        rows += [
            Row(f"LoRA {name}, AUROC with against without", auroc, 0.95, pictures=2 * n),
            Row(f"LoRA {name}, mean similarity with", mean[True], 0.65, pictures=len(scores[True])),
            Row(f"LoRA {name}, mean similarity without", mean[False], pictures=len(scores[False])),
            Row(f"LoRA {name}, share accepted with", accepted[True], 0.80, pictures=n),
            Row(f"LoRA {name}, share accepted without", accepted[False], 0.20, smaller_is_better=True, pictures=n),
        ]
    return rows
