"""The two pages that follow from the code: docs/operations.md and docs/commands.md.

Usage::

    python docs/recipes/reference.py

Operations come from their options' dataclasses and commands from the command line itself, of cnnkit's own
plugins only; nothing depends on the width of a terminal. A test compares the pages with the files.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from cnnkit.cli.main import app
from cnnkit.cli.operations import TAKES, OperationGroup
from cnnkit.host.host import Host
from cnnkit.host.operation import Operation
from cnnkit.host.options import Field, fields_of

DOCS = Path(__file__).parents[1]

ABOUT = {
    "apply": "apply.md",
    "cam": "attribution.md",
    "compare": "attribution.md",
    "evaluate": "evaluate.md",
    "faithfulness": "attribution-table.md",
    "grad-cam": "attribution.md",
    "integrated-gradients": "attribution.md",
    "occlusion": "attribution.md",
    "reconstruct": "representations.md",
    "saliency": "attribution.md",
    "style-transfer": "style-transfer.md",
    "texture": "representations.md#textures",
    "train": "train.md",
    "visualize": "visualize.md",
}
"""The page that explains an operation, where there is one."""

ORIGIN = "<!-- Made by docs/recipes/reference.py from the code; what is written here by hand is lost. -->"

OPERATIONS = """# Operations

What cnnkit can do out of the box; `cnnkit run --help` also lists the operations of installed plugins. Each
is one definition, from which come `cnnkit run`, `cnnkit sweep`, `cnnkit.run(...)`, `--help` and this page.

