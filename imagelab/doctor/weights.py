"""The models of a profile: there, whole, the ones that they should be, and under which licence."""

from collections.abc import Callable, Iterator
from pathlib import Path

from imagelab.arcface import FaceEncoder
from imagelab.config import Configs, Profile, Source
from imagelab.doctor.report import Check, Status, first_line
from imagelab.doctor.software import REINSTALL
from imagelab.errors import ImageLabError, ModelNotFoundError
from imagelab.models import check_safetensors, file_sha256, resolve_lora, resolve_source, verify_weights

_WEIGHTS = {".safetensors", ".onnx"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def check_models(configs: Configs, chosen: Profile) -> Iterator[Check]:
    """Look at the models of the chosen profile, and whether those of the others are there."""
    yield from _required_models(chosen)
    yield from _optional_models(configs, chosen)
    yield from _licences(chosen)
    for profile in configs.sdxl.profiles.values():
        if profile is not chosen:
            yield _presence(profile)


def _required_models(profile: Profile) -> Iterator[Check]:
    yield _files(f"{profile.name}: base model", profile.base, _base_is_complete)
    if profile.vae:
        yield _files(f"{profile.name}: VAE", profile.vae)
    face = _files(f"{profile.name}: face pack {profile.face.name}", profile.face.source)
    yield face
    if face.status == "ok":
        yield _face_providers(profile)


def _optional_models(configs: Configs, profile: Profile) -> Iterator[Check]:
    if profile.clip:
        yield _files(f"{profile.name}: CLIP", profile.clip, missing="warning")
    for name, lora in configs.lora_registry.loras.items():
        if profile.name in lora.files:
            yield _attempt(f"{profile.name}: LoRA {name}", "warning", lambda name=name: _lora(configs, name, profile))  # type: ignore[misc]
    for name, character in configs.character_presets.characters.items():
        if source := character.references.get(profile.name):
            yield _attempt(f"{profile.name}: references of {name}", "warning", lambda source=source: _pictures(source))  # type: ignore[misc]


def _licences(profile: Profile) -> Iterator[Check]:
    yield Check(name=f"{profile.name}: licence", status="note", found=profile.licence)
    face = profile.face
    yield Check(
        name=f"{profile.name}: licence of {face.name}",
        status="warning" if face.non_commercial else "note",
        found=face.licence,
        fix="Don't use its embeddings commercially without a licence of InsightFace" if face.non_commercial else "",
        details={"non_commercial": face.non_commercial},
    )


def _files(
    name: str, source: Source, complete: Callable[[Path], None] | None = None, missing: Status = "problem"
) -> Check:
    def look() -> tuple[str, dict[str, str]]:
        path = resolve_source(source, name)
        if complete:
            complete(path)
        hashes = verify_weights(path) if source.package else _hashes(path)
        weights = {file: digest for file, digest in hashes.items() if Path(file).suffix in _WEIGHTS}
        size = sum((path / file if path.is_dir() else path).stat().st_size for file in hashes)
        listed = "sha256 as listed" if source.package else "sha256 in --json"
        return f"{len(weights)} file{'' if len(weights) == 1 else 's'}, {_size(size)}, {listed}", hashes

    return _attempt(name, missing, look)


def _attempt(name: str, missing: Status, look: Callable[[], tuple[str, dict[str, str]]]) -> Check:
    """Turn what a look raises into a check: a missing model weighs as `missing`, a damaged one is a problem."""
    try:
        found, hashes = look()
    except ModelNotFoundError as error:
        return Check(name=name, status=missing, found=f"nothing at {error.path}", fix=error.fix)
    except ImageLabError as error:
        return Check(name=name, status="problem", found=str(error), fix=getattr(error, "fix", ""))
    return Check(name=name, status="ok", found=found, hashes=hashes)


def _base_is_complete(path: Path) -> None:
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ModelNotFoundError("base model", path / "model_index.json", "Put a folder in diffusers' layout there")


def _hashes(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _WEIGHTS)
    if not files:
        raise ModelNotFoundError("weights", path / "*.safetensors", "The folder is there, its weights aren't")
    for file in files:
        if file.suffix == ".safetensors":
            check_safetensors(file)
    return {file.name if path.is_file() else file.relative_to(path).as_posix(): file_sha256(file) for file in files}


def _lora(configs: Configs, name: str, profile: Profile) -> tuple[str, dict[str, str]]:
    path = resolve_lora(configs, name, profile.name)
    digest = file_sha256(path)
    return f"{path.name}, {_size(path.stat().st_size)}, sha256 {digest[:8]}…", {path.name: digest}


def _pictures(source: Source) -> tuple[str, dict[str, str]]:
    folder = resolve_source(source, "reference pictures")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
    if not files:
        raise ModelNotFoundError("reference pictures", folder, "Put pictures there, one face in each")
    return f"{len(files)} pictures", {file.name: file_sha256(file) for file in files}


def _face_providers(profile: Profile) -> Check:
    """Open the face models and ask their sessions: what onnxruntime says is available needn't work."""
    name = f"{profile.name}: face models run on"
    try:
        with FaceEncoder(profile) as encoder:
            providers = encoder.providers
    except ImageLabError as error:
        return Check(name=name, status="problem", found=str(error), fix=getattr(error, "fix", ""))
    except Exception as error:  # noqa: BLE001  an onnxruntime that is installed twice fails in its own ways
        return Check(name=name, status="problem", found=f"nothing: {first_line(error)}", fix=REINSTALL)
    return Check(name=name, status="ok", found=", ".join(providers), details={"providers": list(providers)})


def _presence(profile: Profile) -> Check:
    """Say of a profile that wasn't asked for whether its models are there, without reading them."""
    sources = {"base model": profile.base, "VAE": profile.vae, f"face pack {profile.face.name}": profile.face.source}
    absent = []
    for what, source in sources.items():
        try:
            if source:
                resolve_source(source, what)
        except ModelNotFoundError:
            absent.append(what)
    found = f"not there: {', '.join(absent)}" if absent else "all models there"
    ask = f"`imagelab doctor --profile {profile.name}` says what to put where" if absent else ""
    return Check(name=f"profile {profile.name}", status="note", found=found, fix=ask)


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
