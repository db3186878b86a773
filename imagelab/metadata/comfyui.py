"""ComfyUI's `prompt`, the graph that was run: what it says, walking upstream from its samplers."""

from collections import ChainMap
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from imagelab.metadata.comfyui_graph import Node, find_node, follow, walk_up
from imagelab.metadata.lenient import (
    file_stem,
    read_mapping,
    read_size,
    to_mapping,
    to_number,
    to_size,
    to_text,
    to_whole,
)
from imagelab.metadata.sampler_names import sampler_name, schedule_name
from imagelab.metadata.values import ControlMention, LoraMention, PictureMetadata, Sampling

_PARTS = ("noise", "guider", "sampler", "sigmas")  # of SamplerCustomAdvanced: nodes with one setting each
_TEXTS = ("text", "text_g", "text_l", "prompt", "populated_text", "string", "value", "Text", "t5xxl", "clip_l")
_NUMBERS = ("seed", "noise_seed", "value", "int", "float", "number", "Value", "Number")
# Behind these may lie another picture's whole making, with prompts and LoRAs of its own.
_PICTURES = frozenset({"image", "images", "pixels", "samples", "latent", "latent_image", "mask", "control_net"})
# What is put into a part of another one.
_PASTED = frozenset({"samples_from", "source"})
_MODELS = ("ckpt_name", "unet_name", "model_name")
_MAX_SAMPLERS = 50  # of a stranger's graph, so that none takes for ever


def read_comfyui(text: str) -> PictureMetadata:
    """Return what the graph says; with several samplers the one that begins the whole picture comes first.

    An empty reading where there is no sampler. Some nodes write the graph with another one beside it, as
    `{"prompt": {...}, "workflow": {...}}`.
    """
    found = read_mapping(text)
    graph = to_mapping(found.get("prompt")) or found
    samplers = _in_order(graph)
    if not samplers:
        return PictureMetadata()
    first = samplers[0]
    models = (node.inputs[key] for node in walk_up(graph, first, "model") for key in _MODELS if key in node.inputs)
    samplings = tuple(_sampling(graph, node) for node in samplers)
    return PictureMetadata(
        writer="comfyui",
        prompt=_prompt(graph, first, 0),
        negative_prompt=_prompt(graph, first, 1),
        seed=samplings[0].seed,
        steps=samplings[0].steps,
        sampler=samplings[0].sampler,
        schedule=samplings[0].schedule,
        cfg=samplings[0].cfg,
        size=_size(graph, first),
        model=file_stem(to_text(next(models, None))),
        loras=_loras(graph, first),
        controls=_controls(graph, first),
        samplings=samplings,
    )


def _samplers(graph: Mapping[str, Any]) -> Iterator[Node]:
    for name in graph:
        node = find_node(graph, [name, 0])
        if node is None or "latent_image" not in node.inputs:
            continue
        parts = (find_node(graph, node.inputs.get(part)) for part in _PARTS)
        inputs = ChainMap(*(found.inputs for found in (node, *parts) if found))
        if ("seed" in inputs or "noise_seed" in inputs) and ("positive" in inputs or "conditioning" in inputs):
            yield Node(name=node.name, kind=node.kind, inputs=inputs, output=0)


def _in_order(graph: Mapping[str, Any]) -> list[Node]:
    """Return the samplers, each behind those whose latents it goes on from, parts behind what they are pasted into."""
    samplers = list(islice(_samplers(graph), _MAX_SAMPLERS))
    names = {node.name for node in samplers}
    depths = {
        node.name: len(names & {found.name for found in walk_up(graph, node, "latent_image")}) for node in samplers
    }
    saved = _saved(graph)
    last = max(samplers, key=lambda node: (node.name in saved, depths[node.name]), default=None)
    whole = {node.name for node in walk_up(graph, last, "latent_image", around=_PASTED)} if last else set()
    return sorted(samplers, key=lambda node: (depths[node.name], node.name not in whole))


