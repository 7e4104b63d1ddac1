"""What `check` compares a trace with: the kernel's model, xentrace, a grant-table dump."""

from __future__ import annotations

from xenm2p.cli import options
from xenm2p.cli.reading import Reading
from xenm2p.cli.session import (
    ReplayRequest,
    chosen_heading,
    engine_named,
    heading_of,
    model_agreements,
)
from xenm2p.compare.against_grants import check_grants
from xenm2p.compare.against_xentrace import cross_check
from xenm2p.engine.replay import Options, Shares
from xenm2p.errors import InputError, UsageError
from xenm2p.formats.grantdump import GrantDump, looks_like_grant_dump, read_grant_dump
from xenm2p.formats.streams import open_input
from xenm2p.formats.xentrace import Xentrace, looks_like_xentrace, read_xentrace
from xenm2p.kernels import KernelModel
from xenm2p.report.agreement import Pairs, agreement_pairs
from xenm2p.report.crosscheck import grants_pairs, xentrace_pairs
from xenm2p.trace import Trace

MAX_MISSES = 10  # how many differences of model and machine are told one by one


def against_model(reading: Reading, request: ReplayRequest) -> tuple[Pairs, bool]:
    """What --model adds, and whether model and machine differ."""
    # Where nobody says which kernel was traced, its writes do.
    has_kernel = request.kernel or request.traced_kernel or reading.trace.kernel
    kinds = dict(reading.contents.by_kind())
    tries_all = request.kernel == options.AUTO or ("p2m_write" in kinds and not has_kernel)
    if tries_all:
        found = model_agreements(reading.trace, request, keep=MAX_MISSES)
        heading = chosen_heading(reading.name, reading.trace, request, found)
    else:
        heading = heading_of(reading.name, reading.trace, request)
        found = model_agreements(reading.trace, request, [heading.model], keep=MAX_MISSES)
    shown = next(each for each in found if each.model == heading.model)
    pairs = agreement_pairs(shown, heading.kernel_from, found, kinds.get("set_p2m", 0))
    return pairs, shown.misses > shown.unsure


def _model(reading: Reading, request: ReplayRequest) -> KernelModel:
    """The model of a replay, which for --kernel auto takes a pass over the trace each."""
    if request.kernel != options.AUTO:
        return heading_of(reading.name, reading.trace, request).model
    found = model_agreements(reading.trace, request)
    return chosen_heading(reading.name, reading.trace, request, found).model


def against_file(
    reading: Reading, request: ReplayRequest, name: str, slice_ns: int | None,
    at: tuple[int, bool] | None,
) -> tuple[Pairs, bool]:
    """What --against adds, and whether trace and file differ by more than ring pages.

    Raises InputError for a file that is neither, UsageError for an option of the other.
    """
    other = _read_other(name)
    if isinstance(other, Xentrace):
        if at is not None:
            raise UsageError(f"--at goes with a grant-table dump, and {name} is of xentrace")
        checked = cross_check(reading.trace, other, slice_ns)
        lacks = checked.missing > 0 and not checked.are_rings
        return xentrace_pairs(checked, other, name), lacks or checked.surplus > 0
    if slice_ns is not None:
        raise UsageError(f"--slice goes with a file of xentrace, and {name} is a grant-table "
                         "dump")
    model = _model(reading, request)
    parts, events = [], 0
    number = None if at is None else _events_up_to(reading.trace, *at)
    for segment in engine_named(request.engine)(
            reading.trace, model, Options(judge_writes=False)):
        parts.append(segment.shares)
        events += len(segment.events)
    found = check_grants(Shares.concat(parts), events, other, reading.trace.domain,
                         None if number is None else min(number, events))
    return grants_pairs(found, name), found.at.distance > 0 and not found.are_rings


def _read_other(name: str) -> Xentrace | GrantDump:
    with open_input(name) as opened:
        if looks_like_xentrace(opened.first):
            return read_xentrace(opened.stream, name)
        # In a whole `xl dmesg` the dump may be far down.
        is_text = b"\0" not in opened.first
        if looks_like_grant_dump(opened.first) or is_text:
            return read_grant_dump(opened.stream, name)
        raise InputError(
            "neither a file of xentrace nor a grant-table dump (xl debug-keys g; xl dmesg)",
            source=name)


def _events_up_to(trace: Trace, point: int, is_time: bool) -> int:
    """How many events there are up to a point, itself included."""
    if not is_time:
        return point + 1
    before = 0
    for events in trace.chunks():
        later = events.time > point
        if later.any():
            return before + int(later.argmax())
        before += len(events)
    return before
