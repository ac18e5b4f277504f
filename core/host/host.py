"""The host: which plugins there are, and what stands behind a name.

The tables of entry points are the static manifest: names are listed, completed and refused without importing
anything, and asking for a name imports the one plugin that promises it. A plugin that fails in any way is
skipped with one line; the rest works.
"""

import inspect
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnnkit import API
from cnnkit.errors import CnnkitError, ModelError, PluginError, UsageError, did_you_mean
from cnnkit.host.keeping import Kept, as_many_as_fit

if TYPE_CHECKING:
    from cnnkit.graphs.autodiff.rules import Rule
    from cnnkit.graphs.model import Model
    from cnnkit.graphs.training import Loss
    from cnnkit.host.hookspecs import Network
    from cnnkit.host.operation import ModelSpec, Operation
    from cnnkit.runtime.session import Session
    from cnnkit.runtime.training import TrainingSession

HOOKS = {
    "cnnkit.operations": "cnnkit_operations",
    "cnnkit.models": "cnnkit_models",
    "cnnkit.gradient_rules": "cnnkit_gradient_rules",
    "cnnkit.losses": "cnnkit_losses",
}

log = logging.getLogger("cnnkit")

Value = TypeVar("Value")


@dataclass
class Plugin:
    """One line of an entry-point table: `name` in `group`, promised by `distribution`.

    `state` is "ready" (never imported so far), "loaded", "disabled", "hidden" (cnnkit itself has that name),
    "ambiguous" (another distribution has it too) or "broken"; `reason` explains the last four.
    """

    group: str
    name: str
    distribution: str
    entry: EntryPoint
    state: str = "ready"
    reason: str = ""

    @property
    def version(self) -> str:
        return self.entry.dist.version if self.entry.dist else ""

    def __str__(self) -> str:
        return f"'{self.name}' of {self.distribution} {self.version}".rstrip()


