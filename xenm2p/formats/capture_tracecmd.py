"""The capture script for trace-cmd, whose trace.dat keeps arrays as they are."""

from __future__ import annotations

from xenm2p.formats import capture_shell as shell
from xenm2p.formats.capture_shell import CaptureRequest

OUTPUT = "xenm2p-capture.dat"
_PURPOSE = ("It sets kprobes through tracefs and has trace-cmd record them; trace-cmd switches\n"
            "# off whatever else was being traced.")

_CLEANUP = """
# What trace-cmd changes and leaves so: it is put back where it is other than it was.
clock() { sed 's/.*\\[\\(.*\\)\\].*/\\1/' "$tracefs/trace_clock"; }
was_on=$(cat "$tracefs/tracing_on")
was_kb=$(cat "$tracefs/buffer_size_kb")
was_clock=$(clock)
cleanup() {
    trap '' INT TERM HUP
    [ "$(clock)" = "$was_clock" ] || echo "$was_clock" >"$tracefs/trace_clock"
    [ "$(cat "$tracefs/buffer_size_kb")" = "$was_kb" ] ||
        echo "${was_kb%% *}" >"$tracefs/buffer_size_kb"
    [ "$(cat "$tracefs/tracing_on")" = "$was_on" ] || echo "$was_on" >"$tracefs/tracing_on"
    remove_probes
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
"""

_RUN = """
set_probes
events=
for event in $defined; do
    events="$events -e ${event%/*}:${event#*/}"
done

# trace-cmd itself writes the file at its end or at Ctrl-C, with the kernel's version and
# all of kallsyms. One clock for all cpus: events of several cpus are then in order.
trap : INT TERM HUP
if [ $# -eq 0 ] && [ -n "$seconds" ]; then
    set -- sleep "$seconds"
fi
[ $# -gt 0 ] || say 'capturing until Ctrl-C'
# shellcheck disable=SC2086  # one word for each event
trace-cmd record -C global -b "$buffer_kb" -o "$out" $events "$@" ||
    say "trace-cmd ended with status $?"
[ -s "$out" ] || die "$out: trace-cmd wrote nothing"
# What trace-cmd report prints has zeros for arrays; report -R prints their bytes.
say "written: xenm2p replay${vmemmap_base:+ --vmemmap-base $vmemmap_base} $out"
"""


def script(request: CaptureRequest) -> str:
    """The script as text."""
    return "".join((
        shell.start(request, tool="trace-cmd", purpose=_PURPOSE, output=OUTPUT),
        shell.symbols(request),
        shell.TRACEFS,
        shell.own_events(request, shell.KPROBE_EVENTS),
        shell.PROBING,
        shell.set_probes(request, shell.KPROBE_EVENTS),
        shell.vmemmap(request),
        shell.VMEMMAP_IN_INSTANCE,
        _CLEANUP, _RUN,
    ))