def _saved(graph: Mapping[str, Any]) -> set[str]:
    """Return the nodes that what is saved goes back to, and not only what is shown."""
    nodes = (find_node(graph, [name, 0]) for name in graph)
    savers = islice((node for node in nodes if node and node.kind.startswith("SaveImage")), _MAX_SAMPLERS)
    return {found.name for saver in savers for found in walk_up(graph, saver, "images")}


def _prompt(graph: Mapping[str, Any], sampler: Node, output: int) -> str | None:
    names = (("positive", "conditioning"), ("negative",))[output]
    if not any(name in sampler.inputs for name in names):
        return None
    texts: list[str] = []
    for node in walk_up(graph, sampler, *names, around=_PICTURES):
        if node.kind == "ConditioningZeroOut":
            return ""
        if not {"clip", "opt_clip"} & node.inputs.keys() and "CLIPTextEncode" not in node.kind:
            continue
        found = (_text(graph, node.inputs[name]) for name in _TEXTS if name in node.inputs)
        texts += dict.fromkeys(text for text in found if text)
    return ", ".join(dict.fromkeys(texts))


def _text(graph: Mapping[str, Any], value: object) -> str | None:
    return to_text(follow(graph, value, _TEXTS))


def _number(graph: Mapping[str, Any], value: object) -> object:
    return follow(graph, value, _NUMBERS)


def _sampling(graph: Mapping[str, Any], node: Node) -> Sampling:
    get = node.inputs.get
    return Sampling(
        seed=to_whole(_number(graph, get("seed", get("noise_seed")))),
        steps=to_whole(_number(graph, get("steps"))),
        sampler=sampler_name(_text(graph, get("sampler_name"))),
        schedule=schedule_name(_text(graph, get("scheduler"))),
        cfg=to_number(_number(graph, get("cfg"))),
        denoise=to_number(_number(graph, get("denoise"))),
    )


def _size(graph: Mapping[str, Any], sampler: Node) -> tuple[int, int] | None:
    sizes = (_size_of(graph, node) for node in walk_up(graph, sampler, "latent_image", around=_PASTED))
    return next((size for size in sizes if size), None)


def _size_of(graph: Mapping[str, Any], node: Node) -> tuple[int, int] | None:
    get = node.inputs.get
    size = to_size(_number(graph, get("width")), _number(graph, get("height")))
    listed = to_text(get("dimensions"))  # "1216 x 832   (landscape)", as rgthree's nodes have it
    return size or read_size(listed.partition("  ")[0] if listed else None)


def _loras(graph: Mapping[str, Any], sampler: Node) -> tuple[LoraMention, ...]:
    """Return the LoRAs on the way to the model, those that act first first."""
    on_the_way = walk_up(graph, sampler, "model", around=_PICTURES)
    nodes = [node for node in on_the_way if isinstance(node.inputs.get("lora_name"), str)]
    named = {
        node.name: LoraMention(
            name=str(file_stem(node.inputs["lora_name"])),
            weight=to_number(_number(graph, node.inputs.get("strength_model"))),
            text_encoder_weight=to_number(_number(graph, node.inputs.get("strength_clip"))),
        )
        for node in reversed(nodes)
    }
    return tuple(named.values())


def _controls(graph: Mapping[str, Any], sampler: Node) -> tuple[ControlMention, ...]:
    nodes = walk_up(graph, sampler, "positive", "conditioning", around=_PICTURES)
    return tuple(_control(graph, node) for node in nodes if "control_net" in node.inputs)


def _control(graph: Mapping[str, Any], node: Node) -> ControlMention:
    found = (loader.inputs.get("control_net_name") for loader in walk_up(graph, node, "control_net"))
    return ControlMention(
        model=file_stem(next((name for name in found if isinstance(name, str)), None)),
        weight=to_number(_number(graph, node.inputs.get("strength"))),
        start=to_number(_number(graph, node.inputs.get("start_percent"))),
        end=to_number(_number(graph, node.inputs.get("end_percent"))),
    )
