"""What a batch is going to do: how each picture is drawn, and what its faces are compared with."""

from dataclasses import replace
from typing import Any

from imagelab.batch.judging import Judges, face_judges
from imagelab.character import CharacterGenerator
from imagelab.plan import plan_generation
from imagelab.references import CharacterReferenceManager
from imagelab.results import GenerationRequest
from imagelab.runs import BatchRequest, RunPlan


def plan_batch(
    generator: CharacterGenerator, references: CharacterReferenceManager, request: BatchRequest
) -> tuple[RunPlan, Judges]:
    """Return a request's plan, and the judges that it names; draws nothing and writes nothing.

    Raises what `BatchImageGenerator.generate_batch` raises for its arguments.
    """
    from imagelab.runs.recipe import drawing_environment  # imports torch

    pictures = [variant.picture for variant in request.variants]
    together = {"pictures_at_once": request.pictures_at_once} if request.pictures_at_once > 1 else {}
    recipes = tuple(_recipe(generator, picture) | together for picture in pictures)
    judges = face_judges(references, request)
    thresholds = {judge.threshold.value for judge in judges.values()}
    plan = RunPlan(
        request=replace(request, threshold=thresholds.pop() if len(thresholds) == 1 else None),
        recipes=recipes,
        judgings=tuple(judges[str(one.character)].to_plan() if judges else {} for one in pictures),
        environment=drawing_environment(generator.profile, generator.device),
        references=_provenance(judges),
    )
    return plan, judges


def _recipe(generator: CharacterGenerator, picture: GenerationRequest) -> dict[str, Any]:
    from imagelab.runs.recipe import picture_recipe  # imports torch

    drawing = plan_generation(generator.configs, generator.profile, picture)
    return picture_recipe(drawing, generator.control_maps(picture), generator.device)


def _provenance(judges: Judges) -> dict[str, Any] | None:
    made = {name: judge.references.provenance.to_dict() for name, judge in judges.items()}
    return made if len(made) > 1 else next(iter(made.values()), None)
