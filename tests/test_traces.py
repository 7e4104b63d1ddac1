"""The shipped traces show what their comments and traces/README.md say they show."""

from __future__ import annotations

import lzma
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from xenm2p.engine.reference import replay
from xenm2p.engine.replay import (
    Collisions,
    Counts,
    Fact,
    Facts,
    Options,
    Resolutions,
    Side,
    Transitions,
    Verdict,
)
from xenm2p.formats.binary import read_binary
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.p2mdump import read_p2m_dump
from xenm2p.formats.yaml import read_yaml
from xenm2p.kernels import MODELS, model_for
from xenm2p.trace import FOREIGN, IDENTITY, INVALID, Kind, Trace, same_trace

TRACES = Path(__file__).parent.parent / "traces"
README = (TRACES / "README.md").read_text(encoding="utf-8")
MOUNT = "mount-ext4-same-domain.yaml"
WITH_MARKS = ["local-foreign", "kmap-only"]
MODERN = ["p2m-only", "p2m-only-continue"]


@dataclass
class Outcome:
    """All that a replay gave, in one piece."""

    collisions: Collisions
    facts: Facts
    transitions: Transitions
    resolutions: Resolutions
    counts: Counts

    @property
    def fact_names(self) -> dict[str, int]:
        return dict(Counter(Fact(fact).name for fact in self.facts.fact.tolist()))

    def rows_of(self, fact: Fact) -> Facts:
        return self.facts.rows(self.facts.fact == fact)

    def marks_of(self, pfn: int) -> list[tuple[int, int, int]]:
        """(event, old, new) of each change of a frontend page's entry."""
        marks = self.transitions.rows(
            (self.transitions.side == Side.FRONTEND) & (self.transitions.pfn == pfn))
        return list(zip(marks.event.tolist(), marks.old.tolist(), marks.new.tolist(),
                        strict=True))


def outcome(trace: Trace, model: str, options: Options | None = None) -> Outcome:
    segments = list(replay(trace, MODELS[model], options))
    return Outcome(
        Collisions.concat([s.collisions for s in segments]),
        Facts.concat([s.facts for s in segments]),
        Transitions.concat([s.transitions for s in segments]),
        Resolutions.concat([s.resolutions for s in segments]),
        sum((s.counts for s in segments), Counts()),
    )


def shipped(name: str) -> Trace:
    with (TRACES / name).open("rb") as stream:
        return read_yaml(stream, name)


def test_every_trace_has_a_line_in_the_readme() -> None:
    files = {path.name for path in TRACES.iterdir()} - {"README.md"}
    described = {line.split("`")[1] for line in README.splitlines() if line.startswith("| `")}
    assert described == files


def test_the_traces_stay_small() -> None:
    assert sum(path.stat().st_size for path in TRACES.iterdir()) < 1_500_000


