"""What one schema can't see: names that another table must hold, values that must fit each other.

The rules look at the files as they were read, so that a fault elsewhere hides none of theirs.
"""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from imagelab.config.base import Source
from imagelab.config.encoders import EncoderKind
from imagelab.config.faults import validate
from imagelab.config.options import (
    CANNY_THRESHOLDS,
    MAP_TYPES,
    MAX_STEPS,
    PREPROCESSOR_PARAMS,
    SCHEDULER_KWARGS,
    SPACINGS,
)
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
    (_SDXL, "profiles.*.quality_presets.*.loras.*.name", "LoRA", _LORAS, "loras"),
    (_LORAS, "loras.*.files.<key>", "profile", _SDXL, "profiles"),
    (_LORAS, "loras.*.sha256.<key>", "key of files", _LORAS, "loras.{0}.files"),
    (_LORAS, "loras.*.base.<key>", "profile", _SDXL, "profiles"),
    (_LORAS, "combinations.*.loras.*.name", "LoRA", _LORAS, "loras"),
    (_CONTROLS, "controls.*.models.<key>", "profile", _SDXL, "profiles"),
    (_CONTROLS, "controls.*.preprocessors.<key>", "profile", _SDXL, "profiles"),
    (_CONTROLS, "union.<key>", "profile", _SDXL, "profiles"),
    (_CHARACTERS, "characters.*.loras.*.name", "LoRA", _LORAS, "loras"),
    (_CHARACTERS, "characters.*.negative_prompt", "negative prompt", _SDXL, "negative_prompts"),
    (_CHARACTERS, "characters.*.references.<key>", "profile", _SDXL, "profiles"),
)

# Every place of a source, and whether one file will do there; elsewhere it is a folder.
SOURCES: tuple[tuple[str, str, bool], ...] = (
    (_SDXL, "profiles.*.base", True),
    (_SDXL, "profiles.*.vae", False),
    (_SDXL, "profiles.*.loras", False),
    (_SDXL, "profiles.*.face.source", False),
    (_SDXL, "profiles.*.clip", False),
    (_SDXL, "profiles.*.encoders.*.source", False),
    (_SDXL, "profiles.*.encoders.*.pack.source", False),
    (_CONTROLS, "controls.*.models.*", False),
    (_CONTROLS, "controls.*.preprocessors.*.model", False),
    (_CONTROLS, "controls.*.preprocessors.*.detector", False),
    (_CONTROLS, "union.*", False),
    (_CHARACTERS, "characters.*.references.*", False),
)

# Every place of options: (file, path, key of the name that decides which there are, key of the options, by name)
OPTIONS = (
    (_SDXL, "schedulers.*", "class_name", "kwargs", SCHEDULER_KWARGS),
    (_CONTROLS, "controls.*.preprocessors.*", "name", "params", PREPROCESSOR_PARAMS),
)


def check_across(documents: dict[str, Document]) -> None:
    """Add a problem for each rule that is broken, however broken the rest of the files is."""
    _check_references(documents)
    _check_sources(documents)
    _check_options(documents)
    _check_spacings(documents[_SDXL])
    _check_sizes(documents[_SDXL])
    _check_encoders(documents[_SDXL])
    _check_guidance(documents[_CONTROLS])
    _check_limits_of_presets(documents[_SDXL])
    _check_loras_of_presets(documents)
    _check_bases(documents)
    _check_steps_of_loras(documents[_LORAS], "combinations")
    _check_steps_of_loras(documents[_CHARACTERS], "characters")
    _check_preprocessors(documents[_CONTROLS])
    _check_edges(documents[_CONTROLS])
    _check_named_once(documents[_LORAS], "combinations")
    _check_named_once(documents[_CHARACTERS], "characters")
    _check_combination_names(documents[_LORAS])
    _check_triggers(documents)


def _check_references(documents: dict[str, Document]) -> None:
    """Each name must be in its table."""
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
    value: object, pattern: Sequence[str], path: tuple[str | int, ...] = ()
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


def _check_sources(documents: dict[str, Document]) -> None:
    """A source must have exactly one origin, and be a folder where one file won't do."""
    for file, pattern, may_be_file in SOURCES:
        document = documents[file]
        for path, source in _walk(document.data, pattern.split(".")):
            if not isinstance(source, dict):
                continue
            # What couldn't be read and unknown keys count: they are what was meant, and reported already.
            given = [key for key, value in source.items() if value is not None or (*path, key) in document.unread]
            if len(given) != 1 and path not in document.unread:
                origins = ", ".join(key for key in Source.model_fields if key != "single_file" or may_be_file)
                document.add(path, f"must name exactly one of {origins}; names {' and '.join(given) or 'none'}")
            if "single_file" in given and not may_be_file:
                document.add((*path, "single_file"), "must be a folder, which package, folder or hub can name")


