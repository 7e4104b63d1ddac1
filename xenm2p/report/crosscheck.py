"""What `check --against` says: a trace beside what the hypervisor tells, as named values."""

from __future__ import annotations

from typing import Any

from xenm2p.compare.against_grants import Difference, GrantCheck
from xenm2p.compare.against_xentrace import CrossCheck, Slice
from xenm2p.compare.clocks import Clocks
from xenm2p.formats.xentrace import Grant, Xentrace
from xenm2p.trace import format_frame

Pairs = list[tuple[str, Any]]

MAX_DIFFERENCES = 20
_RINGS = ("ring pages, it seems: xenbus maps them itself, outside of gnttab_map_refs, so that no "
          "capture has them")


def xentrace_pairs(found: CrossCheck, xen: Xentrace, against: str) -> Pairs:
    """Counts of a trace and of xentrace, by domain and slice."""
    clocks = found.clocks
    pairs: Pairs = [
        ("against", against),
        ("against_format", "xentrace"),
        ("against_records", xen.records),
        ("against_transfers", int((xen.kind == Grant.TRANSFER).sum())),
        ("against_lost", xen.lost),
        ("against_ends_early", xen.cut),
        ("clocks", _clocks(clocks)),
    ]
    if clocks is not None:
        pairs += [("cycles_per_second", round(clocks.hertz)), ("clock_error_ns", clocks.error_ns),
                  ("clock_drift_ns", clocks.drift_ns), ("clock_moments", len(clocks.cycles))]
    pairs += [
        ("missing_maps", found.missing_maps),
        ("missing_unmaps", found.missing - found.missing_maps),
        ("missing_why", _why_missing(found, xen)),
        ("surplus", found.surplus), ("surplus_why", _why_surplus(found, xen)),
    ]
    return [*pairs, ("slices", [_slice(each, found) for each in found.slices])]


def _clocks(clocks: Clocks | None) -> str:
    if clocks is None:
        return ("not aligned: too little of the order of maps and unmaps is the same; only "
                "totals are compared")
    return (f"aligned by {len(clocks.cycles)} moments that both recordings have: runs of "
            f"{clocks.runs} maps and unmaps that occur once; 99 of 100 are within "
            f"{clocks.error_ns / 1e6:.3f} ms of what their neighbours say")


def _why_missing(found: CrossCheck, xen: Xentrace) -> str | None:
    if found.are_rings:
        return (f"{_RINGS}; the trace has {found.mapped.unmapped} grants that it never maps")
    if found.missing:
        return ("the capture lost them, or others made them: xenbus (ring pages), another domain "
                "that maps grants")
    return "xentrace lost records: the capture may lack more" if xen.lost else None


def _why_surplus(found: CrossCheck, xen: Xentrace) -> str | None:
    if not found.surplus:
        return None
    if xen.lost or xen.cut:
        return "xentrace lost records, or ends early"
    return ("xentrace has fewer than the trace: it was not on all the time or not for grants (-e "
            "0x0010f000), or it is of another run")


def _slice(each: Slice, found: CrossCheck) -> dict[str, Any]:
    """One row; a slice ends where the next one of its domain begins."""
    start, span = found.mapped.first, found.mapped.last - found.mapped.first
    digits = 6 if span < 10**9 else 4 if span < 10**12 else 3
    return {
        "from_s": None if each.first is None else round((each.first - start) / 1e9, digits),
        "domid": each.domid, "maps": each.maps, "xen_maps": each.xen_maps,
        "unmaps": each.unmaps, "xen_unmaps": each.xen_unmaps,
        "missing": None if each.outside else each.missing,
    }


def grants_pairs(found: GrantCheck, against: str) -> Pairs:
    """Live shares of the replay beside the active entries of a grant-table dump."""
    at, end = found.at, found.end
    first, last = found.best_events
    differences = at.differences[:MAX_DIFFERENCES]
    pairs: Pairs = [
        ("against", against), ("against_format", "grant-table dump"),
        ("dump_entries", found.dump), ("entries_of_others", found.of_others),
        ("compared_by", "grant and frame" if found.by_ref else
         "frame: maps in the trace do not tell their grants"),
        ("fits_best", f"after {first} events" if first == last else
         f"after {first} to {last} events"),
        ("after_events", at.events), ("agreed_mappings", at.agreed),
        ("differing_mappings", at.distance), ("shares_of_unknown_frame", at.unknown),
        ("differing_at_the_end", end.distance),
        ("differing_why", _RINGS if found.are_rings else None),
    ]
    if len(at.differences) > len(differences):
        pairs.append(("differences_left_out", len(at.differences) - len(differences)))
    if differences:
        pairs.append(("differences", [_difference(each, at.unknown) for each in differences]))
    return pairs


def _difference(each: Difference, unknown: int) -> dict[str, Any]:
    never = "never, or frame unknown" if unknown else "never mapped"
    return {"domid": each.domid, "ref": each.ref, "mfn": format_frame(each.mfn),
            "dump": each.dump, "replay": each.replay,
            "in_trace": never if each.never else "mapped at some time"}
