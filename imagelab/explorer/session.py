"""One session at the panel: draws in a thread of its own, says what happens in events, and keeps the history.

Everything here works without widgets. One picture is drawn at a time; `cancel` ends it after the step under way.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

from imagelab.character import CharacterGenerator
from imagelab.errors import GenerationError, ImageLabError, InvalidValueError
from imagelab.explorer.events import Drawn, Event, MapMade, Progress, State
from imagelab.explorer.history import Entry, History, automatic
from imagelab.explorer.params_file import write_parameters
from imagelab.explorer.preview import preview
from imagelab.explorer.settings import Settings, default_settings, from_metadata
from imagelab.imagefiles import check_png_path, read_picture_metadata, save_png
from imagelab.references import CharacterReferenceManager
from imagelab.results import Generation, Verdict

if TYPE_CHECKING:
    from PIL.Image import Image

_BUSY = ("loading", "drawing")
_PREVIEW_SECONDS = 0.25  # at most four a second: more than a browser shows smoothly
_PREVIEW_SHARE = 0.2  # of the time that goes into drawing


class _CancelledError(Exception):
    """Leave the denoising loop; private, so that nothing else can be taken for it."""


def _to_nobody(_: Event) -> None:
    pass


class Session:
    """Draws settings in the background with one generator and judges the pictures.

    `tell` is called with every event, from the drawing thread: it must not wait for that thread. With an `output_dir`
    each picture is saved there, and history.json beside them; what lies there already stays. Collaborators that are
    given stay open; a context manager.
    """

    def __init__(
        self,
        profile: str | None = None,
        device: str = "auto",
        *,
        output_dir: Path | None = None,
        generator: CharacterGenerator | None = None,
        references: CharacterReferenceManager | None = None,
    ) -> None:
        """Choose the models; nothing is loaded before the first picture.

        Raises what CharacterGenerator raises, and InvalidValueError for an `output_dir` that can't be used.
        """
        self.generator = generator or CharacterGenerator(profile, device)
        self.profile, self.configs = self.generator.profile, self.generator.configs
        self.references = references or CharacterReferenceManager(
            profile=self.profile.name, configs=self.configs, device=self.generator.device
        )
        self._owned = [one for one, given in ((self.references, references), (self.generator, generator)) if not given]
        if output_dir is not None:
            check_png_path(output_dir / "001.png", "output_dir")  # so that nothing is drawn for nothing
        self.output_dir = output_dir
        self.history = History(folder=output_dir)
        self.tell: Callable[[Event], None] = _to_nobody
        self.state: State = "idle"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._saying = threading.RLock()  # a job's last word is its last

    @property
    def is_busy(self) -> bool:
        """Say whether a picture is being drawn."""
        return self._thread is not None and self._thread.is_alive()

    def generate(self, wanted: Sequence[Settings]) -> None:
        """Begin to draw, in order, and return at once; raises GenerationError while others are being drawn."""
        pictures = tuple(wanted)
        self._begin(lambda: self._draw_all(pictures))

    def make_map(self, settings: Settings) -> None:
        """Begin to make the map that a picture would follow; raises as `generate`."""
        if settings.control is None:
            raise InvalidValueError("control", None, "a picture to follow, and what of it")
        self._begin(lambda: self._make_map(settings))

    def _begin(self, work: Callable[[], None]) -> None:
        with self._starting:
            if self.is_busy:
                raise GenerationError("a picture is being drawn", "Wait for it, or cancel it")
            self._stop.clear()
            self._thread = threading.Thread(target=self._work, args=(work,), name="explorer", daemon=True)
            self._thread.start()

    def cancel(self) -> None:
        """Ask the drawing to end after the step that is under way; pictures that are done stay in the history."""
        self._stop.set()
        with self._saying:
            if self.state in _BUSY:
                self._say(Progress(state="cancelling"))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being drawn and say whether that is so; `timeout` in seconds."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.is_busy

    def draw(self, settings: Settings) -> Entry:
        """Draw one picture here and now, as a notebook without anybody before it does; raises what `generate` does."""
        self._stop.clear()
        end: State = "failed"
        try:
            entry = self._draw(settings, 1, 1)
            end = "done"
        finally:
            self._say(Progress(state=end))
        return entry

    def export(self, path: Path, settings: Settings) -> Path:
        """Write the settings as parameters of 10_generate_character; raises as `write_parameters`."""
        return write_parameters(path, settings, self.configs, self.profile.name, self.generator.device)

    def restore(self, picture: Path, current: Settings | None = None) -> tuple[Settings, tuple[str, ...]]:
        """Return the settings in a picture's file, and in words what of it isn't taken over.

        Raises as `read_picture_metadata` and `from_metadata`.
        """
        current = current or default_settings(self.configs, self.profile)
        return from_metadata(read_picture_metadata(picture), current, self.configs, self.profile)

    def cleanup(self) -> None:
        """End what is being drawn and give the memory of the session's own models back; may be called twice."""
        self.cancel()
        self.wait()
        for owned in self._owned:
            owned.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cleanup()

    def _say(self, event: Event) -> None:
        with self._saying:
            if isinstance(event, Progress):
                self.state = event.state
            self.tell(event)

    def _work(self, work: Callable[[], None]) -> None:
        end = Progress(state="done")
        try:
            work()
        except _CancelledError:
            end = Progress(state="cancelled")
        except ImageLabError as error:
            end = Progress(state="failed", message=str(error))
        except Exception as error:  # noqa: BLE001  nobody is there to catch it: the panel must say it
            end = Progress(state="failed", message=f"{type(error).__name__}: {error}")
        self._say(end)

    def _draw_all(self, wanted: tuple[Settings, ...]) -> None:
        for index, settings in enumerate(wanted, start=1):
            self._draw(settings, index, len(wanted))

    def _make_map(self, settings: Settings) -> None:
        self._say(Progress(state="loading"))
        (made,) = self.generator.control_maps(settings.to_request(self.configs))
        self._say(MapMade(image=made.image))

    def _draw(self, settings: Settings, picture: int, pictures: int) -> Entry:
        if self._stop.is_set():
            raise _CancelledError
        self._say(Progress(state="loading", picture=picture, pictures=pictures))
        request = settings.to_request(self.configs)
        watch = _Watch(self, picture, pictures)
        generation = self.generator.generate(request, watch.on_step)
        if self._stop.is_set():  # in the last step, or while the VAE decoded
            raise _CancelledError
        verdict, note = self._judge(settings.character, generation)
        number = self.history.next_number
        file, failure = self._save(number, generation)
        entry = Entry(
            number=number,
            settings=replace(settings, seed=generation.record.seed),
            generation=generation,
            verdict=verdict,
            decision=automatic(verdict),
            note=note,
            file=file,
        )
        self.history.add(entry)
        self._say(Drawn(entry=entry))  # first: where nothing can be written, the picture is seen at least
        if failure:
            raise failure
        self.history.save()
        return entry

    def _judge(self, character: str, generation: Generation) -> tuple[Verdict | None, str]:
        try:
            return self.references.check_character_consistency(character, generation.image), ""
        except ImageLabError as error:  # no references, say: the picture is there all the same
            return None, str(error)

    def _save(self, number: int, generation: Generation) -> tuple[Path | None, ImageLabError | None]:
        if self.output_dir is None:
            return None, None
        try:
            return save_png(generation.image, self.output_dir / f"{number:03}.png", generation.record), None
        except ImageLabError as error:
            return None, error