def _check_options(documents: dict[str, Document]) -> None:
    """Options must be those of the class or the preprocessor that they are for."""
    for file, pattern, name_key, options_key, schemas in OPTIONS:
        for path, entry in _walk(documents[file].data, pattern.split(".")):
            for name, schema in schemas.items():
                if isinstance(entry, dict) and entry.get(name_key) == name and isinstance(entry.get(options_key), dict):
                    validate(documents[file], schema, entry[options_key], (*path, options_key))


def _check_spacings(document: Document) -> None:
    """A scheduler can spread its steps in one way only."""
    for path, kwargs in _walk(document.data, ["schedulers", "*", "kwargs"]):
        chosen = [key for key in SPACINGS if isinstance(kwargs, dict) and kwargs.get(key) is True]
        if len(chosen) > 1:
            document.add(path, f"must have only one of {' and '.join(chosen)}")


def _check_sizes(document: Document) -> None:
    """Each named size must be within the size limits of its own profile."""
    for path, profile in _walk(document.data, ["profiles", "*"]):
        limits = profile.get("size_limits") if isinstance(profile, dict) else None
        if not isinstance(profile, dict) or not isinstance(limits, dict):
            continue
        low, high, multiple = limits.get("min_px"), limits.get("max_px"), limits.get("multiple_px", 8)
        if not (type(low) is int and type(high) is int and type(multiple) is int and multiple > 0):
            continue
        if low > high:
            document.add((*path, "size_limits", "min_px"), f"must be ≤ max_px, which is {high}", value=shorten(low))
            continue
        for place, side in _walk(profile.get("sizes"), ["*", "*"], (*path, "sizes")):
            fits = type(side) is not int or (low <= side <= high and side % multiple == 0)
            if not fits and not document.has_problem_at(place):
                message = f"must be a multiple of {multiple} between {low} and {high} (the profile's size_limits)"
                document.add(place, message, value=shorten(side))


def _check_encoders(document: Document) -> None:
    """An encoder must name its own kind of model and no other."""
    for path, encoder in _walk(document.data, ["profiles", "*", "encoders", "*"]):
        if not isinstance(encoder, dict) or encoder.get("kind") not in get_args(EncoderKind):
            continue
        kind = encoder["kind"]
        wanted, unwanted = ("pack", "source") if kind == "arcface" else ("source", "pack")
        if encoder.get(unwanted) is not None:
            what = "a pack or nothing: the profile's face pack" if kind == "arcface" else "a source"
            document.add((*path, unwanted), f"is not for the kind {kind}, which has {what}")
        if wanted == "source" and encoder.get("source") is None and (*path, "source") not in document.unread:
            document.add(path, f"must name the source of its {kind} model")


def _check_guidance(document: Document) -> None:
    """A control must set in before it lets go."""
    for path, control in _walk(document.data, ["controls", "*"]):
        if not isinstance(control, dict):
            continue
        start, end = control.get("guidance_start", 0.0), control.get("guidance_end", 1.0)
        if type(start) in {int, float} and type(end) in {int, float} and start >= end:
            document.add(path, f"guidance_start {start} must be below guidance_end {end}")


def _check_bases(documents: dict[str, Document]) -> None:
    """Each file of a LoRA must have a base model; that of an unknown profile has a problem of its own."""
    profiles = {name for _, name in _walk(documents[_SDXL].data, ["profiles", "<key>"])}
    for path, bases in _walk(documents[_LORAS].data, ["loras", "*", "base"]):
        files = {name for _, name in _walk(documents[_LORAS].data, [*map(str, path[:-1]), "files", "<key>"])}
        if isinstance(bases, dict) and (missing := sorted(map(str, files & profiles - bases.keys()))):
            documents[_LORAS].add(path, f"must also say which base model the file of {', '.join(missing)} is for")


def _check_steps_of_loras(document: Document, table: str) -> None:
    """A LoRA must set in before it lets go."""
    for path, choice in _walk(document.data, [table, "*", "loras", "*"]):
        start, stop = (choice.get("start"), choice.get("stop")) if isinstance(choice, dict) else (None, None)
        start, stop = 0.0 if start is None else start, 1.0 if stop is None else stop
        if type(start) in {int, float} and type(stop) in {int, float} and start >= stop:
            document.add(path, f"start {start} must be below stop {stop}")


