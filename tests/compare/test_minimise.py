"""Minimising by test alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenm2p.compare.minimise import minimal, shortest_prefix

needed = st.sets(st.integers(0, 99), max_size=6)


@given(needed)
def test_only_what_is_needed_stays(wanted: set[int]) -> None:
    assert minimal(range(100), lambda some: wanted <= set(some)) == sorted(wanted)


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=4), min_size=1, max_size=4))
def test_no_single_item_of_the_answer_can_go(ways: list[set[int]]) -> None:
    def holds(some: list[int]) -> bool:
        return any(way <= set(some) for way in ways)

    kept = minimal(range(31), holds)
    assert holds(kept)
    assert not any(holds(kept[:i] + kept[i + 1:]) for i in range(len(kept)))


def test_a_long_list_takes_few_tests() -> None:
    tests = 0

    def holds(some: list[int]) -> bool:
        nonlocal tests
        tests += 1
        return {3, 5000, 9999} <= set(some)

    assert minimal(range(10_000), holds) == [3, 5000, 9999]
    assert tests < 200


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_the_shortest_prefix(least: int, length: int) -> None:
    least = min(least, length)
    assert shortest_prefix(length, lambda n: n >= least) == least
