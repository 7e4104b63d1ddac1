"""Real captures of one boot of a PV dom0 (Linux 6.1, Xen 4.17): the machine is replayed.

Every p2m write that the machine made is the one that the model makes.

`self-*`: disk attached to dom0 itself; `domu-*`: a guest's; `phy`: xen-blkback; `qdisk`:
QEMU through gntdev; the others are one workload in the forms that tracers print.
"""

from __future__ import annotations

import io
import lzma
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from xenm2p.engine.reference import replay
from xenm2p.engine.replay import Counts, Fact, Facts, Options
from xenm2p.formats.ftrace import looks_like_ftrace, read_ftrace
from xenm2p.formats.p2mdump import read_p2m_dump
from xenm2p.kernels import MODELS
from xenm2p.trace import (
    FOREIGN,
    IDENTITY,
    INVALID,
    KIND_BY_CODE,
    NO_CPU,
    NO_REF,
    Kind,
    Runs,
    Trace,
)

CAPTURES = Path(__file__).parent / "data" / "captures"


@dataclass(frozen=True)
class Expected:
    """What a capture holds: p2m writes with FOREIGN and with INVALID, failed maps, grants."""

    foreign: int
    invalid: int
    grants: int = 0
    failed: int = 0
    ballooned: int = 0  # INVALID writes, and as many plain ones, that no grant explains


WHOLE = {
    "self-phy-nopersist-min": Expected(4271, 4271, grants=4273),
    "self-phy-persist": Expected(825, 825, grants=827),
    "self-qdisk-pagelock": Expected(1978, 1978, grants=1978),
    "self-phy-midstart": Expected(0, 825),
    "self-phy-balloon": Expected(2153, 4201, grants=2155, ballooned=2048),
    "gntdev-badref": Expected(9, 9, grants=4, failed=2),
    "domu-phy-nopersist": Expected(596, 594),
    "tcmd-phy-nopersist-report": Expected(2384, 2384, grants=2386),
    "tcmd-phy-nopersist-report-R": Expected(58, 58, grants=71),
    "tcmd-phy-scalar-report": Expected(2384, 2384, grants=2386),
    "v4-tgid-scalar-fault": Expected(2153, 2153, grants=2155),
    "v6-noirq-info": Expected(2153, 2153, grants=2155),
    "v7-clock-mono": Expected(2153, 2153, grants=2155),
    "v12-odd-comms": Expected(98, 98, grants=98),
}
LOSSY = {
    "v1-overrun-trace": Expected(378, 405, grants=406),
    "v2-lost-trace_pipe": Expected(655, 674, grants=651),
    "v3-nooverwrite-trace": Expected(302, 315, grants=318),
    "v15-trace-cmd-extract-overrun": Expected(382, 397, grants=407),
}
DUMPED = ("self-phy-persist", "self-qdisk-pagelock", "self-phy-midstart")


@cache
def text_of(name: str) -> bytes:
    """A capture as the tracer wrote it."""
    return lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())


@cache
def dump_of(name: str) -> Runs:
    """The p2m dump that goes with a capture."""
    return read_p2m_dump(io.BytesIO(text_of(f"{name}.p2m")), name)


@cache
def capture(name: str, *, with_dump: bool = False) -> Trace:
    """A capture as a trace, alone or with its dump."""
    return read_ftrace(io.BytesIO(text_of(name)), name,
                       memory=dump_of(name) if with_dump else None)


@cache
def replayed(name: str, with_dump: bool = False) -> tuple[Counts, Facts]:
    """What the traced kernel's model makes of a capture."""
    trace = capture(name, with_dump=with_dump)
    assert trace.kernel is not None
    segments = list(replay(trace, MODELS[trace.kernel], Options()))
    counts = Counts()
    for segment in segments:
        counts = counts + segment.counts
    return counts, Facts.concat([segment.facts for segment in segments])


def kinds(trace: Trace) -> Counter[str]:
    """How many events of each kind."""
    return Counter(KIND_BY_CODE[kind].name for kind in trace.events().kind.tolist())


@pytest.mark.parametrize("name", [*WHOLE, *LOSSY])
def test_it_looks_like_ftrace(name: str) -> None:
    assert looks_like_ftrace(text_of(name)[:4096])


