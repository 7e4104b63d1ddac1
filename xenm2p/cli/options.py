"""The options that commands share: one decorator for each group that belongs together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from xenm2p.errors import unknown
from xenm2p.kernels import MODELS

Command = Any  # a function, or the click.Command it has become
Option = Callable[[Command], Command]

SEVERITIES = ("info", "warning", "error")  # Severity's names; importing it brings numpy
NEVER = "never"
AUTO = "auto"

_UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_TIME = re.compile(r"(\d+)(?:\.(\d+))?(s|ms|us|ns)", re.ASCII)
_EVENT = re.compile(r"\d+", re.ASCII)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|0|[1-9]\d*", re.ASCII)
_MAX = (1 << 64) - 1


def one_of(
    what: str, names: Iterable[str], hints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Parameters of an option whose value is one of `names`, or several such values.

    click.Choice would list all names at a mistake; this names the nearest. `hints` says of
    other names what to do instead, ``{name}`` being the name.
    """
    known = list(names)

    def check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        for name in value if isinstance(value, tuple) else (value,):
            if hints and name in hints:
                raise click.BadParameter(f"{name} {hints[name].format(name=name)}", ctx, param)
            if name is not None and name not in known:
                raise click.BadParameter(unknown(what, name, known), ctx, param)
        return value

    return {"callback": check, "shell_complete": complete_names(lambda: known)}


