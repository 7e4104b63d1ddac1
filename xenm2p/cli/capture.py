"""`xenm2p capture`: a script that takes a capture on the machine of interest."""

from __future__ import annotations

import platform

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, UsageError
from xenm2p.formats.capture import TOOLS
from xenm2p.formats.probe_definitions import DEFAULT_PAGES, MAX_PAGES
from xenm2p.kernels import MODELS

# One of each era of functions, of locks, and of what the tracers can do.
_ERAS = ("2.6.38", "3.4", "3.10", "3.16", "4.4", "4.9", "4.19", "5.10", "6.1", "6.12")


@click.command("capture")
@click.option("-k", "--kernel", metavar="KERNEL",
              shell_complete=options.complete_names((*_ERAS, *MODELS)),
              help="Linux version of the machine (3.10.72, 6.1.0-9-amd64), or a model's name. "
                   "Default: the kernel that runs here (uname -r).")
@click.option("--tool", metavar="TOOL", default="ftrace", show_default=True,
              **options.one_of("tool", TOOLS),
              help="; ".join(f"{tool.name}: {tool.help}" for tool in TOOLS.values()) + ".")
@click.option("--locks/--no-locks", default=True,
              help="Capture page locks (default), which are most of the events, or do not.")
@click.option("--returns", is_flag=True,
              help="Capture what the functions return, too: it shows where a call ends.")
@click.option("--pages", metavar="N", type=click.IntRange(1, MAX_PAGES), default=DEFAULT_PAGES,
              show_default=True,
              help=f"Pages of a call to fetch, up to {MAX_PAGES}, which is all that kprobes can; "
                   "the others are known by their p2m writes. bpftrace fetches all of them.")
@click.option("--buffer-kb", metavar="KB", type=click.IntRange(64, 1 << 22), default=16384,
              show_default=True,
              help="Ring buffer of each cpu in the script, where -b KB changes it.")
@click.option("--duration", metavar="SECONDS", type=click.IntRange(1, 10**6),
              help="End after so many seconds, where the script's -t SECONDS does not say. "
                   "Default: at Ctrl-C.")
@options.output_options
def capture_command(
    kernel: str | None, tool: str, locks: bool, returns: bool, pages: int, buffer_kb: int,
    duration: int | None, output: str, force: bool,
) -> int:
    """Print a shell script that captures grant maps, p2m writes and page locks of a Xen PV
    domain, to be run there as root: it sets probes, waits, saves the capture with the
    kernel's version and symbols, and leaves the machine as it was.

    The script is for one kernel, as functions and their arguments differ from kernel to
    kernel; read it before you run it. It captures while a command runs that is given to it,
    for a time (-t SECONDS), or until Ctrl-C. What it cannot probe it names; see `xenm2p info`
    for what a capture has.

    \b
    Examples:
      xenm2p capture --kernel 6.1 -o capture.sh
      sh capture.sh -o trace.txt sh -c 'mount /dev/xvda /mnt; umount /mnt'
      xenm2p capture -k 3.10 --tool trace-cmd | ssh root@dom0 sh -s -- -t 60
      xenm2p capture --tool bpftrace --no-locks
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.formats.capture import capture_script
    from xenm2p.formats.capture_shell import CaptureRequest
    from xenm2p.formats.probe_definitions import Target
    from xenm2p.kernels import model_for, version_of

    check_writable(output, force=force)
    named = kernel or platform.release()
    try:
        model_for(named)
    except UsageError as error:
        if kernel is not None:
            raise
        raise UsageError(f"the kernel that runs here is of no use: {error}; --kernel names "
                         "another") from None
    request = CaptureRequest(
        kernel=named, target=Target(version_of(named), pages), locks=locks, returns=returns,
        buffer_kb=buffer_kb, duration=duration)
    script = capture_script(tool, request)
    with text_output(output, force=force) as out:
        out.write(script)
    return EXIT_CLEAN
