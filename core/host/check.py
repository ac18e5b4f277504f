"""`cnnkit plugins check`: import a plugin strictly and say everything about it."""

import inspect
import math
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnkit.errors import PluginError
from cnnkit.host.hookspecs import Network
from cnnkit.host.host import Host, Plugin
from cnnkit.host.operation import Operation
from cnnkit.host.options import fields_of

SLOW_IMPORT = 0.5
"""Seconds above which a plugin is told to import heavy things inside its functions."""

CALLED_WITH = {"cnnkit.gradient_rules": "op, node, dy, x", "cnnkit.losses": "op, tensor"}
"""What a gradient rule and a loss are given at least."""


@dataclass(frozen=True)
class Report:
    """What a check found: `text` for a person, `good` for the exit code."""

    text: str
    good: bool


def check_plugins(name: str, host: Host | None = None) -> list[Report]:
    """Check every plugin of the name or the distribution `name`. Raises PluginError when there is none."""
    host = host or Host()
    claims = [plugin for plugin in host.plugins if name in (plugin.name, plugin.distribution)]
    if not claims:
        known = sorted({p.name for p in host.plugins} | {p.distribution for p in host.plugins})
        raise PluginError(f"there is no plugin and no distribution '{name}'; there are {', '.join(known)}.")
    return [_check(host, plugin) for plugin in claims]


def complaints_about(contribution: Any, group: str = "") -> list[str]:
    """What is wrong with the definition of what a plugin of a group contributes, a sentence each."""
    if isinstance(contribution, Operation):
        return _of_operation(contribution)
    if isinstance(contribution, Network):
        said = {"summary": contribution.summary, "licence": contribution.licence}
        return [f"the network '{contribution.name}' has no {word}" for word, text in said.items() if not text]
    wanted = CALLED_WITH.get(group, "")
    if _positions(contribution) < len(wanted.split(", ")):
        return [f"{contribution.__name__} takes too few arguments; it is called with ({wanted}, ...)"]
    return []


def _of_operation(operation: Operation) -> list[str]:
    wrong = []
    if not operation.summary:
        wrong.append(f"{operation.options.__name__} has no docstring; it is the operation's help text")
    if not vars(operation.options)["__dataclass_params__"].frozen:
        wrong.append(f"{operation.options.__name__} is not frozen; say @dataclass(frozen=True)")
    for field in fields_of(operation.options):
        if not field.option.help:
            wrong.append(f"the option '{field.name}' has no help: Annotated[..., Option(\"…\")]")
    return wrong


def _positions(function: Callable[..., Any]) -> float:
    """How many arguments it can take by their position."""
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return math.inf
    return sum(
        kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds
    )


def _check(host: Host, plugin: Plugin) -> Report:
    title = f"{plugin.group} {plugin} ({plugin.entry.value})"
    before, started = set(sys.modules), time.perf_counter()
    try:
        contribution = host.load(plugin)
    except PluginError as error:
        story = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else ""
        return Report(f"{title}\n  BROKEN: {error}\n{story}".rstrip(), False)
    seconds = time.perf_counter() - started
    brought = sorted({module.partition(".")[0] for module in set(sys.modules) - before} - {"cnnkit"})
    lines = [title, f"  imported in {seconds:.2f} s"]
    if isinstance(contribution, Operation):
        lines.append(f"  {contribution.summary}")
        lines += [f"  {field.flag:<20} {field.option.help}" for field in fields_of(contribution.options)]
    wrong = complaints_about(contribution, plugin.group)
    if seconds > SLOW_IMPORT:
        lines.append(
            f"  slow to import: it loads {', '.join(brought)}; import heavy things inside its functions"
        )
    lines += [f"  WRONG: {complaint}" for complaint in wrong]
    lines.append("  good" if not wrong else "  not good")
    return Report("\n".join(lines), not wrong)
