"""What imagelab puts around diffusers' pipeline changes no bit, and waits for a GPU no more often."""

import pytest
from raw_pipeline import Waits, raw_call

from imagelab import GenerationRequest


@pytest.fixture(scope="module", params=["euler", "dpmpp_2m_karras"])
def request_(request):
    scene = {"character": "luca", "scene_description": "on the beach", "width": 64, "height": 64}
    return GenerationRequest(**scene, steps=3, scheduler=request.param, seed=5)


def waits_in(call):
    with Waits() as waits:
        call()
    return waits.count


def test_the_picture_is_that_of_diffusers_own_pipeline_to_the_bit(generator, request_):
    assert generator.generate(request_).image.tobytes() == raw_call(generator, request_)(request_.seed).tobytes()


def test_a_picture_waits_for_the_device_as_often_as_diffusers_own_pipeline(generator, request_):
    raw = raw_call(generator, request_, keep_scheduler=False)  # a new one makes its table of noise levels, on the CPU
    expected = waits_in(lambda: raw(request_.seed))
    assert expected >= 1
    assert waits_in(lambda: generator.generate(request_)) <= expected


def test_a_look_at_the_latents_in_each_step_would_be_counted(generator, request_):
    plain = waits_in(lambda: generator.generate(request_))
    looking = waits_in(lambda: generator.generate(request_, lambda *given: given[2].abs().max().item()))
    assert looking == plain + request_.steps
