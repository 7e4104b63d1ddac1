"""Run the benchmarks and print one table an area.

``python -m tests.benchmarks [NAME...] [--OPTION VALUE...]``: all areas, or the named
ones. What begins with the first option goes to each of their scripts.
"""

from __future__ import annotations

import sys
from importlib import import_module
from itertools import takewhile
from pathlib import Path

from tabulate import tabulate


def main(arguments: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_")
                   for path in Path(__file__).parent.glob("bench_*.py"))
    names = list(takewhile(lambda word: not word.startswith("-"), arguments))
    options = arguments[len(names):]
    if unknown := [name for name in names if name not in known]:
        print(f"no benchmark {', '.join(unknown)} (known: {', '.join(known)})",
              file=sys.stderr)
        return 2
    for name in names or known:
        script = import_module(f"tests.benchmarks.bench_{name}")
        rows = script.main(options)
        title = (script.__doc__ or name).splitlines()[0]
        print(f"\n{title}\n\n{tabulate(rows, headers='keys', disable_numparse=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
