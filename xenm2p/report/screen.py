"""What `replay` shows on one screen, as blocks that any markup can render."""

from __future__ import annotations

from collections.abc import Iterator

from xenm2p.engine.replay import NO_EVENT, Collisions, Verdict
from xenm2p.findings import Context, Rule, Severity, describe
from xenm2p.kernels import MODELS, Difference, KernelModel
from xenm2p.report.markup import Block, Items, Lines, Rows, Verbatim
from xenm2p.report.markup import Heading as Title
from xenm2p.report.overview import Heading, Overview
from xenm2p.trace import Trace, format_frame

MAX_NOTES = 6
# Lines for first examples, shared among the rules that found something, and the most
# that any one rule gets.
EXAMPLE_LINES = 10
MAX_EXAMPLES = 3


def screen(
    heading: Heading, overview: Overview, trace: Trace, more: dict[str, list[str]]
) -> Iterator[Block]:
    """The blocks of one replay, complete.

    `more` gives the commands, as lines, that tell the story of the worst finding and show
    all findings and all events; where it has none, none is named.
    """
    model = heading.model
    name = "standard input" if heading.name == "-" else heading.name
    yield Title(f"{name} under {model.name} (Linux {model.versions})")
    yield Items(list(_items(heading, overview, trace)))
    yield from _collisions(overview, trace)
    yield from _findings(overview, Context(trace, model))
    if len(overview.tally) and overview.selection.everything and "story" in more:
        yield Lines(["The story of the worst:"])
        yield Verbatim(more["story"])
    shown = [name for name, is_some in (("findings", len(overview.tally) > 0),
                                        ("events", True)) if is_some and name in more]
    if shown:
        yield Lines([f"All {_join(shown)}:"])
        yield Verbatim([line for name in shown for line in more[name]])


def _items(heading: Heading, overview: Overview, trace: Trace) -> Iterator[tuple[str, str]]:
    counts = overview.counts
    yield "trace", f"{_count(counts.events, 'event')}{_traced(heading.traced_kernel)}"
    yield "kernel", _kernel(heading, has_writes=bool(
        counts.writes_foreign or counts.writes_invalid or counts.writes_agreed))
    failed = f", {counts.failed_maps} failed" if counts.failed_maps else ""
    yield "grants", f"{_count(counts.maps, 'map')}{failed}, {_count(counts.unmaps, 'unmap')}"
    yield "FOREIGN", (
        f"set {counts.foreign_set} times, {counts.frontend_set} of them on frontend pages; "
        f"cleared {counts.foreign_cleared}, {counts.frontend_cleared} on frontend pages")
    if counts.locks:
        yield "locks", f"{_count(counts.locks, 'page lock')} taken"
    writes = counts.writes_foreign + counts.writes_invalid
    if writes or counts.writes_agreed:
        yield "machine", (
            f"wrote {counts.writes_foreign} FOREIGN and {counts.writes_invalid} INVALID p2m "
            f"entries; {counts.writes_agreed} writes are as the model has them")
    if counts.lost:
        yield "lost", f"{_count(counts.lost, 'event')} that the tracer told of"
    for note in trace.notes[:MAX_NOTES]:
        yield "note", note
    if len(trace.notes) > MAX_NOTES:
        yield "note", f"{len(trace.notes) - MAX_NOTES} more: xenm2p info"
    if not overview.selection.everything:
        yield "shown", "only what the filters choose; the counts above are of all events"


def _traced(kernel: str | None) -> str:
    if kernel is None:
        return ""
    # A capture tells its kernel's model by its symbols, but not always the version.
    return f", traced on {f'a {kernel} kernel' if kernel in MODELS else f'Linux {kernel}'}"


def _kernel(heading: Heading, *, has_writes: bool) -> str:
    if heading.what_if:
        unjudged = ": p2m writes seen on the machine are not judged (XM501)" * has_writes
        return f"{heading.kernel_from}; a what-if{unjudged}"
    if not heading.judged and has_writes:
        return (f"{heading.kernel_from}; p2m writes seen are not judged (XM501) without "
                "--traced-kernel")
    return heading.kernel_from


