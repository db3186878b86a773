"""The panel: settings on the left, the picture as it comes about on the right, and what was drawn so far below.

`settings` are values, a `Session` draws in a thread of its own and says what happens in events, the `Explorer` shows
these: everything but the widgets works without a browser.
"""

from imagelab.explorer.panel import Explorer
from imagelab.explorer.session import Session
from imagelab.explorer.settings import Settings

__all__ = ["Explorer", "Session", "Settings"]