class _Watch:
    """What happens after each step of one picture."""

    def __init__(self, session: Session, picture: int, pictures: int) -> None:
        self.session, self.picture, self.pictures = session, picture, pictures
        self.first: float | None = None
        self.shown = 0.0
        self.cost = 0.0  # seconds that the last preview took

    def on_step(self, step: int, steps: int, latents: Any) -> None:
        if self.session._stop.is_set():  # noqa: SLF001  one module, one state
            raise _CancelledError
        now = perf_counter()
        self.first = now if self.first is None else self.first
        seconds = self._left(now - self.first, step, steps)
        shown = self._preview(latents) if self._is_due(now) else None
        self.session._say(  # noqa: SLF001
            Progress(
                state="drawing",
                picture=self.picture,
                pictures=self.pictures,
                step=step,
                steps=steps,
                seconds_left=seconds,
                preview=shown,
            )
        )

    def _left(self, elapsed: float, step: int, steps: int) -> float | None:
        """Return the seconds that the steps still take, of the pictures that follow as well."""
        if step < 2:
            return None
        left = steps - step + steps * (self.pictures - self.picture)
        return elapsed / (step - 1) * left

    def _is_due(self, now: float) -> bool:
        return now - self.shown >= max(_PREVIEW_SECONDS, self.cost / _PREVIEW_SHARE)

    def _preview(self, latents: Any) -> "Image | None":
        began = perf_counter()
        shown = None
        with suppress(ValueError, RuntimeError):  # latents of another kind of model: no preview, but a picture
            generator = self.session.generator
            shown = preview(latents[:1], generator.pipeline.vae, generator.preview_vae())
        self.shown = perf_counter()
        self.cost = self.shown - began
        return shown
