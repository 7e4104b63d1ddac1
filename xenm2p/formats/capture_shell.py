"""What the capture scripts have in common: pieces of POSIX shell.

Each script is put together from these and from its tool's own file; `#` comments in them
are for who reads the script before running it as root.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from shlex import quote

from xenm2p import __version__
from xenm2p.formats.probe_definitions import (
    HEX_TYPES,
    Target,
    definitions,
    probes_for,
    return_definitions,
)
from xenm2p.formats.probe_signatures import VMEMMAP_SYMBOL
from xenm2p.formats.probes import Probe, Role
from xenm2p.kernels import model_for

# Without any of these there is no trace to speak of.
MAPS_OR_WRITES = frozenset({Role.P2M_WRITE, Role.MAP, Role.ADD_OVERRIDE})


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What a script shall capture: the kernel as the user named it, and the options.

    `buffer_kb` is the ring buffer of each cpu in KiB, `duration` seconds or None, `output`
    the file that the script writes unless told otherwise.
    """

    kernel: str
    target: Target
    locks: bool = True
    returns: bool = False
    buffer_kb: int = 16384
    duration: int | None = None

    @property
    def probes(self) -> list[Probe]:
        """The probes to set."""
        return probes_for(self.target, locks=self.locks)

    @property
    def release(self) -> str:
        """Major and minor number, which the running kernel shall have."""
        return ".".join(str(part) for part in self.target.version[:2])


def start(request: CaptureRequest, *, tool: str, purpose: str, output: str) -> str:
    """The comment that says what the script does, its options and its messages."""
    model = model_for(request.kernel)
    seconds = "" if request.duration is None else str(request.duration)
    return f"""\
#!/bin/sh
# Captures Xen grant maps, p2m writes{' and page locks' if request.locks else ''} for xenm2p.
# {purpose}
# Made by xenm2p {__version__} for Linux {request.release}, kernel model {model.name}, on x86-64.
# It is for a PV domain, dom0 as a rule: others, and all of Arm, have no p2m of their own.
#
# Usage, as root:
#   sh SCRIPT [-o FILE] [-b KB] [-t SECONDS] [COMMAND [ARGUMENT...]]
# It captures while COMMAND runs, or for SECONDS, or until Ctrl-C, and then writes FILE.
#   -o FILE     the capture; default {output}
#   -b KB       ring buffer of each cpu; a larger one loses less; default {request.buffer_kb}
#   -t SECONDS  end after so many seconds{f'; default {seconds}' if seconds else ''}

set -u
out={output}
buffer_kb={request.buffer_kb}
seconds={seconds}
release=$(uname -r)
proc=${{PROC:-/proc}}  # where kallsyms is

say() {{ printf '%s: %s\\n' "${{0##*/}}" "$*" >&2; }}
die() {{ say "$@"; exit 1; }}
is_number() {{ case $1 in '' | *[!0-9]*) return 1 ;; esac; }}

while getopts o:b:t: option; do
    case $option in
        o) out=$OPTARG ;;
        b) buffer_kb=$OPTARG ;;
        t) seconds=$OPTARG ;;
        *) die 'usage: [-o FILE] [-b KB] [-t SECONDS] [COMMAND [ARGUMENT...]]' ;;
    esac
done
shift $((OPTIND - 1))
is_number "$buffer_kb" || die "-b $buffer_kb: is not a number"
[ -z "$seconds" ] || is_number "$seconds" || die "-t $seconds: is not a number"
[ ! -e "$out" ] || die "$out: the file exists"

[ "$(uname -m)" = x86_64 ] || die "$(uname -m): the probes are for x86-64"
case $release in
    {request.release} | {request.release}[!0-9]*) ;;
    *) say "warning: this is Linux $release, the probes are for {request.release}" ;;
esac
command -v {tool} >/dev/null || die '{tool} is not installed'
"""


def symbols(request: CaptureRequest) -> str:
    """Reads those symbols that matter: which functions there are to be probed."""
    functions = [function for probe in request.probes for function in probe.functions]
    names = _folded(dict.fromkeys([*functions, VMEMMAP_SYMBOL]), "    ")
    return f"""
# The kernel's symbols that matter here; a function that was inlined has none, or one with
# a suffix such as .isra.0, whose arguments may be elsewhere.
wanted='
    {names}'
symbols=$(WANTED=$wanted awk '
    BEGIN {{ n = split(ENVIRON["WANTED"], name); for (i = 1; i <= n; i++) want[name[i]] = 1 }}
    {{ symbol = $3; sub(/[.].*/, "", symbol) }}
    symbol in want {{ print $1, $2, $3 }}' "$proc/kallsyms") || die "$proc/kallsyms: cannot read"
newline='
'
has() {{ case "$symbols$newline" in *" $1$newline"*) return 0 ;; esac; return 1; }}
"""


