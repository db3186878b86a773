"""The picture of the architecture is what the code is."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_committed_picture_is_the_one_that_the_imports_draw(tmp_path):
    """Else: make architecture."""
    spec = importlib.util.spec_from_file_location("draw_architecture", DOCS / "draw_architecture.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path / "architecture.svg")

    drawn = (tmp_path / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == (DOCS / "images/architecture.svg").read_text(encoding="utf-8")
