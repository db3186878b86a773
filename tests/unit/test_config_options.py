"""The options that a scheduler may be given: what the table allows, diffusers must take."""

import inspect
from typing import Literal, get_args, get_origin

import diffusers
import pytest
import torch

from imagelab.config.options import SCHEDULER_KWARGS, SPACINGS

# One of each kind of number; of choices and switches, all are tried.
NUMBERS = {"beta_start": [0.0001], "beta_end": [0.03], "steps_offset": [0, 1], "solver_order": [1, 2, 3]}
NUMBERS["timestep_scaling"] = [10.0]


def values(name, kind):
    if kind is bool:
        return [True, False]
    return list(get_args(kind)) if get_origin(kind) is Literal else NUMBERS[name]


ALLOWED = [
    (class_name, name, value)
    for class_name, schema in SCHEDULER_KWARGS.items()
    for name, field in schema.model_fields.items()
    for value in values(name, field.annotation)
]


@pytest.mark.parametrize(("class_name", "name", "value"), ALLOWED)
def test_an_allowed_option_is_known_to_its_scheduler_and_steps(class_name, name, value):
    scheduler_class = getattr(diffusers, class_name)
    assert name in inspect.signature(scheduler_class).parameters
    scheduler = scheduler_class(**({"beta_schedule": "scaled_linear"} | {name: value}))
    scheduler.set_timesteps(4)
    sample, generator = torch.ones(1, 4, 2, 2), torch.Generator().manual_seed(0)
    for step in scheduler.timesteps:
        taken = scheduler.scale_model_input(sample, step)
        noise = {} if class_name in {"DDIMScheduler", "UniPCMultistepScheduler"} else {"generator": generator}
        sample = scheduler.step(0.1 * taken, step, sample, **noise).prev_sample
    assert sample.isfinite().all()


@pytest.mark.parametrize("class_name", sorted(SCHEDULER_KWARGS))
def test_ways_to_spread_the_steps_that_exclude_each_other_are_known_as_such(class_name):
    spread = {name for name in SCHEDULER_KWARGS[class_name].model_fields if name.startswith("use_")}
    assert spread <= set(SPACINGS)
