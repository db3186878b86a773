"""Rebuild the puppet studio: `python -m imagelab.puppets.train [STAGE ...] [--work FOLDER] [--refine] [--install]`.

Each stage goes on where it was stopped and does nothing once it is done, so an interrupted run is simply started
again. Stages in their order: what a later one needs, an earlier one has left in the work folder. Training uses all
cores (OMP_NUM_THREADS says otherwise); stages that do not need each other may also run side by side, a core each.
`--refine` lets VAE, base and decoder go on from the package's weights, `--install` copies what is finished over them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from imagelab.puppets.train.export import install
from imagelab.puppets.train.stages import STAGES, build

WEIGHTS = Path(__file__).parents[1] / "weights"


def main() -> None:
    """Run the stages named on the command line, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m imagelab.puppets.train", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], help="default: all, in their order")
    parser.add_argument("--work", type=Path, default=Path(".studio"), help="folder of data and checkpoints")
    parser.add_argument("--install", action="store_true", help="copy what is finished over the package's weights")
    parser.add_argument("--refine", action="store_true", help="start VAE, base and decoder from the package's weights")
    arguments = parser.parse_args()
    build(arguments.work, arguments.stages or tuple(STAGES), start=WEIGHTS if arguments.refine else None)
    if arguments.install:
        install(arguments.work, WEIGHTS)


if __name__ == "__main__":
    main()