@pytest.mark.parametrize(("name", "expected"), [*WHOLE.items(), *LOSSY.items()])
def test_every_write_of_the_machine_is_there(name: str, expected: Expected) -> None:
    events = capture(name).events()
    written = events.mfn[(events.kind == Kind.P2M_WRITE) | (events.kind == Kind.SET_P2M)]
    is_invalid = written == np.uint64(INVALID)
    is_foreign = ((written & np.uint64(FOREIGN)) != 0) & ~is_invalid
    assert (is_foreign.sum(), is_invalid.sum()) == (expected.foreign, expected.invalid)


@pytest.mark.parametrize(("name", "expected"), [*WHOLE.items(), *LOSSY.items()])
def test_maps_unmaps_and_grants(name: str, expected: Expected) -> None:
    trace = capture(name)
    events = trace.events()
    maps = events.kind == Kind.MAP
    assert (maps & (events.status == 0)).sum() == expected.foreign
    assert (maps & (events.status != 0)).sum() == expected.failed
    unmaps = expected.invalid - expected.ballooned
    assert kinds(trace)["unmap"] == unmaps + expected.failed  # a refused page is unmapped too
    assert kinds(trace)["grant"] == expected.grants
    assert kinds(trace)["set_p2m"] == 2 * expected.ballooned


@pytest.mark.parametrize("name", WHOLE)
def test_every_write_is_the_models(name: str) -> None:
    counts, facts = replayed(name)
    assert counts.writes_agreed == counts.writes_foreign + counts.writes_invalid
    assert Fact.MODEL_MISMATCH not in facts.fact
    assert Fact.NOT_BALLOONED not in facts.fact
    assert Fact.DOUBLE_MAP not in facts.fact
    assert counts.lost == 0


@pytest.mark.parametrize("name", LOSSY)
def test_every_write_that_was_not_lost_is_the_models(name: str) -> None:
    counts, facts = replayed(name)
    assert counts.writes_agreed == counts.writes_foreign + counts.writes_invalid
    assert Fact.MODEL_MISMATCH not in facts.fact


@pytest.mark.parametrize(("name", "expected"), WHOLE.items())
def test_foreign_bits_are_set_and_cleared_as_on_the_machine(name: str,
                                                            expected: Expected) -> None:
    counts, _ = replayed(name)
    assert counts.foreign_set == expected.foreign
    assert counts.foreign_cleared == expected.invalid - expected.ballooned


@pytest.mark.parametrize("name", DUMPED)
def test_a_dump_changes_nothing_of_that(name: str) -> None:
    counts, facts = replayed(name, with_dump=True)
    assert counts.foreign_set == WHOLE[name].foreign
    assert counts.foreign_cleared == WHOLE[name].invalid
    assert Fact.MODEL_MISMATCH not in facts.fact


def test_the_writes_up_to_a_dump_give_the_dumps_foreign_pages() -> None:
    events = capture("self-phy-persist").events()
    is_map = events.kind == Kind.MAP
    mapped = dict(zip(events.pfn[is_map].tolist(), events.mfn[is_map].tolist(), strict=True))
    dumped = {pfn: entry & ~FOREIGN for pfn, entry, count in dump_of("self-phy-persist").tuples()
              if entry != INVALID and entry & FOREIGN}
    assert mapped == dumped


@pytest.mark.parametrize("name", DUMPED)
def test_every_mapped_frame_is_one_of_the_domains_own(name: str) -> None:
    owner = owners(name)
    events = capture(name).events()
    assert all(mfn in owner for mfn in events.mfn[events.kind == Kind.MAP].tolist())


def owners(name: str) -> dict[int, int]:
    """m2p of the domain's own frames, from a dump."""
    return {value + i: pfn + i for pfn, value, count in dump_of(name).tuples()
            if value < IDENTITY for i in range(count)}


def test_256_maps_are_of_frames_whose_page_is_locked() -> None:
    """The hazard of 2012: the frontend's page is locked while the backend maps its frame."""
    trace = capture("self-qdisk-pagelock")
    owner, held, locked_maps, user_maps = owners("self-qdisk-pagelock"), set(), 0, 0
    events = trace.events()
    for kind, pfn, mfn, user in zip(events.kind.tolist(), events.pfn.tolist(),
                                    events.mfn.tolist(), events.user.tolist(), strict=True):
        if kind == Kind.LOCK_PAGE:
            held.add(pfn)
        elif kind == Kind.UNLOCK_PAGE:
            held.discard(pfn)
        elif kind == Kind.MAP and owner[mfn] in held:
            locked_maps += 1
            user_maps += user
    assert (locked_maps, user_maps) == (256, 256)
    assert kinds(trace)["lock_page"] == 513
    assert kinds(trace)["unlock_page"] == 7969


