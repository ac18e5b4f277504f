"""Bringing networks into the store: `cnnkit models pull` and `cnnkit models import`."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cnnkit.errors import OutputError, UsageError
from cnnkit.host.changes import Changes
from cnnkit.host.context import LogReporter, Reporter
from cnnkit.host.download import Fetched, alone, bring, fetch
from cnnkit.host.host import Host, default_host
from cnnkit.host.store import Record, checked_name, home, keep, record_of, sha256_of, store

if TYPE_CHECKING:
    from cnnkit.host.hookspecs import Network


def pull(
    name: str,
    *,
    to: str | None = None,
    fold: bool = False,
    float16: bool = False,
    file: str | Path | None = None,
    labels: str | Path | None = None,
    stored_as: str | None = None,
    force: bool = False,
    host: Host | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Fetch the published weights of a network and store it as one ONNX file, whose path comes back.

    `to` is the last layer that is kept; `fold` makes batch norms part of the layers before them; `float16`
    halves the file. `file` are weights, and `labels` class names, that are on this machine already.
    `stored_as` is another name than the network's own. Nothing is done where it is stored like this already,
    but with `force`.

    Raises ModelError when it cannot be fetched or is not the published file, OutputError when it cannot be
    stored or is stored otherwise, and UsageError.
    """
    host, reporter = host or default_host(), reporter if reporter is not None else LogReporter()
    if labels is not None and not Path(labels).is_file():
        raise UsageError(f"there is no label file {labels}")
    network, changes = host.network(name), Changes(to, fold, float16)
    if network.build is None or network.weights:
        raise UsageError(f"the network '{name}' comes with its plugin: there is nothing to pull.")
    if stored_as not in (None, name):
        checked_name(str(stored_as), host.names("cnnkit.models"))
    own = stored_as or name
    options = {"network": name, **asdict(changes)}
    path = store() / f"{own}.onnx"
    with alone(home() / "downloads" / name, reporter):
        if not force and _is_stored(path, options):
            reporter.say(f"the network '{own}' is there already: {path}")
            return path
        weights = _weights(network, Path(file) if file else None, reporter)
        if network.labels and labels is None:
            labels = fetch(network.labels, reporter, "--labels").path
        reporter.say(f"making '{own}' of {weights.path.name}")
        model = host.build(name, weights.path).adjusted(labels=labels)
        model = replace(model, name=own, licence=network.licence, origin=str(weights))
        summary = network.summary if changes == Changes() else f"{network.summary} ({changes})"
        record = Record(
            summary, network.licence, weights.origin, weights.checksum, weights.published, options
        )
        keep(changes.apply(model), own, record)
        if file is None:
            weights.path.unlink()
    reporter.say(f"stored '{own}' as {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def import_network(
    file: str | Path,
    name: str,
    *,
    preprocess: str | None = None,
    fit: str | None = None,
    filter: str | None = None,
    labels: str | Path | None = None,
    size: tuple[int, int] | None = None,
    licence: str = "",
    changes: Changes = Changes(),
    force: bool = False,
    host: Host | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Store a copy of any ONNX file under a name, with all that cnnkit has to know of it; returns its path.

    The arguments say what the file does not; see `Model.load`. Raises ModelError, UsageError, and OutputError
    when the name is in use and not `force`.
    """
    from cnnkit.graphs.model import Model

    host, reporter = host or default_host(), reporter if reporter is not None else LogReporter()
    file, path = Path(file), store() / f"{checked_name(name, host.names('cnnkit.models'))}.onnx"
    if path.exists() and not force:
        raise OutputError(f"a network '{name}' is stored already; choose another name or say --force.")
    model = Model.load(
        file, preprocess=preprocess, fit=fit, filter=filter, labels=labels, size=size, name=name
    )
    for assumption in model.assumptions:
        reporter.say(f"{name}: {assumption}")
    model = replace(model, licence=licence or model.licence, origin=model.origin or file.name)
    record = Record(
        f"imported from {file.name}",
        model.licence,
        str(file.absolute()),
        f"sha256:{sha256_of(file)}",
        False,
        asdict(changes),
    )
    keep(changes.apply(model), name, record)
    reporter.say(f"stored '{name}' as {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return path


def _weights(network: "Network", file: Path | None, reporter: Reporter) -> Fetched:
    if file is not None:
        return bring(file, network.source)
    if network.source is None:
        raise UsageError(f"nobody publishes weights for '{network.name}'; bring a file with --from FILE.")
    return fetch(network.source, reporter, "--from")


def _is_stored(path: Path, options: dict[str, object]) -> bool:
    """Whether the network is there with these options. Raises OutputError where it is with others."""
    if not path.exists():
        return False
    record = record_of(path)
    if record and record.options == options:
        return True
    raise OutputError(
        f"the network '{path.stem}' is stored already, but was not pulled with these options; --force puts "
        "this one in its place, --as NAME keeps it beside that one."
    )
