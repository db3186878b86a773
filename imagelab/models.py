"""Find model files on this machine and make sure that they are what they should be; nothing is loaded or downloaded."""

import hashlib
import json
import os
from pathlib import Path

from imagelab.config import Configs, HubModel, Source, models_root
from imagelab.errors import ModelFileError, ModelNotFoundError
from imagelab.read_once import read_once
from imagelab.safetensors_files import FETCH_AGAIN, check_safetensors, check_safetensors_once

# What a single file is read with: it holds weights alone. Pinned, as are the models that the configuration names.
SDXL = HubModel(repo="stabilityai/stable-diffusion-xl-base-1.0", revision="462165984030d82259a11f4367a4eed129e94a7b")
COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2")
AGAIN = "Fetch or copy the model again"
SUMS_FILE = "SHA256SUMS.json"  # {path relative to the file's folder: sha256}
_WEIGHT_SUFFIXES = {".safetensors", ".onnx", ".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_VOCABULARIES = ("tokenizer.json", "vocab.json")
# what an SDXL checkpoint has and what the names of its tensors begin with; the VAE may come from a source of its own
_IN_ONE_FILE = {
    "UNet": "model.diffusion_model.",
    "first text encoder": "conditioner.embedders.0.transformer.",
    "second text encoder": "conditioner.embedders.1.model.",
}


def resolve_source(source: Source, what: str = "model") -> Path:
    """Return the local folder, or the single .safetensors file, that a source stands for.

    Raises ModelNotFoundError, which says what to put where. Never downloads.
    """
    path, fix = _locate(source)
    there = path.is_file() if source.single_file else path.is_dir() and any(path.iterdir())
    if not there:
        raise ModelNotFoundError(what, path, fix)
    return path


def _locate(source: Source) -> tuple[Path, str]:
    """Return where a source lies, and what to do if nothing is there."""
    if source.package:
        fix = "It ships with imagelab: reinstall the package, or rebuild it with `make studio`"
        return Path(__file__).parent / source.package, fix
    if source.hub:
        # SDXL is published in two precisions and as one file besides: 7 GB of it are enough.
        weights = "*.fp16.safetensors" if source.hub.repo == SDXL.repo else "*.safetensors"
        fetch = _download(source.hub, "*.json", "*.txt", weights)
        fix = f"{fetch}, or name a folder or single_file under $IMAGELAB_MODELS in the configuration instead"
        return _hub_snapshot(source.hub), fix
    kind = "folder" if source.folder else "file"
    fix = f"Put the {kind} there; $IMAGELAB_MODELS is {models_root()}"
    return models_root() / (source.folder or source.single_file or ""), fix


def _download(model: HubModel, *patterns: str) -> str:
    wanted = " ".join(f"--include '{pattern}'" for pattern in patterns)  # one option each: hf takes the rest for files
    return f"Run `.venv/bin/hf download {model.repo} --revision {model.revision} {wanted}`"


def _hub_snapshot(model: HubModel) -> Path:
    # The layout and the variables are huggingface_hub's (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, in this order).
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    return hub / f"models--{model.repo.replace('/', '--')}" / "snapshots" / model.revision


def sdxl_without_weights() -> Path:
    """Return the local folder of the configuration and tokenizers that a single file lacks.

    Raises ModelNotFoundError or ModelFileError. Left to itself, diffusers downloads it, even with local_files_only
    (`FromSingleFileMixin.from_single_file`).
    """
    folder = _hub_snapshot(SDXL)
    if not (folder / "model_index.json").is_file():
        fix = f"A single file holds weights alone. {_download(SDXL, '*.json', '*.txt')}"
        raise ModelNotFoundError("configuration and tokenizers of SDXL", folder, fix)
    _check_layout(folder)
    return folder


def check_base(source: Source, path: Path, dtype: str) -> dict[str, str]:
    """Check the files of a base model as far as that goes without loading them, and return {file: sha256}.

    Raises ModelFileError, ModelNotFoundError.
    """
    if path.is_file():
        names = check_safetensors(path)
        for part, begin in _IN_ONE_FILE.items():
            if not any(name.startswith(begin) for name in names):
                raise ModelFileError(path, f"isn't an SDXL checkpoint: it holds no {part}", "Use an SDXL model")
        sdxl_without_weights()
        return {path.name: _weights_sha256(path)}
    _check_layout(path)
    if source.package:
        return verify_weights(path)
    variant = choose_variant(path, dtype)
    hashes = {part: check_component(path / part, variant) for part in COMPONENTS}
    return {f"{part}/{name}": value for part, files in hashes.items() for name, value in files.items()}


def _check_layout(folder: Path) -> None:
    index = folder / "model_index.json"
    try:
        class_name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(index, "isn't there or can't be read", "Put a model in diffusers' layout there") from error
    if class_name != "StableDiffusionXLPipeline":
        raise ModelFileError(index, f"is of a {class_name}, not of a StableDiffusionXLPipeline", "Use an SDXL model")
    for name in ("tokenizer", "tokenizer_2"):
        if not any((folder / name / file).is_file() for file in _VOCABULARIES):  # transformers would make one up
            raise ModelFileError(folder / name, f"holds none of {', '.join(_VOCABULARIES)}", AGAIN)


def check_component(folder: Path, variant: str | None = None) -> dict[str, str]:
    """Check the files of one part of a base model, or of a VAE of its own, and return {file: sha256}."""
    if not (folder / "config.json").is_file():
        raise ModelFileError(folder / "config.json", "isn't there", AGAIN)
    files = weight_files(folder, variant)
    for path in files:
        check_safetensors(path)
    return {path.name: _weights_sha256(path) for path in files}


def check_model(folder: Path, dtype: str, *, packaged: bool) -> tuple[dict[str, str], str | None]:
    """Check the files of one model in a folder of its own, and return {file: sha256} and the variant to load.

    `packaged`: it ships with imagelab, whose list its hashes must agree with. Raises ModelFileError or
    ModelNotFoundError.
    """
    variant = choose_weights(folder, dtype)
    hashes = check_component(folder, variant)
    return (verify_weights(folder) if packaged else hashes), variant


def choose_weights(folder: Path, dtype: str) -> str | None:
    """Choose between the two sets of weights that one model may be there in; raises nothing if there are none."""
    half, full = (any((".fp16" in path.name) == is_half for path in folder.glob("*.safetensors")) for is_half in (1, 0))
    return "fp16" if half and (dtype == "float16" or not full) else None


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """Return the weights of one part of a base model in a variant; raises ModelFileError if there are none."""
    files = sorted(path for path in folder.glob("*.safetensors") if (".fp16" in path.name) == (variant == "fp16"))
    if not files:
        raise ModelFileError(folder, "holds no .safetensors weights", AGAIN)
    return files


def choose_variant(base: Path, dtype: str) -> str | None:
    """Choose between the two sets of weights that SDXL is published in; either may be all that there is."""
    unet = base / "unet"
    half = any(unet.glob("*.fp16*.safetensors"))
    full = any(".fp16" not in path.name for path in unet.glob("*.safetensors"))
    return "fp16" if half and (dtype == "float16" or not full) else None


def resolve_lora(configs: Configs, name: str, profile: str) -> Path:
    """Return the checked file of a LoRA for a profile.

    Raises UnknownNameError, ProfileError, ModelNotFoundError or ModelFileError.
    """
    file = configs.lora_file(name, profile)
    source = configs.profile(profile).loras
    folder, fix = _locate(source)
    path = folder / file
    if not path.is_file():
        fix = "Put the .safetensors file there" if source.folder else fix
        raise ModelNotFoundError(f"LoRA {name!r} of profile {profile}", path, fix)
    check_safetensors_once(path)  # each picture asks
    if expected := configs.lora(name).sha256.get(profile) or _listed_sha256(path):
        check_sha256(path, expected)
    return path


def read_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex, read now, whatever its time of change says."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@read_once
def file_sha256(path: Path) -> str:
    """Return the sha256 of a file in hex; a file that hasn't changed since is not read again."""
    return read_sha256(path)


def _weights_sha256(path: Path) -> str:
    # A hub cache links to blobs that are named by their hash: no need to read 7 GB.
    name = path.resolve().name
    return name if len(name) == 64 and path.is_symlink() else file_sha256(path)


@read_once
def tensors_sha256(path: Path) -> str:
    """Return the sha256 of a safetensors file without its header, in hex: AutoV3, and kohya's sshs_model_hash."""
    with path.open("rb") as stream:
        stream.seek(int.from_bytes(stream.read(8), "little"), os.SEEK_CUR)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise ModelFileError if the file doesn't hash to `expected`."""
    if (actual := file_sha256(path)) != expected:
        raise ModelFileError(path, f"sha256 is {actual}, expected {expected}: not the file it should be", FETCH_AGAIN)


def verify_weights(folder: Path) -> dict[str, str]:
    """Check every file of a folder that SHA256SUMS.json, there or in the nearest folder above, lists.

    Returns {path relative to `folder`: sha256}. Raises ModelFileError for a file that is missing, changed or
    truncated and for weights that aren't listed; ModelNotFoundError when there is no list.
    """
    sums = _sums_above(folder)
    if sums is None:
        raise ModelNotFoundError("list of hashes", folder / SUMS_FILE, "Write one, or reinstall the package")
    listed = {sums.parent / name: digest for name, digest in _read_sums(sums).items()}
    here = {path: digest for path, digest in listed.items() if path.is_relative_to(folder)}
    if not here:
        raise ModelFileError(sums, f"lists nothing in {folder}", "Rebuild the weights, or reinstall the package")
    for path in sorted(folder.rglob("*")):
        if path.suffix in _WEIGHT_SUFFIXES and path not in here:
            raise ModelFileError(path, f"isn't listed in {sums}", "Remove it, or list its sha256")
    for path, digest in here.items():
        if not path.is_file():
            raise ModelFileError(path, f"is missing; {sums} lists it", "Reinstall the package")
        if path.suffix == ".safetensors":
            check_safetensors(path)  # says "truncated" where the hash could only say "different"
        check_sha256(path, digest)
    return {path.relative_to(folder).as_posix(): digest for path, digest in here.items()}


def _sums_above(folder: Path) -> Path | None:
    return next((path for place in (folder, *folder.parents) if (path := place / SUMS_FILE).is_file()), None)


def _listed_sha256(path: Path) -> str | None:
    sums = _sums_above(path.parent)
    return _read_sums(sums).get(path.relative_to(sums.parent).as_posix()) if sums else None


@read_once
def _read_sums(path: Path) -> dict[str, str]:
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFileError(path, f"can't be read: {error}", "Reinstall the package") from error
    if not isinstance(sums, dict) or not all(isinstance(digest, str) for digest in sums.values()):
        raise ModelFileError(path, "must map paths to sha256 hashes", "Reinstall the package")
    return sums
