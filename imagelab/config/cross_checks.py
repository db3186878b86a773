"""What one schema can't see: names that another table must hold, sizes that the profile's limits must admit."""

from collections.abc import Iterator
from typing import Any

from imagelab.config.yaml_file import Document
from imagelab.errors import nearest_name, shorten

_SDXL, _LORAS, _CONTROLS, _CHARACTERS = "sdxl_config", "lora_registry", "controlnet_config", "character_presets"

# Every place where one table names a row of another: "*" stands for any key or index, "<key>" for the keys
# themselves, and {0} in the target for what the first "*" stood for.
REFERENCES: tuple[tuple[str, str, str, str, str], ...] = (
    # file, path of the name, what it is, file and path of the table that holds it
    (_SDXL, "default_profile", "profile", _SDXL, "profiles"),
    (_SDXL, "profiles.*.negative_prompt", "negative prompt", _SDXL, "negative_prompts"),
    (_SDXL, "profiles.*.default_quality_preset", "quality preset", _SDXL, "profiles.{0}.quality_presets"),
    (_SDXL, "profiles.*.targets.quality_preset", "quality preset", _SDXL, "profiles.{0}.quality_presets"),
    (_SDXL, "profiles.*.quality_presets.*.scheduler", "scheduler", _SDXL, "schedulers"),
    (_SDXL, "profiles.*.quality_presets.*.size", "size", _SDXL, "profiles.{0}.sizes"),
    (_LORAS, "loras.*.files.<key>", "profile", _SDXL, "profiles"),
    (_LORAS, "combinations.*.loras.*.name", "LoRA", _LORAS, "loras"),
    (_CONTROLS, "controls.*.models.<key>", "profile", _SDXL, "profiles"),
    (_CHARACTERS, "characters.*.loras.*.name", "LoRA", _LORAS, "loras"),
    (_CHARACTERS, "characters.*.negative_prompt", "negative prompt", _SDXL, "negative_prompts"),
    (_CHARACTERS, "characters.*.references.<key>", "profile", _SDXL, "profiles"),
)


def check_references(documents: dict[str, Document]) -> None:
    """Add a problem for each name that isn't in its table, however broken the rest of the files is."""
    for file, pattern, kind, target_file, target in REFERENCES:
        document = documents[file]
        for path, name in _walk(document.data, pattern.split(".")):
            table = documents[target_file].data
            first = str(path[1]) if len(path) > 1 else ""
            for step in target.split("."):
                table = table.get(step.format(first)) if isinstance(table, dict) else None
            # No table: its own file says so already. No text: the schema does.
            if isinstance(table, dict) and isinstance(name, str) and name not in table:
                known = tuple(sorted(table))
                message = f"unknown {kind} {{value}}"
                document.add(path, message, value=shorten(name), nearest=nearest_name(name, known), known=known)


def _walk(
    value: object, pattern: list[str], path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Yield (path, value) of everything that `pattern` matches, whatever else is wrong with the data."""
    if not pattern:
        yield path, value
        return
    step, *rest = pattern
    children: dict[Any, object] = {}
    if isinstance(value, dict):
        children = value
    elif isinstance(value, list):
        children = dict(enumerate(value))
    for key, child in children.items():
        if step == "<key>":
            yield (*path, key), key
        elif step in {"*", key}:
            yield from _walk(child, rest, (*path, key))


def check_sizes(document: Document) -> None:
    """Add a problem for each named size that the size limits of its own profile exclude."""
    for (_, profile, _), limits in _walk(document.data, ["profiles", "*", "size_limits"]):
        if not isinstance(limits, dict):
            continue
        low, high, multiple = limits.get("min_px"), limits.get("max_px"), limits.get("multiple_px", 8)
        if not (type(low) is int and type(high) is int and type(multiple) is int and multiple > 0):
            continue
        for path, side in _walk(document.data, ["profiles", str(profile), "sizes", "*", "*"]):
            fits = type(side) is not int or (low <= side <= high and side % multiple == 0)
            if not fits and not document.has_problem_at(path):
                message = f"must be a multiple of {multiple} between {low} and {high} (the profile's size_limits)"
                document.add(path, message, value=shorten(side))
