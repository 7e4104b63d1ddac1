"""The program: its commands, loaded when asked for, and how it ends.

Everything a user can meet ends here as one line on standard error and an exit status;
no error of the input or the user is a traceback.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from xenm2p import __version__
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN, EXIT_INTERRUPTED, OutputError, XenM2PError, nearest

# Command: module xenm2p.cli.NAME, function NAME_command; in the order of --help. The
# one-line help stands here so that `xenm2p --help` imports no command.
COMMANDS = {
    "replay": "Replay a trace: summary, collisions, findings.",
    "explain": "Tell the story of a finding, event, page, frame or grant.",
    "state": "Show what holds at a moment, or differs between two.",
    "bisect": "Say which kernel brings a finding in, which cures it.",
    "report": "Write a bug report about a trace.",
    "reduce": "Write the smallest part of a trace that shows a finding.",
    "diff": "Compare two runs, or one run under two kernels.",
    "export": "Write one table of a replay in any format.",
    "info": "Say what is in a trace file.",
    "check": "Check a trace: damage, losses, against model and hypervisor.",
    "convert": "Convert between trace formats.",
    "capture": "Print a script that takes a capture.",
    "generate": "Write a synthetic trace.",
}

CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 79}


class Program(click.Group):
    """The group of commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"xenm2p.cli.{cmd_name}")
        command = getattr(module, f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            known = f" Commands: {', '.join(COMMANDS)}."
            ctx.fail(f"No such command '{name}'{nearest(name, COMMANDS)}.{known}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse and run; what --help and the like cannot write is told as elsewhere."""
        try:
            return super().main(*args, **extra)
        except OSError as error:
            _forget_stdout()
            sys.exit(_complain(_unwritable(error), OutputError.exit_code))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and exit with the status it returns."""
        try:
            with _unwinding_when_killed():
                status = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            _forget_stdout()
            status = EXIT_CLEAN
        except KeyboardInterrupt:
            status = EXIT_INTERRUPTED
        except XenM2PError as error:
            status = _complain(error, error.exit_code)
        except MemoryError:
            status = _complain("out of memory", OutputError.exit_code)
        except OSError as error:
            _forget_stdout()
            status = _complain(_unwritable(error), OutputError.exit_code)
        ctx.exit(status)


def _unwritable(error: OSError) -> str:
    """What to say of an error: readers name their files; what is left is standard output."""
    name = error.filename if error.filename is not None else "standard output"
    return f"{name}: {error.strerror or error}"


def _complain(message: object, status: int) -> int:
    say(message)
    return status


@contextmanager
def _unwinding_when_killed() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like any exit, so that no temporary file is left.

    Where they are ignored, as under nohup, they stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, _exit_by_signal)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_by_signal(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _forget_stdout() -> None:
    """Point a broken standard output to nowhere: Python flushes it once more when it ends."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # not a real file: nothing to flush
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@click.group(cls=Program, context_settings=CONTEXT)
@click.version_option(__version__, "-V", "--version", message="xenm2p %(version)s")
def cli() -> None:
    """Replay captured Xen grant-map traces through exact models of Linux's p2m code.

    xenm2p says, event by event, which p2m entries change, which FOREIGN bits go on and
    off, which page locks a block backend runs into, and what is wrong; under the kernel
    that the trace was taken on, or under any other.

    \b
    Examples:
      xenm2p replay trace.txt                     replay a capture
      xenm2p replay trace.txt --kernel 3.4        ... as Linux 3.4 would do it
      xenm2p replay trace.txt --memory p2m.txt    ... with the p2m known
      xenm2p export -t findings -f csv trace.txt  one table, for a program
      xenm2p convert trace.txt -o trace.xm2p      a small, quick file

    \b
    Exit status: 0 clean, 1 findings, 2 usage, 3 unreadable input or unwritable
    output, 4 lost or salvaged data with --strict, 130 interrupted.
    """


def command_objects() -> Sequence[tuple[str, click.Command]]:
    """All commands by name, loaded."""
    context = click.Context(cli)
    return [(name, command) for name in COMMANDS
            if (command := cli.get_command(context, name)) is not None]
