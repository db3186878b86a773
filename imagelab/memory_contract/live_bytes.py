"""The bytes of the tensors that are alive while something runs, counted as PyTorch makes and drops them."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts, within a `with`, the bytes of all storages that operations make; `peak` is the most at one time.

    On any device, the meta device too, where nothing is computed. What was there before isn't counted: `known` are
    tensors of it that views may be made of, a module's parameters above all. With `copies` each convolution also
    takes, for as long as it runs, a copy of what goes in and of what comes out: cuDNN turns them into channels_last
    for its tensor cores and back.
    """

    def __init__(self, known: Iterable[Tensor] = (), *, copies: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._copies = copies
        self._before = [tensor.untyped_storage() for tensor in known]  # held, so that their keys aren't used again
        self._storages = {storage._cdata: 0 for storage in self._before}  # noqa: SLF001  what a storage is known by

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        made = operation(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        fleeting = 0
        if self._copies and operation is torch.ops.aten.convolution.default:
            fleeting = args[0].nbytes + made.nbytes
        self.peak = max(self.peak, self.live + fleeting)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001
        if key not in self._storages:
            self._storages[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._storages.pop(key)


class FusedAttention(TorchFunctionMode):
    """Lets attention take only the place of its result, as fused kernels do; on meta tensors it would be spelt out."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of PyTorch, attention excepted."""
        if function is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*args, **(kwargs or {}))