class Host:
    """Finds plugins and resolves names to operations, networks, gradient rules and losses.

    `entries` replaces the installed entry points (for tests and embedders). `disabled` lists names and
    distributions to leave out (default: `CNNKIT_DISABLE`, comma-separated). `strict` raises where a plugin
    would be skipped (default: `CNNKIT_STRICT`).
    """

    def __init__(
        self,
        entries: Iterable[EntryPoint] | None = None,
        disabled: Iterable[str] | None = None,
        strict: bool | None = None,
    ) -> None:
        if disabled is None:
            disabled = os.environ.get("CNNKIT_DISABLE", "").split(",")
        self.disabled = {_normal(word.strip()) for word in disabled} - {""}
        self.strict = os.environ.get("CNNKIT_STRICT", "") not in ("", "0") if strict is None else strict
        if entries is None:
            entries = (entry for group in HOOKS for entry in entry_points(group=group))
        plugins = [Plugin(e.group, e.name, _distribution(e), e) for e in entries if e.group in HOOKS]
        self.plugins = sorted(plugins, key=lambda plugin: (plugin.group, plugin.name, plugin.distribution))
        self._settle_names()
        self._contributions: dict[tuple[str, str], Any] = {}
        self._models: Kept[Model] = Kept()
        self._sessions: Kept[Session] = Kept()
        self._trainings: Kept[TrainingSession] = Kept()
        self._is_sweeping = False

    def names(self, group: str) -> list[str]:
        """The usable names of a group, sorted; imports nothing."""
        return sorted(p.name for p in self.plugins if p.group == group and p.state in ("ready", "loaded"))

    def operation(self, name: str) -> "Operation":
        """The operation behind a name. Raises PluginError."""
        operation: Operation = self._named("cnnkit.operations", name)
        return operation

    def network(self, name: str) -> "Network":
        """The network behind a name. Raises PluginError."""
        network: Network = self._named("cnnkit.models", name)
        return network

    def gradient_rules(self) -> dict[str, Callable[..., Any]]:
        """Every gradient rule that plugins bring, by operator type."""
        return dict(self._all("cnnkit.gradient_rules"))

    def losses(self) -> dict[str, Callable[..., Any]]:
        """Every loss that plugins bring, by name."""
        return dict(self._all("cnnkit.losses"))

    def model(self, spec: "ModelSpec") -> "Model":
        """The network that `spec` names, loaded or built; the last few are kept.

        Raises ModelError, and UsageError for weights where the network is not made from them.
        """
        from cnnkit.graphs.model import Model

        said: dict[str, Any] = {
            "preprocess": spec.preprocess,
            "fit": spec.fit,
            "filter": spec.filter,
            "labels": spec.labels,
            "size": spec.size,
        }
        if weights := self.weights_of(spec):
            return self._models.get(
                (spec, _stamp(Path(weights))),
                lambda: self.build(spec.name, weights).adjusted(**said),
            )
        path = self.locate(spec.name)
        return self._models.get((spec, path, _stamp(path)), lambda: Model.load(path, **said))

    def weights_of(self, spec: "ModelSpec") -> str | None:
        """What the network that `spec` names is made from; None for one that is a file."""
        known = spec.name in self.names("cnnkit.models")
        return spec.weights or (self.network(spec.name).weights if known else None)

    def build(self, name: str, weights: str | Path, **shape: Any) -> "Model":
        """The network `name` made from the weights of a file, or "random:SEED".

        `shape` is what can be asked of this architecture (`classes`, `size`, `alpha`). Raises UsageError when
        the network is not made from weights or takes no such word, and ModelError when they do not fit.
        """
        network = self.network(name) if name in self.names("cnnkit.models") else None
        if network is None or network.build is None:
            self.locate(name)  # raises where there is no such network at all
            raise UsageError(f"the network '{name}' is a whole file and takes no weights; leave them out.")
        bound = getattr(network.build, "keywords", {})  # by functools.partial
        words = [word for word in [*inspect.signature(network.build).parameters][1:] if word not in bound]
        for word in shape:
            if word not in words:
                raise UsageError(
                    f"the network '{name}' takes no {word}; it takes {', '.join(words) or 'none'}."
                )
        model = _of_plugin(network, lambda: network.build(weights, **shape))  # type: ignore[misc]
        return replace(model, name=name, origin=str(weights))

    def locate(self, name: str) -> Path:
        """The file of a network: a path as it is, a name by plugin or from the folder of stored networks.

        Raises ModelError, also for a network that would have to be pulled first.
        """
        from cnnkit.host.store import stored_networks

        path = Path(name)
        known = self.names("cnnkit.models")
        stored = stored_networks()
        if name in known:
            network = self.network(name)
            if network.locate:
                return _existing(Path(_of_plugin(network, network.locate)))
            if name not in stored:
                raise ModelError(_to_pull(network))
        elif path.suffix == ".onnx" or path.exists():
            return _existing(path)
        if name in stored:
            return stored[name]
        known = sorted({*known, *stored})
        hint = did_you_mean(name, known)
        raise ModelError(
            f"there is no network '{name}': it is neither a file nor one of {', '.join(known)}.{hint}"
        )

    def session(self, model: "Model", keep: bool = True, **settings: Any) -> "Session":
        """The session of a model under these settings; the last few are kept.

        Without `keep` it is kept in a sweep only, which will need it again.
        """
        from cnnkit.runtime.session import Session

        if not (keep or self._is_sweeping):
            return Session(model, **settings)
        key = (id(model), *sorted(settings.items()))
        return self._sessions.get(key, lambda: Session(model, **settings))

    def training(
        self,
        model: "Model",
        loss: "Loss",
        wrt: Sequence[str],
        taps: Sequence[str] = (),
        rules: "Mapping[str, Rule] | None" = None,
        **settings: Any,
    ) -> "TrainingSession":
        """The session that differentiates this loss; the last few are kept. Plugins' gradient rules count.

        `loss` is hashable: a function, or an instance of a frozen dataclass that can be called. `rules` win
        over those of plugins.
        """
        from cnnkit.runtime.training import TrainingSession

        own = tuple(sorted((rules or {}).items(), key=lambda item: item[0]))
        key = (id(model), loss, tuple(wrt), tuple(taps), own, *sorted(settings.items()))
        rules = {**self.gradient_rules(), **dict(own)}
        return self._trainings.get(
            key, lambda: TrainingSession(model, loss, wrt, taps=taps, rules=rules, **settings)
        )

    @contextmanager
    def sweeping(self) -> Iterator[None]:
        """Inside, networks and sessions stay open as long as half of the memory that is free now is left."""
        if self._is_sweeping:  # of the sweep around this one
            yield
            return
        self._is_sweeping = True
        try:
            with as_many_as_fit(self._models, self._sessions, self._trainings):
                yield
        finally:
            self._is_sweeping = False

    def load(self, plugin: Plugin) -> Any:
        """What a plugin contributes under its name. Raises PluginError from whatever way it fails in."""
        key = plugin.group, plugin.name
        if plugin.state == "loaded":
            return self._contributions[key]
        if plugin.state != "ready":
            raise PluginError(f"{plugin} cannot be used: {plugin.reason}.")
        try:
            self._contributions[key] = _contribution(plugin)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # third-party code: it may raise or exit in any way
            plugin.state, plugin.reason = "broken", _story(error)
            raise PluginError(
                f"{plugin} cannot be used: {plugin.reason}. "
                f"`cnnkit plugins check {plugin.name}` shows where; CNNKIT_DISABLE={plugin.name} silences it."
            ) from error
        plugin.state = "loaded"
        return self._contributions[key]

    def _named(self, group: str, name: str) -> Any:
        kind = "network" if group == "cnnkit.models" else "operation"
        claims = [p for p in self.plugins if p.group == group and p.name == name and p.state != "hidden"]
        if not claims:
            names = self.names(group)
            raise PluginError(
                f"there is no {kind} '{name}'; there are {', '.join(names)}.{did_you_mean(name, names)}"
            )
        usable = [claim for claim in claims if claim.state in ("ready", "loaded")]
        return self.load((usable or claims)[0])

    def _all(self, group: str) -> Iterator[tuple[str, Any]]:
        for plugin in self.plugins:
            if plugin.group == group and plugin.state in ("ready", "loaded"):
                try:
                    yield plugin.name, self.load(plugin)
                except PluginError as error:
                    if self.strict:
                        raise
                    log.warning("skipped: %s", error)

    def _settle_names(self) -> None:
        """Decide who owns each name: what is disabled is out, cnnkit's own names win, else nobody does."""
        owners: dict[tuple[str, str], list[Plugin]] = {}
        for plugin in self.plugins:
            if self.disabled & {_normal(plugin.name), _normal(plugin.distribution)}:
                plugin.state, plugin.reason = "disabled", "CNNKIT_DISABLE names it"
            else:
                owners.setdefault((plugin.group, plugin.name), []).append(plugin)
        for (_, name), claims in owners.items():
            own = [claim for claim in claims if claim.distribution == "cnnkit"]
            for claim in claims if len(claims) > 1 else []:
                others = [other.distribution for other in claims if other is not claim]
                if claim in own:
                    continue
                claim.state = "hidden" if own else "ambiguous"
                claim.reason = (
                    f"cnnkit itself has '{name}', so {claim.distribution}'s is left out"
                    if own
                    else f"{' and '.join(sorted([claim.distribution, *others]))} both have '{name}'; "
                    f"choose {claim.distribution}'s with CNNKIT_DISABLE={','.join(others)}"
                )
                if self.strict:
                    raise PluginError(f"{claim} cannot be used: {claim.reason}.")


