"""README's console blocks: commands with the output they give.

``python -m tests.readme`` writes README.md again with what the commands give now.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from xenm2p.cli.app import cli

README = Path(__file__).parents[1] / "README.md"

_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)$", re.MULTILINE)


def blocks(text: str) -> list[str]:
    """The console blocks of a Markdown text."""
    return _BLOCK.findall(text)


def played(block: str) -> str:
    """A console block's commands with the output that they give now."""
    shown = []
    status = 0
    for command in _COMMAND.findall(block):
        if command == "echo $?":
            output = f"{status}\n"
        else:
            program, *words = shlex.split(command.replace("\\\n", ""))
            assert program == "xenm2p", command
            result = CliRunner().invoke(cli, words, prog_name=program)
            output, status = result.stdout, result.exit_code
        shown.append(f"$ {command}\n{output}")
    return "".join(shown)


def main() -> None:
    """Write README.md again."""
    text = README.read_text(encoding="utf-8")
    README.write_text(_BLOCK.sub(lambda match: played(match[0]), text), encoding="utf-8")


if __name__ == "__main__":
    main()
