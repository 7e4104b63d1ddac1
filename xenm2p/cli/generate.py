"""`xenm2p generate`: synthetic traces."""

from __future__ import annotations

from typing import Any

import click

from xenm2p.cli import options
from xenm2p.cli.writing import check_target, write_trace, writing_options
from xenm2p.errors import EXIT_CLEAN


def _list_workloads(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from xenm2p.formats.workloads import WORKLOADS

    width = max(map(len, WORKLOADS))
    for name, workload in WORKLOADS.items():
        click.echo(f"{name:{width}}  {workload.help}")
    ctx.exit(EXIT_CLEAN)


def _workloads(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    from click.shell_completion import CompletionItem

    from xenm2p.formats.workloads import WORKLOADS

    return [CompletionItem(name, help=workload.help) for name, workload in WORKLOADS.items()
            if name.startswith(incomplete)]


@click.command("generate")
@click.argument("workload", metavar="WORKLOAD", shell_complete=_workloads)
@click.option("--list", is_flag=True, is_eager=True, expose_value=False,
              callback=_list_workloads, help="List the workloads and exit.")
@click.option("--events", metavar="N", type=click.IntRange(0, 10**10), default=10_000,
              show_default=True, help="How many events, exactly.")
@click.option("--seed", metavar="S", type=click.IntRange(0, (1 << 64) - 1), default=0,
              show_default=True, help="The same seed gives the same trace, everywhere.")
@click.option("--in-flight", metavar="N", type=click.IntRange(1), default=64,
              show_default=True, help="How many shares are live at once, at most.")
@click.option("--frames", metavar="N", type=click.IntRange(1), default=4096,
              show_default=True, help="Over how many frames.")
@writing_options
@options.quiet_option
@options.progress_option
def generate_command(
    workload: str, events: int, seed: int, in_flight: int, frames: int, output: str,
    force: bool, to: str | None, compress: str | None, chunk_events: int | None,
    quiet: bool, progress: bool,
) -> int:
    """Write a synthetic trace of one WORKLOAD, for tests and measurements.

    The workloads are same-domain, foreign, multi-share, persistent, ballooning, locks and
    ill-formed; --list says what each does.

    \b
    Examples:
      xenm2p generate --list
      xenm2p generate locks --events 1000 -o locks.yaml
      xenm2p generate same-domain --events 10000000 --seed 7 -o large.xm2p
    """
    from xenm2p.cli.output import check_writable
    from xenm2p.formats.workloads import generate

    target = check_target(output, to, compress, chunk_events)
    check_writable(output, force=force)
    trace = generate(workload, events=events, seed=seed, in_flight=in_flight, frames=frames)
    write_trace(trace, output, target=target, force=force, compress=compress,
                chunk_events=chunk_events, progress=progress and not quiet)
    return EXIT_CLEAN
