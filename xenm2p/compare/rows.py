"""Which rows of one numpy table are which of another: the same key, the nth time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xenm2p.trace import Column

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowMatch:
    """Row numbers: `both_a[k]` is `both_b[k]`, the others are on one side only."""

    both_a: Index
    both_b: Index
    only_a: Index
    only_b: Index


def match_rows(keys_a: list[Column], keys_b: list[Column]) -> RowMatch:
    """Match rows by the columns of their keys; of equal keys the first with the first."""
    length_a, length_b = len(keys_a[0]), len(keys_b[0])
    code = np.zeros(length_a + length_b, np.int64)
    for column_a, column_b in zip(keys_a, keys_b, strict=True):
        code = _numbered(code, np.concatenate([column_a, column_b]))
    codes_a, codes_b = code[:length_a], code[length_a:]
    factor = np.int64(length_a + length_b + 1)
    nth_a = codes_a * factor + _place_among_equals(codes_a)
    nth_b = codes_b * factor + _place_among_equals(codes_b)
    _, both_a, both_b = np.intersect1d(nth_a, nth_b, assume_unique=True, return_indices=True)
    order = np.argsort(both_a)
    both_a, both_b = both_a[order], both_b[order]
    return RowMatch(both_a, both_b, _others(both_a, length_a), _others(both_b, length_b))


def _numbered(code: Index, column: Column) -> Index:
    """Numbers for the distinct pairs of a number so far and a cell."""
    _, cells = np.unique(column, return_inverse=True)
    numbers: Index = np.unique(code * np.int64(len(code)) + cells, return_inverse=True)[1]
    return numbers


def _place_among_equals(codes: Index) -> Index:
    order = np.argsort(codes, kind="stable")
    place = np.empty(len(codes), np.int64)
    place[order] = np.arange(len(codes)) - np.searchsorted(codes[order], codes[order])
    return place


def _others(rows: Index, length: int) -> Index:
    is_other = np.ones(length, bool)
    is_other[rows] = False
    return np.flatnonzero(is_other)
