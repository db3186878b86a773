"""The panel itself: the session's events become words and pictures, the buttons become calls of the session."""

import os
import shlex
import tempfile
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import ipywidgets as w

from imagelab.config import project_root
from imagelab.errors import ImageFileError, ImageLabError
from imagelab.explorer import shown
from imagelab.explorer.events import Drawn, Event, MapMade, Progress
from imagelab.explorer.form import Form
from imagelab.explorer.gallery import Comparison, Gallery, Grid
from imagelab.explorer.history import Decision, Entry
from imagelab.explorer.session import Session
from imagelab.explorer.settings import Settings
from imagelab.explorer.widgets import field, pages, upload
from imagelab.imagefiles import checked_path
from imagelab.runs import free_folder

if TYPE_CHECKING:
    import pandas as pd

HEADLESS = "IMAGELAB_HEADLESS"  # set where nobody is there to press a button
_SHOWN_PX = 384
_STATES = {
    "idle": "Ready.",
    "loading": "Getting ready; the first picture loads the models.",
    "drawing": "Drawing.",
    "cancelling": "Cancelling after this step.",
    "cancelled": "Cancelled.",
    "failed": "It didn't work.",
    "done": "Done.",
}


class Explorer:
    """A panel of ipywidgets for JupyterLab, VS Code and Voila, to find out what a character can do.

    >>> explorer = Explorer(device="cpu")  # the last expression of a cell shows it
    >>> explorer.settings.character
    'luca'
    >>> explorer.cleanup()

    Nothing is loaded before the first picture. It draws in a thread, so that the notebook stays usable; what it drew is
    in `history`, `to_frame()` is that as a table, `settings` what the controls say. Pictures are saved in `output_dir`
    beside what lies there, by default in a new folder, reports/runs/<time>-explorer. `cleanup` gives the memory back.
    """

    def __init__(
        self,
        profile: str | None = None,
        device: str = "auto",
        output_dir: str | os.PathLike[str] | None = None,
        *,
        settings: Settings | None = None,
        session: Session | None = None,
    ) -> None:
        """Build the panel around a `session`, by default its own; raises what Session and the settings raise."""
        folder = checked_path(output_dir, "output_dir") if output_dir else free_folder(None, "explorer")
        self.session = session or Session(profile, device, output_dir=folder)
        self.session.tell = self._show
        self.history = self.session.history
        self.form = Form(self.session.configs, self.session.profile, settings)
        self._row: list[str] = []  # captions of the row that is being drawn
        self._row_pictures: list[tuple[str, Entry]] = []
        self._make_widgets(self.session.output_dir or folder)

    def _make_widgets(self, folder: Path) -> None:
        self.generate = w.Button(description="Generate", button_style="primary", tooltip="Draw with these settings")
        self.cancel = w.Button(description="Cancel", tooltip="Stop after the step under way")
        self._let_press(busy=False)
        self.progress = w.IntProgress(description="Steps", tooltip="Steps", min=0, max=1)
        self.progress.layout.width = f"{_SHOWN_PX}px"
        self.picture = w.HTML(shown.frame("The picture appears here while it is drawn."))
        self.status = w.HTML(shown.status(_STATES["idle"]))
        self.error = w.HTML()
        self.export_path = field(w.Text, "Write to", value=self._default_export(folder))
        self.export_path.layout = w.Layout(flex="1 1 300px", width="auto")
        self.export = w.Button(description="Export", tooltip="Write params.yaml for a headless run")
        self.import_file = upload("Settings from a picture")
        self.gallery = Gallery(
            lambda number: self._try(lambda: self.restore(number)),
            lambda number, decision: self._try(lambda: self.decide(number, decision)),
        )
        self.comparison = Comparison(self.history)
        self.grid = Grid(list(self.form.loras), self._draw_row)
        self.generate.on_click(lambda _: self._start())
        self.cancel.on_click(lambda _: self._try(self.session.cancel))
        self.export.on_click(lambda _: self._try(self._export))
        self.import_file.observe(lambda change: self._try(lambda: self._import(change["new"])), "value")
        self.form.show_map.on_click(lambda _: self._show_map())
        self.widget = self._laid_out()

    def _laid_out(self) -> w.Widget:
        buttons = w.HBox([self.generate, self.cancel])
        said = [self.progress, self.status, self.error]
        left = w.VBox([self.form.widget], layout=w.Layout(width="50%"))
        right = w.VBox([buttons, self.picture, *said], layout=w.Layout(width="48%"))
        top = w.HBox([left, right], layout=w.Layout(justify_content="space-between"))
        files = w.HBox([self.import_file, self.export_path, self.export])
        below = {
            "History": self.gallery.widget,
            "Compare two": self.comparison.widget,
            "Vary one": self.grid.widget,
        }
        panel = w.VBox([w.HTML(shown.STYLE), top, files, pages(below)])
        panel.add_class("imagelab-panel")
        return panel

    @property
    def settings(self) -> Settings:
        """Return what the controls are set to."""
        return self.form.settings

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per picture, with its decision and who made it."""
        return self.history.to_frame()

    def restore(self, number: int) -> None:
        """Set every control as it was for a picture of the history, and show the picture."""
        entry = self.history[number]
        self.form.fill(entry.settings)
        self._show_entry(entry, f"The settings of picture {number} are restored.")

    def decide(self, number: int, decision: Decision) -> None:
        """Accept or reject a picture by hand; raises as `History.decide`."""
        self.gallery.show(self.history.decide(number, decision))

    def cleanup(self) -> None:
        """End what is being drawn and give the memory of the models back."""
        self.session.cleanup()
        self.generate.disabled = self.cancel.disabled = self.grid.draw.disabled = True
        self.status.value = shown.status("This panel is closed. Run its cell again for a new one.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if os.environ.get(HEADLESS):
            display({"text/plain": "The explorer's panel, which nobody can see here."}, raw=True)
        else:
            display(self.widget)

    def _start(self) -> None:
        if not self.session.is_busy:  # the second click of a double one
            self._try(lambda: self._begin(self.form.wanted, []))

    def _draw_row(self) -> None:
        def draw() -> None:
            points = self.grid.points(self.settings, self.session.configs, self.session.profile)
            self._begin([settings for _, settings in points], [caption for caption, _ in points])

        if not self.session.is_busy:
            self._try(draw)

    def _begin(self, wanted: list[Settings], captions: list[str]) -> None:
        before = self._row, self._row_pictures
        self._row, self._row_pictures = captions, []  # before the thread asks for them
        try:
            self.session.generate(wanted)
        except ImageLabError:
            self._row, self._row_pictures = before
            raise

    def _show_map(self) -> None:
        self._try(lambda: self.session.make_map(self.settings))

    def _export(self) -> None:
        given = self.export_path.value.strip()
        path = Path(given).expanduser()
        written = self.session.export(path if path.is_absolute() else project_root() / path, self.settings)
        command = f"python -m imagelab run 10_generate_character --params {shlex.quote(given)}"
        self.status.value = shown.status(
            f"Wrote {escape(written.name)}. Run it headless:", f"<code>{escape(command)}</code>"
        )

    def _import(self, uploaded: Any) -> None:
        if not uploaded:
            return
        self.import_file.value = ()  # or the same file, chosen again, would be no change
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "picture"  # whatever it is called: its name is no path of ours
            file.write_bytes(bytes(uploaded[0]["content"]))
            try:
                settings, left_out = self.session.restore(file, self.settings)
            except ImageFileError as error:
                raise replace(error, path=Path(Path(uploaded[0]["name"]).name)) from error
        self.form.fill(settings)
        notes = f"Not taken over: {escape('; '.join(left_out))}." if left_out else ""
        self.status.value = shown.status("The settings of the picture are set.", notes)

    def _try(self, action: Any) -> None:
        """Do something that a button asks for; what goes wrong is said in the panel."""
        self.error.value = ""
        try:
            action()
        except ImageLabError as error:
            self.error.value = shown.error(str(error))
        except Exception as error:  # noqa: BLE001  nobody else would show it
            self.error.value = shown.error(f"{type(error).__name__}: {error}")

    def _let_press(self, *, busy: bool) -> None:
        """Show what can be pressed; nothing is disabled, or the keyboard would lose its place in the panel."""
        for button, off in ((self.generate, busy), (self.cancel, not busy)):
            (button.add_class if off else button.remove_class)("imagelab-off")

    def _default_export(self, folder: Path) -> str:
        path = (folder / "params.yaml").absolute()
        return str(path.relative_to(project_root()) if path.is_relative_to(project_root()) else path)

    # What follows is called from the drawing thread: it sets traits and prints nothing.

    def _show(self, event: Event) -> None:
        match event:
            case Progress():
                self._show_progress(event)
            case Drawn(entry=entry):
                self._show_drawn(entry)
            case MapMade(image=image):
                self.form.map.value = shown.img(image, "The map that the picture follows", 160)
                self.status.value = shown.status("The map that the picture will follow is made.")

    def _show_progress(self, at: Progress) -> None:
        busy = at.state in {"loading", "drawing", "cancelling"}
        self._let_press(busy=busy)
        if at.state in {"cancelled", "failed"}:
            self.progress.bar_style = "warning"
        if at.state == "failed":
            self.error.value = shown.error(at.message)
        if at.steps:
            self.progress.max, self.progress.value, self.progress.bar_style = at.steps, at.step, ""
        if at.preview is not None:
            self.picture.value = shown.frame(shown.img(at.preview, f"Preview after step {at.step}", _SHOWN_PX))
        if at.state != "done":  # then the picture's own words stand
            self.status.value = shown.status(_STATES[at.state], _how_far(at))

    def _show_drawn(self, entry: Entry) -> None:
        self._show_entry(entry, f"Picture {entry.number} is done.")
        self.gallery.show(entry)
        self.comparison.add(entry)
        if len(self._row_pictures) < len(self._row):
            self._row_pictures.append((self._row[len(self._row_pictures)], entry))
            self.grid.show(self._row_pictures)

    def _show_entry(self, entry: Entry, what: str) -> None:
        record = entry.generation.record
        self.error.value, self.progress.bar_style = "", ""  # what went wrong before is over
        alt = f"Picture {entry.number}: {entry.settings.character}, {entry.settings.scene}"
        self.picture.value = shown.frame(shown.img(entry.generation.image, alt, _SHOWN_PX))
        where = f"peak {record.peak_vram_gib:.1f} GiB of GPU memory" if record.peak_vram_gib else "on the CPU"
        cost = f"Seed {record.seed}, {record.steps} steps, {record.seconds.get('total', 0):.1f} s, {where}"
        self.status.value = shown.status(f"{what} {shown.badge(entry)}", judged_line(entry), cost)


def judged_line(entry: Entry) -> str:
    """Return how a picture was judged; degraded drawing is said, too."""
    degraded = entry.generation.record.degraded
    return "; ".join([shown.judged(entry), *map(escape, degraded)])


def _how_far(at: Progress) -> str:
    which = f"Picture {at.picture} of {at.pictures}. " if at.pictures > 1 and at.picture else ""
    step = f"Step {at.step} of {at.steps}. " if at.steps else ""
    left = f"About {at.seconds_left:.0f} s left." if at.seconds_left is not None else ""
    return which + step + left
