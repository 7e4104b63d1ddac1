"""The capture script for bpftrace: whole arrays, one JSON object a line.

The script writes a bpftrace program of those probes that the kernel has, runs it, and puts
what it prints behind a first line that says of which kernel it is:

    {"xenm2p":"capture","version":1,"tool":"bpftrace","kernel":"6.1.0","vmemmap_base":"0x.."}
    {"time":NS,"cpu":N,"pid":N,"probe":"set_p2m","pfn":"0x..","mfn":"0x..","comm":"NAME"}
    {.. ,"probe":"set_foreign","call":ID,"count":N,"kmap":1,"comm":"NAME"}
    {.. ,"probe":"set_foreign_page","call":ID,"index":0,"host_addr":"0x..",.. ,"comm":"NAME"}

Frames and addresses are strings in hex, all else is numbers; `comm` comes last, as bpftrace
cannot escape what a task's name may hold. Before Linux 4.9, where the m2p override is,
bpftrace does not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from xenm2p.errors import UsageError
from xenm2p.formats import capture_shell as shell
from xenm2p.formats.capture_shell import CaptureRequest
from xenm2p.formats.probe_definitions import CALL_OPS
from xenm2p.formats.probe_signatures import Signature
from xenm2p.formats.probes import Argument, Probe, Role

OUTPUT = "xenm2p-capture.jsonl"
_PURPOSE = "It writes a bpftrace program, runs it, and saves the JSON that it prints."

# bpftrace itself needs 4.9; 2589726d12a1 (5.3) allows loops, for which bpftrace has `while`
# since its 0.10. Before that a loop is written out, in at most 4096 instructions.
_OLDEST = (4, 9)
_LOOPS = (5, 3)
_LOOP_LIMIT = 256

# As `set_foreign` shows all of its call, the line from before its hypercall adds nothing.
_SUPERFLUOUS = frozenset({Role.MAP_REFS, Role.UNMAP_REFS})

_START = r'"{\"time\":%llu,\"cpu\":%d,\"pid\":%d,\"probe\":\"NAME\"'
_END = r',\"comm\":\"%s\"}\n"'

# What a kprobe type is in bpftrace's C, and how it is printed.
_TYPES = {
    "x64": ("uint64", r'\"0x%llx\"'),
    "x32": ("uint32", "%u"),
    "u64": ("uint64", "%llu"),
    "u32": ("uint32", "%u"),
    "u16": ("uint16", "%u"),
    "u8": ("uint8", "%u"),
    "s32": ("int32", "%d"),
    "s16": ("int16", "%d"),
}

_PROGRAM = """
first_of() {
    for function do
        has "$function" && return
    done
    return 1
}
missing() { say "warning: $1 cannot be probed: $2"; }
unseen=0
"""

_RUN = """
program=$out.bt
raw=$out.raw
tracer=
cleanup() {
    trap '' INT TERM HUP
    [ -z "$tracer" ] || kill "$tracer" 2>/dev/null
    rm -f "$program" "$raw" "$out.partial"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

vmemmap_base=
if has vmemmap_base; then
    vmemmap_base=$(bpftrace -e 'BEGIN {
            printf("base %llx\\n", *(uint64 *)kaddr("vmemmap_base")); exit();
        }' 2>/dev/null | sed -n 's/^base \\([0-9a-f]*\\)$/0x\\1/p')
fi
write_program >"$program"
[ "$unseen" -lt MAPS_OR_WRITES ] ||
    die 'no function of the p2m can be probed: is this a kernel with CONFIG_XEN_PV?'

# bpftrace counts its buffers in pages of 4 KiB, a power of two of them.
pages=1
while [ $((pages * 8)) -le "$buffer_kb" ]; do pages=$((pages * 2)); done
BPFTRACE_PERF_RB_PAGES=$pages bpftrace -B line "$program" >"$raw" 2>&1 &
tracer=$!
until grep -q '^tick' "$raw"; do
    if ! kill -0 "$tracer" 2>/dev/null; then
        cat "$raw" >&2
        tracer=
        die 'bpftrace ended at once'
    fi
    sleep 1
done

trap 'stopped=1' INT TERM HUP
wait_for_end "$@"
# bpftrace prints behind the kernel, and drops what it has not printed when it is told to
# end: wait for a tick of each cpu from after now.
end=$(sed 's/[. ].*//' /proc/uptime)
cpus=$(grep -c '^cpu[0-9]' /proc/stat)
patience=30
ticked() {
    awk -v end="$end" '$1 == "tick" && $3 > end && !seen[$2]++ { n++ }
        END { print n + 0 }' "$raw"
}
while [ "$patience" -gt 0 ] && [ "$(ticked)" -lt "$cpus" ]; do
    sleep 1
    patience=$((patience - 1))
done
[ "$patience" -gt 0 ] || say 'warning: bpftrace is far behind; the last events are missing'
kill -INT "$tracer" 2>/dev/null
patience=10
while [ "$patience" -gt 0 ] && kill -0 "$tracer" 2>/dev/null; do
    sleep 1
    patience=$((patience - 1))
done
kill "$tracer" 2>/dev/null
wait "$tracer"
tracer=

# Events that bpftrace lost, of which it prints how many, become lines of their own.
save() {
    printf '{"xenm2p":"capture","version":1,"tool":"bpftrace","kernel":"%s"' "$release"
    [ -z "$vmemmap_base" ] || printf ',"vmemmap_base":"%s"' "$vmemmap_base"
    printf '}\\n'
    sed -n -e '/^{/p' -e 's/^Lost \\([0-9]*\\) events.*/{"probe":"lost","count":\\1}/p' "$raw"
}
if ! save >"$out.partial" || ! mv "$out.partial" "$out"; then
    die "$out: cannot be written"
fi
grep -q '^Lost ' "$raw" && say 'warning: events were lost; -b gives more room'
say "written: xenm2p replay $out"
"""


def script(request: CaptureRequest) -> str:
    """The script as text. Raises UsageError for a kernel that is too old for bpftrace."""
    if request.target.version < _OLDEST:
        raise UsageError(f"--tool bpftrace: bpftrace needs Linux 4.9, not {request.kernel}; "
                         "--tool ftrace works on all")
    return "".join((
        shell.start(request, tool="bpftrace", purpose=_PURPOSE, output=OUTPUT),
        "[ \"$(id -u)\" -eq 0 ] || die 'bpftrace needs root'\n",
        shell.symbols(request),
        _PROGRAM,
        _writing(request),
        shell.WAITING,
        _RUN.replace("MAPS_OR_WRITES", str(sum(
            probe.role in shell.MAPS_OR_WRITES for probe in request.probes))),
    ))


def _writing(request: CaptureRequest) -> str:
    """A shell function that prints the program: those probes whose functions are there."""
    parts = []
    for probe in request.probes:
        if probe.role in _SUPERFLUOUS:
            continue
        if probe.tracepoint:
            parts.append(_if(f'[ -d "$tracefs/events/{probe.group}/{probe.event}" ]',
                             f"tracepoint:{probe.group}:{probe.event}", _tracepoint(probe)))
            continue
        signature = request.target.functions(probe)[0]
        names = " ".join(each.function for each in request.target.functions(probe))
        body = "\n".join(_body(probe, signature, request))
        otherwise = ("" if probe.event.endswith("_v2") else
                     f"missing {probe.event} {quote(shell.LOSSES[probe.role])}")
        if probe.role in shell.MAPS_OR_WRITES:
            otherwise += "\n        unseen=$((unseen + 1))"
        parts.append(_if(f"first_of {names}", "kprobe:$function", body, otherwise))
        if request.returns and probe.returns:
            parts.append(_if(f"first_of {names}", "kretprobe:$function", _returned(probe)))
    ticks = """    cat <<'END'
profile:hz:1 { printf("tick %d %d\\n", cpu, nsecs / 1000000000); }
END
"""
    return ("tracefs=/sys/kernel/tracing\n"
            '[ -d "$tracefs/events" ] || tracefs=/sys/kernel/debug/tracing\n'
            "write_program() {\n" + "".join(parts) + ticks + "}\n")


def _if(condition: str, attach: str, body: str, otherwise: str = "") -> str:
    return (f"    if {condition}; then\n"
            f"        printf '%s\\n' \"{attach}\"\n"
            f"        cat <<'END'\n{{\n{body}\n}}\nEND\n"
            + (f"    else\n        {otherwise}\n" if otherwise else "") + "    fi\n")


def _print(name: str, fields: list[tuple[str, str, str]], when: str = "nsecs",
           indent: str = "    ") -> str:
    """One printf: `fields` are names, kprobe types and expressions."""
    text = "".join(rf',\"{field}\":{_TYPES[kind][1]}' for field, kind, _ in fields)
    values = "".join(f", {value}" for _, _, value in fields)
    return (f"{indent}printf({_START.replace('NAME', name)}{text}{_END},\n"
            f"{indent}    {when}, cpu, tid{values}, comm);")


def _body(probe: Probe, signature: Signature, request: CaptureRequest) -> Iterator[str]:
    position = {name: f"arg{number}" for number, name in enumerate(signature.parameters)}

    def value(argument: Argument) -> str | None:
        register = next((position[name] for name in (argument.name, *argument.others)
                         if name in position), None)
        kind = _TYPES[argument.type][0]
        return None if register is None else f"({kind}){register}"

    if probe.role in CALL_OPS:
        yield from _call(probe, position, request)
        return
    fields = [(argument.name, argument.type, found) for argument in probe.arguments
              if not argument.at and (found := value(argument)) is not None]
    yield _print(probe.event, fields)


def _call(probe: Probe, position: dict[str, str], request: CaptureRequest) -> Iterator[str]:
    """The call and then its pages, in a loop or, for old kernels, one after the other."""
    size, layout = CALL_OPS[probe.role]
    ops, kops = (position[argument.name] for argument in probe.arguments[:2])
    yield "    $now = nsecs;"
    yield "    // A number that no other call of this quarter of an hour has."
    yield "    $call = ($now % 1000000000000) * 1000 + cpu;"
    yield f"    $count = (uint32){position['count']};"
    yield _print(probe.event, [("call", "u64", "$call"), ("count", "u32", "$count"),
                               ("kmap", "u8", f"{kops} != 0")], "$now")
    yield "    $i = (uint32)0;"
    fields = [("call", "u64", "$call"), ("index", "u32", "$i")]
    fields += [(name, kind, f"*({_TYPES[kind][0]} *)($op + {offset})")
               for name, (offset, kind) in layout.items()]
    fields.append(("page", "x64", f"*(uint64 *)({position['pages']} + 8 * $i)"))
    page = [f"$op = {ops} + {size} * $i;",
            *_print(f"{probe.event}_page", fields, "$now", "").split("\n")]
    if request.target.version >= _LOOPS:
        yield f"    while ($i < {_LOOP_LIMIT}) {{"
        yield "        if ($i >= $count) { break; }"
        yield from (f"        {line}" for line in page)
        yield "        $i++;"
    else:
        yield f"    unroll({request.target.pages}) {{"
        yield "        if ($i < $count) {"
        yield from (f"            {line}" for line in page)
        yield "        }"
        yield "        $i++;"
    yield "    }"


def _tracepoint(probe: Probe) -> str:
    return _print(probe.event, [(name, "x64", f"args->{name}") for name in probe.needs])


def _returned(probe: Probe) -> str:
    kind = _TYPES[probe.returns][0]
    return _print(f"{probe.event}_ret", [("ret", probe.returns, f"({kind})retval")])
