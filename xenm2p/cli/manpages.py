"""Write the manual pages from what the commands know of themselves.

``python -m xenm2p.cli.manpages man/`` writes xenm2p.1 and a page for each command. The
texts are the commands' docstrings and their options' help, the tables of `report.fields`,
the rules of `findings` and the models of `kernels`: a page cannot disagree with --help.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from xenm2p import __version__
from xenm2p.cli.app import COMMANDS, CONTEXT, cli, command_objects
from xenm2p.findings import RESERVED, RULES
from xenm2p.formats.capture_shell import MEANINGS
from xenm2p.formats.probe_signatures import SIGNATURES
from xenm2p.formats.probes import PROBES, Probe
from xenm2p.formats.workloads import WORKLOADS
from xenm2p.kernels import MODELS
from xenm2p.report.fields import STATE_TABLES, TABLES
from xenm2p.trace import KINDS

EXIT_STATUS = (
    ("0", "Clean: no finding of at least --fail-on."),
    ("1", "Findings of at least --fail-on (replay), what was asked for is there (bisect) or not "
          "(reduce, explain), or what was compared differs (check, diff)."),
    ("2", "The command line makes no sense."),
    ("3", "Input that cannot be read, or output that cannot be written."),
    ("4", "Events were lost or a file ended early, and --strict asked to be told."),
    ("130", "Interrupted."),
)
COMPLETION = (
    ("bash", 'eval "$(_XENM2P_COMPLETE=bash_source xenm2p)"', "~/.bashrc"),
    ("zsh", 'eval "$(_XENM2P_COMPLETE=zsh_source xenm2p)"', "~/.zshrc"),
    ("fish", "_XENM2P_COMPLETE=fish_source xenm2p | source", "~/.config/fish/config.fish"),
)


def pages() -> dict[str, str]:
    """The manual pages by file name."""
    manual = {"xenm2p.1": "\n".join(_program_page()) + "\n"}
    for name, command in command_objects():
        manual[f"xenm2p-{name}.1"] = "\n".join(_command_page(name, command)) + "\n"
    return manual


def roff(text: str) -> str:
    """`text` as roff: backslashes, hyphens that are to be copied, leading controls."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"(?m)^([.'])", r"\\&\1", escaped)


def _header(title: str) -> list[str]:
    return [f'.TH "{title.upper()}" 1 "" "xenm2p {__version__}" "xenm2p"']


def _prose(docstring: str) -> Iterator[str]:
    """A command's docstring: paragraphs, and after ``\\b`` lines that stay as they are."""
    for number, paragraph in enumerate(docstring.split("\n\n")):
        if paragraph.startswith("\b\nExamples:"):
            yield ".SH EXAMPLES"
            lines = textwrap.dedent("\n".join(paragraph.split("\n")[2:]))
            yield from (".nf", roff(lines), ".fi")
        elif paragraph.startswith("\b\n"):
            yield from (".PP", ".nf", roff(paragraph[2:]), ".fi")
        else:
            if number:
                yield ".PP"
            yield roff(" ".join(paragraph.split()))


def _docstring(command: click.Command) -> str:
    """The help text without its indentation, which some versions of click keep."""
    return inspect.cleandoc(command.help or "")


def _options(command: click.Command) -> Iterator[str]:
    yield ".SH OPTIONS"
    context = click.Context(command, help_option_names=CONTEXT["help_option_names"])
    for param in command.get_params(context):
        if isinstance(param, click.Option):
            yield from _entries([(_spelling(param), _meaning(param))])


def _spelling(option: click.Option) -> str:
    # click before 8.3 takes those of --help from a set, whose order changes.
    flags = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        flags += " / " + ", ".join(option.secondary_opts)
    return flags if option.is_flag else f"{flags} {option.metavar}"


def _meaning(option: click.Option) -> str:
    default = f" Default: {option.default}." if option.show_default else ""
    return (option.help or "") + default


def _entries(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", f"\\fB{roff(term)}\\fR", roff(text))


def _command_page(name: str, command: click.Command) -> Iterator[str]:
    yield from _header(f"xenm2p-{name}")
    yield from (".SH NAME", roff(f"xenm2p-{name} - {_summary(name)}"))
    arguments = " ".join(param.metavar or param.human_readable_name
                         for param in command.params if isinstance(param, click.Argument))
    yield from (".SH SYNOPSIS",
                f"\\fBxenm2p {roff(name)}\\fR [\\fIOPTIONS\\fR] {roff(arguments)}")
    yield ".SH DESCRIPTION"
    prose = list(_prose(_docstring(command)))
    split = prose.index(".SH EXAMPLES") if ".SH EXAMPLES" in prose else len(prose)
    yield from prose[:split]
    yield from _options(command)
    yield from _extra(name)
    yield from prose[split:]
    yield from (".SH SEE ALSO", _see_also(name))


def _summary(name: str) -> str:
    summary = COMMANDS[name].rstrip(".")
    return summary[0].lower() + summary[1:]


def _see_also(name: str) -> str:
    others = ["xenm2p(1)"] + [f"xenm2p-{other}(1)" for other in COMMANDS if other != name]
    return roff(", ".join([*others, "xenm2p-trace(5)"]))


def _extra(name: str) -> Iterator[str]:
    """What only one page has: tables, findings, workloads."""
    if name in ("export", "state"):
        yield ".SH TABLES"
        for table in (TABLES if name == "export" else STATE_TABLES).values():
            yield from (f".SS {table.name}", roff(f"{table.help[0].upper()}{table.help[1:]}."))
            yield from _entries([(field.name, f"{field.help} ({field.cell.value})")
                                 for field in table.fields])
    elif name == "replay":
        yield ".SH FINDINGS"
        for rule in RULES.values():
            cured = "".join(f" Cured by {change.commit} (Linux {change.version})."
                            for change in rule.cured_by)
            yield from _entries([(f"{rule.id} {rule.name}",
                                  f"{rule.what} Severity: {rule.grading} {rule.cure}{cured}")])
        yield from _entries([(f"{id_} {name_}", "Reserved; no rule finds it yet.")
                             for id_, name_ in RESERVED.items()])
    elif name == "capture":
        yield ".SH PROBES"
        yield roff("What is probed, as what the event is captured, and which trace event it "
                   "becomes. Of several functions the first that the kernel has is used.")
        for probe in PROBES:
            if probe.role in MEANINGS:
                yield from _entries([(probe.event, _probed(probe))])
    elif name == "generate":
        yield ".SH WORKLOADS"
        yield from _entries([(workload.name, workload.help) for workload in WORKLOADS.values()])


def _probed(probe: Probe) -> str:
    rows = [row for function in probe.functions for row in SIGNATURES
            if row.function == function]
    functions = "; ".join(f"{row.function}({', '.join(row.parameters)}) in Linux {row.versions}"
                          for row in rows)
    what = f"{MEANINGS[probe.role][0].upper()}{MEANINGS[probe.role][1:]}"
    return f"{what}: {functions or f'tracepoint {probe.group}:{probe.event}'}."


def _program_page() -> Iterator[str]:
    yield from _header("xenm2p")
    yield from (".SH NAME", roff("xenm2p - replay captured Xen grant-map traces through exact "
                                 "models of Linux's p2m code"))
    yield from (".SH SYNOPSIS",
                "\\fBxenm2p\\fR [\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...")
    yield ".SH DESCRIPTION"
    prose = list(_prose(_docstring(cli)))
    split = prose.index(".SH EXAMPLES")
    status = next((i for i, line in enumerate(prose) if line.startswith("Exit status")), split)
    yield from (line for line in prose[:min(split, status)])
    yield ".SH COMMANDS"
    yield from _entries([(f"xenm2p-{name}(1)", text) for name, text in COMMANDS.items()])
    yield from _options(cli)
    yield ".SH KERNEL MODELS"
    for model in MODELS.values():
        commits = ", ".join(f"{change.commit} ({change.subject})" for change in model.brought_by)
        yield from _entries([(model.name, f"Linux {model.versions}. Brought by {commits}.")])
    yield ".SH EVENT KINDS"
    yield from _entries([(kind.name, f"{kind.help} (needs {', '.join(kind.needs)})")
                         for kind in KINDS.values()])
    yield ".SH EXIT STATUS"
    yield from _entries(EXIT_STATUS)
    yield roff("A closed pipe ends xenm2p quietly.")
    yield ".SH SHELL COMPLETION"
    yield roff("Options, their values, commands and file names are completed once the shell "
               "has been told so:")
    for shell, line, file in COMPLETION:
        yield from _entries([(shell, f"In {file}:")])
        yield from (".nf", roff(line), ".fi")
    yield ".SH EXAMPLES"
    yield from prose[split + 1:_end_of_examples(prose, split)]
    yield from (".SH SEE ALSO",
                roff(", ".join([*(f"xenm2p-{name}(1)" for name in COMMANDS), "xenm2p-trace(5)"])))


def _end_of_examples(prose: list[str], split: int) -> int:
    return prose.index(".fi", split) + 1


def main(folder: str) -> None:
    """Write all pages into `folder`."""
    for name, text in pages().items():
        Path(folder, name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
