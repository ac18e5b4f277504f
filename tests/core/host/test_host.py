"""The host as an object: entries in, names and contributions out, networks and sessions kept."""

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any

import pytest

import cnnkit
from cnnkit import Host, Model, ModelError, ModelSpec, PluginError
from cnnkit.host.check import check_plugins, complaints_about

MODULE = """
from dataclasses import dataclass
from cnnkit import Operation, Result, hookimpl

LOADED = []

@dataclass(frozen=True)
class Options:
    '''Return nothing.'''

def run(picture, model, options, context):
    return Result()

@hookimpl
def cnnkit_operations():
    LOADED.append(1)
    return [Operation(name, run, Options) for name in ('first', 'second', 'classify')]
"""

Entries = Callable[..., list[EntryPoint]]


@pytest.fixture
def entries(
    tmp_path: Path, write_distribution: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Entries]:
    """The entry points of one distribution that has `names`, its module importable."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(distribution: str, *names: str, source: str = MODULE) -> list[EntryPoint]:
        module = f"module_of_{distribution.replace('-', '_').lower()}"
        table = {"cnnkit.operations": dict.fromkeys(names, module)}
        write_distribution(tmp_path / distribution, distribution, table)
        (tmp_path / f"{module}.py").write_text(source)
        found = distributions(path=[str(tmp_path / distribution)])
        return [entry for each in found for entry in each.entry_points]

    yield make
    for name in [name for name in sys.modules if name.startswith("module_of_")]:
        del sys.modules[name]


def test_names_import_nothing(entries: Entries) -> None:
    host = Host(entries("acme", "second", "first"), disabled=[])
    assert host.names("cnnkit.operations") == ["first", "second"] and host.names("cnnkit.models") == []
    assert "module_of_acme" not in sys.modules
    assert host.operation("second").name == "second"
    assert [plugin.state for plugin in host.plugins] == ["ready", "loaded"]
    assert host.operation("second") is host.operation("second")
    assert sys.modules["module_of_acme"].LOADED == [1]  # the hook was asked once


def test_unknown_names() -> None:
    with pytest.raises(
        PluginError, match=r"there is no operation 'occlusoin'; there are .*Did you mean 'occlusion'\?"
    ):
        Host(disabled=[]).operation("occlusoin")
    with pytest.raises(PluginError, match="there is no network 'x'"):
        Host(disabled=[]).network("x")


def test_settings_come_from_the_environment(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    found = entries("acme", "first", "second")
    monkeypatch.setenv("CNNKIT_DISABLE", "other, first")
    assert Host(found).names("cnnkit.operations") == ["second"]
    assert Host(found, disabled=["ACME"]).names("cnnkit.operations") == []
    assert Host(found).strict is False
    monkeypatch.setenv("CNNKIT_STRICT", "1")
    assert Host(found).strict is True and Host(found, strict=False).strict is False


def test_who_owns_a_name(entries: Entries) -> None:
    one, two = entries("one", "first", "second"), entries("two", "first")
    own = next(plugin.entry for plugin in Host().plugins if plugin.name == "classify")
    host = Host([*one, *two, own, *entries("thief", "classify")], disabled=[], strict=False)
    assert host.names("cnnkit.operations") == ["classify", "second"]
    assert host.operation("classify").options.__module__ == "cnnkit.plugins.classify"
    with pytest.raises(
        PluginError, match=r"one and two both have 'first'; choose one's with CNNKIT_DISABLE=two"
    ):
        host.operation("first")
    assert Host([*one, *two], disabled=["two"]).operation("first").name == "first"
    with pytest.raises(PluginError, match="both have 'first'"):
        Host([*one, *two], disabled=[], strict=True)
    with pytest.raises(PluginError, match="left out"):
        Host([own, *entries("thief-two", "classify")], disabled=[], strict=True)


def test_a_broken_plugin_stays_broken(entries: Entries) -> None:
    host = Host(entries("broken", "first", source="1 / 0"), disabled=[])
    for _ in range(2):
        with pytest.raises(PluginError, match=r"'first' of broken 1\.0 cannot be used: ZeroDivisionError"):
            host.operation("first")
    assert host.names("cnnkit.operations") == []
    with pytest.raises(KeyboardInterrupt):  # Ctrl-C is the user's, not the plugin's
        Host(entries("stop", "first", source="raise KeyboardInterrupt"), disabled=[]).operation("first")


def test_check(entries: Entries) -> None:
    hasty = MODULE.replace("frozen=True", "").replace("'''Return nothing.'''", "size: int = 1")
    host = Host([*entries("good", "first"), *entries("hasty", "second", source=hasty)], disabled=[])
    (good,) = check_plugins("first", host)
    assert good.good and good.text.endswith("  good") and "Return nothing." in good.text
    (bad,) = check_plugins("hasty", host)
    assert not bad.good
    assert "Options is not frozen" in bad.text and "the option 'size' has no help" in bad.text
    for name in ("classify", "occlusion", "activations", "filters"):
        assert complaints_about(Host(disabled=[]).operation(name)) == []


def test_operations_say_what_they_take() -> None:
    for wrong in ({"takes": "image"}, {"needs": "model"}):
        with pytest.raises(ValueError, match=r"the operation x says .*, not one of"):
            cnnkit.Operation("x", print, int, **wrong)  # type: ignore[arg-type]


def test_networks_are_kept_until_their_file_changes(tmp_path: Path, tiny_model: Model) -> None:
    host = Host([])
    path = tiny_model.save(tmp_path / "tiny.onnx")
    spec = ModelSpec(str(path))
    assert host.model(spec) is host.model(ModelSpec(str(path)))
    assert host.model(ModelSpec(str(path), fit="pad")) is not host.model(spec)
    before = host.model(spec)
    Model.of(tiny_model.graph, licence="MIT").save(path)
    assert host.model(spec) is not before and host.model(spec).licence == "MIT"
    for number in range(9):
        host.model(ModelSpec(str(tiny_model.save(tmp_path / f"{number}.onnx"))))
    assert len(host._models) == 4


def test_one_session_for_many_pictures(tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    from cnnkit.runtime import session

    original = session.Session.__init__

    def counted(self: Any, *arguments: Any, **settings: Any) -> None:
        made.append(settings)
        original(self, *arguments, **settings)

    monkeypatch.setattr(session.Session, "__init__", counted)
    host = Host()
    sources = ["sample:shapes", "sample:stripes", "sample:gradient"]
    assert len(list(cnnkit.map("occlusion", sources, model=tiny_model, host=host, patch=8, stride=8))) == 3
    list(cnnkit.map("classify", sources, model=tiny_model, host=host))
    assert len(made) == 1 and made[0]["device"] == "auto"
    cnnkit.run("classify", sources[0], model=tiny_model, host=Host())
    assert len(made) == 2


def test_stored_networks(tmp_path: Path, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNKIT_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    stored = tiny_model.save(tmp_path / "models" / "mine.onnx")
    host = Host()
    assert host.locate("mine") == stored and host.locate("default").name == "default.onnx"
    for name, said in (
        ("mien", r"neither a file nor one of default, .*mine, .*vgg19\b.*\. Did you mean 'mine'\?"),
        ("x.onnx", "nothing at that path"),
        (str(tmp_path), "a folder at that path"),
    ):
        with pytest.raises(ModelError, match=said):
            host.locate(name)
