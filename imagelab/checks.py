"""Numbers from outside: what they must be, said in one error."""

import math
from numbers import Integral, Real

from imagelab.errors import InvalidValueError


def check_whole(value: object, name: str, smallest: int, largest: int) -> int:
    """Return a whole number, numpy's included, as an int; raises InvalidValueError for any other and outside bounds."""
    # True is an int to isinstance, and no seed to anyone
    whole = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if whole is None or not smallest <= whole <= largest:
        raise InvalidValueError(name, value, f"a whole number between {smallest} and {largest}")
    return whole


def check_number(value: object, name: str, smallest: float, largest: float) -> float:
    """Return a number as a float; raises InvalidValueError for any other, NaN included, and outside bounds."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not smallest <= number <= largest:  # a NaN fails the comparison
        raise InvalidValueError(name, value, f"a number between {smallest:g} and {largest:g}")
    return number
