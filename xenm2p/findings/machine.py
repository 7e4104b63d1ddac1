"""Machine: where what was seen on the machine and the replay part."""

from __future__ import annotations

from xenm2p.engine.replay import NO_EVENT
from xenm2p.findings.rule import Context, Row, Rule, Severity, always, page
from xenm2p.trace import NO_CPU, format_frame


def _model_mismatch(row: Row, context: Context) -> str:
    if row.value == 1:
        return (f"the model turned {page(row.pfn)} {format_frame(row.old)} -> "
                f"{format_frame(row.new)}, the machine never wrote it")
    return (f"the machine wrote {format_frame(row.new)} to {page(row.pfn)}, where the model "
            f"has {format_frame(row.old)}")


def _lost_events(row: Row, context: Context) -> str:
    count = "events" if row.value < 0 else f"{row.value} event{'s' * (row.value != 1)}"
    where = "" if row.cpu == NO_CPU else f" on cpu {row.cpu}"
    since = "" if row.other == NO_EVENT else f" after event {row.other}"
    return f"the tracer lost {count}{where}{since}: pages touched there are unsure"


RULES = (
    Rule(
        501, "model-mismatch", "machine",
        what="A p2m write seen on the machine that the model does not explain, or a change the "
             "model made that the machine never wrote.",
        grading="error: the replay is not what the machine did, and its findings may be wrong. "
                "Judged only under the traced kernel's own model.",
        cure="Check --kernel and --memory against the traced machine; if both are right, the "
             "model or the capture is wrong: report it.",
        severity=always(Severity.ERROR), text=_model_mismatch, entries=("old", "new"),
    ),
    Rule(
        502, "lost-events", "machine",
        what="The tracer lost events, as it says or as the p2m writes prove: what the replay "
             "says of pages touched around the loss is unknown until a p2m write of the page "
             "agrees again.",
        grading="warning: what is missing may have been the map or unmap that matters.",
        cure="Trace again with larger buffers (buffer_size_kb) or fewer events.",
        severity=always(Severity.WARNING), text=_lost_events, event_cells=("cpu",),
    ),
)
