"""Consistent 3D characters drawn with SDXL, for notebooks.

Names are imported when they are first used (PEP 562): `import imagelab` loads neither torch nor diffusers nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagelab.batch import BatchImageGenerator
    from imagelab.character import CharacterGenerator
    from imagelab.config import Configs, load_configs
    from imagelab.consistency import CharacterConsistencyChecker
    from imagelab.errors import (
        CalibrationFileError,
        ConfigError,
        ControlMapError,
        GenerationError,
        ImageFileError,
        ImageLabError,
        InvalidValueError,
        ModelFileError,
        ModelNotFoundError,
        NotebookError,
        ProfileError,
        ReferenceStoreError,
        RunFolderError,
        RunStoppedError,
        UnknownNameError,
    )
    from imagelab.imagefiles import read_picture_metadata
    from imagelab.preprocess import ControlMap, make_control_map
    from imagelab.redraw import Replay, replay
    from imagelab.references import CharacterReferenceManager
    from imagelab.results import (
        BatchItem,
        BatchResult,
        ControlUse,
        Generation,
        GenerationRecord,
        GenerationRequest,
        Verdict,
    )

    __version__: str

__all__ = [
    "BatchImageGenerator",
    "BatchItem",
    "BatchResult",
    "CalibrationFileError",
    "CharacterConsistencyChecker",
    "CharacterGenerator",
    "CharacterReferenceManager",
    "ConfigError",
    "Configs",
    "ControlMap",
    "ControlMapError",
    "ControlUse",
    "Generation",
    "GenerationError",
    "GenerationRecord",
    "GenerationRequest",
    "ImageFileError",
    "ImageLabError",
    "InvalidValueError",
    "ModelFileError",
    "ModelNotFoundError",
    "NotebookError",
    "ProfileError",
    "ReferenceStoreError",
    "Replay",
    "RunFolderError",
    "RunStoppedError",
    "UnknownNameError",
    "Verdict",
    "__version__",
    "load_configs",
    "make_control_map",
    "read_picture_metadata",
    "replay",
]

_NAMES_BY_MODULE = {
    "batch": ("BatchImageGenerator",),
    "character": ("CharacterGenerator",),
    "config": ("Configs", "load_configs"),
    "consistency": ("CharacterConsistencyChecker",),
    "errors": (
        "CalibrationFileError",
        "ConfigError",
        "ControlMapError",
        "GenerationError",
        "ImageFileError",
        "ImageLabError",
        "InvalidValueError",
        "ModelFileError",
        "ModelNotFoundError",
        "NotebookError",
        "ProfileError",
        "ReferenceStoreError",
        "RunFolderError",
        "RunStoppedError",
        "UnknownNameError",
    ),
    "imagefiles": ("read_picture_metadata",),
    "preprocess": ("ControlMap", "make_control_map"),
    "references": ("CharacterReferenceManager",),
    "redraw": ("Replay", "replay"),
    "results": (
        "BatchItem",
        "BatchResult",
        "ControlUse",
        "Generation",
        "GenerationRecord",
        "GenerationRequest",
        "Verdict",
    ),
}
_MODULES = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from imagelab.versions import library_version

        return library_version("imagelab")
    if name not in _MODULES:
        raise AttributeError(f"module 'imagelab' has no attribute {name!r}")
    value = getattr(import_module(f"imagelab.{_MODULES[name]}"), name)
    globals()[name] = value  # the next look-up doesn't come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
