"""What ControlNets, and the estimators that make their maps, must have on disk; nothing is loaded.

Drawing asks here before it loads one, and the doctor asks the same.
"""

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from imagelab.errors import ModelFileError
from imagelab.models import AGAIN, check_model, file_sha256, verify_weights
from imagelab.safetensors_files import check_safetensors

_CONTROLNETS = ("ControlNetModel", "ControlNetUnionModel", "ControlNetModel_Union")  # the last is of xinsir's own code
_UNION_TENSOR = "task_embedding"  # only a union ControlNet has it, whatever its config.json calls the class
_PROMAX = "_promax"
_MARIGOLD = "MarigoldNormalsPipeline"
_PIPELINE = "model_index.json"
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # either is what transformers looks for

# role of an estimator: how the names of transformers' classes for it end
_CLASSES: Mapping[str, str] = {
    "vitpose": "VitPoseForPoseEstimation",
    "detector": "ForObjectDetection",
    "depth": "ForDepthEstimation",
    "segmentation": "ForSemanticSegmentation",
    "normals": "ForSemanticSegmentation",  # of three outputs: x, y and z
}


def check_controlnet(folder: Path, dtype: str, *, packaged: bool) -> tuple[dict[str, str], str | None]:
    """Check the files of a ControlNet, and return {file: sha256} and the variant to load.

    `packaged`: it ships with imagelab, whose list its hashes must agree with. Raises ModelFileError, also for a folder
    that holds two ControlNets; ModelNotFoundError.
    """
    config = folder / "config.json"
    name = read_entry(config, "_class_name")
    if name not in _CONTROLNETS:
        raise ModelFileError(config, f"is of a {name}, not of a ControlNet", "Use a ControlNet for SDXL")
    _refuse_two(folder)
    return check_model(folder, dtype, packaged=packaged)


def is_union(tensors: Container[str]) -> bool:
    """Say whether a ControlNet of these tensors is a union one, which obeys several kinds of control."""
    return _UNION_TENSOR in tensors


def _refuse_two(folder: Path) -> None:
    """Refuse xinsir's two union ControlNets in one folder: which config.json goes with which weights is a guess."""
    weights = sorted(path.name for path in folder.glob("*.safetensors"))
    promax = [name for name in weights if _PROMAX in name]
    plain = [name for name in weights if _PROMAX not in name]
    if promax and plain:
        fix = f"Keep one of them, with its own config.json and without {_PROMAX!r} in its names"
        raise ModelFileError(folder, f"holds two ControlNets, {plain[0]} and {promax[0]}", fix)
    if promax:
        fix = f"Take {_PROMAX!r} out of its name, and out of that of config_promax.json"
        raise ModelFileError(folder / promax[0], "isn't looked for by that name", fix)


def check_estimator(folder: Path, role: str, *, packaged: bool) -> dict[str, str]:
    """Check the files of what makes control maps, and return {file: sha256}.

    `role`: the name of the preprocessor, or "detector". `packaged`: as for a ControlNet. Raises ModelFileError, also
    for a model of another kind than the role asks for; ModelNotFoundError.
    """
    if (folder / _PIPELINE).is_file():
        return _check_pipeline(folder, role, packaged=packaged)
    hashes, _ = check_model(folder, "float32", packaged=packaged)
    classes = read_entry(folder / "config.json", "architectures", default=[])
    if isinstance(classes, list) and classes and not any(str(name).endswith(_CLASSES[role]) for name in classes):
        expected = _CLASSES[role] if role == "vitpose" else f"…{_CLASSES[role]}"
        reason = f"is of a {', '.join(map(str, classes))}, not of a {expected}"
        raise ModelFileError(folder / "config.json", reason, f"Name the folder of one as {role}")
    if not any((folder / name).is_file() for name in _PROCESSORS):
        raise ModelFileError(folder / _PROCESSORS[0], "isn't there", AGAIN)
    return hashes


def _check_pipeline(folder: Path, role: str, *, packaged: bool) -> dict[str, str]:
    """Check one of diffusers' pipelines: of these, Marigold's makes normals, and none anything else."""
    index = folder / _PIPELINE
    name = read_entry(index, "_class_name")
    if role != "normals" or name != _MARIGOLD:
        reason = f"is of a {name}, which makes no maps as {role}"
        raise ModelFileError(index, reason, f"Name the folder of a {_MARIGOLD}, or of a model, for normals")
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ModelFileError(folder, "holds no .safetensors weights", "Download them: pickles aren't read")
    for path in files:
        check_safetensors(path)
    if packaged:
        return verify_weights(folder)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def read_entry(path: Path, key: str, default: object = None) -> object:
    """Return one entry of a model's JSON file, or the default if it lacks it and there is one.

    Raises ModelFileError for a file that isn't there, isn't a JSON mapping, or lacks the entry.
    """
    entries = read_entries(path)
    if key not in entries and default is None:
        raise ModelFileError(path, f"says nothing of {key}", AGAIN)
    return entries.get(key, default)


def read_entries(path: Path) -> dict[str, Any]:
    """Return a model's JSON file; raises ModelFileError for one that isn't there or isn't a JSON mapping."""
    if not path.is_file():
        raise ModelFileError(path, "isn't there", AGAIN)
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")).items())
    except (OSError, ValueError, AttributeError) as error:
        raise ModelFileError(path, "can't be read", AGAIN) from error