def complete_names(
    names: Callable[[], Iterable[str]] | Iterable[str],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Let the shell complete one of `names`, or of what it returns."""
    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        known = names() if callable(names) else names
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]

    return complete


def complete_file(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a file name."""
    return [CompletionItem(incomplete, type="file")]


def trace_arguments(command: Command) -> Command:
    """TRACE..., one or more."""
    return click.argument("traces", metavar="TRACE...", nargs=-1, required=True,
                          shell_complete=complete_file)(command)


def trace_argument(command: Command) -> Command:
    """TRACE, one."""
    return click.argument("trace", metavar="TRACE", shell_complete=complete_file)(command)


def memory_option(command: Command) -> Command:
    """--memory."""
    return click.option(
        "--memory", metavar="FILE", shell_complete=complete_file,
        help="Add the p2m table of a dump taken on the machine (Linux's p2m as text). "
             "Without it no frame of a capture is known to be the domain's own.")(command)


def vmemmap_base_option(command: Command) -> Command:
    """--vmemmap-base."""
    return click.option(
        "--vmemmap-base", metavar="ADDRESS", callback=_address,
        help="Where the struct pages of a captured kernel begin (its variable vmemmap_base). "
             "Default: what the capture says or its p2m writes show, else 0xffffea0000000000."
    )(command)


def merge_option(command: Command) -> Command:
    """--merge."""
    return click.option(
        "--merge", metavar="FILE", multiple=True, shell_complete=complete_file,
        help="Take FILE and TRACE as parts of one capture, such as the text of single cpus, "
             "and merge them by time. Repeatable. A directory of such files, as a copy of "
             "tracing/per_cpu is one, can be TRACE or FILE.")(command)


def grants_option(command: Command) -> Command:
    """--grants."""
    return click.option(
        "--grants", metavar="FILE", shell_complete=complete_file,
        help="Begin with the shares and grants that were live before the trace, from a "
             "grant-table dump (xl debug-keys g; xl dmesg). It names frames and references: at "
             "which pages they were mapped needs --memory; handles it does not have. They "
             "become the first events, so that all others are numbered after them.")(command)


_ONE_KERNEL = "Default: the traced kernel; where that is not known, local-foreign."


def kernel_options(command: Command, otherwise: str = _ONE_KERNEL) -> Command:
    """--kernel, --traced-kernel, --memory, --vmemmap-base, --merge, --grants."""
    return _all(
        click.option(
            "-k", "--kernel", metavar="KERNEL",
            shell_complete=complete_names(lambda: (*MODELS, AUTO)),
            help="Replay under this kernel: a Linux version (3.4, 3.10.72, 6.1.0-9-amd64) or "
                 f"a model ({', '.join(MODELS)}); {AUTO}: the model that explains the p2m "
                 "writes seen on the machine best, of equals the traced kernel's, else the "
                 f"newest. {otherwise}"),
        click.option(
            "--traced-kernel", metavar="KERNEL",
            shell_complete=complete_names(lambda: MODELS),
            help="Kernel that the trace was taken on, in place of what the trace says."),
        memory_option,
        vmemmap_base_option,
        merge_option,
        grants_option,
    )(command)


def replay_options(command: Command, otherwise: str = _ONE_KERNEL) -> Command:
    """--kernel, --traced-kernel, --memory, --grants, --assume-dio, --engine.

    `otherwise` says what happens without --kernel.
    """
    return _all(
        lambda command: kernel_options(command, otherwise),
        click.option(
            "--assume-dio", is_flag=True,
            help="Take every mapping made for user space as read by direct I/O while it "
                 "lives: captures rarely show the I/O itself."),
        click.option(
            "--engine", metavar="ENGINE", default="vector", show_default=True,
            **one_of("engine", ("vector", "reference")),
            help="vector (quick) or reference (one event at a time; the same answers)."),
    )(command)


def bisect_options(command: Command) -> Command:
    """`replay_options` of a command that replays under all models."""
    return replay_options(command, "Default: all models, one after the other.")


def filter_options(command: Command) -> Command:
    """--from, --to and the filters of what is shown."""
    return _all(
        click.option(
            "--from", "first", metavar="POINT", callback=point,
            help="Show from here on: an event number (1200), or a time with its unit "
                 "(1.5s, 1500ms, 20us, 7ns)."),
        click.option("--to", "last", metavar="POINT", callback=point,
                     help="Show up to here, this event or time included."),
        _filter("--pfn", "pfns", "FRAME", _frames,
                "Show what concerns this page: 0x1010, 4112 or a span 0x1000-0x10ff."),
        _filter("--mfn", "mfns", "FRAME", _frames, "Show what concerns this machine frame."),
        _filter("--domid", "domids", "N", _number, "Show events of this other domain."),
        _filter("--ref", "refs", "N", _number, "Show events of this grant reference."),
        _filter("--task", "tasks", "NAME", _name, "Show events of this task, as NAME-PID."),
        _filter("--cpu", "cpus", "N", _number, "Show events of this processor."),
        _filter("--kind", "kinds", "KIND", _kind,
                "Show events of this kind: map, unmap, lock_page and so on."),
    )(command)


def holding_options(command: Command) -> Command:
    """The filters of what holds at one moment: --pfn, --mfn, --domid, --ref, --task."""
    return _all(
        _filter("--pfn", "pfns", "FRAME", _frames,
                "Show what concerns this page: 0x1010, 4112 or a span 0x1000-0x10ff."),
        _filter("--mfn", "mfns", "FRAME", _frames, "Show what concerns this machine frame."),
        _filter("--domid", "domids", "N", _number, "Show shares and grants of this domain."),
        _filter("--ref", "refs", "N", _number, "Show shares and grants of this reference."),
        _filter("--task", "tasks", "NAME", _name, "Show locks and grants of this task."),
    )(command)


def format_option(
    formats: Iterable[str], default: str, hints: Mapping[str, str] | None = None
) -> Option:
    """-f/--format."""
    formats = tuple(formats)
    return click.option(
        "-f", "--format", "format_", metavar="FORMAT", default=default, show_default=True,
        **one_of("format", formats, hints), help=f"One of {', '.join(formats)}.")


def output_options(command: Command) -> Command:
    """-o/--output and --force."""
    return _all(
        click.option("-o", "--output", metavar="FILE", default="-",
                     shell_complete=complete_file,
                     help="Write to FILE, whole or not at all. Default: standard output."),
        click.option("--force", is_flag=True, help="Overwrite FILE if it exists."),
    )(command)


def fail_on_option(command: Command) -> Command:
    """--fail-on."""
    return click.option(
        "--fail-on", metavar="SEVERITY", default="error", show_default=True,
        **one_of("severity", (*SEVERITIES, NEVER)),
        help="Exit with 1 for findings of at least this severity: info, warning, error; or "
             "never.")(command)


def run_options(command: Command) -> Command:
    """--strict, -q, --progress."""
    return _all(
        strict_option,
        quiet_option,
        progress_option,
    )(command)


def progress_option(command: Command) -> Command:
    """--progress."""
    return click.option(
        "--progress/--no-progress", default=True,
        help="Show a bar on standard error where that is a terminal (default).")(command)


def strict_option(command: Command) -> Command:
    """--strict."""
    return click.option(
        "--strict", is_flag=True,
        help="Exit with 4 if the tracer lost events or a damaged file was salvaged.")(command)


def quiet_option(command: Command) -> Command:
    """-q."""
    return click.option("-q", "--quiet", is_flag=True,
                        help="Say nothing but errors.")(command)


def _all(*options: Option) -> Option:
    """Several option decorators as one; --help lists them in the order given."""
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


Convert = Callable[[click.Context, click.Parameter, str], Any]


def _filter(flag: str, name: str, metavar: str, convert: Convert, help: str) -> Option:
    """A repeatable filter; `convert` makes a value of each text or raises BadParameter."""
    def convert_all(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> Any:
        return tuple(_remembered(ctx, flag, text, convert(ctx, param, text)) for text in value)

    extra: dict[str, Any] = {}
    if flag == "--kind":
        extra["shell_complete"] = complete_names(_kind_names)
    return click.option(flag, name, metavar=metavar, multiple=True, callback=convert_all,
                        help=help + " Repeatable.", **extra)


_TYPED = "xenm2p.filters"


def _remembered(ctx: click.Context, flag: str, text: str, value: Any) -> Any:
    ctx.meta.setdefault(_TYPED, []).append([flag, text])
    return value


def filters_as_typed(ctx: click.Context) -> list[list[str]]:
    """The filter options of the running command, for a command that shall show the same."""
    return list(ctx.meta.get(_TYPED, ()))


def parse_point(text: str) -> tuple[int, bool] | None:
    """An event number or a time: (number, False) or (nanoseconds, True); None: neither.

    A time finer than a nanosecond is none.
    """
    if _EVENT.fullmatch(text):
        return int(text), False
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    whole, fraction, unit = match[1], (match[2] or "").rstrip("0"), _UNITS[match[3]]
    scaled = int(whole + fraction) * unit
    return None if scaled % 10 ** len(fraction) else (scaled // 10 ** len(fraction), True)


def point(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
    """An option's value as (event number, False) or (nanoseconds, True); None for none."""
    if value is None:
        return None
    parsed = parse_point(value) if len(value) <= 40 else None
    if parsed is None or parsed[0] >= 1 << 63:
        raise click.BadParameter(
            f"'{value}' is neither an event number (1200) nor a time with its unit "
            "(1.5s, 1500ms, 20us, 7ns)", ctx, param)
    return _remembered(ctx, param.opts[0], value, parsed)


def duration(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """An option's value as nanoseconds, more than none."""
    if value is None:
        return None
    parsed = parse_point(value) if len(value) <= 40 else None
    if parsed is None or not parsed[1] or not 0 < parsed[0] < 1 << 63:
        raise click.BadParameter(
            f"'{value}' is not a time with its unit (1.5s, 500ms, 20us)", ctx, param)
    return parsed[0]


def _address(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
    return None if text is None else _number(ctx, param, text)


def _number(ctx: click.Context, param: click.Parameter, text: str) -> int:
    if len(text) <= 40 and _NUMBER.fullmatch(text) and int(text, 0) <= _MAX:
        return int(text, 0)
    raise click.BadParameter(f"'{text}' is not a decimal or 0x number", ctx, param)


def _frames(ctx: click.Context, param: click.Parameter, text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not first:  # a minus sign, not a span
        first, dash = text, ""
    span = (_number(ctx, param, first), _number(ctx, param, last if dash else first))
    if span[1] < span[0]:
        raise click.BadParameter(f"'{text}' ends before it begins", ctx, param)
    return span


def frame(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """An option's value as one frame number; None for none."""
    return None if value is None else _number(ctx, param, value)


def _name(ctx: click.Context, param: click.Parameter, text: str) -> str:
    return text


def _kind_names() -> list[str]:
    from xenm2p.trace import KINDS  # brings numpy, which --help has no use for

    return list(KINDS)


def _kind(ctx: click.Context, param: click.Parameter, text: str) -> str:
    if text not in _kind_names():
        raise click.BadParameter(unknown("event kind", text, _kind_names()), ctx, param)
    return text
