"""`xenm2p capture`: the script comes out, mistakes are told."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from xenm2p.formats.capture import TOOLS


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_a_script_for_a_kernel_of_today(xenm2p: Run, tool: str) -> None:
    done = xenm2p("capture", "--kernel", "6.12.3-amd64", "--tool", tool)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("#!/bin/sh\n# Captures Xen grant maps")
    assert "for Linux 6.12, kernel model p2m-only-continue, on x86-64" in done.out
    assert "__set_phys_to_machine" in done.out


def test_a_model_stands_for_the_first_version_that_behaves_so(xenm2p: Run) -> None:
    by_model = xenm2p("capture", "-k", "kmap-only").out
    assert by_model == xenm2p("capture", "-k", "3.15").out
    assert "m2p_add_override" in by_model and "[44]" not in by_model


def test_without_a_kernel_it_is_the_one_that_runs_here(
    xenm2p: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "release", lambda: "5.10.0-9-amd64")
    assert xenm2p("capture").out == xenm2p("capture", "-k", "5.10").out
    monkeypatch.setattr(platform, "release", lambda: "2.6.32-5-xen")
    done = xenm2p("capture")
    assert done.status == 2
    assert "the kernel that runs here is of no use" in done.err and "--kernel" in done.err


def test_the_options_reach_the_script(xenm2p: Run) -> None:
    out = xenm2p("capture", "-k", "6.1", "--no-locks", "--returns", "--pages", "16",
                 "--buffer-kb", "4096", "--duration", "30").out
    assert "\nbuffer_kb=4096\n" in out and "\nseconds=30\n" in out
    assert "set_foreign_ret" in out and "x64[64]" in out and "folio_unlock" not in out


def test_the_script_goes_into_a_file_once(xenm2p: Run, tmp_path: Path) -> None:
    path = tmp_path / "capture.sh"
    assert xenm2p("capture", "-k", "6.1", "-o", path).status == 0
    before = path.read_text()
    again = xenm2p("capture", "-k", "4.4", "-o", path)
    assert again.status == 2 and "--force overwrites it" in again.err
    assert path.read_text() == before
    assert xenm2p("capture", "-k", "4.4", "-o", path, "--force").status == 0
    assert path.read_text() != before


@pytest.mark.parametrize(("arguments", "said"), [
    (["--kernel", "six"], "unknown kernel 'six'"),
    (["--kernel", "kmap-olny"], "did you mean 'kmap-only'?"),
    (["--kernel", "2.6.32"], "Linux before 2.6.38 had no m2p override"),
    (["--tool", "perff"], "did you mean 'perf'?"),
    (["--pages", "17"], "17 is not in the range"),
    (["--buffer-kb", "0"], "0 is not in the range"),
    (["-k", "3.10", "--tool", "bpftrace"], "bpftrace needs Linux 4.9, not 3.10"),
    (["trace.txt"], "unexpected extra argument"),
])
def test_a_mistake_exits_with_2(xenm2p: Run, arguments: list[str], said: str) -> None:
    done = xenm2p("capture", *arguments)
    assert (done.status, done.out) == (2, "")
    assert said in done.err


UNLOCKED = """\
# tracer: nop
           mount-99      [000] .....   100.000003: folio_unlock: (folio_unlock+0x0/0x20) \
folio=0xfffff87f400b8500 flags=0x1
"""


@pytest.mark.parametrize("command", [
    ["convert", "--to", "yaml", "-o", "-"], ["export", "-t", "events", "-f", "csv"]])
def test_vmemmap_base_says_where_pages_begin(
    xenm2p: Run, tmp_path: Path, command: list[str]
) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(UNLOCKED)
    done = xenm2p(*command, "--vmemmap-base", "0xfffff87f40000000", path)
    assert done.status == 0
    assert "0x2e14" in done.out
    assert "0x2e14" not in xenm2p(*command, path).out
    kinds = "unlock_page 1"
    for name in ("info", "check"):
        assert kinds in xenm2p(name, "--vmemmap-base", "0xfffff87f40000000", path).out
        assert kinds not in xenm2p(name, path).out


def test_vmemmap_base_is_part_of_the_command_that_is_shown_again(
    xenm2p: Run, tmp_path: Path
) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(UNLOCKED)
    out = xenm2p("replay", "--vmemmap-base", "0xfffff87f40000000", path).out
    assert "--vmemmap-base 0xfffff87f40000000" in out


@pytest.mark.parametrize("address", ["vmemmap", "-1", "0x1ffffffffffffffff", ""])
def test_an_address_that_is_none_is_a_usage_error(
    xenm2p: Run, tmp_path: Path, address: str
) -> None:
    done = xenm2p("replay", "--vmemmap-base", address, tmp_path / "trace.txt")
    assert done.status == 2
    assert "is not a decimal or 0x number" in done.err