@pytest.mark.parametrize("path", sorted(TRACES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_hand_written_trace_reads(path: Path) -> None:
    trace = shipped(path.name)
    assert trace.kernel is not None
    assert len(trace.events()) == trace.length
    assert (trace.events().time[1:] >= trace.events().time[:-1]).all()


class TestMountSameDomain:
    # Event numbers of the trace, by what they are.
    LOCKS = (0, 1, 2)
    MAPS = (9, 11, 12, 13, 14)
    READS = (16, 17, 18, 19, 20)
    UNMAPS_OF_THE_SHARED_PAGE = (27, 28, 30)

    def test_its_header_is_the_kernel_that_hung(self) -> None:
        assert model_for(shipped(MOUNT).kernel or "").name == "override"

    def test_the_kernel_that_hung_deadlocks_on_each_locked_page(self) -> None:
        found = outcome(shipped(MOUNT), "override").collisions
        assert set(found.verdict.tolist()) == {Verdict.DEADLOCK}
        rows = sorted(zip(found.map_event.tolist(), found.pfn.tolist(),
                          found.backend_pfn.tolist(), found.lock_event.tolist(),
                          found.dio_event.tolist(), strict=True))
        assert rows == [
            (9, 0x1010, 0x8000, 0, 16),
            (11, 0x1010, 0x8001, 0, 17),
            (12, 0x1010, 0x8002, 0, 18),
            (13, 0x1011, 0x8003, 1, 19),
            (14, 0x1012, 0x8004, 2, 20),
        ]
        assert found.lock_spans_share.all()

    def test_the_lock_holder_is_named(self) -> None:
        trace = shipped(MOUNT)
        tasks = outcome(trace, "override").collisions.lock_task.tolist()
        assert {trace.task_name(task) for task in tasks} == {"mount-1042"}

    @pytest.mark.parametrize("model", [*WITH_MARKS, *MODERN])
    def test_no_later_kernel_has_a_collision(self, model: str) -> None:
        assert len(outcome(shipped(MOUNT), model).collisions) == 0

    @pytest.mark.parametrize("model", WITH_MARKS)
    def test_the_mark_is_set_at_the_first_share_and_cleared_at_the_last(
        self, model: str
    ) -> None:
        assert outcome(shipped(MOUNT), model).marks_of(0x1010) == [
            (9, 0x50010, 0x50010 | FOREIGN),
            (30, 0x50010 | FOREIGN, 0x50010),
        ]

    @pytest.mark.parametrize("model", ["override", *MODERN])
    def test_the_other_kernels_never_mark(self, model: str) -> None:
        assert outcome(shipped(MOUNT), model).counts.frontend_set == 0

    @pytest.mark.parametrize("model", WITH_MARKS)
    def test_get_user_pages_fast_gives_the_newest_backend_page(self, model: str) -> None:
        found = outcome(shipped(MOUNT), model)
        hazards = found.rows_of(Fact.GUP_FAST_HAZARD)
        gup = hazards.rows(hazards.event == 21)
        assert (gup.pfn.tolist(), gup.old.tolist(), gup.other.tolist()) == \
            ([0x1010], [0x8002], [12])

    @pytest.mark.parametrize("model", MODERN)
    def test_a_modern_kernel_has_nothing_to_report(self, model: str) -> None:
        assert outcome(shipped(MOUNT), model).fact_names == {}

    @pytest.mark.parametrize(
        ("model", "answers"),
        [
            ("override", [0x1010, 0x1010, 0x1010, 0x1010, 0x1010]),
            ("local-foreign", [0x1010, 0x8000, 0x8002, 0x8002, 0x1010]),
            ("kmap-only", [0x1010, 0x8000, 0x8002, 0x8002, 0x1010]),
            ("p2m-only", [0x1010] * 5),
            ("p2m-only-continue", [0x1010] * 5),
        ],
    )
    def test_lookups_answer_as_the_comments_say(self, model: str, answers: list[int]) -> None:
        trace = shipped(MOUNT)
        lookups = (trace.events().kind == Kind.LOOKUP).nonzero()[0].tolist()
        found = outcome(trace, model).resolutions
        by_event = dict(zip(found.event.tolist(), found.resolved.tolist(), strict=True))
        assert [by_event[event] for event in lookups] == answers


class TestForeignDomain:
    @pytest.mark.parametrize("model", MODELS)
    def test_no_kernel_has_anything_to_report(self, model: str) -> None:
        found = outcome(shipped("foreign-domain.yaml"), model)
        assert found.fact_names == {}
        assert len(found.collisions) == 0
        assert (found.counts.maps, found.counts.unmaps) == (3, 3)

    @pytest.mark.parametrize(
        ("model", "while_mapped"),
        [("override", 0x8000), ("local-foreign", 0x8000), ("kmap-only", 0x8000),
         ("p2m-only", INVALID), ("p2m-only-continue", INVALID)],
    )
    def test_the_override_answers_while_it_is_mapped(
        self, model: str, while_mapped: int
    ) -> None:
        found = outcome(shipped("foreign-domain.yaml"), model).resolutions
        by_event = dict(zip(found.event.tolist(), found.resolved.tolist(), strict=True))
        assert [by_event[event] for event in (1, 4, 11)] == [INVALID, while_mapped, INVALID]


class TestGupFastHazard:
    @pytest.mark.parametrize(
        ("model", "hazards"),
        [("override", []), ("local-foreign", [(3, 0x1020, 0x8000), (10, 0x1022, 0x8001)]),
         ("kmap-only", [(3, 0x1020, 0x8000)]), ("p2m-only", []), ("p2m-only-continue", [])],
    )
    def test_it_shows_where_the_frontend_is_marked(
        self, model: str, hazards: list[tuple[int, int, int]]
    ) -> None:
        found = outcome(shipped("gup-fast-hazard.yaml"), model)
        rows = found.rows_of(Fact.GUP_FAST_HAZARD)
        assert list(zip(rows.event.tolist(), rows.pfn.tolist(), rows.old.tolist(),
                        strict=True)) == hazards


class TestIllFormed:
    def test_its_own_kernel_shows_each_sequence_where_the_comments_say(self) -> None:
        facts = outcome(shipped("ill-formed.yaml"), "local-foreign").facts
        found = {(Fact(fact).name, event) for fact, event in
                 zip(facts.fact.tolist(), facts.event.tolist(), strict=True)}
        assert found == {
            ("DOUBLE_MAP", 1),
            ("LIST_CORRUPTION", 1),
            ("UNMAP_NOT_FOREIGN", 3),
            ("KMAP_MISMATCH", 5),
            ("UNMAP_NOT_FOREIGN", 7),
            ("ABORTED_CALL", 8),
            ("FAILED_MAP_KEPT", 11),
            ("MODEL_MISMATCH", 11),
        }

    @pytest.mark.parametrize("model", ["p2m-only-continue"])
    def test_from_5_12_on_a_failed_unmap_ends_no_call(self, model: str) -> None:
        assert "ABORTED_CALL" not in outcome(shipped("ill-formed.yaml"), model).fact_names

    @pytest.mark.parametrize("model", MODERN)
    def test_without_a_list_none_is_corrupted(self, model: str) -> None:
        assert "LIST_CORRUPTION" not in outcome(shipped("ill-formed.yaml"), model).fact_names

    def test_unmapped_without_kmap_a_page_stays_listed_in_3_16(self) -> None:
        assert outcome(shipped("ill-formed.yaml"), "kmap-only").fact_names["STUCK_FOREIGN"] == 1


# What the machine did, counted in the captured text itself: FOREIGN and INVALID p2m writes.
CAPTURES = {
    "gntdev-badref": (9, 9),
    "self-phy-midstart": (0, 825),
    "self-qdisk-pagelock": (1978, 1978),
}
WITH_DUMP = ["self-phy-midstart", "self-qdisk-pagelock"]


def capture(name: str) -> Trace:
    """The capture, with the p2m dump that belongs to it where there is one."""
    dump, text = TRACES / f"{name}.p2m.txt.xz", TRACES / f"{name}.ftrace.txt.xz"
    memory = None
    if dump.exists():
        with lzma.open(dump) as stream:
            memory = read_p2m_dump(stream, dump.name)
    with lzma.open(text) as stream:
        return read_ftrace(stream, text.name, memory=memory)


def converted(name: str) -> Trace:
    return read_binary(TRACES / f"{name}.xm2p", name)


@pytest.mark.parametrize("name", CAPTURES)
def test_a_converted_capture_says_what_the_capture_says(name: str) -> None:
    assert same_trace(converted(name), capture(name))


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_has_the_writes_that_its_text_has(name: str) -> None:
    with lzma.open(TRACES / f"{name}.ftrace.txt.xz", "rt", encoding="utf-8") as text:
        writes = [line.rpartition("mfn=")[2].strip() for line in text if " set_p2m: " in line]
    foreign = sum(write.startswith("0x8") and len(write) == 18 for write in writes)
    invalid = writes.count("0x" + "f" * 16)
    counts = outcome(converted(name), "p2m-only-continue").counts
    assert (counts.writes_foreign, counts.writes_invalid) == (foreign, invalid) \
        == CAPTURES[name]


@pytest.mark.parametrize("name", CAPTURES)
def test_the_model_of_the_captured_kernel_explains_every_write(name: str) -> None:
    found = outcome(converted(name), "p2m-only-continue")
    assert "MODEL_MISMATCH" not in found.fact_names
    assert found.counts.writes_agreed == sum(CAPTURES[name])


@pytest.mark.parametrize("name", WITH_DUMP)
def test_with_the_dump_every_shared_frame_is_one_of_dom0s_own(name: str) -> None:
    trace = converted(name)
    shares = [segment.shares for segment in replay(trace, MODELS["p2m-only-continue"])]
    shared = np.unique(np.concatenate([table.mfn for table in shares]))
    is_own = np.zeros(len(shared), dtype=bool)
    for _pfn, mfn, count in trace.memory.tuples():
        if mfn < IDENTITY:
            is_own |= (shared >= mfn) & (shared < mfn + count)
    assert len(shared) > 700
    assert is_own.all()


class TestPageLockCapture:
    """The 2012 bug on a real capture, taken on 6.1 and asked of older kernels."""

    NAME = "self-qdisk-pagelock"

    def test_before_the_cure_256_shares_met_a_locked_page(self) -> None:
        found = outcome(converted(self.NAME), "override").collisions
        met_when_mapped = found.rows(found.first_event == found.map_event)
        assert len(met_when_mapped) == 256
        assert set(found.verdict.tolist()) == {Verdict.PRONE}

    def test_taken_as_read_by_direct_io_those_deadlock(self) -> None:
        found = outcome(converted(self.NAME), "override", Options(assume_dio=True)).collisions
        assert Counter(found.verdict.tolist())[Verdict.DEADLOCK] == 256

    @pytest.mark.parametrize("model", ["local-foreign", "kmap-only", *MODERN])
    def test_after_the_cure_none_does(self, model: str) -> None:
        assert len(outcome(converted(self.NAME), model, Options(assume_dio=True)).collisions) == 0
