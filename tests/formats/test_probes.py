"""The catalogue: every probe for every kernel, against itself and against real probes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.formats.probe_definitions import (
    CALL_OPS,
    MAX_PAGES,
    Target,
    definitions,
    probes_for,
    registers,
    return_definitions,
)
from xenm2p.formats.probe_signatures import (
    MAP_OP_FIELDS,
    MAP_OP_SIZE,
    REGISTERS,
    SIGNATURES,
    UNMAP_OP_FIELDS,
    UNMAP_OP_SIZE,
    signature_of,
)
from xenm2p.formats.probes import BY_FUNCTION, PAGE_FIELDS, PROBES, Role, probe_of_event
from xenm2p.kernels import version_of

SET = Path(__file__).parents[1] / "data" / "captures" / "probes"

LINE = re.compile(r"(?P<sort>p|r\d*):(?P<group>\w+)/(?P<event>\w+) (?P<function>\w+)"
                  r"(?P<fetched>(?: \S+=\S+)*)")
versions = st.tuples(st.integers(3, 7), st.integers(0, 30), st.integers(0, 99)) | st.sampled_from(
    [(2, 6, 38), (2, 6, 39)])

ERAS = {
    "2.6.38": {"add_override", "remove_override", "map_refs", "unmap_refs"},
    "3.4.50": {"add_override", "remove_override", "map_refs"},
    "3.10": {"add_override", "remove_override", "map_refs", "unmap_refs"},
    "3.16": {"add_override", "remove_override", "map_refs", "unmap_refs", "set_foreign",
             "clear_foreign"},
    "4.4": {"map_refs", "unmap_refs", "set_foreign", "clear_foreign"},
    "5.12": {"map_refs", "unmap_refs", "set_foreign", "clear_foreign"},
}
MAPPING = {"add_override", "remove_override", "map_refs", "unmap_refs", "set_foreign",
           "clear_foreign"}


def events(kernel: str, **chosen: bool) -> set[str]:
    return {probe.event for probe in probes_for(Target(version_of(kernel)), **chosen)}


@pytest.mark.parametrize(("kernel", "mapping"), ERAS.items())
def test_each_era_has_its_own_functions(kernel: str, mapping: set[str]) -> None:
    assert events(kernel) & MAPPING == mapping


@pytest.mark.parametrize("kernel", ERAS)
def test_writes_grants_and_locks_are_always_probed(kernel: str) -> None:
    assert events(kernel) >= {"set_p2m", "update_entry", "grant_access", "end_access",
                              "folio_unlock", "folio_lock_slow"}
    assert not events(kernel, locks=False) & {"folio_unlock", "mm_filemap_add_to_page_cache"}


def test_before_the_tracepoint_the_insertion_itself_is_probed() -> None:
    assert "add_to_page_cache" in events("3.10")
    assert "add_to_page_cache" not in events("3.16")


@pytest.mark.parametrize(("kernel", "function"), [
    ("5.15", "unlock_page"), ("5.16", "folio_unlock"), ("2.6.38", "unlock_page")])
def test_the_functions_of_the_version_come_first(kernel: str, function: str) -> None:
    probe = BY_FUNCTION["folio_unlock"]
    names = [each.function for each in Target(version_of(kernel)).functions(probe)]
    assert names[0] == function and len(names) == 2


def test_a_span_whose_parameters_nobody_saw_is_not_probed() -> None:
    assert signature_of("gnttab_unmap_refs", (3, 5, 0)) is None
    assert signature_of("gnttab_unmap_refs", (3, 6, 0)) is not None


def test_every_function_of_the_catalogue_has_parameters_and_the_other_way_round() -> None:
    probed = {function for probe in PROBES for function in probe.functions}
    assert {row.function for row in SIGNATURES} == probed
    assert all(row.seen for row in SIGNATURES)


@given(versions)
def test_the_spans_of_a_function_do_not_overlap(version: tuple[int, int, int]) -> None:
    covering = [row.function for row in SIGNATURES if row.covers(version)]
    assert len(covering) == len(set(covering))


@given(versions, st.integers(1, MAX_PAGES), st.booleans())
def test_a_definition_is_what_kprobes_take(version, pages, locks) -> None:
    target = Target(version, pages)
    for probe in probes_for(target, locks=locks):
        lines = definitions(probe, target)
        assert probe.tracepoint or lines
        for line in [*lines, *return_definitions(probe, target)]:
            match = LINE.fullmatch(line)
            assert match is not None
            assert probe_of_event(match["event"]) == (probe, match["sort"] != "p")
            assert BY_FUNCTION[match["function"]] is probe
            names = [word.partition("=")[0] for word in match["fetched"].split()]
            assert len(names) == len(set(names)) <= 128
            assert all(int(n) <= 64 for n in re.findall(r"\[(\d+)\]", line))
            assert len(line) < 4096  # WRITE_BUFSIZE, kernel/trace/trace_probe.h
            assert version >= (4, 20) or "[" not in line
            assert version >= (4, 9) or not re.search(r":x\d", line)
            assert version >= (4, 12) or not match["sort"][1:]


@given(versions, st.integers(1, MAX_PAGES))
def test_every_register_holds_the_parameter_of_that_name(version, pages) -> None:
    target = Target(version, pages)
    for probe in probes_for(target):
        for line in definitions(probe, target):
            match = LINE.fullmatch(line)
            where = registers(next(row for row in target.functions(probe)
                                   if row.function == match["function"]))
            assert set(where.values()) <= {f"%{register}" for register in REGISTERS}
            for word in match["fetched"].split():
                name, _, fetch = word.partition("=")
                known = [argument for argument in probe.arguments if argument.name == name]
                if known and not known[0].at:
                    names = (name, *known[0].others)
                    assert fetch.partition(":")[0] in [where.get(each) for each in names]


@pytest.mark.parametrize(("fields", "size"), [
    (MAP_OP_FIELDS, MAP_OP_SIZE), (UNMAP_OP_FIELDS, UNMAP_OP_SIZE)])
def test_an_op_has_no_gaps_that_its_alignment_does_not_make(fields, size) -> None:
    ends = [offset + int(kind[1:]) // 8 for offset, kind in fields.values()]
    begins = [offset for offset, _ in fields.values()]
    assert begins == sorted(begins)
    assert begins[1:] == ends[:-1]
    assert -(-ends[-1] // 8) * 8 == size


# What was set on the machine of the captures, with the tracer that took each.
@pytest.mark.parametrize("name", ["self-qdisk-pagelock", "self-phy-persist"])
def test_the_probes_of_the_captures_are_those_that_are_printed_for_their_kernel(
    name: str
) -> None:
    target = Target((6, 1, 192))
    printed = {line for probe in PROBES if not probe.tracepoint
               for line in [*definitions(probe, target), *return_definitions(probe, target)]}
    lines = (SET / f"{name}.txt").read_text().splitlines()
    assert len(lines) > 7
    assert set(lines) <= printed


@pytest.mark.parametrize("name", ["tcmd-phy-scalar", "v4-tgid-scalar-fault"])
def test_fields_fetched_one_by_one_lie_where_the_catalogue_has_them(name: str) -> None:
    names = {short: (field, page) for page in range(11) for field, shorts in PAGE_FIELDS.items()
             for short in (f"{shorts[0]}{page}", *(shorts[1:] if page == 0 else ()))}
    checked = 0
    for line in (SET / f"{name}.txt").read_text().splitlines():
        match = LINE.fullmatch(line)
        probe = BY_FUNCTION[match["function"]]
        if probe.role not in CALL_OPS:
            continue
        size, fields = CALL_OPS[probe.role]
        where = registers(signature_of(match["function"], (6, 1, 192)))
        ops, pages = where[probe.arguments[0].name], where["pages"]
        for word in match["fetched"].split():
            key, _, fetch = word.partition("=")
            if fetch.startswith("%") or key not in names:
                continue
            field, page = names[key]
            if field == "page":
                expected = f"+{8 * page}({pages})"
            else:
                expected = f"+{size * page + fields[field][0]}({ops})"
            assert fetch.partition(":")[0] == expected
            checked += 1
    assert checked > 3


@pytest.mark.parametrize(("event", "name", "returns"), [
    ("set_p2m", "set_p2m", False), ("set_p2m_ret", "set_p2m", True),
    ("set_foreign_ret__return", "set_foreign", True), ("folio_unlock", "folio_unlock", False),
    ("m2p_add_override__return", "add_override", True),
    ("update_entry_v2", "update_entry_v2", False),
])
def test_the_names_that_tracers_make_of_ours(event: str, name: str, returns: bool) -> None:
    probe, is_return = probe_of_event(event)
    assert (probe.event, is_return) == (name, returns)


def test_every_role_is_explained_and_used() -> None:
    assert {probe.role for probe in PROBES} == set(Role)
