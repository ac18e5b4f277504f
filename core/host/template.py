"""`cnnkit plugins new`: a small package with one plugin, ready to be changed, tested and published."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.resources import files
from pathlib import Path

from cnnkit.errors import OutputError, UsageError, did_you_mean
from cnnkit.images.files import write_atomically

WORDS = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
OPERATOR = r"([A-Za-z]\w*\.)*[A-Z][A-Za-z0-9]*"


@dataclass(frozen=True)
class Kind:
    """What a plugin may be: its entry-point group, what its name is and looks like, and how it is used.

    `pattern` is that of a name, `named` says it in words; `summary` is the sentence that the package is
    published with; `use` is a block for its README.
    """

    group: str
    means: str
    pattern: str
    named: str
    summary: str
    use: str


_HYPHENS = "is lower-case words joined by hyphens, such as"
KINDS: Mapping[str, Kind] = {
    "operation": Kind(
        group="cnnkit.operations",
        means="the word after `cnnkit run`",
        pattern=WORDS,
        named=f"an operation's name {_HYPHENS} soft-edges",
        summary="The operation @name@ for cnnkit.",
        use="```sh\npip install @package@\ncnnkit run @name@ sample:portrait\n```",
    ),
    "model": Kind(
        group="cnnkit.models",
        means="the word after `--model`",
        pattern=WORDS,
        named=f"a network's name {_HYPHENS} tiny-net",
        summary="The network @name@ for cnnkit.",
        use="```sh\npip install @package@\ncnnkit run classify sample:portrait --model @name@\n```",
    ),
    "gradient-rule": Kind(
        group="cnnkit.gradient_rules",
        means="the operator's type, with its domain in front when it is not one of ONNX's own",
        pattern=OPERATOR,
        named="an operator's type is written like GridSample, and one of your own like com.acme.Swirl",
        summary="The gradient of the operator @name@ for cnnkit.",
        use="```sh\npip install @package@\n"
        "cnnkit check gradient network.onnx     # any network that has a @name@\n```",
    ),
    "loss": Kind(
        group="cnnkit.losses",
        means="that of the loss in `Host.losses()`",
        pattern=WORDS,
        named=f"a loss's name {_HYPHENS} pseudo-huber",
        summary="The loss @name@ for cnnkit.",
        use="```sh\npip install @package@\n```\n\n"
        '```python\nimport cnnkit\n\nloss = cnnkit.Host().losses()["@name@"]\n```',
    ),
}

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "LICENSE": "LICENSE",
    "gitignore": ".gitignore",
    "@template@.py": "@module@.py",
    "@template@.test.py": "tests/test_@stem@.py",
}
"""The template's files in `core/host/template/`, and the path of each in the new package."""


@dataclass(frozen=True)
class Written:
    """The folder of the new package, its files, and whether its tests wait for the author."""

    folder: Path
    files: list[Path]
    unfinished: bool


def write_plugin(name: str, folder: str | None = None, kind: str = "operation") -> Written:
    """Write a package with a plugin of that kind and name into `folder` (default: `cnnkit-NAME`).

    It works and passes its tests; only the rule of one of ONNX's own operators is left to the author, as
    nobody can guess it, and its test says so. Raises UsageError for a name that is none, or is cnnkit's own,
    and OutputError for a folder in use.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind takes {', '.join(KINDS)}, not '{kind}'.{did_you_mean(kind, KINDS)}")
    chosen = KINDS[kind]
    if not re.fullmatch(chosen.pattern, name):
        raise UsageError(f"{chosen.named}, not '{name}'.")
    _refuse_taken(name, chosen.group)
    inputs = _inputs_of(name) if kind == "gradient-rule" else []
    stem = _hyphenated(name.rpartition(".")[2])
    package = f"cnnkit-{stem}"
    root = Path(folder or package)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root} exists and is not empty; choose another place with --folder.")

    words = {
        "summary": chosen.summary,
        "use": chosen.use,
        "means": chosen.means,
        "group": chosen.group,
        "template": "known-operator" if inputs else kind,
        "inputs": ", ".join(inputs),
        "count": str(len(inputs)),
        "name": name,
        "package": package,
        "module": package.replace("-", "_"),
        "stem": stem.replace("-", "_"),
        "Class": "".join(word.capitalize() for word in stem.split("-")),
        "year": str(date.today().year),
    }
    written = []
    for template, target in FILES.items():
        source = files("cnnkit.host").joinpath("template", _filled(template, words) + ".txt")
        path = root / _filled(target, words)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _filled(source.read_text("utf-8"), words).encode())
        written.append(path)
    return Written(root, written, unfinished=bool(inputs))


def _filled(text: str, words: Mapping[str, str]) -> str:
    """Words may hold those behind them."""
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def _refuse_taken(name: str, group: str) -> None:
    from cnnkit.host.host import default_host

    for plugin in default_host().plugins:
        if (plugin.group, plugin.name, plugin.distribution) == (group, name, "cnnkit"):
            raise UsageError(
                f"cnnkit itself has '{name}', and a plugin cannot take its place; choose another name."
            )


def _inputs_of(operator: str) -> list[str]:
    """The inputs of one of ONNX's own operators, as arguments; empty for one of somebody's own."""
    if "." in operator:
        return []
    from keyword import iskeyword

    from onnx import defs

    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    if operator not in known:
        raise UsageError(
            f"ONNX has no operator '{operator}'.{did_you_mean(operator, known)} "
            f"One of your own has its domain in front, such as com.acme.{operator}."
        )
    schema = defs.get_schema(operator)
    if not schema.inputs:
        raise UsageError(f"ONNX's operator {operator} has no inputs, so there is no gradient to write.")
    arguments = []
    for number, given in enumerate(schema.inputs):
        argument = _hyphenated(given.name).replace("-", "_")
        argument += "_" * (iskeyword(argument) or argument in ("op", "node", "dy"))
        if given.option == defs.OpSchema.FormalParameterOption.Variadic:
            argument = f"*{argument}"
        arguments.append(f"{argument}: Any" + " = None" * (number >= schema.min_input and argument[0] != "*"))
    return arguments


def _hyphenated(name: str) -> str:
    """MaxUnpool is max-unpool."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()
