"""What two streams have in common at their beginning and at their end, up to renaming.

Where one run is the other with a stretch put in or left out, this alone finds it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from xenm2p.compare.identity import attributes_of, names_of, previous_equal, unlike_names
from xenm2p.compare.stories import Index, Mask, event_tokens, stir
from xenm2p.trace import INVALID, U64, Events

Pairs = tuple[Index, Index]

# How far the common ends may reach into a moved stretch, and how many moves are tried out.
_TRIES, _CHECKS = 6, 400
_FEW_EVENTS, _FEW_CHECKS = 1 << 14, 4

_ABSENT = np.uint64(INVALID)


def common_ends(a: Events, domain_a: int, b: Events, domain_b: int) -> tuple[int, int]:
    """How many first and how many last events are the same up to renaming.

    Each as many as possible: together they may be more than the shorter run has. The
    domains are those that the traces are of.
    """
    marks_a, marks_b = _marks(a, domain_a), _marks(b, domain_b)
    length = min(len(a), len(b))
    first_a, first_b = (each.rows(slice(0, length)) for each in (a, b))
    last_a, last_b = (each.rows(slice(len(each) - length, None)) for each in (a, b))
    unlike_first = marks_a[:length] != marks_b[:length]
    unlike_last = marks_a[len(a) - length:] != marks_b[len(b) - length:]
    return (_common(first_a, first_b, unlike_first, np.arange(length)),
            _common(last_a, last_b, unlike_last, np.arange(length)[::-1]))


def _marks(events: Events, domain: int) -> U64:
    """From the token and all attributes of each event."""
    marks = stir(event_tokens(events))
    for _, column in attributes_of(events, domain):
        marks = stir(marks + column.astype(np.uint64))
    return marks


def _common(a: Events, b: Events, unlike: Mask, order: Index) -> int:
    """How many events in `order` are the same up to renaming, before one that is not."""
    unlike = unlike.copy()
    for (_, of_a), (_, of_b) in zip(names_of(a), names_of(b), strict=True):
        unlike |= (of_a == _ABSENT) != (of_b == _ABSENT)
        unlike |= previous_equal(of_a, order) != previous_equal(of_b, order)
    unlike = unlike[order]
    return int(unlike.argmax()) if unlike.any() else len(order)


def place_of_gap(a: Events, b: Events, begin: int, end: int) -> int:
    """Where from `begin` to `end` the first event of `a` that `b` has not may stand.

    `a` is longer; its first events are those of `b` as far as `end`, its last ones those of
    `b` from `begin` on. The events between fit both ways. They go where they name the pages
    and frames that they named in what is certain.
    """
    excess = len(a) - len(b)
    early = np.zeros(end - begin, np.int64)  # names in common, for each event of between
    late = np.zeros(end - begin, np.int64)
    for (_, of_a), (_, of_b) in zip(names_of(a), names_of(b), strict=True):
        asked = of_b[begin:end]
        for partner, found in (
                _nearest(of_b[:begin], of_a[:begin], asked, last=True),
                _nearest(of_b[end:], of_a[end + excess:], asked, last=False)):
            early += found & (partner == of_a[begin:end])
            late += found & (partner == of_a[begin + excess:end + excess])
    score = np.cumsum(np.append(0, early)) + np.append(np.cumsum(late[::-1])[::-1], 0)
    # Of equals the latest: what was put in follows what it resembles.
    return begin + len(score) - 1 - int(score[::-1].argmax())


def one_move(a: Events, b: Events, first: int, last: int) -> Pairs | None:
    """The pairs where `b` is `a` with one stretch put elsewhere, None where it is not so.

    `first` and `last` are as `common_ends` gives them; where the ends of the stretch
    resemble what is around them, they may reach too far into it.
    """
    if len(a) != len(b) or first + last >= len(a):
        return None
    tries = _TRIES if len(a) <= _FEW_EVENTS else 1
    checks = _CHECKS if len(a) <= _FEW_EVENTS else _FEW_CHECKS
    token_a, token_b = _small_numbers(event_tokens(a), event_tokens(b))
    for reach in range(2 * tries - 1):
        for before in range(max(0, reach - tries + 1), min(reach, tries - 1) + 1):
            begin, end = first - before, len(a) - last + reach - before
            if begin < 0 or end > len(a):
                continue
            for turn in _rotations(token_a[begin:end], token_b[begin:end]):
                in_b = np.arange(len(b))
                in_a = in_b.copy()
                in_a[begin:end] = np.roll(in_b[begin:end], -turn)
                order = np.argsort(in_a)
                if _is_renaming(a, b.rows(order), np.argsort(order)):
                    return in_b, order
                checks -= 1
                if not checks:
                    return None
    return None


def _small_numbers(tokens_a: U64, tokens_b: U64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The tokens by a byte each, their place among all different ones."""
    _, numbers = np.unique(np.concatenate([tokens_a, tokens_b]), return_inverse=True)
    small: NDArray[np.uint8] = np.minimum(numbers, 255).astype(np.uint8)
    return small[: len(tokens_a)], small[len(tokens_a):]


def _rotations(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Iterator[int]:
    """By how much `a` can be turned to the left to give `b`."""
    twice, wanted = a.tobytes() * 2, b.tobytes()
    turn = twice.find(wanted, 1)
    while 0 < turn < len(a):
        yield turn
        turn = twice.find(wanted, turn + 1)


def _is_renaming(a: Events, b: Events, order_b: Index) -> bool:
    """Whether paired events are alike, and each name is always the same other one."""
    if (event_tokens(a) != event_tokens(b)).any():
        return False
    return not any(mask.any() for _, *masks in unlike_names(a, b, order_b) for mask in masks)


def _nearest(names: U64, partners: U64, asked: U64, *, last: bool) -> tuple[U64, Mask]:
    """The partner of the last (or first) occurrence of each name asked for, if any."""
    if not len(names):
        return np.zeros_like(asked), np.zeros(len(asked), bool)
    order = np.argsort(names, kind="stable")
    if last:
        place = np.searchsorted(names[order], asked, side="right") - 1
    else:
        place = np.searchsorted(names[order], asked, side="left")
    place = np.clip(place, 0, len(names) - 1)
    at = order[place]
    return partners[at], (names[at] == asked) & (asked != _ABSENT)
