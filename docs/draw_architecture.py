"""Draw docs/images/architecture.svg from what the modules import and from the floors in pyproject.toml.

Each box is a module or a package of imagelab. A line goes down from who imports to what is imported; where one module
reaches another by way of a third, the direct line is left out.
"""

import tomllib
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/architecture.svg"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH, ROW = 11.0, 0.52  # inches


def floors() -> list[list[str]]:
    """Return the modules of each floor, from the top down, as import-linter is told them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(
        contract["layers"] for contract in contracts if contract["name"].startswith("Imports only point down")
    )
    return [layer.split(" | ") for layer in layers]


def imports(modules: list[str]) -> dict[str, set[str]]:
    """Return what each module imports of the others, packages taken as one."""
    graph = grimp.build_graph("imagelab", exclude_type_checking_imports=True)
    for name in modules:
        graph.squash_module(f"imagelab.{name}")
    wanted = {f"imagelab.{name}": name for name in modules}
    return {
        short: {wanted[found] for found in graph.find_modules_directly_imported_by(full) if found in wanted} - {short}
        for full, short in wanted.items()
    }


def reduced(direct: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out what is imported by way of another import as well."""

    def reached(name: str) -> set[str]:
        return direct[name].union(*(reached(each) for each in direct[name]))

    return {name: direct[name].difference(*(reached(each) for each in direct[name])) for name in direct}


def places(rows: list[list[str]], edges: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Put each module into its row, as far as can be below what imports it."""
    found: dict[str, tuple[float, float]] = {}
    for height, row in enumerate(rows):
        above = {name: [found[one][0] for one in found if name in edges[one]] for name in row}
        ordered = sorted(row, key=lambda name: (sum(above[name]) / len(above[name]) if above[name] else 0.5, name))
        widths = [len(name) + 3 for name in ordered]
        start = 0.0
        for name, width in zip(ordered, widths, strict=True):
            found[name] = ((start + width / 2) / sum(widths), -height)
            start += width
    return found


def draw(axis: Axes, rows: list[list[str]], edges: dict[str, set[str]]) -> None:
    """Draw lines, then boxes over them."""
    at = places(rows, edges)
    for place, (name, targets) in enumerate(edges.items()):
        for target in sorted(targets):
            axis.annotate(
                "",
                at[target],
                at[name],
                arrowprops={"arrowstyle": "-", "color": COLOURS[place % len(COLOURS)], "alpha": 0.45, "linewidth": 0.8},
            )
    for name, (x, y) in at.items():
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "#767676", "linewidth": 0.7}
        axis.text(x, y, name, ha="center", va="center", fontsize=7.5, bbox=box)
    axis.set(xlim=(-0.02, 1.02), ylim=(0.6 - len(rows), 0.6))
    axis.axis("off")


def main(path: Path = PICTURE) -> None:
    """Write the picture; the same code gives the same file."""
    rows = floors()
    edges = reduced(imports([name for row in rows for name in row]))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "imagelab", "font.family": "DejaVu Sans"}):
        figure, axis = plt.subplots(figsize=(WIDTH, ROW * len(rows)), layout="constrained")
        draw(axis, rows, edges)
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
