"""The stages of building the studio, in their order: what a later one needs, an earlier one has left behind."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTokenizer

from imagelab.puppets.train.annotators import TASKS, annotator_processor, train_annotator
from imagelab.puppets.train.base import train_base
from imagelab.puppets.train.clip import build_processor, train_clip
from imagelab.puppets.train.control import MODES, train_controlnet, train_union
from imagelab.puppets.train.dataset import BUCKETS, render_bucket
from imagelab.puppets.train.detector import train_detector
from imagelab.puppets.train.export import export_detector, export_recogniser, export_references, save_controlnet
from imagelab.puppets.train.lcm import NAME as LCM
from imagelab.puppets.train.lcm import save_lcm, train_lcm
from imagelab.puppets.train.lora import CONCEPTS, save_lora, train_lora
from imagelab.puppets.train.oracle import train_oracle
from imagelab.puppets.train.recogniser import train_recogniser
from imagelab.puppets.train.tiny_vae import train_tiny_vae
from imagelab.puppets.train.vae import polish_decoder, train_vae

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name to write under; what is there afterwards gets the name that says that it is finished."""
    part = path.with_name(f"{path.name}.part")
    yield part
    part.rename(path)


def _data(work: Path, _: Path | None) -> None:
    for name in BUCKETS:
        render_bucket(name, work / "data")


def _vae(work: Path, start: Path | None) -> None:
    train_vae(work, start=start and start / "base" / "vae").save_pretrained(work / "vae")


def _base(work: Path, start: Path | None) -> None:
    pipe = train_base(AutoencoderKL.from_pretrained(work / "vae"), work, start=start and start / "base")
    pipe.to(torch.float16).save_pretrained(work / "out" / "base")


def _decoder(work: Path, start: Path | None) -> None:
    """Improve the decoder after the UNet: latents stay what they were."""
    polished = polish_decoder(AutoencoderKL.from_pretrained(work / "vae"), work, start=start)
    scale = AutoencoderKL.load_config(work / "out" / "base" / "vae")["scaling_factor"]
    polished.register_to_config(scaling_factor=scale)
    polished.to(torch.float16).save_pretrained(work / "out" / "base" / "vae")


def _tiny_vae(work: Path, _: Path | None) -> None:
    vae = AutoencoderKL.from_pretrained(work / "out" / "base" / "vae", dtype=torch.float32)
    train_tiny_vae(vae, work).to(torch.float16).save_pretrained(work / "out" / "tiny_vae")


def _recogniser(work: Path, _: Path | None) -> None:
    export_recogniser(train_recogniser(work), work / "out" / "face" / "recogniser.onnx")


def _detector(work: Path, _: Path | None) -> None:
    export_detector(train_detector(work), work / "out" / "face" / "detector.onnx")


def _clip(work: Path, _: Path | None) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    model = train_clip(tokenizer, work)
    folder = work / "out" / "clip"
    model.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_processor().save_pretrained(folder)


def _oracle(work: Path, _: Path | None) -> None:
    path = work / "out" / "evaluation" / "oracle.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(train_oracle(work).half().state_dict(), path)


def _loras(work: Path, _: Path | None) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(work / "out" / "base", dtype=torch.float32)
    for name in CONCEPTS:
        path = work / "out" / "loras" / f"{name}.safetensors"
        if not path.exists():
            with _whole(path) as part:
                save_lora(train_lora(pipe, name, work / f"lora_{name}.pt"), name, part)


def _lcm(work: Path, _: Path | None) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(work / "out" / "base", dtype=torch.float32)
    path = work / "out" / "loras" / f"{LCM}.safetensors"
    with _whole(path) as part:
        save_lcm(train_lcm(pipe, work), part)


def _annotators(work: Path, _: Path | None) -> None:
    for task in TASKS:
        folder = work / "out" / "annotators" / task
        if not folder.exists():
            with _whole(folder) as part:
                train_annotator(task, work).to(torch.float16).save_pretrained(part)
                annotator_processor(task).save_pretrained(part)


def _controlnets(work: Path, _: Path | None) -> None:
    pipe = StableDiffusionXLPipeline.from_pretrained(work / "out" / "base", dtype=torch.float32)
    union = train_union(pipe, work)
    folder = work / "out" / "controlnets"
    for kind in MODES:
        if not (folder / kind).exists():
            with _whole(folder / kind) as part:
                save_controlnet(train_controlnet(pipe, kind, union, work), part)
    save_controlnet(union, folder / "union")


def _references(work: Path, _: Path | None) -> None:
    export_references(work / "out" / "references")


STAGES: dict[str, Callable[[Path, Path | None], None]] = {
    "data": _data,
    "vae": _vae,
    "base": _base,
    "decoder": _decoder,
    "tiny_vae": _tiny_vae,
    "recogniser": _recogniser,
    "detector": _detector,
    "clip": _clip,
    "oracle": _oracle,
    "loras": _loras,
    "lcm": _lcm,
    "controlnets": _controlnets,
    "annotators": _annotators,
    "references": _references,
}


def build(work: Path, stages: Iterable[str] = tuple(STAGES), *, start: Path | None = None) -> None:
    """Run stages in the folder `work`; one that is done is skipped, one that was stopped goes on.

    VAE, base and decoder start from the weights in `start`, or from nothing.
    """
    work.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        done = work / f"{stage}.done"
        if not done.exists():
            STAGES[stage](work, start)
            done.touch()
