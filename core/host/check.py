"""`cnnkit plugins check`: import a plugin strictly and say everything about it."""

import sys
import time
import traceback
from dataclasses import dataclass

from cnnkit.errors import PluginError
from cnnkit.host.host import Host, Plugin
from cnnkit.host.operation import Operation
from cnnkit.host.options import fields_of

SLOW_IMPORT = 0.5
"""Seconds above which a plugin is told to import heavy things inside its functions."""


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


def complaints_about(operation: Operation) -> list[str]:
    """What is wrong with an operation's definition, a sentence each."""
    wrong = []
    if not operation.summary:
        wrong.append(f"{operation.options.__name__} has no docstring; it is the operation's help text")
    if not vars(operation.options)["__dataclass_params__"].frozen:
        wrong.append(f"{operation.options.__name__} is not frozen; say @dataclass(frozen=True)")
    for field in fields_of(operation.options):
        if not field.option.help:
            wrong.append(f"the option '{field.name}' has no help: Annotated[..., Option(\"…\")]")
    return wrong


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
    wrong = []
    if isinstance(contribution, Operation):
        lines.append(f"  {contribution.summary}")
        lines += [f"  {field.flag:<20} {field.option.help}" for field in fields_of(contribution.options)]
        wrong = complaints_about(contribution)
    if seconds > SLOW_IMPORT:
        lines.append(
            f"  slow to import: it loads {', '.join(brought)}; import heavy things inside its functions"
        )
    lines += [f"  WRONG: {complaint}" for complaint in wrong]
    lines.append("  good" if not wrong else "  not good")
    return Report("\n".join(lines), not wrong)
