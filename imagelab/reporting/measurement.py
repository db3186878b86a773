"""A measurement that is no benchmark of whole pictures: what was measured, by which command, on which machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imagelab.records import Record
from imagelab.whole_file import read_record, write_record

Value = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement(Record):
    """What one command has measured on one machine."""

    what: str  # with sizes, dtype and how often, so that the numbers can be read without the code
    command: str  # which measures it again
    machine: Mapping[str, str]
    facts: Mapping[str, Value] = field(default_factory=dict)  # a number or word each, units in the name
    rows: tuple[Mapping[str, Value], ...] = ()  # of a table; a row may leave columns out


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmeasured(Record):
    """What nobody has measured yet, and how to."""

    what: str
    needs: str  # a GPU of which kind, real weights ...
    command: str
    predicted: str  # with the reason; empty where there is no prediction


def read_measurement(path: str | os.PathLike[str]) -> Measurement:
    """Read what `write_measurement` wrote; raises InvalidValueError, which names the file."""
    return read_record(Measurement, "measurement", path)


def write_measurement(measurement: Measurement, path: Path) -> Path:
    """Write a measurement as JSON, whole or not at all; raises InvalidValueError for a place that takes no file."""
    return write_record(measurement, path)
