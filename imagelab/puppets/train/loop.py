"""The training loop that every puppet model shares: resumable, on all cores, with a running average of the weights."""

from __future__ import annotations

import copy
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from tqdm.auto import trange

from imagelab.puppets.train.parallel import average_gradients, split_over_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

M = TypeVar("M", bound="nn.Module")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How long and how fast to learn. The rate warms up, then falls as a cosine to a hundredth."""

    steps: int
    rate: float
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.0  # decay of the running average of the weights; 0 keeps none
    flat: float = 0.0  # share of the steps at full rate before the cosine starts


def mixed_precision() -> torch.autocast:
    """Compute in bfloat16 where the processor has it; where it is emulated it is ten times slower than float32."""
    native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(native))


def named(name: str, start: Path | None) -> str:
    """Return a checkpoint's file name; one that goes on from finished weights tells a story of its own."""
    return f"{name}_refined.pt" if start else f"{name}.pt"


def rate_at(step: int, plan: Plan) -> float:
    """Return the learning rate of a step."""
    progress = max(0.0, (step / plan.steps - plan.flat) / (1 - plan.flat))
    return plan.rate * min(1.0, (step + 1) / plan.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    models: dict[str, M],
    loss_of_step: Callable[[int, torch.Generator], Tensor],
    plan: Plan,
    checkpoint: Path,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    save_every_seconds: float = 120.0,
    processes: int | None = None,
) -> dict[str, M]:
    """Train `models` in place and return what should be used of them: their running averages, or themselves.

    Goes on from `checkpoint` if it exists. Losses are appended to a `.jsonl` file beside it, one line each 50 steps.
    Each of `processes` (by default one for each thread that torch would use) draws batches of its own.
    """
    learnt = [p for p in (parameters or [p for m in models.values() for p in m.parameters()]) if p.requires_grad]
    optimizer = torch.optim.AdamW(learnt, plan.rate, betas=plan.betas, weight_decay=plan.weight_decay, fused=True)
    averages = {k: copy.deepcopy(m).requires_grad_(False) for k, m in models.items()} if plan.average else models
    start, seconds = _resume(checkpoint, models, averages, optimizer)
    log = checkpoint.with_suffix(".jsonl")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    began = saved = time.monotonic()
    recent: list[float] = []
    with split_over_cores(torch.get_num_threads() if processes is None else processes) as rank:
        first = rank == 0
        steps = trange(
            start, plan.steps, initial=start, total=plan.steps, desc=checkpoint.stem, mininterval=10, disable=not first
        )
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, plan)
            # Each step draws from its own generator: a resumed run sees what an uninterrupted one would.
            generator = torch.Generator().manual_seed(step + rank * plan.steps)
            loss = loss_of_step(step, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            average_gradients(learnt)
            torch.nn.utils.clip_grad_norm_(learnt, plan.clip)
            optimizer.step()
            if not first:
                continue
            recent.append(loss.item())
            if plan.average:
                _follow(averages, models, min(plan.average, (1 + step) / (10 + step)))
            now = time.monotonic()
            if (step + 1) % 50 == 0:
                row = {"step": step + 1, "loss": sum(recent) / len(recent), "seconds": seconds + now - began}
                with log.open("a") as f:
                    f.write(json.dumps(row) + "\n")
                recent.clear()
            if now - saved > save_every_seconds or step + 1 == plan.steps:
                _save(checkpoint, models, averages, optimizer, step + 1, seconds + now - began)
                saved = now
    return averages


def _follow(averages: Mapping[str, nn.Module], models: Mapping[str, nn.Module], decay: float) -> None:
    with torch.no_grad():
        for k, model in models.items():
            torch._foreach_lerp_(list(averages[k].parameters()), list(model.parameters()), 1 - decay)
            for a, b in zip(averages[k].buffers(), model.buffers(), strict=True):
                a.copy_(b)


def _resume(
    path: Path, models: Mapping[str, nn.Module], averages: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Put everything back as `_save` found it; return the steps and seconds that it has behind it."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    for k, m in models.items():
        m.load_state_dict(state["models"][k])
        averages[k].load_state_dict(state["averages"][k])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def _save(
    path: Path, models: Mapping[str, nn.Module], averages: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer, step: int, seconds: float,
) -> None:  # fmt: skip
    state: dict[str, Any] = {
        "models": {k: m.state_dict() for k, m in models.items()},
        "averages": {k: m.state_dict() for k, m in averages.items()},
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
