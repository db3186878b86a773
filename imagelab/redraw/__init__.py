"""Draw a picture again from what it carries, and say what came out differently, and why it may have.

outcome = replay("outputs/luca.png")
outcome.identical, outcome.to_text()
"""

from imagelab.redraw.changes import Change, compare_records
from imagelab.redraw.control_pictures import find_controls
from imagelab.redraw.replaying import PixelDifference, Replay, replay

__all__ = ["Change", "PixelDifference", "Replay", "compare_records", "find_controls", "replay"]
