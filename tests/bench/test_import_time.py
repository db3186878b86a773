"""`import imagelab` beside bare Python: a notebook's first cell is there at once."""

import subprocess
import sys

from turns import by_turns

from imagelab.benchmark import paired_difference

PAIRS, MOST_SECONDS = 40, 0.1


def test_importing_imagelab_takes_a_tenth_of_a_second_at_most(keep):
    def start(code):
        subprocess.run([sys.executable, "-c", code], check=True)

    ways = {"bare Python": lambda: start(""), "import imagelab": lambda: start("import imagelab")}
    took = by_turns(ways, PAIRS)
    own, bare = took["import imagelab"], took["bare Python"]
    more = {"wall": paired_difference(own.wall, bare.wall), "cpu": paired_difference(own.cpu, bare.cpu)}
    keep(
        "import-time.json",
        f"`import imagelab` in a fresh interpreter, over bare Python; {PAIRS} pairs by turns",
        facts={f"{kind}_seconds_more": str(one) for kind, one in more.items()} | {"promised_seconds": MOST_SECONDS},
        machine={"python": sys.version.split()[0]},
    )
    assert more["cpu"].high <= MOST_SECONDS
