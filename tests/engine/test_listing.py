"""The states of pages on override lists, all at once and one after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.engine.listing import LISTED, MAPPED, states_after, step_codes

Step = tuple[str, bool]
steps = st.tuples(st.sampled_from(["map", "unmap", "set_p2m", "other"]), st.booleans())


def plainly(state: int, kind: str, user: bool) -> int:
    """What one event makes of a page, as design.md's section 4 has it for kmap-only."""
    mapped, listed = bool(state & MAPPED), bool(state & LISTED)
    if kind == "map" and not (user and listed):
        return MAPPED | (LISTED if user or listed else 0)
    if kind == "set_p2m":
        return LISTED if listed else 0
    if kind == "unmap" and mapped and not (user and not listed):
        return LISTED if listed and not user else 0
    return state


def walked(first: int, page: list[Step]) -> list[int]:
    states = []
    for kind, user in page:
        first = plainly(first, kind, user)
        states.append(first)
    return states


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(steps, min_size=1, max_size=20)),
                min_size=1, max_size=6))
def test_states_are_those_of_a_walk_event_by_event(pages: list[tuple[int, list[Step]]]) -> None:
    rows = [step for _, page in pages for step in page]
    kinds = np.array([kind for kind, _ in rows])
    lengths = [len(page) for _, page in pages]
    starts = np.repeat(np.cumsum([0, *lengths[:-1]]), lengths)
    first = np.repeat(np.array([state for state, _ in pages], np.uint8), lengths)
    codes = step_codes(kinds == "map", kinds == "unmap", kinds == "set_p2m",
                       np.array([user for _, user in rows]))
    wanted = [state for first_state, page in pages for state in walked(first_state, page)]
    assert states_after(codes, starts, first).tolist() == wanted