def test_a_capture_from_the_middle_adopts_what_was_live() -> None:
    alone = capture("self-phy-midstart")
    assert sum(count for *_, count in alone.memory.tuples()) == 825
    assert any(note.startswith("825 shares were live before") for note in alone.notes)
    with_dump = capture("self-phy-midstart", with_dump=True)
    assert with_dump.memory.tuples() == dump_of("self-phy-midstart").tuples()


def test_a_dump_from_another_time_does_not_undo_what_the_capture_shows() -> None:
    """The dump has the pages ballooned out; the capture unmaps them, so they were foreign."""
    trace = read_ftrace(io.BytesIO(text_of("self-phy-midstart")), "midstart",
                        memory=dump_of("self-qdisk-pagelock"))
    assert any(note.startswith("825 pages that the p2m dump has otherwise")
               for note in trace.notes)
    facts = Facts.concat([segment.facts for segment in replay(
        trace, MODELS["p2m-only-continue"], Options())])
    assert set(facts.fact.tolist()) == {Fact.HANDLE}


def test_failing_refs_overlapping_maps_and_a_page_never_mapped() -> None:
    trace = capture("gntdev-badref")
    events = trace.events()
    maps = events.rows(events.kind == Kind.MAP)
    assert maps.status.tolist() == [0, -1, 0, -3] + [0] * 7
    assert maps.user.all()
    assert Counter(maps.mfn.tolist())[0x43C07] == 3
    assert any("went on after" in note or "migrate-disable" in note for note in trace.notes)
    _, facts = replayed("gntdev-badref")
    assert (facts.fact == Fact.UNMAP_NOT_FOREIGN).sum() == 2


def test_two_pages_of_a_guest_stay_mapped() -> None:
    _, facts = replayed("domu-phy-nopersist")
    trace = capture("domu-phy-nopersist")
    leaked = facts.event[facts.fact == Fact.LEAKED_SHARE]
    names = [trace.task_name(task) for task in trace.events().task[leaked].tolist()]
    assert names == ["xenstored-203", "xenconsoled-209"]


@pytest.mark.parametrize(("name", "losses"), [
    ("v1-overrun-trace", [(1, 9549), (0, None)]),
    ("v2-lost-trace_pipe", [(1, 4667), (0, 3556)]),
    ("v3-nooverwrite-trace", []),
    ("v15-trace-cmd-extract-overrun", [(1, 4805), (0, 4735)]),
])
def test_losses_that_leave_a_mark(name: str, losses: list[tuple[int, int | None]]) -> None:
    events = capture(name).events()
    lost = events.rows((events.kind == Kind.LOST) & (events.cpu != NO_CPU))
    counts = [None if count == 0xFFFFFFFF else count for count in lost.ref.tolist()]
    assert list(zip(lost.cpu.tolist(), counts, strict=True)) == losses


def test_a_loss_without_a_mark_shows_in_the_writes() -> None:
    notes = capture("v3-nooverwrite-trace").notes
    assert any(note.startswith("13 p2m writes do not follow") for note in notes)
    for name in WHOLE:
        assert not any("do not follow" in note for note in capture(name).notes)


@pytest.mark.parametrize("name", LOSSY)
def test_what_a_lossy_capture_seems_to_do_wrong_is_no_error(name: str) -> None:
    """Maps over mapped pages, and unmaps of pages never mapped: their events were lost."""
    _, facts = replayed(name)
    wrong = np.isin(facts.fact, (Fact.DOUBLE_MAP, Fact.UNMAP_NOT_FOREIGN))
    assert wrong.any()
    assert facts.unknown[wrong].all()


@pytest.mark.parametrize(("name", "proofs"), [
    ("v1-overrun-trace", 8), ("v2-lost-trace_pipe", 5), ("v3-nooverwrite-trace", 13),
    ("v15-trace-cmd-extract-overrun", 9)])
