"""A folder with handmade references, and a manager of them."""

import pytest
from handmade_pack import handmade_manager, write_reference_folders


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a handmade pack, in which a face's embedding is its picture's colour, and reference pictures."""
    monkeypatch.setenv("IMAGELAB_MODELS", str(tmp_path))
    write_reference_folders(tmp_path)
    return tmp_path


@pytest.fixture
def manager(folder):
    with handmade_manager(folder) as manager:
        yield manager
