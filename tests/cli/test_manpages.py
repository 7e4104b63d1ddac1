"""The manual pages: every command has one, and they say what --help says."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from xenm2p.cli.app import COMMANDS, command_objects
from xenm2p.cli.manpages import pages, roff
from xenm2p.findings import RULES
from xenm2p.report.fields import TABLES

MAN = Path(__file__).parents[2] / "man"


@pytest.mark.parametrize("page", ["xenm2p.1", *(f"xenm2p-{name}.1" for name in COMMANDS)])
def test_the_committed_page_is_what_the_commands_say_now(page: str) -> None:
    # If this fails: python -m xenm2p.cli.manpages man/
    assert (MAN / page).read_text() == pages()[page]


def test_there_is_no_page_without_a_command() -> None:
    assert {path.name for path in MAN.glob("*.1")} == set(pages())


def test_every_option_is_on_its_page() -> None:
    for name, command in command_objects():
        text = pages()[f"xenm2p-{name}.1"]
        for param in command.params:
            if isinstance(param, click.Option):
                assert all(roff(flag) in text for flag in param.opts), (name, param.opts)


def test_export_documents_every_column() -> None:
    text = pages()["xenm2p-export.1"]
    for table in TABLES.values():
        for field in table.fields:
            assert f"\\fB{roff(field.name)}\\fR\n{roff(field.help)}" in text


def test_replay_documents_every_finding() -> None:
    text = pages()["xenm2p-replay.1"]
    for rule in RULES.values():
        assert roff(f"{rule.id} {rule.name}") in text


def test_roff_escapes_what_roff_would_take_for_its_own() -> None:
    assert roff(".x -y \\z\n'w") == "\\&.x \\-y \\ez\n\\&'w"
