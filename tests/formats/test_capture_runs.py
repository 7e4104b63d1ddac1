"""The capture scripts at work, on a machine that is nothing but files.

The script reads and writes a tracefs of files as it would the kernel's; a command that it
runs stands for what the kernel traces meanwhile, and shell scripts for the tracers.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.formats.capture_machine import environment, run, script_for
from xenm2p.formats.detect import read_trace
from xenm2p.trace import Kind, Trace

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


@pytest.fixture(autouse=True)
def ftrace_script(machine: Path) -> None:
    script_for(machine, "ftrace")


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
    script_for(machine, "ftrace", "5.10")
    done = run(machine, "-o", "out.txt", "true")
    assert done.returncode == 0
    assert "warning: this is Linux 6.1.0-56-amd64, the probes are for 5.10" in done.stderr
    (machine / "tools" / "uname").write_text("#!/bin/sh\necho aarch64\n")
    assert "aarch64: the probes are for x86-64" in run(machine, "-o", "o2.txt").stderr


def tracer(machine: Path, name: str, text: str) -> None:
    """A tracer that keeps a log of how it is called, and then does as `text` says."""
    path = machine / "tools" / name
    path.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{machine}/log\n{text}")
    path.chmod(0o755)


def log(machine: Path) -> list[str]:
    return (machine / "log").read_text().splitlines()


TRACE_CMD = """\
while [ "$1" != -o ]; do shift; done
out=$2
while [ "$1" != true ]; do shift; done
"$@" && echo trace.dat >"$out"
echo 513 >tracefs/buffer_size_kb
echo 'local [global] counter uptime' >tracefs/trace_clock
"""


def test_trace_cmd_records_the_probes_that_are_set(machine: Path) -> None:
    script_for(machine, "trace-cmd")
    tracer(machine, "trace-cmd", TRACE_CMD)
    done = run(machine, "-b", "512", "-o", "out.dat", "true")
    assert done.returncode == 0, done.stderr
    [called] = log(machine)
    assert called.startswith("record -C global -b 512 -o out.dat -e p2m:set_p2m -e gnt:")
    assert "-e filemap:mm_filemap_add_to_page_cache -e pagelock:folio_unlock true" in called
    assert (machine / "out.dat").read_text() == "trace.dat\n"
    lines = (machine / "tracefs" / "kprobe_events").read_text().splitlines()
    assert (machine / "tracefs" / "buffer_size_kb").read_text() == "7\n"
    assert len(lines) == 14 and lines[7:] == [f"-:{line.split()[0][2:]}" for line in lines[:7]]
    assert (machine / "tracefs" / "trace_clock").read_text() == "local\n"


PERF = """\
case $1 in
    record) : ;;
    script) cat %s/traced; exit ;;
    *) exit ;;
esac
while [ "$1" != -o ]; do shift; done
echo perf.data >"$2"
"""
PERF_LINE = ("            mount    99 [000]   100.000000003:         probe:set_p2m: "
             "(ffffffff81021d10) pfn=0x8000 mfn=0x8000000000050010\n")


def test_perf_sets_records_prints_and_removes(machine: Path) -> None:
    script_for(machine, "perf")
    tracer(machine, "perf", PERF % machine)
    (machine / "traced").write_text(PERF_LINE)
    done = run(machine, "-b", "512", "-o", "out.txt", "true")
    assert done.returncode == 0, done.stderr
    calls = log(machine)
    added = [line.split("--add ")[1].split("=")[0] for line in calls if "--add" in line]
    removed = [line.split("--del probe:")[1] for line in calls if "--del" in line]
    assert added == removed and len(added) == 7
    [recorded] = [line for line in calls if line.startswith("record ")]
    assert recorded.startswith("record -q -a -m 128 -o out.txt.perf -e probe:set_p2m")
    assert recorded.endswith(
        "-e filemap:mm_filemap_add_to_page_cache -e probe:folio_unlock -- true")
    events = read_trace(str(machine / "out.txt")).events()
    assert events.kind.tolist() == [Kind.MAP, Kind.P2M_WRITE]
    assert not (machine / "out.txt.perf").exists()


# As bpftrace it takes SIGINT, though a shell starts what is in the background without.
BPFTRACE = """\
#!{python}
import shutil, signal, sys, time
if sys.argv[1] == "-e":
    print("base ffffea0000000000")
    sys.exit()
signal.signal(signal.SIGINT, lambda *_: sys.exit())
shutil.copy(sys.argv[3], "{machine}/program")
print("Attaching 8 probes...")
print('{{"time":3,"cpu":1,"pid":9,"probe":"set_p2m","pfn":"0x8000","mfn":"0x8000000000050010",'
      '"comm":"odd }} name"}}')
print("Lost 12 events")
for line in open("/proc/stat"):
    if line.startswith("cpu") and not line.startswith("cpu "):
        print("tick", line.split()[0][3:], 99999999999, flush=True)
time.sleep(60)
"""


def test_bpftrace_runs_the_program_and_its_losses_are_kept(machine: Path) -> None:
    script_for(machine, "bpftrace")
    path = machine / "tools" / "bpftrace"
    path.write_text(BPFTRACE.format(python=sys.executable, machine=machine))
    path.chmod(0o755)
    tracer(machine, "id", "echo 0\n")
    with (machine / "proc" / "kallsyms").open("a") as symbols:
        symbols.write("ffffffff825d5598 D vmemmap_base\n")
    done = run(machine, "-o", "out.jsonl", "true")
    assert done.returncode == 0, done.stderr
    assert "warning: events were lost" in done.stderr
    rows = [json.loads(line) for line in (machine / "out.jsonl").read_text().splitlines()]
    assert rows[0] == {"xenm2p": "capture", "version": 1, "tool": "bpftrace",
                       "kernel": "6.1.0-56-amd64", "vmemmap_base": "0xffffea0000000000"}
    assert [row["probe"] for row in rows[1:]] == ["set_p2m", "lost"]
    kinds = read_trace(str(machine / "out.jsonl")).events().kind.tolist()
    assert sorted(kinds) == [Kind.MAP, Kind.P2M_WRITE, Kind.LOST]
    program = (machine / "program").read_text()
    probed = re.findall(r"^kprobe:(\w+)$", program, re.M)
    assert probed == ["__set_phys_to_machine", "gnttab_update_entry_v1",
                      "gnttab_end_foreign_access_ref_v1", "set_foreign_p2m_mapping",
                      "clear_foreign_p2m_mapping", "folio_unlock"]
    assert {path.name for path in machine.glob("out*")} == {"out.jsonl"}


@pytest.mark.parametrize("tool", ["trace-cmd", "perf", "bpftrace"])
def test_a_tracer_that_is_not_there_is_told(machine: Path, tool: str) -> None:
    script_for(machine, tool)
    environ = environment(machine) | {"PATH": f"{machine / 'tools'}:{machine / 'few'}"}
    (machine / "few").mkdir()
    for name in ("sh", "awk", "sed", "grep", "cat"):
        (machine / "few" / name).symlink_to(Path("/usr/bin") / name)
    done = subprocess.run(["/bin/sh", "capture.sh"], cwd=machine, env=environ, text=True,
                          capture_output=True)
    assert done.returncode == 1
    assert f"{tool} is not installed" in done.stderr
