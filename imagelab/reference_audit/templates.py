"""What each template would make of a character's references, side by side."""

from typing import TYPE_CHECKING

from imagelab.reference_store import CharacterReferences
from imagelab.reference_template import TEMPLATES, leave_one_out_scores

if TYPE_CHECKING:
    import pandas as pd

EER_ROW = "EER against others"


def template_table(references: CharacterReferences) -> "pd.DataFrame":
    """Return each reference's score by the others under each template; the last row has what `auto` chose by.

    Scores of a single reference, and equal error rates that were never measured, are NaN.
    """
    import pandas as pd  # slow to import, and only notebooks want tables

    choice = references.provenance.template
    columns = {}
    for kind in TEMPLATES:
        single = len(references.embeddings) < 2
        scores = [float("nan")] if single else leave_one_out_scores(kind, references.embeddings)[0].tolist()
        columns[f"{kind}, chosen" if kind == choice.kind else kind] = [*scores, choice.eer.get(kind, float("nan"))]
    return pd.DataFrame(columns, index=[*references.names, EER_ROW])
