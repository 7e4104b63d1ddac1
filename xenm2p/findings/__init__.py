"""What a replay's observations mean: findings, one file a family of rules."""

from xenm2p.findings.catalogue import RESERVED, RULES
from xenm2p.findings.judge import (
    describe,
    entries_of,
    findings_of,
    proving_events,
    rule_of,
)
from xenm2p.findings.rule import Context, Findings, Rule, Severity
from xenm2p.findings.tally import Tally

__all__ = [
    "RESERVED", "RULES", "Context", "Findings", "Rule", "Severity", "Tally", "describe",
    "entries_of", "findings_of", "proving_events", "rule_of",
]
