"""The graph of waits: what is a cycle, and which one is told."""

from __future__ import annotations

from xenm2p.engine.waits import Wait, WaitGraph, cycle_rows


def wait(waiter: int, holder: int, pfn: int, number: int = 0) -> Wait:
    """A wait of one task for another because of a page; `number` tells shares apart."""
    return Wait(waiter, holder, False, pfn, number, 0x50000, 0x8000, number + 1, number + 2)


def graph(*waits: Wait) -> WaitGraph:
    made = WaitGraph()
    made.extend(waits)
    return made


def test_a_cycle_begins_with_the_wait_that_closes_it():
    there, back = wait(1, 2, 0x1010), wait(2, 1, 0x1020)
    assert graph(there).add([back]) == [back, there]


def test_a_chain_is_no_cycle():
    assert graph(wait(1, 2, 0x1010)).add([wait(2, 3, 0x1020)]) == []


def test_one_page_alone_is_no_cycle():
    assert graph(wait(1, 2, 0x1010)).add([wait(2, 1, 0x1010)]) == []


def test_one_page_does_not_hide_a_cycle_over_two():
    own, other = wait(1, 2, 0x1010), wait(1, 2, 0x1020, 7)
    back = wait(2, 1, 0x1010)
    assert graph(own, other).add([back]) == [back, other]


def test_a_longer_way_over_another_page_counts_where_the_short_one_does_not():
    short, first, second = wait(1, 2, 0x1010), wait(1, 3, 0x1020), wait(3, 2, 0x1030)
    back = wait(2, 1, 0x1010)
    assert graph(short, first, second).add([back]) == [back, first, second]


def test_the_shortest_is_told_and_of_equal_ones_that_of_the_oldest_waits():
    long = [wait(1, 3, 0x1020), wait(3, 2, 0x1030)]
    older, newer = wait(1, 2, 0x1040, 3), wait(1, 2, 0x1050, 6)
    back = wait(2, 1, 0x1010, 9)
    assert graph(*long, older, newer).add([back]) == [back, older]


def test_a_task_does_not_wait_for_itself():
    known = graph()
    assert known.add([wait(1, 1, 0x1010)]) == []
    assert len(known) == 0


def test_repeated_io_is_one_wait_and_closes_nothing_again():
    there, back = wait(1, 2, 0x1010), wait(2, 1, 0x1020)
    known = graph(there, back)
    assert known.add([back._replace(dio_event=99)]) == []
    assert known.waits() == [there, back]


def test_waits_that_are_over_are_forgotten():
    there, back = wait(1, 2, 0x1010), wait(2, 1, 0x1020)
    known = graph(there)
    known.keep(lambda one: one != there)
    assert known.add([back]) == []


def test_a_loss_after_a_lock_or_a_map_makes_a_cycle_unsure():
    cycle = [wait(1, 2, 0x1010, 5), wait(2, 1, 0x1020, 8)]
    assert [row[-1] for row in cycle_rows(10, cycle, last_loss=6)] == [True, True]
    assert [row[-1] for row in cycle_rows(10, cycle, last_loss=4)] == [False, False]
