"""Labelled controls that a keyboard reaches, as not all that ipywidgets has are."""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as w

_LABEL = {"description_width": "110px"}
_LONG_LABEL = {"description_width": "160px"}  # names of LoRAs
_WIDE = {"width": "98%"}


def field(kind: Callable[..., Any], label: str, **given: Any) -> Any:
    """Make a widget with its label beside it."""
    hint = {"tooltip": label, **given}  # without one, ipywidgets shows "null" when the mouse rests on the label
    return kind(description=label, style=_LABEL, layout=w.Layout(**_WIDE), **hint)


def upload(label: str) -> Any:
    """Make a button that takes one picture's file."""
    accepted = ".png,.jpg,.jpeg,.webp"
    return w.FileUpload(
        description=label, tooltip=label, accept=accepted, multiple=False, layout=w.Layout(width="auto")
    )


def number_with_slider(label: str, **limits: float) -> tuple[Any, w.Widget]:
    """Return a number, and the row that shows it with a slider beside it.

    The number has the label: the handle of ipywidgets' slider takes none, so that nobody who hears it knows what it is.
    """
    number = w.BoundedFloatText(
        description=label, tooltip=label, style=_LONG_LABEL, layout=w.Layout(width="245px"), **limits
    )
    slider = w.FloatSlider(readout=False, tooltip=label, layout=w.Layout(flex="1 1 80px", width="auto"), **limits)
    for trait in ("min", "max", "value"):
        w.jslink((number, trait), (slider, trait))  # in the browser: it follows at once, also while the kernel is busy
    return number, w.HBox([number, slider], layout=w.Layout(**_WIDE))


def pages(children: Mapping[str, w.Widget]) -> w.Widget:
    """Show one of several widgets at a time, chosen by a row of buttons.

    Instead of Accordion and Tab, whose titles no Tab key reaches.
    """
    for child in children.values():
        child.layout.width = "100%"
    chosen = w.ToggleButtons(options=list(children), tooltips=[f"Show: {title}" for title in children])
    chosen.style.button_width = "auto"
    chosen.add_class("imagelab-pages")
    shown = w.Stack(list(children.values()), selected_index=0)
    shown.add_class("imagelab-page")
    w.jslink((chosen, "index"), (shown, "selected_index"))
    return w.VBox([chosen, shown])
