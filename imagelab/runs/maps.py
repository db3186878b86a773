"""The maps that a run's pictures follow: they lie in its folder, whole, or no picture could be drawn again."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from imagelab.errors import ImageFileError
from imagelab.imagefiles import open_image, pixels_sha256, shared_map_path
from imagelab.runs.plan import RunPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class RunMap:
    """A map of one of a run's variants."""

    path: Path
    variant: int
    control: int  # which of the variant's
    sha256: str  # of its pixels

    @property
    def is_whole(self) -> bool:
        """Say whether it is there as it was made; it is read for that."""
        try:
            return not self.path.is_symlink() and pixels_sha256(open_image(self.path)) == self.sha256
        except ImageFileError:
            return False


def harmed_maps(folder: Path, plan: RunPlan, variants: Collection[int]) -> list[RunMap]:
    """Return the maps of these variants that are gone, or aren't what was made."""
    planned = {one.path: one for number in sorted(variants) for one in _maps(folder, plan, number)}
    return [one for one in planned.values() if not one.is_whole]


def _maps(folder: Path, plan: RunPlan, variant: int) -> Iterator[RunMap]:
    for number, control in enumerate(plan.recipes[variant].get("controls", ())):
        sha256 = control["map_sha256"]
        path = shared_map_path(folder, number, control["type"], sha256)
        yield RunMap(path=path, variant=variant, control=number, sha256=sha256)
