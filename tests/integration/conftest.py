"""What checks of pictures share: a checker of faces on the CPU, and the puppets' configured references."""

import pytest

from imagelab.consistency import CharacterConsistencyChecker
from imagelab.references import CharacterReferenceManager


@pytest.fixture(scope="session")
def checker(configs):
    with CharacterConsistencyChecker("cpu", "puppet", configs) as checker:
        yield checker


@pytest.fixture(scope="session")
def luca(checker):
    return CharacterReferenceManager(checker, store="nowhere").references("luca")


@pytest.fixture(scope="session")
def alberto(checker):
    return CharacterReferenceManager(checker, store="nowhere").references("alberto")
