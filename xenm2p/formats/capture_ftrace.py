"""The capture script for ftrace itself: nothing but a shell and tracefs."""

from __future__ import annotations

from xenm2p.formats import capture_shell as shell
from xenm2p.formats.capture_shell import CaptureRequest

OUTPUT = "xenm2p-capture.txt"
_PURPOSE = "It sets kprobes through tracefs and saves the kernel's trace as text."

_RING = """
# A ring buffer of our own where the kernel can have one (3.10), else the common one,
# which then is put back as it was but for what it held.
ring=$tracefs
instance=$tracefs/instances/xenm2p
[ ! -d "$instance" ] ||
    die "another capture runs, or one was killed; to remove its buffer: rmdir $instance"
if mkdir "$instance" 2>/dev/null; then
    ring=$instance
else
    instance=
fi
was_on=$(cat "$ring/tracing_on")
was_kb=$(cat "$ring/buffer_size_kb")
was_clock=$(sed 's/.*\\[\\(.*\\)\\].*/\\1/' "$ring/trace_clock")

enabled=
cleanup() {
    trap '' INT TERM HUP
    for event in $enabled; do
        echo 0 >"$ring/events/$event/filter" 2>/dev/null
        echo 0 >"$ring/events/$event/enable"
    done
    if [ -n "$instance" ]; then
        rmdir "$instance" || say "$instance: cannot be removed"
    else
        echo "$was_clock" >"$ring/trace_clock"
        echo "${was_kb%% *}" >"$ring/buffer_size_kb"
        echo "$was_on" >"$ring/tracing_on"
    fi
    remove_probes
    rm -f "$out.partial"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
"""

_SET_UP = """
echo 0 >"$ring/tracing_on"
: >"$ring/trace"
echo "$buffer_kb" >"$ring/buffer_size_kb" || die "-b $buffer_kb: the kernel refuses it"
# One clock for all cpus: events of several cpus are then in order.
echo global >"$ring/trace_clock" || say 'warning: no global clock'
read_vmemmap_base
set_probes
for event in $defined; do
    # A call without pages says nothing.
    case $event in
        */map_refs | */unmap_refs | */set_foreign | */clear_foreign)
            echo 'count != 0' >"$ring/events/$event/filter" || say "warning: $event: no filter" ;;
    esac
    echo 1 >"$ring/events/$event/enable" || die "$event: cannot be enabled"
    enabled="$enabled $event"
done
"""

_RUN = """
trap 'stopped=1' INT TERM HUP
echo 1 >"$ring/tracing_on"
wait_for_end "$@"
echo 0 >"$ring/tracing_on"
"""

_SAVE = """
# Events that fell out of the ring buffer, and hits of a probe that the kernel missed.
overrun=$(cat "$ring"/per_cpu/cpu*/stats 2>/dev/null |
    awk '/^(overrun|dropped events):/ { n += $NF } END { print n + 0 }')
[ "$overrun" -eq 0 ] || say "warning: $overrun events were lost; -b gives more room"
missed=$(awk -v wanted="$defined" '
    BEGIN { n = split(wanted, name, "[ /]+"); for (i = 1; i <= n; i++) want[name[i]] = 1 }
    { event = $1; sub(/.*\\//, "", event) }
    event in want && $3 > 0 { print event, $3 }' "$tracefs/kprobe_profile" 2>/dev/null)
[ -z "$missed" ] || say "warning: hits that the kernel missed: $missed"

save() {
    header ftrace
    [ -z "$missed" ] || printf '%s\\n' "$missed" | sed 's/^/# missed: /'
    cat "$ring/trace"
}
if ! save >"$out.partial" || ! mv "$out.partial" "$out"; then
    die "$out: cannot be written"
fi
say "written: xenm2p replay $out"
"""


def script(request: CaptureRequest) -> str:
    """The script as text."""
    return "".join((
        shell.start(request, tool="awk", purpose=_PURPOSE, output=OUTPUT),
        shell.symbols(request),
        shell.TRACEFS,
        shell.own_events(request, shell.KPROBE_EVENTS),
        shell.PROBING,
        shell.set_probes(request, shell.KPROBE_EVENTS),
        shell.vmemmap(request),
        shell.HEADER,
        shell.WAITING,
        _RING, _SET_UP, _RUN, _SAVE,
    ))