def test_losses_that_only_writes_prove(name: str, proofs: int) -> None:
    events = capture(name).events()
    lost = (events.kind == Kind.LOST) & (events.cpu == NO_CPU)
    assert lost.sum() == proofs
    assert (events.ref[lost] == NO_REF).all()
    assert not any((capture(whole).events().kind == Kind.LOST).any() for whole in WHOLE)


@pytest.mark.parametrize("name", [*WHOLE, *LOSSY])
def test_a_capture_says_what_it_could_see(name: str) -> None:
    line = capture(name).notes[0]
    seen, _, unseen = line.partition("; not: ")
    assert seen.startswith("sees: ")
    assert ("maps" in seen.split(": ")[1].split(", ")) == (name != "self-phy-midstart")
    assert ("page locks" in unseen) == (name != "self-qdisk-pagelock")
    assert "direct I/O" in unseen
    assert "p2m before the capture (--memory)" in unseen


MAPS, UNMAPS = (b"map_refs:", b"set_foreign:"), (b"unmap_refs:", b"clear_foreign:")


@pytest.mark.parametrize("name", ["domu-phy-nopersist", "self-phy-persist"])
@pytest.mark.parametrize("missing", [
    MAPS, UNMAPS, MAPS + UNMAPS, (b"set_p2m:",), (*MAPS, b"set_p2m:"), (*UNMAPS, b"set_p2m:")])
def test_a_capture_with_only_some_of_the_probes_has_no_errors(
    name: str, missing: tuple[bytes, ...]
) -> None:
    """What the others would have shown is taken from the writes, or is unsure."""
    lines = text_of(name).splitlines(keepends=True)
    left = b"".join(line for line in lines if not any(b" " + probe in line for probe in missing))
    trace = read_ftrace(io.BytesIO(left), name)
    segments = list(replay(trace, MODELS["p2m-only-continue"], Options()))
    facts = Facts.concat([segment.facts for segment in segments])
    wrong = np.isin(facts.fact, (Fact.DOUBLE_MAP, Fact.UNMAP_NOT_FOREIGN, Fact.MODEL_MISMATCH))
    assert facts.unknown[wrong].all()
    counts = sum((segment.counts for segment in segments), Counts())
    assert counts.writes_agreed == counts.writes_foreign + counts.writes_invalid
    if b"set_p2m:" not in missing:
        assert counts.writes_agreed == WHOLE[name].foreign + WHOLE[name].invalid
        assert (counts.maps, counts.unmaps) == (WHOLE[name].foreign, WHOLE[name].invalid)


def test_names_with_blanks_dashes_brackets_and_newlines() -> None:
    names = set(capture("v12-odd-comms").tasks)
    assert {"my disk job-4582", "x-1 [000] 2.0:-4583", "tab\tname-4584", "ünicöde dd-4585",
            "set_p2m: pfn=0x-4586", "a#b-4587", "- --4588", "new\nline-4589",
            "mfn=0x1 pfn=0x2-4590"} <= names


def test_the_forms_of_trace_cmd_agree() -> None:
    """The first lines of one run, as bytes and as zeros: all but refs and handles is the same."""
    raw = capture("tcmd-phy-nopersist-report-R").events()
    plain = capture("tcmd-phy-nopersist-report").events()
    for kind in (Kind.MAP, Kind.UNMAP, Kind.P2M_WRITE):
        of_raw, of_plain = raw.rows(raw.kind == kind), plain.rows(plain.kind == kind)
        for column in ("pfn", "mfn", "user", "task"):
            a, b = getattr(of_raw, column), getattr(of_plain, column)
            assert len(a) == 58 * (2 if kind == Kind.P2M_WRITE else 1)
            if column != "task":
                assert np.array_equal(a, b[: len(a)])
    assert any("report -R" in note for note in capture("tcmd-phy-nopersist-report").notes)
    assert not any("report -R" in note for note in capture("tcmd-phy-nopersist-report-R").notes)


@pytest.mark.parametrize("name", [*WHOLE, *LOSSY])
def test_time_does_not_go_back_within_a_cpu(name: str) -> None:
    events = capture(name).events()
    for cpu in set(events.cpu.tolist()):
        assert (np.diff(events.time[events.cpu == cpu]) >= 0).all()
