"""Scripts that take a capture: one for each tool, for any kernel.

What is probed is the catalogue's (probes.py, probe_signatures.py); which lines set the probes
is in probe_definitions.py, the shell that all scripts share in capture_shell.py.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from xenm2p.formats.capture_shell import CaptureRequest


@dataclass(frozen=True, slots=True)
class Tool:
    """A tracer: what a capture of it is, and the module that has its script."""

    name: str
    help: str
    module: str


TOOLS: dict[str, Tool] = {tool.name: tool for tool in (
    Tool("ftrace", "the kernel's own tracing files, as text; nothing to install",
         "capture_ftrace"),
    Tool("trace-cmd", "trace.dat, a third of the size of text", "capture_tracecmd"),
    Tool("perf", "the output of perf script; a few fields of each page, no arrays",
         "capture_perf"),
    Tool("bpftrace", "JSON lines with every page of every call (Linux 4.9 and later)",
         "capture_bpftrace"),
)}


def capture_script(tool: str, request: CaptureRequest) -> str:
    """The POSIX shell script that captures with `tool`, a name of `TOOLS`.

    Raises UsageError where the tool does not run on such a kernel.
    """
    module = importlib.import_module(f"xenm2p.formats.{TOOLS[tool].module}")
    text: str = module.script(request)
    return text
