"""What `check --model` says: the agreement of model and machine as named values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xenm2p.compare.agreement import Agreement
from xenm2p.trace import format_frame

Pairs = list[tuple[str, Any]]


def agreement_pairs(
    shown: Agreement, kernel_from: str, all_models: Sequence[Agreement], set_p2m: int
) -> Pairs:
    """The agreement of one model, its first misses, and where several were tried a table.

    `set_p2m`: writes of the trace that no map or unmap explains, which are replayed.
    """
    pairs: Pairs = [
        ("model", shown.model.name), ("model_from", kernel_from),
        ("agreement_percent", shown.percent() if shown.writes else None),
        ("p2m_writes", shown.writes), ("agreed", shown.agreed),
        ("unexplained", shown.unexplained), ("never_written", shown.unwritten),
        ("unsure", shown.unsure), ("not_compared", set_p2m),
    ]
    if len(all_models) > 1:
        pairs.append(("models", [_model_row(each) for each in all_models]))
    if len(shown.first):
        pairs.append(("first_misses", _misses(shown)))
    return pairs


def _model_row(found: Agreement) -> dict[str, Any]:
    return {"model": found.model.name, "agreed": found.agreed,
            "unexplained": found.unexplained, "never_written": found.unwritten,
            "percent": found.percent()}


def _misses(found: Agreement) -> list[dict[str, Any]]:
    """One row a miss: the entry that the model has, and that which the machine wrote."""
    first = found.first
    rows = []
    for i in range(len(first)):
        is_unwritten = first.value[i] == 1
        model, machine = (first.new[i], None) if is_unwritten else (first.old[i], first.new[i])
        rows.append({
            "event": int(first.event[i]), "pfn": format_frame(int(first.pfn[i])),
            "model": format_frame(int(model)),
            "machine": None if machine is None else format_frame(int(machine)),
            "why": _why(bool(first.unknown[i]), is_unwritten),
        })
    return rows


def _why(unsure: bool, is_unwritten: bool) -> str:
    if unsure:
        return "events were lost"
    return "never written" if is_unwritten else "not the model's"
