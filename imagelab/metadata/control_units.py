"""ControlNets in infotext, one `ControlNet 0: "Module: canny, ..."` each, as sd-webui-controlnet writes them."""

import re
from collections.abc import Mapping

from imagelab.metadata.lenient import plain_number, to_number
from imagelab.metadata.values import ControlMention
from imagelab.results import ControlRecord

_RESIZE = {"stretch": "Just Resize", "crop": "Crop and Resize", "fill": "Resize and Fill"}
_UNIT = re.compile(r"ControlNet \d+")
_MAX_UNITS = 100  # of a stranger's picture


def format_unit(control: ControlRecord) -> str:
    """Return a control as one unit; a field that it hasn't, such as a threshold, is left out, as there."""
    params = control.params
    sha256 = next(iter(control.model_sha256.values()), "")
    fields = {
        "Module": control.preprocessor or "none",
        "Model": f"{control.type} {control.model}" + (f" [{sha256[:8]}]" if sha256 else ""),
        "Weight": plain_number(control.scale),
        "Resize Mode": _RESIZE[control.resize],
        "Processor Res": params.get("resolution"),
        "Threshold A": params.get("low_threshold", params.get("threshold")),
        "Threshold B": params.get("high_threshold"),
        "Guidance Start": plain_number(control.start),
        "Guidance End": plain_number(control.end),
        "Pixel Perfect": control.preprocessor is not None and "resolution" not in params,
        "Control Mode": "Balanced",
    }
    return ", ".join(f"{name}: {value}" for name, value in fields.items() if value is not None)


def find_units(settings: Mapping[str, str]) -> tuple[ControlMention, ...]:
    """Return the controls that infotext names."""
    units = [value for key, value in settings.items() if _UNIT.fullmatch(key)]
    return tuple(_mention(unit) for unit in units[:_MAX_UNITS])


def _mention(unit: str) -> ControlMention:
    pairs = (item.partition(":") for item in unit.split(","))
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return ControlMention(
        model=fields.get("model"),
        module=fields.get("module", fields.get("preprocessor")),  # the latter before 2024
        weight=to_number(fields.get("weight")),
        start=to_number(fields.get("guidance start")),
        end=to_number(fields.get("guidance end")),
    )