def default_host() -> Host:
    """The one host of this process, made at first use."""
    global _host
    if _host is None:
        _host = Host()
    return _host


_host: Host | None = None


def _contribution(plugin: Plugin) -> Any:
    """Import the plugin, check its hooks, and take what it has under its name."""
    import pluggy

    from cnnkit.host import hookspecs
    from cnnkit.host.operation import Operation
    from cnnkit.host.options import fields_of

    module = plugin.entry.load()
    wanted = getattr(module, "CNNKIT_API", API)
    if wanted != API:
        raise PluginError(f"it is written for plugin interface {wanted}, and this cnnkit has {API}")
    manager = pluggy.PluginManager("cnnkit")
    manager.add_hookspecs(hookspecs)
    manager.register(module, plugin.name)
    manager.check_pending()
    answers = getattr(manager.hook, HOOKS[plugin.group])()
    found: dict[str, Any] = {}
    for answer in answers:
        found |= answer if isinstance(answer, dict) else {item.name: item for item in answer}
    if plugin.name not in found:
        has = f"only {', '.join(found)}" if found else "nothing"
        raise PluginError(f"{plugin.entry.value} has {has} for its hook {HOOKS[plugin.group]}")
    contribution = found[plugin.name]
    kinds: dict[str, Any] = {"cnnkit.operations": Operation, "cnnkit.models": hookspecs.Network}
    if not isinstance(contribution, kind := kinds.get(plugin.group, Callable)):
        raise PluginError(f"its '{plugin.name}' is {type(contribution).__name__}, not {kind.__name__}")
    if isinstance(contribution, Operation):
        fields_of(contribution.options)
    if isinstance(contribution, hookspecs.Network) and not (contribution.locate or contribution.build):
        raise PluginError(f"its network '{plugin.name}' has neither `locate` nor `build`")
    return contribution


def _of_plugin(network: "Network", make: Callable[[], Value]) -> Value:
    """What a network's own code makes."""
    try:
        return make()
    except CnnkitError:
        raise
    except Exception as error:  # third-party code
        raise ModelError(f"the network '{network.name}' cannot be had: {_story(error)}.") from error


def _to_pull(network: "Network") -> str:
    """Why a network that is made from weights has no file."""
    if network.weights:
        return f"the network '{network.name}' is made from {network.weights} and has no file."
    if network.source is None:
        return f"nobody publishes weights for '{network.name}'; say --weights FILE or --weights random:0."
    size = f" ({network.source.size / 1e6:.0f} MB)" if network.source.size else ""
    return (
        f"the network '{network.name}' is not on this machine; `cnnkit models pull {network.name}` fetches it"
        f"{size}."
    )


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes when the file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _story(error: BaseException) -> str:
    """An error of somebody else's code on one line."""
    told = str(error) if isinstance(error, CnnkitError) else f"{type(error).__name__}: {error}"
    return " ".join(told.split()).rstrip(".: ")


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it: Acme_Plugins is acme-plugins."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "an unnamed distribution"


def _existing(path: Path) -> Path:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ModelError(f"the network {path} should be an ONNX file, but there is {found} at that path.")
    return path
