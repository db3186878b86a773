"""Models compiled by torch.compile's inductor: each one graph, whose kernels do what many of PyTorch's did.

The last bits are others. docs/decisions/0023 says what is compiled, what that saves and what it costs. PyTorch's
compiler takes seconds to import, so nothing here does before a model is compiled.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imagelab.errors import GenerationError
from imagelab.prompt_attention import ask_ahead, cross_attentions
from imagelab.versions import UNCOMPILED

# Of UNet and ControlNets together, whose forward diffusers wraps in one function: each for a size, a batch, with or
# without guidance and ControlNets. More is an error here, never eager. PyTorch's own limit is 8.
_MOST_GRAPHS = 128


def cache_folder() -> Path:
    """Return where graphs are kept for the next process: $TORCHINDUCTOR_CACHE_DIR, else a folder in the user's cache.

    PyTorch's own default is in the folder of temporary files, which a restart empties.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or home / "imagelab" / "inductor")


def check_compiling(device: torch.device) -> None:
    """Compile an addition; raises GenerationError where that fails, as without Python's headers or a writable cache."""
    from torch._dynamo import config

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder())  # where inductor looks, and processes that we start
    config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)
    add = torch.compile(lambda value: value + 1, fullgraph=True, dynamic=False)
    _compiled(add, "an addition", torch.zeros(8, device=device))


def compile_model(model: nn.Module) -> None:
    """Let a UNet, a ControlNet or a VAE's decoder be compiled when it is called, once for each shape of its inputs.

    `forward` alone is replaced: hooks stay outside, so that offloading goes on working. The weights are inputs of the
    graph, which sees it when they are rewritten in place. Calls raise GenerationError for what doesn't compile.
    """
    model.to(memory_format=torch.channels_last)  # convolutions of other layouts convert each input and output
    name = type(model).__name__
    graph = torch.compile(model.forward, fullgraph=True, dynamic=False)
    model.forward = partial(_call, graph, cross_attentions(model), name)


@contextmanager
def eagerly(*models: nn.Module) -> Iterator[None]:
    """Let compiled models do as if they weren't, in the layout that diffusers loads them in; others anyway do."""
    forwards = {model: getattr(model, "_old_forward", model.forward) for model in models}  # beneath an offloading hook
    compiled = [model for model, forward in forwards.items() if getattr(forward, "func", None) is _call]
    if not compiled:
        yield
        return
    for model in compiled:
        model.to(memory_format=torch.contiguous_format)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for model in compiled:
            model.to(memory_format=torch.channels_last)


def _call(graph: Callable[..., Any], layers: Sequence[Any], name: str, *given: Any, **named: Any) -> Any:
    # None is every optional argument's default: a pipeline with ControlNets says it while none of them acts
    given, named = _steady(given), _steady({key: value for key, value in named.items() if value is not None})
    if "encoder_hidden_states" in named:
        ask_ahead(layers, named["encoder_hidden_states"])
    return _compiled(graph, name, *given, **named)


def _compiled(graph: Callable[..., Any], name: str, *given: Any, **named: Any) -> Any:
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        return graph(*given, **named)
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        fix = f"TORCH_LOGS=dynamo,inductor says more. Mend the compiler, {UNCOMPILED}"
        raise GenerationError(f"{name} can't be compiled: {reason}", fix) from error


def _steady(value: Any) -> Any:
    """Return an input in the one form of its kind: a graph is for one dtype, layout and Python number."""
    match value:
        case Tensor() if value.ndim == 0:  # a step's time: an integer to some schedulers, float32 to the models
            return value.to(torch.float32)
        case Tensor():
            return value.contiguous()
        case float():  # how strongly a ControlNet acts
            return torch.tensor(value)
        case list() | tuple():
            return tuple(_steady(one) for one in value)
        case dict():
            return {name: _steady(one) for name, one in value.items()}
        case _:
            return value
