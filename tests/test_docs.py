"""README, CHANGELOG and CI say what is so."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.readme import README, blocks, played
from xenm2p import __version__
from xenm2p.cli.app import COMMANDS, cli
from xenm2p.cli.manpages import COMPLETION, EXIT_STATUS
from xenm2p.findings import RULES
from xenm2p.kernels import MODELS
from xenm2p.report.formats import WRITERS

ROOT = README.parent
TEXT = README.read_text(encoding="utf-8")
ONE_LINERS = re.findall(r"^python3 -m venv .*$", TEXT, re.MULTILINE)


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("number", range(len(blocks(TEXT))))
def test_readme_shows_what_the_commands_give(number: int) -> None:
    # If this fails: python -m tests.readme
    block = blocks(TEXT)[number]
    assert played(block) == block


def test_readme_opens_with_what_the_tool_shows() -> None:
    assert TEXT.index("```console") < TEXT.index("```sh")


def test_the_first_command_installs_and_finds_the_deadlocks_of_2012() -> None:
    install, _, replay = ONE_LINERS[0].rpartition(" && ")
    assert install.endswith(".venv/bin/pip install -q .")
    program, *words = shlex.split(replay)
    assert program == ".venv/bin/xenm2p"
    result = CliRunner().invoke(cli, words)
    assert "5 deadlock" in result.stdout
    assert result.exit_code == 1  # as the text above the command says


def test_the_second_command_installs_and_tests_and_ci_runs_it() -> None:
    assert ONE_LINERS[1].endswith("-m pytest -q")
    assert "'.[test]'" in ONE_LINERS[1]
    extract = re.search(r"command=\$\((.*)\)", (ROOT / ".ci" / "run").read_text())
    assert extract is not None
    found = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.rstrip("\n") == ONE_LINERS[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_readme_and_has_a_manual_page(command: str) -> None:
    assert f"| `xenm2p {command}` | {COMMANDS[command]} |" in TEXT
    assert (ROOT / "man" / f"xenm2p-{command}.1").is_file()


def test_readme_has_every_model_with_its_commits() -> None:
    for model in MODELS.values():
        commits = ", ".join(change.commit for change in model.brought_by)
        assert f"| `{model.name}` | {model.versions} | {commits} |" in TEXT


def test_readme_has_every_finding() -> None:
    for rule in RULES.values():
        assert f"| {rule.id} | {rule.name} |" in TEXT


def test_readme_has_every_format_exit_status_and_shell() -> None:
    assert all(f"`{name}`" in TEXT for name in WRITERS)
    assert all(f"| {status} | {meaning} |" in TEXT for status, meaning in EXIT_STATUS)
    assert all(line in TEXT for _, line, _ in COMPLETION)


def test_every_file_that_readme_names_is_there() -> None:
    for name in re.findall(r"`?((?:man|traces|tests|\.ci)/[\w./-]*)", TEXT):
        assert (ROOT / name).exists(), name


def test_the_changelog_knows_this_version() -> None:
    text = Path("CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^##+ .*\b{re.escape(__version__)}\b", text, re.MULTILINE)
    assert "## [Unreleased]" in text