def _check_limits_of_presets(document: Document) -> None:
    """A preset must keep to its own limit of guidance, and to what its scheduler can do."""
    for path, preset in _walk(document.data, ["profiles", "*", "quality_presets", "*"]):
        if not isinstance(preset, dict):
            continue
        name = preset.get("scheduler")
        scheduler = next((row for _, row in _walk(document.data, ["schedulers", str(name)])), None)
        limits = [(preset, "max_guidance_scale", "guidance_scale", "the preset")]
        if isinstance(scheduler, dict):
            limits.append((scheduler, "max_guidance_scale", "guidance_scale", f"scheduler {name}"))
            most_steps = {"max_steps": MAX_STEPS.get(str(scheduler.get("class_name")))}
            limits.append((most_steps, "max_steps", "steps", f"scheduler {name}"))
        for owner, limit, key, whose in limits:
            most, value = owner.get(limit), preset.get(key)
            if isinstance(most, int | float) and isinstance(value, int | float) and value > most:
                message = f"must be at most {most:g}, the {limit} of {whose}"
                document.add((*path, key), message, value=shorten(value))


def _check_loras_of_presets(documents: dict[str, Document]) -> None:
    """A LoRA that a preset can't do without must have a file for the preset's profile."""
    for path, name in _walk(documents[_SDXL].data, ["profiles", "*", "quality_presets", "*", "loras", "*", "name"]):
        files = next((files for _, files in _walk(documents[_LORAS].data, ["loras", str(name), "files"])), None)
        if isinstance(files, dict) and path[1] not in files:
            message = f"LoRA {{value}} has no file for profile {path[1]}: name it in lora_registry.yaml"
            documents[_SDXL].add(path, message, value=shorten(name))


def _check_preprocessors(document: Document) -> None:
    """A preprocessor must make the maps that its control obeys, and have a model unless it needs none."""
    for path, preprocessor in _walk(document.data, ["controls", "*", "preprocessors", "*"]):
        name = preprocessor.get("name") if isinstance(preprocessor, dict) else None
        made = MAP_TYPES.get(name) if isinstance(name, str) else None
        if not isinstance(preprocessor, dict) or made is None:
            continue
        if made != path[1] and path[1] in MAP_TYPES.values():
            document.add((*path, "name"), f"makes {made} maps, not {path[1]} maps", value=shorten(name))
        if name != "canny" and preprocessor.get("model") is None and (*path, "model") not in document.unread:
            document.add(path, f"must name the model that {name} estimates with")


def _check_edges(document: Document) -> None:
    """Of canny's two thresholds, the lower one must not be above the other."""
    for path, params in _walk(document.data, ["controls", "*", "preprocessors", "*", "params"]):
        if not isinstance(params, dict):
            continue
        low, high = (params.get(name, default) for name, default in CANNY_THRESHOLDS.items())
        if type(low) is int and type(high) is int and low > high:
            document.add(path, f"low_threshold {low} must not be above high_threshold {high}")


def _check_named_once(document: Document, table: str) -> None:
    """A list of LoRAs must name each one once."""
    for path, choices in _walk(document.data, [table, "*", "loras"]):
        seen = []
        for place, name in _walk(choices, ["*", "name"], path):
            if name in seen:
                document.add(place, "names {value} a second time: one weight each", value=shorten(name))
            seen.append(name)


def _check_combination_names(document: Document) -> None:
    """A combination must not be named like a LoRA, in whose place it is asked for."""
    loras = {name for _, name in _walk(document.data, ["loras", "<key>"])}
    for path, name in _walk(document.data, ["combinations", "<key>"]):
        if name in loras:
            document.add(path, "is the name of a LoRA already")


def _check_triggers(documents: dict[str, Document]) -> None:
    """A character must be called by a word of their LoRAs, if these have any."""
    loras = documents[_LORAS].data
    for path, character in _walk(documents[_CHARACTERS].data, ["characters", "*"]):
        if not isinstance(character, dict):
            continue
        names = [name for _, name in _walk(character.get("loras"), ["*", "name"]) if isinstance(name, str)]
        words = [word for name in names for _, word in _walk(loras, ["loras", name, "trigger_words", "*"])]
        trigger = character.get("trigger")
        if isinstance(trigger, str) and words and trigger not in words:
            known = tuple(word for word in words if isinstance(word, str))
            message = "{value} is no trigger word of their LoRAs"
            nearest = nearest_name(trigger, known)
            documents[_CHARACTERS].add(
                (*path, "trigger"), message, value=shorten(trigger), nearest=nearest, known=known
            )
