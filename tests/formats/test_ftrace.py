"""Grants, page locks, losses, names of probes, the kernel, and what the notes say."""

from __future__ import annotations

import pytest

from tests.formats.ftrace_text import (
    FOREIGN,
    INVALID,
    Grant,
    events_of,
    foreign,
    kinds_of,
    line,
    map_call,
    page_of,
    read,
    set_p2m,
    unmap_call,
)
from xenm2p.errors import InputError
from xenm2p.trace import MAX_FRAME, NO_REF, Runs

HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: {kept}/{written}   #P:2
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
"""
ACCESS = "grant_access: (gnttab_grant_foreign_access_ref+0x0/0x30) ref=9 domid=0 frame=0x401a2"
UPDATE = "update_entry: (gnttab_update_entry_v1+0x0/0x40) ref=9 domid=0 frame=0x401a2 flags=0x1"
END = "end_access: (gnttab_end_foreign_access_ref_v1+0x0/0x40) ref=9"
G = Grant(0x8FE02, 0xBDC01, ref=1, handle=0x4AF)


def notes_with(text: str, words: str) -> list[str]:
    """The notes on a text that have some words."""
    return [note for note in read(text).notes if words in note]


def test_a_grant_and_its_end() -> None:
    trace = read(line(ACCESS + " readonly=0") + line(END))
    assert events_of(trace, "ref", "domid", "mfn") == [
        ("grant", 9, 0, 0x401A2), ("end_grant", 9, 0xFFFF, INVALID)]


def test_two_probes_of_one_grant_are_one_event() -> None:
    text = line(ACCESS) + line(UPDATE) + line(END)
    assert kinds_of(read(text * 3)) == ["grant", "end_grant"] * 3


def test_a_grant_that_only_the_table_shows_is_an_event() -> None:
    other = UPDATE.replace("ref=9", "ref=10")
    assert kinds_of(read(line(ACCESS) + line(UPDATE) + line(other))) == ["grant", "grant"]


def test_the_same_grant_again_is_another() -> None:
    assert kinds_of(read((line(ACCESS) + line(UPDATE)) * 4)) == ["grant"] * 4


def test_probes_of_two_tasks_are_not_of_one_grant() -> None:
    text = line(ACCESS, task="a-1") + line(UPDATE, task="b-2")
    assert kinds_of(read(text)) == ["grant", "grant"]


@pytest.mark.parametrize(("flags", "events"), [
    ("0x1", 1), ("0x5", 1), ("0x19", 1), ("0x0", 0), ("0x2", 0), ("0x3", 0)])
def test_only_permission_to_access_is_a_grant(flags: str, events: int) -> None:
    assert len(read(line(UPDATE.replace("flags=0x1", f"flags={flags}"))).events()) == events


def test_a_write_that_two_probes_show_is_one() -> None:
    outer = set_p2m(0x99, 0x77).replace("__set_phys_to_machine", "set_phys_to_machine")
    text = (line(outer) + line(set_p2m(0x99, 0x77))) * 2
    assert kinds_of(read(text)) == ["set_p2m"] * 2


def test_page_locks() -> None:
    lock = "mm_filemap_add_to_page_cache: dev 202:0 ino c pfn=0x26606 ofs=4096 order=0"
    unlock = f"folio_unlock: (folio_unlock+0x0/0x20) folio=0x{page_of(0x26606):x} flags=0x5"
    trace = read(line(lock, task="dd-4431") + line(unlock, task="swapper-7"))
    assert events_of(trace, "pfn") == [("lock_page", 0x26606), ("unlock_page", 0x26606)]
    assert [trace.task_name(task) for task in trace.events().task] == ["dd-4431", "swapper-7"]


def test_a_decimal_pfn_behind_a_hashed_pointer() -> None:
    lock = "mm_filemap_add_to_page_cache: dev 8:1 ino 2f page=00000000d09ef8f9 pfn=157190 ofs=0"
    assert events_of(read(line(lock)), "pfn") == [("lock_page", 157190)]


def test_waiting_for_a_page_lock_is_a_note() -> None:
    wait = f"folio_lock_slow: (__folio_lock+0x0/0x20) folio=0x{page_of(5):x} flags=0x1"
    assert kinds_of(read(line(wait))) == []
    assert notes_with(line(wait), "1 tasks waited for a page lock")


def test_a_loss_in_trace_pipe() -> None:
    text = line(END, time=1.0) + "CPU:1 [LOST 4667 EVENTS]\n" + line(END, time=2.0)
    assert events_of(read(text), "cpu", "ref", "time")[1] == ("lost", 1, 4667, 2_000_000_000)


def test_a_loss_in_trace_cmd() -> None:
    text = "cpus=2\nCPU:0 [4805 EVENTS DROPPED]\n" + line(END, time=2.0)
    assert events_of(read(text), "cpu", "ref", "time")[0] == ("lost", 0, 4805, 2_000_000_000)


@pytest.mark.parametrize("mark", [
    "CPU:1 [LOST EVENTS]", "CPU:1 [EVENTS DROPPED]", "##### CPU 1 buffer started ####"])
def test_a_loss_of_unknown_size(mark: str) -> None:
    assert events_of(read(mark + "\n" + line(END)), "cpu", "ref")[0] == ("lost", 1, NO_REF)


def test_an_overrun_in_the_header_is_a_loss_before_the_first_event() -> None:
    text = HEADER.format(kept=1897, written=11446) + line(END, cpu=3, time=5.0)
    assert events_of(read(text), "cpu", "ref", "time")[0] == ("lost", 3, 9549, 5_000_000_000)


def test_a_whole_buffer_is_no_loss() -> None:
    assert kinds_of(read(HEADER.format(kept=5, written=5) + line(END))) == ["end_grant"]


def test_a_loss_at_the_end_has_the_last_time() -> None:
    text = line(END, time=3.0) + "CPU:0 [LOST 1 EVENTS]\n"
    assert events_of(read(text), "time")[-1] == ("lost", 3_000_000_000)


@pytest.mark.parametrize("event", [
    "mine: (__set_phys_to_machine+0x0/0x180) pfn=0x99 mfn=0x77",
    "mine: (__set_phys_to_machine+0x4/0x180) pfn=0x99 mfn=0x77",
    "mine: (__set_phys_to_machine+0x0/0x180) arg1=0x99 arg2=0x77",
    "mine: (__set_phys_to_machine+0x0/0x180) mfn=0x77 pfn=0x99",
    "mine: (__set_phys_to_machine+0x0/0x180) x=1 pfn=153 y=0x2 mfn=119",
    "set_p2m: (ffffffff81021d10) pfn=0x99 mfn=0x77",
    "set_p2m:              (ffffffff81021d10) pfn=0x99 mfn=0x77",
    "set_p2m:              __probe_ip=ffffffff81021d10 pfn=0x99 mfn=0x77",
    "__set_phys_to_machine: (ffffffff81021d10) pfn=0x99 mfn=0x77",
    "p___set_phys_to_machine_0: (__set_phys_to_machine+0x0/0x180) arg1=0x99 arg2=0x77",
    "p___set_phys_to_machine_0: (ffffffff81021d10) arg1=0x99 arg2=0x77",
])
def test_a_probe_is_known_by_its_function_or_by_its_name(event: str) -> None:
    # twice: learnt from the first, read with the others by the second
    assert events_of(read(line(event) * 2), "pfn", "mfn") == [("set_p2m", 0x99, 0x77)] * 2


@pytest.mark.parametrize("event", [
    "set_p2m: (set_foreign_p2m_mapping+0x0/0x300 <- __set_phys_to_machine) ret=1",
    "set_p2m_ret: (ffffffff81021ed0 <- ffffffff81021d10) ret=1",
    "set_p2m: (__set_phys_to_machine+0x31/0x180) pfn=0x99 mfn=0x77",
    "set_p2m: (some_other_function+0x0/0x10) pfn=0x99 mfn=0x77",
    "set_p2m_ret: __probe_func=ffffffff81021d10 __probe_ret_ip=ffffffff81021ed0 ret=1",
    "tracing_mark_write: set_p2m: pfn=0x1 mfn=0x2",
    "block_rq_issue: 202,0 RA 45056 () 3904 + 88 [set_p2m: (__set]",
    "__set_phys_to_machine__return: (a <- b) ret=1",
])
def test_what_is_no_write_is_none(event: str) -> None:
    assert kinds_of(read(line(event) * 2 + line(END))) == ["end_grant"]


def test_heads_that_begin_alike_are_told_apart() -> None:
    bare, placed = "set_p2m: pfn=0x1 mfn=0x2", "set_p2m: (other+0x0/0x1) pfn=0x1 mfn=0x2"
    text = line(bare) + line(placed) + line(bare) + line(set_p2m(3, 4)) + line(placed)
    assert events_of(read(text), "pfn") == [("set_p2m", 1), ("set_p2m", 1), ("set_p2m", 3)]


def test_other_events_are_counted_by_name() -> None:
    text = line("block_plug: [dd]") * 3 + line("block_unplug: [dd] 1") + line(END)
    assert notes_with(text, "4 events of other probes were left out: block_plug 3, "
                            "block_unplug 1")


def test_a_missing_argument_is_an_error_that_names_what_is_there() -> None:
    event = "set_p2m: (__set_phys_to_machine+0x0/0x180) page_nr=0x1 mfn=0x2"
    with pytest.raises(InputError) as caught:
        read(line(END) + line(event))
    assert str(caught.value) == "capture.txt:2: set_p2m: 'pfn' is missing (have page_nr, mfn)"


@pytest.mark.parametrize("value", [
    "(fault)", "0x", "0x1g", "12ab", "0x11112222333344445", "99999999999999999999", "1_0", "+1"])
def test_a_value_that_is_no_number_is_an_error(value: str) -> None:
    good, bad = set_p2m(1, 2), f"set_p2m: (__set_phys_to_machine+0x0/0x180) pfn={value} mfn=0x2"
    for text in (line(bad), line(good) + line(bad)):
        with pytest.raises(InputError, match=r"capture\.txt:[12]: set_p2m: pfn=.* 64-bit"):
            read(text)


@pytest.mark.parametrize(("value", "entry"), [
    ("0xffffffffffffffff", INVALID), ("-1", INVALID), ("18446744073709551615", INVALID),
    ("0x80000000000bdc01", foreign(0xBDC01)), ("9223372036854775808", FOREIGN), ("0", 0),
    ("0x0000000000000001", 1), ("007", 7)])
def test_numbers_are_read_as_64_bits(value: str, entry: int) -> None:
    event = f"grant: (gnttab_grant_foreign_access_ref+0x0/0x30) ref=1 domid=2 frame={value}"
    assert events_of(read(line(event)), "mfn") == [("grant", entry)]


def test_registers_wider_than_the_argument_are_cut_to_it() -> None:
    event = ACCESS.replace("domid=0", "domid=0xdead0007").replace("ref=9", "ref=0xbeef00000009")
    assert events_of(read(line(event)), "ref", "domid") == [("grant", 9, 7)]


def test_shares_from_before_the_capture_are_adopted() -> None:
    text = line(unmap_call(G)) + line(set_p2m(G.pfn, INVALID))
    trace = read(text)
    assert trace.memory.tuples() == [(G.pfn, FOREIGN | MAX_FRAME, 1)]
    assert any(note.startswith("1 shares were live before") for note in trace.notes)


def test_an_unmap_that_the_machine_did_not_do_adopts_nothing() -> None:
    other = line(map_call(Grant(0x10, 0x20))) + line(set_p2m(0x10, foreign(0x20)))
    assert len(read(other + line(unmap_call(G))).memory) == 0


def test_a_page_mapped_in_the_capture_is_not_adopted() -> None:
    text = (line(map_call(G)) + line(set_p2m(G.pfn, foreign(G.mfn)))
            + line(unmap_call(G)) + line(set_p2m(G.pfn, INVALID)))
    assert len(read(text).memory) == 0


def test_a_dump_knows_better_than_adoption() -> None:
    dump = Runs.of([(G.pfn, foreign(0x123), 1)])
    other = Grant(0x10)
    text = "".join(line(unmap_call(g)) + line(set_p2m(g.pfn, INVALID)) for g in (G, other))
    assert read(text, memory=dump).memory.tuples() == [
        (0x10, FOREIGN | MAX_FRAME, 1), (G.pfn, foreign(0x123), 1)]


def test_a_dump_from_within_the_capture_does_not_map_pages_twice() -> None:
    dump = Runs.of([(G.pfn - 1, 0x5000, 1), (G.pfn, foreign(G.mfn), 1)])
    text = line(map_call(G)) + line(set_p2m(G.pfn, foreign(G.mfn)))
    trace = read(text, memory=dump)
    assert trace.memory.tuples()[-1] == (G.pfn, INVALID, 1)
    assert any("the dump is from after that" in note for note in trace.notes)


def test_a_dump_tells_what_a_first_write_ends() -> None:
    text = line(set_p2m(0x10, INVALID)) + line(set_p2m(0x11, INVALID))
    trace = read(text, memory=Runs.of([(0x10, foreign(0x5), 1), (0x11, 0x6, 1)]))
    assert kinds_of(trace) == ["unmap", "p2m_write", "set_p2m"]


def test_without_a_dump_no_frame_is_known_to_be_local() -> None:
    assert notes_with(line(END), "no frame is known to be local")


def test_writes_that_do_not_follow_show_a_loss_without_a_mark() -> None:
    once = line(unmap_call(G)) + line(set_p2m(G.pfn, INVALID))
    assert not notes_with(once, "do not follow")
    assert notes_with(once * 2, "1 p2m writes do not follow from the one before")


@pytest.mark.parametrize(("text", "kernel", "why"), [
    (HEADER.format(kept=1, written=1) + line(END), "p2m-only-continue", "migrate-disable"),
    (line("folio_unlock: (folio_unlock+0x0/0x20) folio=0xffffea0000000040"),
     "p2m-only-continue", "folios"),
    ("# kernel: 6.1.192\n" + line(END), "p2m-only-continue", "the header names Linux 6.1.192"),
    ("# kernel: 3.4.5\n" + line(END), "override", "the header names Linux 3.4.5"),
    ("# kernel: tuesday\n" + line(END), None, "not known"),
    (line(map_call(G)), "p2m-only-continue", "assumed"),
    (line("add_override: (m2p_add_override+0x0/0x9) mfn=0x1 page=0xffffea0000000040"),
     None, "before 3.15"),
    (line(unmap_call(G)) + line(set_p2m(G.pfn, 0x55)), None, "before 4.0"),
    ("#  _-----=> irqs-off\n# / _----=> need-resched\n# || / _--=> preempt-lazy-depth\n"
     "# ||| / _-=> migrate-disable\n" + line(END), "p2m-only-continue", "assumed"),
])
def test_the_traced_kernel(text: str, kernel: str | None, why: str) -> None:
    trace = read(text)
    assert trace.kernel == kernel
    assert [note for note in trace.notes if note.startswith("kernel model") and why in note]


def test_a_call_that_goes_on_after_a_failed_page_tells_the_kernel() -> None:
    text = line(unmap_call(Grant(0x1), Grant(0x2))) + line(set_p2m(0x2, INVALID))
    assert notes_with(text, "went on after a page that failed")


def test_a_marked_frontend_page_tells_the_kernel() -> None:
    text = (line(map_call(G)) + line(set_p2m(G.pfn, foreign(G.mfn)))
            + line(set_p2m(0x1010, foreign(G.mfn))))
    trace = read(text)
    assert trace.kernel == "kmap-only"
    assert kinds_of(trace) == ["map", "p2m_write", "p2m_write"]


def test_more_heads_than_are_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(line(f"other{i}: x") + line(set_p2m(i, i + 1)) for i in range(20))
    whole = events_of(read(text), "pfn", "mfn")
    monkeypatch.setattr("xenm2p.formats.ftrace_fields._HEAD_LIMIT", 3)
    assert events_of(read(text), "pfn", "mfn") == whole
    assert len(whole) == 20
