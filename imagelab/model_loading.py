"""Models from local files, by the libraries that read them: quietly, completely or not at all.

Needs no pipeline of diffusers, which takes seconds to import.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from imagelab.devices import resolve_device
from imagelab.errors import ModelFileError
from imagelab.models import AGAIN, choose_weights, weight_files
from imagelab.safetensors_files import check_safetensors

# Names that old files use, and what they became: transformers 5.6 flattened CLIPTextModel, diffusers 0.12 renamed
# the VAE's attention. Both libraries read the old ones.
_OLD_NAMES = (
    ("text_model.", ""),
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)


def load_network(model_class: Any, folder: Path, device: str) -> tuple[Any, Any]:
    """Read a network of transformers and what prepares pictures for it, in float32: these are small.

    Raises ModelFileError, also for weights that leave a part of it as it was initialised.
    """
    from transformers import AutoImageProcessor

    with quietly():
        processor = load_or_refuse(AutoImageProcessor.from_pretrained, folder, local_files_only=True)
        given = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
        given["variant"] = choose_weights(folder, "float32")
        network, info = load_or_refuse(model_class.from_pretrained, folder, output_loading_info=True, **given)
    if missing := sorted(info["missing_keys"]):  # which transformers makes up, with a line in the log
        raise ModelFileError(folder, f"lacks {len(missing)} tensors, {missing[0]} among them", AGAIN)
    return processor, network.to(resolve_device(device)).eval()


def load_or_refuse(load: Callable[..., Any], path: Path, **given: Any) -> Any:
    """Call a library's loader with a path; whatever it raises about the files becomes a ModelFileError."""
    try:
        return load(path, **given)
    except Warning:  # turned into an error by whoever runs us: not about the file
        raise
    except Exception as error:  # the loaders raise whatever the file leads them to: KeyError, OSError, RuntimeError ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFileError(path, f"can't be loaded: {reason}", AGAIN) from error


def check_complete(module: torch.nn.Module, folder: Path, variant: str | None) -> None:
    """Refuse weights that leave a part of the module as it was initialised: the libraries only log that."""
    there = {_new_name(key) for path in weight_files(folder, variant) for key in check_safetensors(path)}
    if missing := sorted(key for key in module.state_dict() if _new_name(key) not in there):
        raise ModelFileError(folder, f"lacks {len(missing)} tensors, {missing[0]} among them", AGAIN)


def _new_name(key: str) -> str:
    for old, new in _OLD_NAMES:
        key = key.replace(old, new)
    return key


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the libraries' progress bars: several to a model, and none says what is being waited for."""
    logs = (diffusers.utils.logging, transformers.utils.logging)
    were_on = [log.is_progress_bar_enabled() for log in logs]
    for log in logs:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, was_on in zip(logs, were_on, strict=True):
            if was_on:
                log.enable_progress_bar()
