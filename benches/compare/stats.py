"""Medians, spreads and quantiles."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """A median with the least and the greatest of what it was taken from."""

    median: float
    least: float
    most: float
    count: int


def spread(values):
    """The spread of the values, None of none."""
    ordered = sorted(values)
    count = len(ordered)
    if count == 0:
        return None
    middle = count // 2
    median = ordered[middle] if count % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Spread(median, ordered[0], ordered[-1], count)


def quantile(ordered, q):
    """The least of the sorted values that at least the share `q` of them does not exceed (nearest rank).

    None where fewer than 1 / (1 - q) values are there: the answer would be the greatest value, whatever `q` is.
    """
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, not at {q}")
    count = len(ordered)
    # Rounded, so that 1 - 0.99 asks for 100 values and not for 99 or 101.
    if count < round(1 / (1 - q)):
        return None
    return ordered[max(0, math.ceil(round(q * count, 9)) - 1)]