def _folded(names: Iterable[str], indent: str) -> str:
    """Names over several lines."""
    return f"\n{indent}".join(textwrap.wrap(
        " ".join(names), 78, break_on_hyphens=False, break_long_words=False))


TRACEFS = """
# Where the kernel's tracing files are.
tracefs=${TRACEFS:-}
for place in "$tracefs" /sys/kernel/tracing /sys/kernel/debug/tracing; do
    if [ -n "$place" ] && [ -e "$place/kprobe_events" ]; then
        tracefs=$place
        break
    fi
done
[ -e "$tracefs/kprobe_events" ] ||
    die 'no kprobe_events: mount -t tracefs nodev /sys/kernel/tracing (debugfs before' \\
        'Linux 4.1); it needs root, and a kernel with CONFIG_KPROBE_EVENTS'
[ -w "$tracefs/kprobe_events" ] || die "$tracefs/kprobe_events: cannot be written; be root"
"""

PROBING = """
# probe GROUP/EVENT DEFINITION...: sets the first that the kernel takes. One that it does
# not take has a function that is not there, or asks for more than an old kernel can do.
defined=
probe() {
    event=$1
    shift
    for definition do
        function=${definition#* }
        has "${function%% *}" || continue
        if { printf '%s\\n' "$definition" >>"$tracefs/kprobe_events"; } 2>/dev/null; then
            defined="$defined $event"
            return 0
        fi
    done
    return 1
}
is_set() { case "$defined " in *" $1 "*) return 0 ;; esac; return 1; }
missing() { say "warning: $1 cannot be probed: $2"; }

remove_probes() {
    for event in $defined; do
        case $event in
            filemap/*) ;;
            *) { printf '%s\\n' "-:$event" >>"$tracefs/kprobe_events"; } 2>/dev/null ||
                say "$event: cannot be removed" ;;
        esac
    done
    defined=
}
for event in $own_events; do
    if grep -q "[:]$event " "$tracefs/kprobe_events"; then
        die "$event is set already: another capture runs, or one was killed; to remove" \\
            "its probe: echo -:$event >>$tracefs/kprobe_events"
    fi
done
"""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a tool names probes and what it is given to set them, best first."""

    name: Callable[[Probe], str]
    definitions: Callable[[Probe, Target], list[str]]
    return_definitions: Callable[[Probe, Target], list[str]]


KPROBE_EVENTS = Dialect(lambda probe: f"{probe.group}/{probe.event}", definitions,
                        return_definitions)


def own_events(request: CaptureRequest, dialect: Dialect) -> str:
    """The names of all probes that the script may set, none of which may be set already."""
    names = [dialect.name(probe) + suffix for probe in request.probes if not probe.tracepoint
             for suffix in ("", "_ret")[: 1 + (request.returns and bool(probe.returns))]]
    return f"\nown_events='\n    {_folded(names, '    ')}'\n"


def set_probes(request: CaptureRequest, dialect: Dialect) -> str:
    """A function that sets the probes, each with the lines that may define it."""
    lines = []
    for probe in request.probes:
        lines += [f"# {probe.event}: {MEANINGS[probe.role]}",
                  *_setting(probe, request, dialect).split("\n")]
    needed = " || ".join(f"is_set {dialect.name(probe)}" for probe in request.probes
                         if probe.role in MAPS_OR_WRITES)
    lines += [f"{needed} ||", "    die 'no function of the p2m can be probed: is this a kernel "
                              "with CONFIG_XEN_PV?'"]
    lint = "# shellcheck disable=SC2016  # $retval is the tracer's to expand\n"
    return (f"\n{lint if request.returns else ''}set_probes() {{\n"
            + "".join(f"    {line}\n" for line in lines) + "}\n")


def _setting(probe: Probe, request: CaptureRequest, dialect: Dialect) -> str:
    name = dialect.name(probe)
    if probe.tracepoint:
        return (f'if [ -d "$tracefs/events/{probe.group}/{probe.event}" ]; then\n'
                f'    defined="$defined {name}"\nfi')
    unless = next((f"is_set {dialect.name(each)} || " for each in request.probes
                   if each.event == probe.instead_of), "")
    # Only some kernels have the second version of grant tables.
    otherwise = (":" if probe.event.endswith("_v2")
                 else f"missing {probe.event} {quote(LOSSES[probe.role])}")
    text = (unless + _call(name, dialect.definitions(probe, request.target))
            + f" ||\n    {otherwise}")
    if request.returns and probe.returns:
        returned = _call(f"{name}_ret", dialect.return_definitions(probe, request.target))
        text += (f"\n! is_set {name} || {returned} ||\n"
                 f"    missing {probe.event}_ret 'its result is not known'")
    return text


def _call(name: str, alternatives: list[str]) -> str:
    return f"probe {name}" + "".join(f" \\\n    {quote(each)}" for each in alternatives)


MEANINGS: dict[Role, str] = {
    Role.P2M_WRITE: "a p2m entry is written",
    Role.GRANT: "a frame is granted",
    Role.END_GRANT: "access to a grant ends",
    Role.LOCK: "a page enters the page cache, locked",
    Role.LOCK_POINTER: "a page enters the page cache, locked",
    Role.UNLOCK: "a page lock is released",
    Role.WAIT: "a task waits for a page lock",
    Role.MAP: "grants are mapped, the hypercall is done",
    Role.UNMAP: "grants are unmapped, the hypercall is done",
    Role.MAP_REFS: "a map call begins",
    Role.UNMAP_REFS: "an unmap call begins",
    Role.ADD_OVERRIDE: "a mapped page goes onto the m2p override list",
    Role.REMOVE_OVERRIDE: "a page comes off the m2p override list",
}
LOSSES: dict[Role, str] = {
    Role.P2M_WRITE: "the machine cannot be compared with the model",
    Role.GRANT: "grants through this function are not seen",
    Role.END_GRANT: "ends of access through this function are not seen",
    Role.LOCK_POINTER: "page locks being taken are not seen",
    Role.UNLOCK: "page locks being released are not seen",
    Role.WAIT: "waits for page locks are not seen",
    Role.MAP: "maps are taken from the p2m writes, without refs",
    Role.UNMAP: "unmaps are taken from the p2m writes",
    Role.MAP_REFS: "the begin of map calls is not seen",
    Role.UNMAP_REFS: "the begin of unmap calls is not seen",
    Role.ADD_OVERRIDE: "it may be inlined; overrides are taken from the calls",
    Role.REMOVE_OVERRIDE: "it may be inlined; overrides are taken from the calls",
}


_VMEMMAP = """
# Where the struct pages begin: a kernel that randomizes its address space keeps it in a
# variable, which a probe that is hit at once can read; others have it as a constant.
vmemmap_base=
read_vmemmap_base() {
    has vmemmap_base || return 0
    { echo 'p:xenm2p/base vfs_read base=@vmemmap_base:TYPE' \\
        >>"$tracefs/kprobe_events"; } 2>/dev/null || return 0
    echo 1 >"$ring/events/xenm2p/base/enable"
    echo 1 >"$ring/tracing_on"
    cat /proc/version >/dev/null
    echo 0 >"$ring/tracing_on"
    echo 0 >"$ring/events/xenm2p/base/enable"
    vmemmap_base=$(sed -n 's/.* base=\\(0x[0-9a-f]*\\).*/\\1/p' "$ring/trace" | head -n 1)
    : >"$ring/trace"
    echo '-:xenm2p/base' >>"$tracefs/kprobe_events"
}
"""


def vmemmap(request: CaptureRequest) -> str:
    """Reads where the struct pages begin, as a number in hex."""
    return _VMEMMAP.replace("TYPE", "x64" if request.target.version >= HEX_TYPES else "u64")


# For tools that have a ring buffer of their own.
VMEMMAP_IN_INSTANCE = """
ring=$tracefs/instances/xenm2p
if mkdir "$ring" 2>/dev/null; then
    read_vmemmap_base
    rmdir "$ring"
fi
"""

HEADER = """
# header TOOL: comment lines from which xenm2p learns the kernel and where its pages are.
header() {
    printf '# xenm2p-capture: %s\\n' "$1"
    printf '# kernel: %s\\n' "$release"
    [ -z "$vmemmap_base" ] || printf '# vmemmap_base: %s\\n' "$vmemmap_base"
    printf '%s\\n' "$symbols" | sed 's/^/# kallsyms: /'
}
"""

WAITING = """
# Runs COMMAND, waits for SECONDS or for Ctrl-C.
stopped=
wait_for_end() {
    if [ $# -gt 0 ]; then
        say "capturing while this runs: $*"
        "$@" || say "$1 ended with status $?"
        return
    fi
    left=$seconds
    say "capturing ${left:+for $left seconds or }until Ctrl-C"
    while [ -z "$stopped" ] && [ "${left:-1}" -gt 0 ]; do
        sleep 1
        [ -z "$left" ] || left=$((left - 1))
    done
}
"""
