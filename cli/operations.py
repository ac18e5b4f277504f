"""`cnnkit run OPERATION`: a typed command made from the operation's options dataclass.

Listing the operations needs their names only, which the entry-point tables hold; the plugin is imported when
its command is called, completed, or asked for its own help.
"""

import inspect
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

    def list_commands(self, ctx: Any) -> list[str]:
        from cnnkit.host.host import default_host

        return default_host().names("cnnkit.operations")

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
        return args[0], real_command(args[0]), args[1:]


@well_mannered
def real_command(name: str) -> Any:
    """The command of an operation, whose plugin is imported now."""
    from cnnkit.host.host import default_host

    operation = default_host().operation(name)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(
        name, help=operation.options.__doc__, context_settings={"help_option_names": ["-h", "--help"]}
    )(_function(operation))
    return typer.main.get_command(app)


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

    parameters = [_parameter(operation, field) for field in fields] + list(
        _SHARED[operation.needs == "nothing"]
    )
    if operation.takes != "nothing":
        sources = typer.Argument(help=TAKES[operation.takes], metavar="SOURCE…", show_default=False)
        parameters.insert(0, _keyword("sources", Annotated[list[str], sources]))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameter(operation: "Operation", field: "Field") -> inspect.Parameter:
    import dataclasses

    required = field.default is dataclasses.MISSING
    shown: Any = _shown(field.default) if not required and field.default not in (None, ()) else False
    text = field.option.help + (" [required]" if required else "")
    flag = f"{field.flag}/--no-{field.flag[2:]}" if field.kind is bool else field.flag
    completion = {"autocompletion": _COMPLETIONS[field.option.completes]} if field.option.completes else {}
    option = typer.Option(
        flag,
        help=text,
        min=field.option.min,
        max=field.option.max,
        metavar=field.option.metavar or _metavar(field),
        show_default=shown,
        envvar=f"CNNKIT_{operation.name}_{field.name}".upper().replace("-", "_"),
        show_envvar=False,
        **completion,
    )
    kind: Any = field.kind if field.kind in (int, float, bool) and field.option.parse is None else str
    if field.choices:
        from typing import Literal

        kind = Literal[field.choices]  # type: ignore[valid-type]
    return _keyword(field.name, Annotated[list[kind] if field.many else kind | None, option], None)


def _metavar(field: "Field") -> str | None:
    if field.choices or field.option.parse is None and field.kind in (int, float, bool):
        return None
    return "PICTURE" if field.is_picture else "PATH" if field.kind.__name__ == "Path" else "TEXT"


def _shown(default: Any) -> str:
    return "x".join(str(item) for item in default) if isinstance(default, tuple) else str(default)


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _option(
    name: str, kind: Any, help: str, default: Any = None, *flags: str, **more: Any
) -> inspect.Parameter:
    flags = flags or ("--" + name.replace("_", "-"),)
    return _keyword(name, Annotated[kind, typer.Option(*flags, help=help, **more)], default)


def complete_model(incomplete: str) -> list[str]:
    """The names of networks that begin with what was typed."""
    from cnnkit.host.host import default_host
    from cnnkit.host.catalogue import stored_networks

    known = {*default_host().names("cnnkit.models"), *stored_networks()}
    return sorted(name for name in known if name.startswith(incomplete))


def _complete_from_model(ctx: typer.Context, names: Any) -> list[str]:
    from cnnkit.errors import CnnkitError
    from cnnkit.host.host import default_host
    from cnnkit.host.operation import ModelSpec

    try:
        return list(names(default_host().model(ModelSpec(ctx.params.get("model") or "default"))))
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

_NETWORK = [
    _option(
        "model", str, "a known network or an .onnx file", "default", "--model", "-m",
        envvar="CNNKIT_MODEL", autocompletion=complete_model, rich_help_panel="Network",
    ),
    _option("preprocess", str | None, "caffe, tf, torch or raw, where the file does not say", rich_help_panel="Network"),
    _option("fit", str | None, "squash, crop or pad a picture to the input's shape", rich_help_panel="Network"),
    _option("filter", str | None, "resizing filter: bilinear, bilinear-plain (Keras), bicubic, …", rich_help_panel="Network"),
    _option("labels", str | None, "file of class names, where the network has none", rich_help_panel="Network"),
    _option(
        "input_size", str | None, "HEIGHTxWIDTH for a network that takes any size", rich_help_panel="Network"
    ),
]  # fmt: skip
_RUN = [
    _option("output", str | None, "a file, a folder/, or - for the picture on standard output", None,
            "--output", "-o", rich_help_panel="Output"),
    _option("force", bool, "overwrite files that cnnkit did not write", False, "--force", rich_help_panel="Output"),
    _option("skip_existing", bool, "leave out pictures that have their result", False, "--skip-existing",
            rich_help_panel="Output"),
    _option("json", bool, "print one JSON object per result", False, "--json", rich_help_panel="Output"),
    _option("quiet", bool, "no talk on stderr but errors", False, "--quiet", "-q", rich_help_panel="Output"),
    _option("recursive", bool, "look into the sub-folders of folders", False, "--recursive", "-r",
            rich_help_panel="Running"),
    _option("device", str, "auto, cpu or cuda", "auto", envvar="CNNKIT_DEVICE", rich_help_panel="Running"),
    _option("threads", int | None, "processor threads", min=1, envvar="CNNKIT_THREADS", rich_help_panel="Running"),
    _option("max_memory", str | None, "bound on what a batch may take, such as 2GB", envvar="CNNKIT_MAX_MEMORY",
            rich_help_panel="Running"),
    _option("batch", int | None, "pictures or windows per run of the network; measured when absent", min=1,
            rich_help_panel="Running"),
    _option("seed", int, "of everything random", 0, rich_help_panel="Running"),
]  # fmt: skip
_SHARED = {False: [*_NETWORK, *_RUN], True: _RUN}
