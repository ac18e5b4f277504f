"""`cnnkit run OPERATION`: a typed command made from the operation's options dataclass.

Listing the operations needs their names only, which the entry-point tables hold; the plugin is imported when
its command is called, completed, or asked for its own help.
"""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from cnnkit.cli.manners import well_mannered

if TYPE_CHECKING:
    from cnnkit.host.operation import Operation
    from cnnkit.host.options import Field

TAKES = {
    "picture": "pictures, folders of pictures, sample:NAME, or - for standard input",
    "pictures": "pictures, folders of pictures, sample:NAME, or - for standard input",
    "folder": "a folder",
}


class OperationGroup(TyperGroup):
    """The operations by name, each imported only when it is meant."""

    @well_mannered
    def list_commands(self, ctx: Any) -> list[str]:
        from cnnkit.host.host import default_host

        return default_host().names("cnnkit.operations")

    @well_mannered
    def get_command(self, ctx: Any, name: str) -> Any:
        """A stand-in that is enough for lists of commands."""
        from cnnkit.host.host import default_host

        owner = next(
            (p for p in default_host().plugins if p.group == "cnnkit.operations" and p.name == name), None
        )
        if owner is None:
            return None
        origin = "built in" if owner.distribution == "cnnkit" else f"from {owner.distribution}"
        return TyperCommand(name, help=origin)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing:
            return args[0], well_mannered(self.real_command)(args[0]), args[1:]
        from cnnkit.errors import CnnkitError

        try:  # a shell that completes wants no errors
            return args[0], self.real_command(args[0]), args[1:]
        except CnnkitError:
            return None, None, args

    def real_command(self, name: str) -> Any:
        """The command of an operation, whose plugin is imported now."""
        from cnnkit.host.host import default_host

        operation = default_host().operation(name)
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        paragraphs = inspect.cleandoc(self.help_for(operation)).split("\n\n")
        summary = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        app.command(name, help=summary, context_settings={"help_option_names": ["-h", "--help"]})(
            self.function(operation)
        )
        return typer.main.get_command(app)

    def help_for(self, operation: "Operation") -> str:
        return operation.options.__doc__ or ""

    def function(self, operation: "Operation") -> Any:
        """What the command calls; its signature is the command's."""
        return _function(operation)


def _function(operation: "Operation") -> Any:
    """A function whose signature is the operation's sources, options and the settings of every run."""
    from cnnkit.host.options import fields_of

    fields = fields_of(operation.options)
    names = {field.name for field in fields}

    @well_mannered
    def command(**given: Any) -> None:
        from cnnkit.cli.terminal import carry_out

        options = {name: given.pop(name) for name in names if given[name] not in (None, [], ())}
        for name in names & given.keys():
            del given[name]
        carry_out(operation.name, options, **given)

    shared = SHARED[operation.needs == "nothing"]
    parameters = [*sources(operation), *(parameter(operation, field) for field in fields), *shared]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def sources(operation: "Operation") -> list[inspect.Parameter]:
    """The argument of an operation that takes something."""
    if operation.takes == "nothing":
        return []
    asked = typer.Argument(help=TAKES[operation.takes], metavar="SOURCE", show_default=False)
    return [keyword("sources", Annotated[list[str], asked])]


def parameter(operation: "Operation", field: "Field") -> inspect.Parameter:
    """The flag of an option, whose value is text that the operation's own options check."""
    import dataclasses

    remarks = [field.bounds] if field.bounds else []
    if field.default is dataclasses.MISSING:
        remarks.append("required")
    elif field.default is not None and field.default is not False and field.default != ():
        remarks.append(f"default: {_shown(field.default)}")
    text = field.option.help + (f" ({'; '.join(remarks)})" if remarks else "")
    flag = f"{field.flag}/--no-{field.flag[2:]}" if field.kind is bool else field.flag
    completion = _COMPLETIONS[field.option.completes] if field.option.completes else _words(field.choices)
    asked = typer.Option(
        flag,
        help=text,
        metavar=field.option.metavar or _metavar(field),
        autocompletion=completion,
        show_default=False,
        envvar=f"CNNKIT_{operation.name}_{field.name}".upper().replace("-", "_"),
        show_envvar=False,
    )
    kind: Any = bool if field.kind is bool else str
    return keyword(field.name, Annotated[list[kind] if field.many else kind | None, asked], None)


