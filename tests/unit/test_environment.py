"""The environment that `make setup` leaves behind holds what the lock says, once."""

import re
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def is_installed(name):
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def locked():
    """Name and version of every line of the lock that this environment was made from."""
    lock = "requirements-gpu.lock" if is_installed("onnxruntime-gpu") else "requirements.lock"
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize("module", ["onnxruntime", "cv2"])
def test_exactly_one_distribution_provides(module):
    assert len(set(packages_distributions()[module])) == 1


@pytest.mark.parametrize("name", ["xformers", "mediapipe"])
def test_forbidden_package_is_not_installed(name):
    assert not is_installed(name)


def test_installed_versions_are_the_locked_ones(locked):
    installed = {name: version(name) if is_installed(name) else None for name in locked}

    assert installed == locked


def test_every_dependency_of_a_locked_package_is_locked_at_a_version_that_suits_it(locked):
    """The lock is installed with --no-deps, so nobody else would notice a hole in it."""
    left_out = {"opencv-python", "onnxruntime"} - set(locked)
    unmet = [
        f"{name} needs {requirement}"
        for name in [*locked, "imagelab"]
        for requirement in map(Requirement, distribution(name).requires or [])
        if not requirement.marker or requirement.marker.evaluate({"extra": ""})
        if canonicalize_name(requirement.name) not in left_out
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]

    assert unmet == []


def test_torch_and_torchvision_are_builds_of_one_kind():
    """With builds of two kinds `operator torchvision::nms does not exist`; controlnet-aux and timm fall with it."""
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [20.0, 20.0, 30.0, 30.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    pin = next(r for r in map(Requirement, distribution("torchvision").requires) if r.name == "torch")

    assert kept.tolist() == [0, 2]
    assert pin.specifier.contains(version("torch"))
    assert re.search(r"\+.*|$", torch.__version__)[0] == re.search(r"\+.*|$", torchvision.__version__)[0]