def _collisions(overview: Overview, trace: Trace) -> Iterator[Block]:
    total = overview.verdicts.total()
    if not total:
        return
    parts = [f"{overview.verdicts[verdict]} {verdict.name.lower()}"
             for verdict in Verdict if overview.verdicts[verdict]]
    yield Lines([f"{_count(total, 'collision')}: {', '.join(parts)}"])
    first = overview.first_collisions()
    headers = ("verdict", "page", "lock held by", "since", "shared at", "by", "dio")
    yield Rows(headers, [_collision_row(first, i, trace) for i in range(len(first))],
               wrap=frozenset({"lock held by"}), right=frozenset({"since", "by", "dio"}))
    legend = "since, by, dio: the events that took the lock, mapped the share, read into it"
    left = total - len(first)
    yield Lines([f"{legend}; {left} more"] if left else [legend])


def _collision_row(rows: Collisions, i: int, trace: Trace) -> list[str]:
    def event(number: int) -> str:
        return "-" if number == NO_EVENT else str(number)

    return [
        Verdict(rows.verdict[i]).name.lower(), format_frame(int(rows.pfn[i])),
        trace.task_name(int(rows.lock_task[i])) or "-", event(int(rows.lock_event[i])),
        format_frame(int(rows.backend_pfn[i])), event(int(rows.map_event[i])),
        event(int(rows.dio_event[i])),
    ]


def _findings(overview: Overview, context: Context) -> Iterator[Block]:
    tally = overview.tally
    rules = tally.rules()
    if not rules:
        yield Lines(["No findings."])
        return
    yield Rows(("finding", "severity", "count", "name"), [
        [rule.id, severity.name.lower(), str(count), rule.name]
        for rule in rules for severity, count in tally.of_rule(rule).items()
    ], right=frozenset({"count"}))
    examples = list(_examples(overview, rules, context))
    if examples:
        yield Lines(examples)
    cures = list(_cures(context.model, rules))
    if cures:
        yield Lines(cures)


def _examples(overview: Overview, rules: list[Rule], context: Context) -> Iterator[str]:
    """The first findings of each rule; those of XM101 stand in the table of collisions."""
    told = [rule for rule in rules if rule.id != "XM101"]
    each = min(MAX_EXAMPLES, max(1, EXAMPLE_LINES // (2 * max(1, len(told)))))
    for rule in told:
        first = overview.tally.first_of(rule)
        is_worth_several = rule.severity(context.model) > Severity.INFO
        for row in range(min(each if is_worth_several else 1, len(first))):
            yield f"{rule.id} event {first.event[row]}: {describe(first, row, context)}"


def cures_after(model: KernelModel, rule: Rule) -> list[Difference]:
    """The changes that end what a rule finds and that came after `model`."""
    order = list(MODELS.values())
    later = {difference for other in order[order.index(model) + 1:]
             for difference in other.brought_by}
    return [difference for difference in rule.cured_by if difference in later]


def _cures(model: KernelModel, rules: list[Rule]) -> Iterator[str]:
    """One line for each later kernel that ends some of what was found, the oldest first."""
    cured: dict[str, dict[Difference, list[str]]] = {}
    for rule in rules:
        for difference in cures_after(model, rule):
            ids = cured.setdefault(difference.version, {}).setdefault(difference, [])
            ids.append(rule.id)
    order = [difference.version for other in MODELS.values() for difference in other.brought_by]
    for version in sorted(cured, key=order.index):
        changes = list(cured[version])
        ids = sorted({id_ for found in cured[version].values() for id_ in found})
        stable = "".join(f" (and {change.stable})" for change in changes if change.stable)
        commits = (f"{changes[0].commit}, {changes[0].subject}" if len(changes) == 1
                   else _join([change.commit for change in changes]))
        yield f"Linux {version}{stable} cures {_join(ids)}: {commits}"


def worst_is_at_least(overview: Overview, severity: Severity) -> bool:
    """Whether a finding of this severity or a worse one was found."""
    return overview.tally.count(at_least=severity) > 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