def _metavar(field: "Field") -> str | None:
    if field.choices:
        return "|".join(field.choices)
    if field.is_picture:
        return "PICTURE"
    nouns = {int: "INTEGER", float: "NUMBER", bool: None, Path: "PATH"}
    return nouns.get(field.kind, "TEXT") if field.option.parse is None else "TEXT"


def _words(words: tuple[str, ...]) -> Any:
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _shown(default: Any) -> str:
    return ",".join(str(item) for item in default) if isinstance(default, tuple) else str(default)


def keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def option(
    name: str, kind: Any, help: str, default: Any = None, *flags: str, **more: Any
) -> inspect.Parameter:
    flags = flags or ("--" + name.replace("_", "-"),)
    return keyword(name, Annotated[kind, typer.Option(*flags, help=help, **more)], default)


def complete_model(incomplete: str) -> list[str]:
    """The names of networks that begin with what was typed."""
    from cnnkit.host.host import default_host
    from cnnkit.host.store import stored_networks

    known = {*default_host().names("cnnkit.models"), *stored_networks()}
    return sorted(name for name in known if name.startswith(incomplete))


def _complete_from_model(ctx: typer.Context, names: Any) -> list[str]:
    from cnnkit.errors import CnnkitError
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import ModelSpec

    spec = ModelSpec(ctx.params.get("model") or "default", weights=ctx.params.get("weights"))
    try:
        return list(names(default_host().model(spec)))
    except CnnkitError:
        return []


def complete_layers(ctx: typer.Context, incomplete: str) -> list[str]:
    """The layers of the chosen network that begin with what was typed."""
    names = _complete_from_model(ctx, lambda model: (layer.name for layer in model.layers))
    return [name for name in names if name.startswith(incomplete)]


def complete_labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """The labels of the chosen network that begin with what was typed."""
    return [
        label
        for label in _complete_from_model(ctx, lambda model: model.labels)
        if label.startswith(incomplete)
    ]


_COMPLETIONS = {"layers": complete_layers, "labels": complete_labels}

NETWORK = [
    option(
        "model", str, "a known network or an .onnx file", "", "--model", "-m",
        envvar="CNNKIT_MODEL", autocompletion=complete_model, show_default="the operation's own",
        rich_help_panel="Network",
    ),
    option("weights", str | None, "make the network from a file of weights, or random:SEED",
            rich_help_panel="Network"),
    option("preprocess", str | None, "caffe, tf, torch or raw, where the file does not say",
            rich_help_panel="Network"),
    option("fit", str | None, "squash, crop or pad a picture to the input's shape",
            rich_help_panel="Network"),
    option("filter", str | None, "resizing filter: bilinear, bilinear-plain (Keras), bicubic, …",
            rich_help_panel="Network"),
    option("labels", str | None, "file of class names, where the network has none",
            rich_help_panel="Network"),
    option("input_size", str | None, "HEIGHTxWIDTH for a network that takes any size",
            rich_help_panel="Network"),
]  # fmt: skip
RUN = [
    option("output", str | None, "a file, a folder/, or - for the picture on standard output", None,
            "--output", "-o", rich_help_panel="Output"),
    option("report", str | None, "also write one HTML page about all of it", metavar="FILE.html",
            rich_help_panel="Output"),
    option("force", bool, "overwrite files that cnnkit did not write", False, "--force",
            rich_help_panel="Output"),
    option("skip_existing", bool, "leave out pictures that have their result", False, "--skip-existing",
            rich_help_panel="Output"),
    option("resume", bool, "go on from the checkpoint of an interrupted run", False, "--resume",
            rich_help_panel="Output"),
    option("json", bool, "print one JSON object per result", False, "--json", rich_help_panel="Output"),
    option("quiet", bool, "no talk on stderr but errors", False, "--quiet", "-q", rich_help_panel="Output"),
    option("recursive", bool, "look into the sub-folders of folders", False, "--recursive", "-r",
            rich_help_panel="Running"),
    option("device", str, "auto, cpu or cuda", "auto", envvar="CNNKIT_DEVICE", rich_help_panel="Running"),
    option("threads", int | None, "processor threads", min=1, envvar="CNNKIT_THREADS",
            rich_help_panel="Running"),
    option("max_memory", str | None, "bound on what a batch may take, such as 2GB",
            envvar="CNNKIT_MAX_MEMORY", rich_help_panel="Running"),
    option("batch", int | None, "pictures or windows per run of the network; measured when absent", min=1,
            rich_help_panel="Running"),
    option("seed", int, "of everything random", 0, min=0, rich_help_panel="Running"),
]  # fmt: skip
SHARED = {False: [*NETWORK, *RUN], True: RUN}
