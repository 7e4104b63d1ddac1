"""What a user mistypes, and what --help, --version and completion answer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import DEADLOCK, PROGRAM, Run
from xenm2p import __version__
from xenm2p.cli.app import COMMANDS, command_objects
from xenm2p.cli.options import SEVERITIES, parse_point
from xenm2p.findings import Severity
from xenm2p.formats.binary_layout import MAX_CHUNK_EVENTS


def test_no_command_shows_the_help(xenm2p: Run) -> None:
    done = xenm2p()
    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_command_has_help_with_examples(
    xenm2p: Run, command: str | None, flag: str
) -> None:
    done = xenm2p(*([command] if command else []), flag)
    assert done.status == 0
    assert "Examples:" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_the_help_lists_every_command(xenm2p: Run) -> None:
    out = xenm2p("--help").out
    for name, text in COMMANDS.items():
        assert f"  {name} " in out
        assert text in out


def test_every_option_has_help_and_a_place_to_type_it() -> None:
    for name, command in command_objects():
        for param in command.params:
            assert param.param_type_name == "argument" or getattr(param, "help", None), (
                name, param.name)


def test_version(program: Run) -> None:
    done = program("--version")
    assert (done.status, done.out) == (0, f"xenm2p {__version__}\n")


def test_help_loads_neither_numpy_nor_yaml() -> None:
    code = f"""if True:
        import sys
        from xenm2p.cli.app import cli
        for command in ([], {', '.join(f"['{name}']" for name in COMMANDS)}):
            cli([*command, '--help'], standalone_mode=False)
        print(*sorted(sys.modules.keys() & {{'numpy', 'yaml', 'tabulate'}}), file=sys.stderr)
    """
    done = subprocess.run([PROGRAM[0], "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "\n")


@pytest.mark.parametrize(("arguments", "hint"), [
    (["replya", "t.yaml"], "did you mean 'replay'?"),
    (["replay", "--kernle", "3.4", "t.yaml"], "--kernel"),
    (["replay", "-f", "gihub", "t.yaml"], "did you mean 'github'?"),
    (["replay", "--fail-on", "eror", "t.yaml"], "did you mean 'error'?"),
    (["replay", "--engine", "vectr", "t.yaml"], "did you mean 'vector'?"),
    (["replay", "--kind", "lookpu", "t.yaml"], "did you mean 'lookup'?"),
    (["replay", "--kernel", "local-foriegn", "t.yaml"], "did you mean 'local-foreign'?"),
    (["replay", "--kernel", "2.6.32", "t.yaml"], "before 2.6.38"),
    (["replay", "--pfn", "F:0x10", "t.yaml"], "not a decimal or 0x number"),
    (["replay", "--pfn", "010", "t.yaml"], "not a decimal or 0x number"),
    (["replay", "--pfn", "0x20-0x10", "t.yaml"], "ends before it begins"),
    (["replay", "--from", "1.5", "t.yaml"], "nor a time with its unit"),
    (["replay", "--to", "-3", "t.yaml"], "nor a time with its unit"),
    (["export", "t.yaml"], "'-t' / '--table'"),
    (["export", "-t", "event", "t.yaml"], "did you mean 'events'?"),
    (["convert", "t.yaml", "-o", "out.xm2"], "did you mean '.xm2p'?"),
    (["convert", "t.yaml", "-o", "-"], "--to yaml or --to xm2p"),
    (["convert", "t.yaml", "-o", "o.yaml", "--compress", "zlib"], "of .xm2p files only"),
    (["convert", "t.yaml"], "'-o' / '--output'"),
    (["generate", "same-domian", "-o", "o.xm2p"], "did you mean 'same-domain'?"),
    (["replay"], "TRACE"),
])
def test_a_mistake_exits_with_2_and_names_what_was_meant(
    xenm2p: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = xenm2p(*arguments)
    assert done.status == 2
    assert hint in done.err
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_names_the_one_that_is_there(xenm2p: Run, deadlock: Path) -> None:
    done = xenm2p("replay", deadlock.with_name("deadlok.yaml"))
    assert done.status == 3
    assert "no such file" in done.err and "did you mean 'deadlock.yaml'" in done.err


def test_a_file_name_with_control_characters_is_spelled_out(xenm2p: Run) -> None:
    done = xenm2p("replay", "a\n\x1b[31mb.yaml", "c.yaml")
    assert done.err.splitlines() == [
        "xenm2p: a\\n\\x1b[31mb.yaml: no such file", "xenm2p: c.yaml: no such file"]


def test_empty_input_is_one_line(program: Run) -> None:
    for command in (["replay"], ["info"], ["check"], ["export", "-t", "events"]):
        done = program(*command, "-")
        assert done.status == 3
        assert done.err == "xenm2p: -: the file is empty\n"


def test_a_directory_as_trace_is_one_line(xenm2p: Run, tmp_path: Path) -> None:
    for command in (["replay"], ["info"], ["check"]):
        done = xenm2p(*command, tmp_path)
        assert done.status == 3
        assert done.err.count("\n") == 1 and str(tmp_path) in done.err


def test_an_unusable_traced_kernel_names_the_way_out(xenm2p: Run) -> None:
    trace = 'format: xenm2p-trace\nversion: 1\nkernel: "2.6.32"\nevents: []\n'
    done = xenm2p("replay", "-", stdin=trace)
    assert done.status == 3  # it stands in the input, not on the command line
    assert "--traced-kernel" in done.err
    assert xenm2p("replay", "--traced-kernel", "3.4", "-", stdin=trace).status == 0


@pytest.mark.parametrize(("text", "point"), [
    ("0", (0, False)), ("1200", (1200, False)), ("7ns", (7, True)), ("20us", (20_000, True)),
    ("1.5s", (1_500_000_000, True)), ("1500ms", (1_500_000_000, True)),
    ("0.000000001s", (1, True)), ("1.50ns", None), ("1.10s", (1_100_000_000, True)),
    ("0.0000000001s", None), ("1.0ns", (1, True)), ("1m", None), ("-1", None), ("1e3", None),
    ("", None), ("s", None), ("1 s", None), ("٣", None)])
def test_points_are_event_numbers_or_times_with_a_unit(
    text: str, point: tuple[int, bool] | None
) -> None:
    assert parse_point(text) == point


def test_the_severities_are_those_of_the_findings() -> None:
    assert tuple(severity.name.lower() for severity in Severity) == SEVERITIES


@pytest.mark.parametrize(("words", "expected"), [
    ("xenm2p ", "plain,generate"),
    ("xenm2p replay --kernel kmap", "plain,kmap-only"),
    ("xenm2p export -t tr", "plain,transitions"),
    ("xenm2p export --kind dio_r", "plain,dio_read"),
    ("xenm2p generate multi", "plain,multi-share"),
    ("xenm2p capture --tool tr", "plain,trace-cmd"),
    ("xenm2p capture --kernel 5", "plain,5.10"),
    ("xenm2p replay tra", "file,tra"),
])
def test_bash_completion(words: str, expected: str) -> None:
    code = "from xenm2p.cli import main; main()"
    parts = words.split(" ")
    done = subprocess.run(
        [PROGRAM[0], "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "_XENM2P_COMPLETE": "bash_complete", "COMP_WORDS": words,
             "COMP_CWORD": str(len(parts) - 1)})
    assert expected in done.stdout.splitlines()


@pytest.mark.parametrize(("words", "said"), [
    (["--from", "30", "--to", "10"], "--to is before --from"),
    (["--from", "2s", "--to", "1500ms"], "--to is before --from"),
    (["--pfn", "-1"], "'-1' is not a decimal or 0x number"),
])
def test_a_window_or_span_that_cannot_be_is_a_usage_error(
    xenm2p: Run, deadlock: Path, words: list[str], said: str
) -> None:
    done = xenm2p("replay", *words, str(deadlock))
    assert (done.status, done.out) == (2, "")
    assert said in done.err


def test_more_events_than_the_format_is_made_for_are_refused(
    xenm2p: Run, tmp_path: Path
) -> None:
    done = xenm2p("generate", "locks", "--events", str(10**20), "-o", str(tmp_path / "t.xm2p"))
    assert (done.status, [*tmp_path.iterdir()]) == (2, [])


def test_more_events_in_a_chunk_than_the_format_has_is_a_usage_error(
    xenm2p: Run, tmp_path: Path
) -> None:
    done = xenm2p("generate", "locks", "--chunk-events", MAX_CHUNK_EVENTS + 1,
                  "-o", tmp_path / "large.xm2p")
    assert done.status == 2
    assert f"1<=x<={MAX_CHUNK_EVENTS}" in done.err


@pytest.mark.parametrize("kernel", ["foo", "2.6.37"])
def test_a_kernel_of_the_trace_that_is_none_is_unreadable_input(
    xenm2p: Run, tmp_path: Path, kernel: str
) -> None:
    trace = tmp_path / "trace.yaml"
    trace.write_text(DEADLOCK.replace("3.4.5", kernel))
    done = xenm2p("replay", trace)
    assert done.status == 3
    assert done.err.startswith(f"xenm2p: {trace}: 'kernel': ")
    assert "--traced-kernel overrides it" in done.err
    assert xenm2p("replay", "--traced-kernel", "3.5", trace).status == 0
