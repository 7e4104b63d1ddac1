"""The one table of rules, from which docs and man pages take what they say."""

import pytest

from xenm2p.engine.replay import Fact
from xenm2p.findings import RESERVED, RULES, Severity
from xenm2p.findings.catalogue import severity_under
from xenm2p.kernels import MODELS, OVERRIDE, P2M_ONLY

IDS = ["XM101", "XM102", "XM103", "XM201", "XM202", "XM203", "XM204", "XM205", "XM301", "XM302",
       "XM303", "XM304", "XM305", "XM306", "XM401", "XM402", "XM403", "XM404", "XM501", "XM502"]


def test_the_ids_are_those_of_the_design_in_its_order():
    assert list(RULES) == IDS


def test_a_reserved_id_is_not_among_the_rules():
    assert RESERVED.keys().isdisjoint(RULES)


@pytest.mark.parametrize("fact", Fact)
def test_every_fact_of_the_engines_has_its_rule_by_its_name(fact):
    assert RULES[f"XM{fact.value}"].name == fact.name.lower().replace("_", "-")


@pytest.mark.parametrize("rule", RULES.values(), ids=IDS)
def test_a_rule_says_what_how_bad_and_what_to_do(rule):
    for sentence in (rule.what, rule.grading, rule.cure):
        assert sentence.endswith(".") and "  " not in sentence
    assert any(severity.name.lower() in rule.grading for severity in Severity)


@pytest.mark.parametrize("rule", RULES.values(), ids=IDS)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_rules_severity_under_a_model_is_in_its_grading(rule, model):
    severity = Severity(int(severity_under(model)[rule.number]))
    assert severity == rule.severity(model)
    assert severity.name.lower() in rule.grading


def test_a_lost_frame_is_a_warning_only_where_it_is_lost():
    assert severity_under(P2M_ONLY)[205] == Severity.WARNING
    assert severity_under(OVERRIDE)[205] == Severity.INFO
