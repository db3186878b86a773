"""index.html of a run: its pictures with their scores, best first; one file, without scripts, that needs no network."""

from collections.abc import Iterable
from html import escape
from typing import get_args
from urllib.parse import quote

from imagelab.results import BatchItem, BatchResult, ItemStatus
from imagelab.runs.plan import RunPlan
from imagelab.runs.summary import SCORE_COLUMNS, counts_text, score_rows, shortfall_text

PAGE_FILE = "index.html"
_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
table { border-collapse: collapse; }
td, th { padding: .2rem .8rem .2rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; }
ul { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); }
ul { list-style: none; padding: 0; }
figure { margin: 0; }
img { background: #8883; height: auto; width: 100%; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.none { border: 1px dashed; box-sizing: border-box; display: grid; min-height: 6rem; place-items: center; }
"""


def batch_page(plan: RunPlan, result: BatchResult) -> str:
    """Return the page's text; whatever is told there is escaped."""
    title = f"{result.character}: {result.scene_description}"
    sections = "".join(_section(status, result, plan) for status in get_args(ItemStatus))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src *; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{_facts(plan, result)}
{_distribution(result)}
{sections}</main>
</body>
</html>
"""


def _facts(plan: RunPlan, result: BatchResult) -> str:
    recipe = plan.recipe
    own = "each character's own threshold" if any(plan.judgings) else "no faces compared"
    threshold = own if result.threshold is None else f"threshold {result.threshold:.3f}"
    basis = f", of {result.calibration}" if result.calibration else ", not calibrated" if result.threshold else ""
    drawn = f"{recipe['width']}×{recipe['height']} px, {recipe['steps']} steps, {recipe['quality_preset']}"
    swept = f"a sweep of {len(plan.recipes)} settings; drawn first:" if plan.request.swept else ""
    lines = (
        counts_text(result),
        shortfall_text(result),
        f"{threshold}{basis}",
        swept,
        drawn,
        str(recipe.get("prompt", "")),
    )
    return "\n".join(f"<p>{escape(line)}</p>" for line in lines if line)


def _distribution(result: BatchResult) -> str:
    rows = score_rows(result)
    if not rows:
        return ""
    header = "".join(f'<th scope="col">{name}</th>' for name in SCORE_COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
    if len(rows) == 1:
        return table
    note = "The accepted pictures were chosen by this score. How well the batch was drawn, the first row says."
    return f"{table}\n<p>{note}</p>"


def _section(status: ItemStatus, result: BatchResult, plan: RunPlan) -> str:
    items = [item for item in result.items if item.status == status]
    if not items:
        return ""
    variants = [number for number, variant in enumerate(plan.request.variants) for _ in variant.seeds]
    figures = "".join(_figure(item, plan, variants[item.index]) for item in _best_first(items))
    return f"<h2>{status} ({len(items)})</h2>\n<ul>\n{figures}</ul>\n"


def _best_first(items: Iterable[BatchItem]) -> list[BatchItem]:
    """Sort by the score, those without one last, in their order."""
    return sorted(items, key=lambda item: (item.similarity_score is None, -(item.similarity_score or 0.0), item.index))


def _figure(item: BatchItem, plan: RunPlan, variant: int) -> str:
    score = "no score" if item.similarity_score is None else f"similarity {item.similarity_score:.3f}"
    settings = plan.request.swept[variant].settings if plan.request.swept else {}
    said = ", ".join([*map("{0[0]} {0[1]}".format, settings.items()), f"seed {item.seed}", item.status, score])
    recipe = plan.recipes[variant]
    if item.path is None:
        picture = '<div class="none">no picture</div>'
    else:
        address = quote(item.path.as_posix())
        size = f'width="{int(recipe["width"])}" height="{int(recipe["height"])}"'
        alt = escape(f"{recipe.get('character', plan.request.picture.character)}, {said}")
        picture = f'<a href="{address}"><img src="{address}" alt="{alt}" {size} loading="lazy"></a>'
    notes = "; ".join([*filter(None, [item.reason]), *item.degraded])
    caption = escape(f"{said}: {notes}" if notes else said)
    return f"<li><figure>{picture}<figcaption>{caption}</figcaption></figure></li>\n"
