"""What the tests share: the real configuration and one generator with the puppet models, on the CPU."""

import os
import signal

# Before torch is imported: the puppets are too small for threads, which then only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

from imagelab import CharacterGenerator, GenerationRequest, load_configs


def pytest_terminal_summary(terminalreporter):
    """Print what tests counted by `record_property("counted", "0 of 200 kills lost a picture")`: a zero needs its n."""
    reports = terminalreporter.stats.get("passed", [])
    counted = [value for report in reports for name, value in report.user_properties if name == "counted"]
    if counted:
        terminalreporter.section("counted")
        terminalreporter.line("\n".join(counted))


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Let tests press Ctrl-C, also where a shell in the background has let it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def configs():
    return load_configs()


@pytest.fixture(scope="session")
def generator(configs):
    with CharacterGenerator(profile="puppet", device="cpu", configs=configs) as generator:
        yield generator


@pytest.fixture(scope="session")
def luca_image(generator):
    """A picture of luca, drawn quickly."""
    return generator.generate(
        GenerationRequest(
            character="luca",
            scene_description="standing in the town, happy expression",
            quality_preset="draft",
            seed=0,
        )
    ).image
