"""A machine to run capture scripts on: files that stand for what the kernel has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from xenm2p.formats.capture import capture_script
from xenm2p.formats.capture_shell import CaptureRequest
from xenm2p.formats.probe_definitions import Target
from xenm2p.kernels import version_of

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
def build(tmp_path: Path) -> Path:
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
    return tmp_path


def environment(machine: Path) -> dict[str, str]:
    return {"PATH": f"{machine / 'tools'}:{os.environ['PATH']}", "PROC": str(machine / "proc"),
            "TRACEFS": str(machine / "tracefs")}


def script_for(machine: Path, tool: str, kernel: str = "6.1", **options: object) -> None:
    """Put the script of a tool there."""
    (machine / "capture.sh").write_text(capture_script(tool, request(kernel, **options)))


def request(kernel: str, **options: object) -> CaptureRequest:
    """A request as `xenm2p capture` makes it."""
    return CaptureRequest(kernel, Target(version_of(kernel)), **options)  # type: ignore[arg-type]


def run(machine: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "capture.sh", *arguments], cwd=machine, text=True,
                          capture_output=True, timeout=60, env=environment(machine))
