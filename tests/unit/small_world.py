"""The puppet studio's training pictures, a few of each size, so that a test can train on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from imagelab.puppets.train import dataset

PICTURES = 4  # of each size


@contextmanager
def rendered(work: Path) -> Iterator[pytest.MonkeyPatch]:
    """Render them into the studio's folder and make them its whole; give what patches more for as long."""
    with pytest.MonkeyPatch.context() as patch:
        for name, bucket in dataset.BUCKETS.items():
            patch.setitem(dataset.BUCKETS, name, bucket._replace(pictures=PICTURES))
            dataset.render_bucket(name, work / "data", workers=1)
        yield patch
