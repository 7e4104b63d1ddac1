"""All rules in one table, from which docs, man pages and reports take what they say."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from xenm2p.findings import collisions, lifetime, machine, marking, sequence
from xenm2p.findings.rule import Rule
from xenm2p.kernels import KernelModel

RULES: dict[str, Rule] = {
    rule.id: rule
    for family in (collisions, marking, sequence, lifetime, machine)
    for rule in family.RULES
}
RULE_BY_NUMBER: dict[int, Rule] = {rule.number: rule for rule in RULES.values()}
RULES_BY_ROW: tuple[Rule, ...] = tuple(
    rule for rule in RULES.values() if rule.severity_of_rows is not None)

# Ids whose meaning is fixed though no rule finds them yet; never to be given to another.
RESERVED: dict[str, str] = {}

_TABLE_SIZE = max(RULE_BY_NUMBER) + 1


@cache
def severity_under(model: KernelModel) -> NDArray[np.uint8]:
    """The severity of each rule under a model, indexed by the rule's number."""
    table = np.zeros(_TABLE_SIZE, np.uint8)
    for number, rule in RULE_BY_NUMBER.items():
        table[number] = rule.severity(model)
    table.flags.writeable = False
    return table


@cache
def rules_with_event_cell(name: str | None = None) -> NDArray[np.bool_]:
    """Which rules need that cell of their event, or any one; indexed by the rule's number."""
    table = np.zeros(_TABLE_SIZE, bool)
    for number, rule in RULE_BY_NUMBER.items():
        table[number] = name in rule.event_cells if name else bool(rule.event_cells)
    table.flags.writeable = False
    return table


EVENT_CELLS: tuple[str, ...] = tuple(
    sorted({name for rule in RULES.values() for name in rule.event_cells}))
