"""Pictures and words as the panel shows them: HTML with an alternative text, no script."""

import base64
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

from imagelab.explorer.history import Entry

if TYPE_CHECKING:
    from PIL.Image import Image

STYLE = """<style>
.imagelab-panel { max-width: 1180px; }
.imagelab-panel .widget-html-content { line-height: 1.4; }
.imagelab-pages button { padding: 0 12px; } .imagelab-pages .widget-toggle-buttongroup { flex-wrap: wrap; }
.imagelab-page { border-top: 2px solid var(--jp-border-color1, #bdbdbd); padding: 8px 0; margin: 0 2px; }
.imagelab-frame { width: 384px; height: 384px; max-width: 100%; display: flex; align-items: center;
  justify-content: center; border-radius: 4px; background: var(--jp-layout-color2, #eeeeee);
  color: var(--jp-ui-font-color2, #616161); }
.imagelab-hint { color: var(--jp-ui-font-color2, #616161); font-size: 11px; line-height: 1.3;
  margin: 0 0 4px 168px; }
.imagelab-status { font-size: 13px; line-height: 1.45; min-height: 38px; }
.imagelab-error { border-left: 4px solid var(--jp-error-color1, #c62828); padding: 4px 10px; white-space: pre-wrap;
  background: var(--jp-layout-color2, #f5f5f5); }
.imagelab-badge { border-radius: 9px; padding: 1px 8px; font-size: 11px; color: #fff; white-space: nowrap; }
.imagelab-panel button.imagelab-off { opacity: 0.5; cursor: default; }
.imagelab-accepted { background: #2e7d32; } .imagelab-rejected { background: #b23c17; }
.imagelab-unscorable { background: #616161; }
.imagelab-panel img { display: block; border-radius: 4px; max-width: 100%; image-rendering: auto; }
.imagelab-row { display: flex; flex-wrap: wrap; gap: 10px; } .imagelab-row figure { margin: 0; font-size: 12px; }
.imagelab-panel button:focus-visible, .imagelab-panel input:focus-visible, .imagelab-panel select:focus-visible,
.imagelab-panel textarea:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: 1px; }
</style>"""


def as_bytes(image: "Image", side_px: int) -> bytes:
    """Return a picture as a JPEG whose longer side is `side_px` at most; a small one is enlarged smoothly to it."""
    from PIL import Image

    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    stream = BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def img(image: "Image", alt: str, side_px: int = 128) -> str:
    """Return an <img> that holds the picture."""
    data = base64.b64encode(as_bytes(image, side_px)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{data}">'


def frame(content: str) -> str:
    """Return HTML in the middle of a square of one size, so that nothing moves when a picture comes."""
    return f'<div class="imagelab-frame">{content}</div>'


def figure(image: "Image", caption: str, side_px: int = 192) -> str:
    """Return a picture with a line of text below it."""
    return f"<figure>{img(image, caption, side_px)}<figcaption>{escape(caption)}</figcaption></figure>"


def row(figures: list[str]) -> str:
    """Put figures side by side, wrapped where there is no room."""
    return f'<div class="imagelab-row">{"".join(figures)}</div>'


def badge(entry: Entry) -> str:
    """Return what became of a picture, and who decided."""
    score = entry.verdict.similarity_score if entry.verdict else None
    said = entry.decision if score is None else f"{entry.decision} {score:.2f}"
    by = " by hand" if entry.decided_by == "by hand" else ""
    return f'<span class="imagelab-badge imagelab-{escape(entry.decision)}">{escape(said)}{by}</span>'


def judged(entry: Entry) -> str:
    """Return a picture's similarity against its threshold, in words."""
    verdict = entry.verdict
    if verdict is None:
        return f"Not judged: {escape(entry.note)}"
    if verdict.similarity_score is None:
        return f"Not compared: {escape(verdict.status.replace('_', ' '))}"
    source = "calibrated" if verdict.calibrated else "configured"
    return f"Similarity {verdict.similarity_score:.3f}, {source} threshold {verdict.threshold:.2f}"


def error(message: str) -> str:
    """Return an error so that it is seen, and read out by a screen reader."""
    return f'<div class="imagelab-error" role="alert">{escape(message)}</div>'


def status(*lines: str) -> str:
    """Return what is going on; the lines are HTML."""
    return f'<div class="imagelab-status" role="status">{"<br>".join(line for line in lines if line)}</div>'