What all have in common, such as `--model` and `--output`, is under [cnnkit run](commands.md#cnnkit-run). In
Python `--max-layers 9` is `max_layers=9`. An option that is not given is looked up in the environment:
`CNNKIT_OCCLUSION_PATCH=32` is `--patch 32` of occlusion."""

COMMANDS = """# Commands

All that `cnnkit` takes. Each command has `--help`; `cnnkit --install-completion` teaches your shell to
complete commands, operations, networks, layers and labels. stdout is data, stderr is talk.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | some input failed; the rest is done |
| 2 | the request makes no sense |
| 3 | the network is missing, corrupt or unfit |
| 4 | the device is not available |
| 130 | interrupted |"""

NOUNS = {int: "whole number", float: "number", Path: "path"}


@dataclasses.dataclass(frozen=True)
class AnyOptions:
    """Beside the options below, each operation has its own: see [Operations](operations.md)."""


def main() -> None:
    """Write both pages."""
    for name, text in pages().items():
        (DOCS / name).write_text(text, "utf-8")


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    return {"operations.md": operations_page(), "commands.md": commands_page()}


def operations_page() -> str:
    host = Host([entry for entry in entry_points(group="cnnkit.operations") if _is_own(entry)], disabled=[])
    operations = [host.operation(name) for name in host.names("cnnkit.operations")]
    overview = [(f"[{one.name}](#{one.name})", plain(one.summary)) for one in operations]
    parts = [OPERATIONS, ORIGIN, table(("operation", "does"), overview)]
    for operation in operations:
        parts += section(operation)
    return "\n\n".join(parts) + "\n"


def section(operation: Operation) -> Iterator[str]:
    """What is to be known of an operation."""
    source = "" if operation.takes == "nothing" else " SOURCE…"
    yield f"## {operation.name}"
    yield from paragraphs(operation.options.__doc__ or "")
    yield f"```text\ncnnkit run {operation.name} [OPTIONS]{source}\n```"
    takes = TAKES.get(operation.takes, "nothing")
    needs = {"nothing": "no network", "network": "a network", "classifier": "a classifier"}[operation.needs]
    page = ABOUT.get(operation.name)
    yield f"Takes {takes}. Needs {needs}." + (f" More in [{title(page)}]({page})." if page else "")
    rows = [
        (f"`{flag_of(field)}`", plain(field.option.help), taken(field), default(field))
        for field in fields_of(operation.options)
    ]
    yield table(("option", "what it is", "takes", "default"), rows)


def flag_of(field: Field) -> str:
    return f"{field.flag}, --no-{field.flag[2:]}" if field.kind is bool and field.default else field.flag


def taken(field: Field) -> str:
    """The values of an option in words."""
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    if field.kind is bool:
        return "nothing"
    parsed = field.option.parse is not None
    noun = "picture" if field.is_picture else "text" if parsed else NOUNS.get(field.kind, "text")
    if field.option.metavar:
        noun = f"`{field.option.metavar}`"
    noun += f", {field.bounds}" if field.bounds else ""
    return f"{noun}; may be repeated" if field.many and not parsed else noun


def default(field: Field) -> str:
    """The default as one would type it; empty where the help says what happens without the option."""
    value = field.default
    if value is dataclasses.MISSING:
        return "**required**"
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == ():
        return ""
    return f"`{','.join(str(item) for item in value)}`" if isinstance(value, tuple) else f"`{value}`"


def commands_page() -> str:
    command = typer.main.get_command(app)
    return "\n\n".join([COMMANDS, ORIGIN, *described(command, "cnnkit", depth=2)]) + "\n"


def described(command: Any, name: str, depth: int) -> Iterator[str]:
    """The help of a command and of all below it."""
    yield f"{'#' * depth} {name}"
    if isinstance(command, OperationGroup):
        yield plain(command.help)
        command, name = with_any_operation(command), f"{name} OPERATION"
    parameters = [each for each in command.params if each.name not in ("help", *COMPLETION)]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    below = getattr(command, "commands", {})
    words = ["COMMAND"] if below else [argument_word(each) for each in arguments]
    yield f"```text\n{' '.join([name, '[OPTIONS]' if parameters else '', *words]).replace('  ', ' ')}\n```"
    yield from paragraphs(command.help or "")
    if command.epilog:
        yield plain(command.epilog)
    if parameters:
        words = value_words(command)
        rows = [row(each, words) for each in parameters]
        yield table(("argument or option", "what it is"), rows)
    for word, sub in below.items():
        yield from described(sub, f"{name} {word}", depth + (name != "cnnkit"))


COMPLETION = ("install_completion", "show_completion")


def with_any_operation(group: OperationGroup) -> Any:
    """The command that `group` makes of an operation without options of its own."""
    operation = Operation("OPERATION", lambda *asked: None, AnyOptions, takes="pictures", needs="network")
    alone = typer.Typer(add_completion=False)
    alone.command(help=inspect.cleandoc(group.help_for(operation)))(group.function(operation))
    return typer.main.get_command(alone)


def argument_word(argument: Any) -> str:
    word = f"{argument.metavar}{'…' if argument.nargs == -1 else ''}"
    return word if argument.required else f"[{word}]"


def row(parameter: Any, words: Mapping[str, str]) -> tuple[str, str]:
    """A line on an argument or an option."""
    if parameter.param_type_name == "argument":
        return f"`{argument_word(parameter)}`", plain(parameter.help)
    value = "" if parameter.is_flag else f" {parameter.metavar or words[parameter.name]}"
    flags = ", ".join([*parameter.opts, *parameter.secondary_opts])
    said = "; ".join(remarks(parameter))
    return f"`{flags}{value}`", plain(parameter.help) + (f" ({said})" if said else "")


def remarks(option: Any) -> Iterator[str]:
    """What is to be said of an option beside its help."""
    if option.required:
        yield "required"
    elif isinstance(option.show_default, str):
        yield f"default: {option.show_default}"
    elif option.is_flag and option.default:
        yield f"default: `{option.opts[0]}`"
    elif not option.is_flag and option.default not in (None, "", (), []):
        yield f"default: `{option.default}`"
    if option.envvar:
        yield f"also `{option.envvar}`"


def value_words(command: Any) -> dict[str, str]:
    """What stands for the value of each parameter, by its annotation."""
    asked = inspect.signature(command.callback).parameters.values()
    kinds = {each.name: get_args(each.annotation) for each in asked}
    return {name: value_word(kind[0]) for name, kind in kinds.items() if kind}


def value_word(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    kinds = {kind, *get_args(kind)}
    return "INTEGER" if int in kinds else "NUMBER" if float in kinds else "TEXT"


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', PIPE) for cell in line)} |" for line in lines)


PIPE = r"\|"


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring, each on one line."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        yield plain(" ".join(paragraph.split()))


def plain(text: str) -> str:
    """Text that Markdown shows as it stands, flags as code; links and what is between backticks stay."""
    return re.sub(r"(?<!`)--[a-z][a-z-]+", r"`\g<0>`", re.sub(r"[*<]", r"\\\g<0>", text))


def title(target: str) -> str:
    """The heading of a page, as a link names it."""
    first = (DOCS / target.partition("#")[0]).read_text("utf-8").partition("\n")[0]
    return first.removeprefix("# ")


def _is_own(entry: Any) -> bool:
    return entry.dist is not None and entry.dist.name == "cnnkit"


if __name__ == "__main__":
    main()
