"""The capture script for perf: `perf probe`, `perf record`, `perf script`.

perf script prints probe arrays as zeros (libtraceevent), so these probes fetch the fields of
each page one by one.
"""

from __future__ import annotations

from xenm2p.formats import capture_shell as shell
from xenm2p.formats.capture_shell import CaptureRequest, Dialect
from xenm2p.formats.probe_definitions import Target, definitions, return_definitions
from xenm2p.formats.probes import Probe

OUTPUT = "xenm2p-capture.txt"
_PURPOSE = """\
It sets probes with perf probe, records with perf record and saves what perf script
# prints. perf prints arrays as zeros: the probes fetch some fields of each page instead,
# and of a call with more pages the rest is in the p2m writes."""
_PROBING = """
# probe probe:EVENT DEFINITION...: sets the first that perf takes, in perf's group 'probe'.
defined=
probe() {
    event=$1
    shift
    for definition do
        function=${definition#*=}
        has "${function%%[ %]*}" || continue
        if perf probe -q --add "$definition" 2>/dev/null; then
            # Newer versions of perf call the probe of a return EVENT__return.
            [ ! -d "$tracefs/events/probe/${event#*:}__return" ] || event=${event}__return
            defined="$defined $event"
            return 0
        fi
    done
    return 1
}
is_set() { case "$defined " in *" $1 "*) return 0 ;; esac; return 1; }
missing() { say "warning: $1 cannot be probed: $2"; }
for event in $own_events; do
    if grep -E -q "[:]probe/${event#*:}(__return)? " "$tracefs/kprobe_events"; then
        die "$event is set already: another capture runs, or one was killed; to remove" \\
            "its probe: perf probe --del $event"
    fi
done
"""

_RUN = """
data=$out.perf
cleanup() {
    trap '' INT TERM HUP
    for event in $defined; do
        case $event in
            probe:*) perf probe -q --del "$event" || say "$event: cannot be removed" ;;
        esac
    done
    rm -f "$data" "$out.partial"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
set_probes
events=
for event in $defined; do
    events="$events -e $event"
done

# perf counts its buffers in pages of 4 KiB, a power of two of them.
pages=1
while [ $((pages * 8)) -le "$buffer_kb" ]; do pages=$((pages * 2)); done
trap : INT TERM HUP
if [ $# -eq 0 ] && [ -n "$seconds" ]; then
    set -- sleep "$seconds"
fi
[ $# -gt 0 ] || say 'capturing until Ctrl-C'
# shellcheck disable=SC2086  # one word for each event
perf record -q -a -m "$pages" -o "$data" $events -- "$@" ||
    say "perf record ended with status $?"
[ -s "$data" ] || die 'perf recorded nothing'

save() {
    header perf
    perf script --ns --show-lost-events -i "$data"
}
if ! save >"$out.partial" || ! mv "$out.partial" "$out"; then
    die "$out: cannot be written"
fi
say "written: xenm2p replay $out"
"""


def _definitions(probe: Probe, target: Target) -> list[str]:
    """perf probe's ``EVENT=FUNCTION ARGUMENT...``, without arrays."""
    return [f"{probe.event}={each.partition(' ')[2]}" for each in definitions(probe, target)
            if "[" not in each]


def _return_definitions(probe: Probe, target: Target) -> list[str]:
    lines = []
    for each in return_definitions(probe, target):
        _, function, fetched = each.split(" ", 2)
        lines.append(f"{probe.event}_ret={function}%return {fetched}")
    return lines


_DIALECT = Dialect(
    lambda probe: f"{probe.group if probe.tracepoint else 'probe'}:{probe.event}",
    _definitions, _return_definitions)


def script(request: CaptureRequest) -> str:
    """The script as text."""
    return "".join((
        shell.start(request, tool="perf", purpose=_PURPOSE, output=OUTPUT),
        shell.symbols(request),
        shell.TRACEFS,
        shell.own_events(request, _DIALECT),
        _PROBING,
        shell.set_probes(request, _DIALECT),
        shell.vmemmap(request),
        shell.VMEMMAP_IN_INSTANCE,
        shell.HEADER,
        _RUN,
    ))
