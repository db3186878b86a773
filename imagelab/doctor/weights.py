"""The models of a profile: there, whole, the ones that they should be, and under which licence."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from imagelab.arcface import FaceEncoder
from imagelab.config import Configs, Profile, Source
from imagelab.config.loras import BaseName
from imagelab.control_models import check_controlnet, check_estimator
from imagelab.doctor.report import Check, Status, first_line
from imagelab.doctor.software import REINSTALL
from imagelab.errors import ImageLabError, ModelNotFoundError
from imagelab.models import (
    check_base,
    check_component,
    file_sha256,
    resolve_lora,
    resolve_source,
    verify_weights,
)
from imagelab.reference_pictures import IMAGE_SUFFIXES
from imagelab.safetensors_files import check_safetensors

_WEIGHTS = {".safetensors", ".onnx"}
_CUDA = "CUDAExecutionProvider"

Look = Callable[[], tuple[str, Mapping[str, str]]]  # -> what was found, {file: sha256}


def check_models(configs: Configs, chosen: Profile, vram_gib: float) -> Iterator[Check]:
    """Look at the models of the chosen profile, then, in passing, at those of the others.

    `vram_gib`: the memory of the graphics card in GiB, 0 without one.
    """
    checks = {check.name: check for check in _models(configs, chosen, vram_gib)}
    yield from checks.values()
    if checks[_face(chosen)].status == "ok":
        yield _face_providers(chosen, vram_gib)
    yield _characters(configs, chosen, checks)
    yield from _licences(configs, chosen)
    for profile in configs.sdxl.profiles.values():
        if profile is not chosen:
            yield from _in_passing(configs, profile, vram_gib)


def _models(configs: Configs, profile: Profile, vram_gib: float) -> Iterator[Check]:
    dtype = profile.dtype.cuda if vram_gib else profile.dtype.cpu
    yield _files(f"{profile.name}: base model", profile.base, lambda path: check_base(profile.base, path, dtype))
    if profile.vae:
        yield _files(f"{profile.name}: VAE", profile.vae, check_component)
    if profile.preview_vae:
        yield _files(f"{profile.name}: preview VAE", profile.preview_vae, missing="note")
    yield _files(_face(profile), profile.face.source)
    if profile.clip:
        yield _files(f"{profile.name}: CLIP", profile.clip, missing="warning")
    for name, lora in configs.lora_registry.loras.items():
        if profile.name in lora.files:
            yield _attempt(_lora(profile, name), partial(_look_at_lora, configs, name, profile), "warning")
    for name, character in configs.character_presets.characters.items():
        if source := character.references.get(profile.name):
            yield _attempt(_references(profile, name), partial(_look_at_pictures, source), "warning")
    yield from _controls(configs, profile, dtype)
    for name, encoder in profile.encoders.items():
        if model := encoder.source or (encoder.pack.source if encoder.pack else None):
            yield _files(f"{profile.name}: encoder {name}", model, missing="note")


def _controls(configs: Configs, profile: Profile, dtype: str) -> Iterator[Check]:
    """Look at the ControlNets and at what makes their maps; a profile draws without them too."""
    if union := configs.controlnet.union.get(profile.name):
        yield _controlnet(f"{profile.name}: ControlNet union", union, dtype)
    for name, control in configs.controlnet.controls.items():
        if source := control.models.get(profile.name):
            yield _controlnet(f"{profile.name}: ControlNet {name}", source, dtype)
        preprocessor = control.preprocessors.get(profile.name)
        if preprocessor and preprocessor.model:
            yield _estimator(f"{profile.name}: {name} estimator", preprocessor.model, preprocessor.name)
        if preprocessor and preprocessor.detector:
            yield _estimator(f"{profile.name}: person detector for {name}", preprocessor.detector, "detector")


def _controlnet(name: str, source: Source, dtype: str) -> Check:
    def check(folder: Path) -> Mapping[str, str]:
        return check_controlnet(folder, dtype, packaged=bool(source.package))[0]

    return _files(name, source, check, missing="warning")


def _estimator(name: str, source: Source, role: str) -> Check:
    return _files(name, source, partial(check_estimator, role=role, packaged=bool(source.package)), missing="warning")


def _face(profile: Profile) -> str:
    return f"{profile.name}: face pack {profile.face.name}"


def _lora(profile: Profile, name: str) -> str:
    return f"{profile.name}: LoRA {name}"


def _references(profile: Profile, character: str) -> str:
    return f"{profile.name}: references of {character}"


def _characters(configs: Configs, profile: Profile, checks: Mapping[str, Check]) -> Check:
    """Say which characters have all that they need; without one there is nothing to draw or to compare."""
    ready = []
    for name, character in configs.character_presets.characters.items():
        needs = [_references(profile, name), *(_lora(profile, lora.name) for lora in character.loras)]
        if all(need in checks and checks[need].status == "ok" for need in needs):
            ready.append(name)
    name = f"{profile.name}: characters"
    if ready:
        return Check(name=name, status="ok", found=f"{', '.join(ready)}: LoRAs and reference pictures are there")
    found = "none has its LoRAs and its reference pictures"
    return Check(name=name, status="problem", found=found, fix="Put there what the lines above miss, for one character")


def _licences(configs: Configs, profile: Profile) -> Iterator[Check]:
    yield Check(name=f"{profile.name}: licence", status="note", found=profile.licence)
    face = profile.face
    yield Check(
        name=f"{profile.name}: licence of {face.name}",
        status="warning" if face.non_commercial else "note",
        found=face.licence,
        fix="Don't use its embeddings commercially without a licence of InsightFace" if face.non_commercial else "",
        details={"non_commercial": face.non_commercial},
    )
    for name, encoder in profile.encoders.items():
        yield Check(
            name=f"{profile.name}: licence of encoder {name}",
            status="warning" if encoder.non_commercial else "note",
            found=encoder.licence,
            details={"non_commercial": encoder.non_commercial},
        )
    for name, lora in configs.lora_registry.loras.items():
        if profile.name in lora.files:
            yield Check(name=f"{profile.name}: licence of LoRA {name}", status="note", found=lora.licence)


def _in_passing(configs: Configs, profile: Profile, vram_gib: float) -> Iterator[Check]:
    """Look at a profile that wasn't asked for: what is there is a note each, all that isn't one together."""
    absent = []
    for check in _models(configs, profile, vram_gib):
        if "absent" in check.details:
            absent.append(check.name.removeprefix(f"{profile.name}: "))
        else:
            yield replace(check, status="note")
    if absent:
        fix = f"`imagelab doctor --profile {profile.name}` says what to put where"
        yield Check(name=f"profile {profile.name}", status="note", found=f"not there: {', '.join(absent)}", fix=fix)


def _files(
    name: str,
    source: Source,
    check: Callable[[Path], Mapping[str, str]] | None = None,
    missing: Status = "problem",
) -> Check:
    def look() -> tuple[str, Mapping[str, str]]:
        path = resolve_source(source, name)
        hashes = (check or (verify_weights if source.package else _hashes))(path)
        weights = [file for file in hashes if Path(file).suffix in _WEIGHTS]
        size = sum((path / file if path.is_dir() else path).stat().st_size for file in hashes)
        listed = "sha256 as listed" if source.package else "sha256 in --json"
        return f"{len(weights)} file{'' if len(weights) == 1 else 's'}, {_size(size)}, {listed}", hashes

    return _attempt(name, look, missing)


def _attempt(name: str, look: Look, missing: Status) -> Check:
    """Turn what a look raises into a check: a missing model weighs as `missing`, a damaged one is a problem."""
    try:
        found, hashes = look()
    except ModelNotFoundError as error:
        absent = {"absent": str(error.path)}
        return Check(name=name, status=missing, found=f"nothing at {error.path}", fix=error.fix, details=absent)
    except ImageLabError as error:
        return Check(name=name, status="problem", found=str(error), fix=getattr(error, "fix", ""))
    # a folder that is named like a file, a link that leads nowhere, a file that isn't ours to read
    except OSError as error:
        fix = "Remove it, or make it a file that can be read"
        return Check(name=name, status="problem", found=f"can't be read: {error}", fix=fix)
    return Check(name=name, status="ok", found=found, hashes=hashes)


def _hashes(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.suffix in _WEIGHTS)
    if not files:
        raise ModelNotFoundError("weights", path / "*.safetensors", "The folder is there, its weights aren't")
    for file in files:
        if file.suffix == ".safetensors":
            check_safetensors(file)
    return {file.relative_to(path).as_posix(): file_sha256(file) for file in files}


def _look_at_lora(configs: Configs, name: str, profile: Profile) -> tuple[str, dict[str, str]]:
    path = resolve_lora(configs, name, profile.name)
    _check_base(path, name, configs.lora_base(name, profile.name))
    digest = file_sha256(path)
    return f"{path.name}, {_size(path.stat().st_size)}, sha256 {digest[:8]}…", {path.name: digest}


def _check_base(path: Path, name: str, base: BaseName) -> None:
    try:
        from imagelab.lora import check_registered_base
    except Exception:  # noqa: BLE001  a torch that doesn't import has a line of its own
        return
    check_registered_base(path, name, base)


def _look_at_pictures(source: Source) -> tuple[str, dict[str, str]]:
    folder = resolve_source(source, "reference pictures")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ModelNotFoundError("reference pictures", folder, "Put pictures there, one face in each")
    return f"{len(files)} pictures", {file.name: file_sha256(file) for file in files}


def _face_providers(profile: Profile, vram_gib: float) -> Check:
    """Open the face models and ask their sessions: what onnxruntime says is available needn't work."""
    name = f"{profile.name}: face models run on"
    try:
        with FaceEncoder(profile) as encoder:
            providers = encoder.providers
    except ImageLabError as error:
        return Check(name=name, status="problem", found=str(error), fix=getattr(error, "fix", ""))
    except Exception as error:  # noqa: BLE001  an onnxruntime that is installed twice fails in its own ways
        return Check(name=name, status="problem", found=f"nothing: {first_line(error)}", fix=REINSTALL)
    unused = vram_gib > 0 and _CUDA not in providers
    return Check(
        name=name,
        status="warning" if unused else "ok",
        found=", ".join(providers) + (" although there is a GPU" if unused else ""),
        fix="Install onnxruntime for CUDA: `rm -rf .venv && make setup LOCK=requirements-gpu.lock`" if unused else "",
        details={"providers": list(providers)},
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
