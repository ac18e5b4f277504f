"""The blocks of a page, and the commands in them."""

import re
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)

SMALL = {
    "iterations": "2",
    "snapshots": "1",
    "pyramid": "0",
    "epochs": "1",
    "head-epochs": "1",
    "steps": "2",
    "size": "48",
    "input-size": "64x64",
}
"""What options become where a page is run only to see whether it runs."""


class Block(NamedTuple):
    """What stands between two fences."""

    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, from top to bottom."""
    return [Block(*found) for found in FENCE.findall(page.read_text("utf-8"))]


def commands(block: Block) -> list[str]:
    """The lines that a shell is given, each whole; none where the block is in another language."""
    if block.language != "sh":
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def smaller(command: str) -> str:
    """The command with the settings of `SMALL`."""

    for option, value in SMALL.items():
        command = re.sub(rf"(--{option}[ =])\S+", rf"\g<1>{value}", command)
    return command
