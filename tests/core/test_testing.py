"""The contracts of plugins: what keeps them passes, and each way of breaking one is said in words."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from cnnkit import (
    RULES,
    Builder,
    Host,
    Image,
    Model,
    Network,
    Operation,
    Option,
    Preprocessing,
    Result,
    losses,
)
from cnnkit.testing import (
    check_gradient_rule,
    check_loss,
    check_network,
    check_operation,
    check_package,
    make_tiny_model,
)
from cnnkit.testing.operations import check_refusals

WriteDistribution = Callable[..., Path]


# Operations


@dataclass(frozen=True)
class Options:
    """Do nothing."""

    word: Annotated[Any, Option("a word", parse=str)] = ""


def echo(picture: Image, model: Any, options: Options, context: Any) -> Result:
    return Result({"": picture}, data={"word": options.word})


GOOD = Operation("echo", echo, Options, needs="nothing")


def test_a_good_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_operation(GOOD)
    check_operation(GOOD, word="hello")
    for takes in ("nothing", "folder"):
        check_operation(replace(GOOD, run=lambda source, *_: Result(text=str(source)), takes=takes))
    check_operation(
        replace(GOOD, run=lambda pictures, *_: (Result({"": p}) for p in pictures), takes="pictures")
    )


def test_folders_hold_pictures_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = []

    def count(folder: Path, *_: Any) -> Result:
        seen.append({place.name: len(list(place.glob("*.png"))) for place in sorted(folder.iterdir())})
        return Result()

    check_operation(replace(GOOD, run=count, takes="folder"))
    assert seen == [{"even": 4, "odd": 3}] * 2


def brighten(picture: Image, *_: Any) -> Result:
    picture.pixels.setflags(write=True)
    picture.pixels[...] //= 2
    return Result({"": picture})


def litter(picture: Image, *_: Any) -> Result:
    Path("litter.txt").touch()
    return Result()


def noise(picture: Image, *_: Any) -> Result:
    pixels = np.random.randint(0, 256, (8, 8, 3)).astype(np.uint8)
    return Result({"": picture.with_pixels(pixels)})


@pytest.mark.parametrize(
    "run, said",
    [
        (brighten, "a photograph: the operation changed the picture|differ in .png"),
        (litter, "left files in the working folder"),
        (noise, "a photograph: two runs with the same seed differ in .png"),
    ],
)
def test_bad_operations(run: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=said):
        check_operation(replace(GOOD, run=run))


def forgetful(value: Any) -> Any:
    return object()


@pytest.mark.parametrize(
    "parse, said",
    [
        (lambda value: value.strip(), r"of --word raises AttributeError for -1; ValueError with a sentence"),
        (forgetful, "the options change on their way through a manifest"),
    ],
)
def test_bad_options(parse: Any, said: str) -> None:
    @dataclass(frozen=True)
    class Bad:
        """Do nothing."""

        word: Annotated[Any, Option("a word", parse=parse)] = ""

    with pytest.raises(AssertionError, match=said):
        check_operation(replace(GOOD, options=Bad), word="word")


def test_cnnkits_own_options_refuse_nonsense() -> None:
    host = Host()
    own = [p.name for p in host.plugins if (p.group, p.distribution) == ("cnnkit.operations", "cnnkit")]
    assert len(own) > 15
    for name in own:
        check_refusals(host.operation(name))


def test_incomplete_options() -> None:
    @dataclass
    class Silent:
        word: Annotated[str, Option("")] = ""

    Silent.__doc__ = None
    with pytest.raises(AssertionError, match=r"has no docstring.*is not frozen.*word.* has no help"):
        check_operation(replace(GOOD, options=Silent))


# Networks


def channels(weights: str | Path, *, means: int = 3) -> Model:
    if not str(weights).startswith("random:"):
        raise ValueError("not these")
    random = np.random.default_rng(int(str(weights).partition(":")[2]))
    builder = Builder("channels")
    x = builder.input("input", ["N", 3, "height", "width"])
    kernel = random.normal(size=(means, 3, 1, 1)).astype(np.float32)
    x = builder.op.GlobalAveragePool(builder.op.Conv(x, kernel, name="conv"), name="means")
    builder.output(builder.op.Flatten(x, name="scores"), ["N", means])
    return Model.of(builder.model(), preprocessing=Preprocessing.preset("tf"))


NETWORK = Network("channels", "means of channels", "MIT", build=channels)


def test_good_networks(tmp_path: Path) -> None:
    check_network(NETWORK)
    check_network(NETWORK, means=5)
    path = make_tiny_model().save(tmp_path / "tiny.onnx")
    check_network(Network("tiny", "three colours", "MIT", locate=lambda: path))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"licence": ""}, "the network 'channels' has no licence"),
        ({"build": lambda weights: channels("random:0")}, "random:0 and random:1 are the same network"),
        (
            {"build": lambda weights: channels(weights if "random" in str(weights) else "random:3")},
            "a file that holds no weights is taken for weights",
        ),
    ],
)
def test_bad_networks(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_network(replace(NETWORK, **changes))


def test_a_network_of_chance() -> None:
    seeds = iter(range(10))
    chance = replace(NETWORK, build=lambda weights: channels(f"random:{next(seeds)}"))
    with pytest.raises(AssertionError, match="the same weights give another network"):
        check_network(chance)


# Gradient rules and losses


def test_gradient_rules() -> None:
    check_gradient_rule("Elu", RULES["Elu"], np.array([-2.0, 0.5, 3.0]), alpha=0.7)
    with pytest.raises(AssertionError, match="with respect to input 0 of Elu: the output changes by"):
        check_gradient_rule("Elu", lambda op, node, dy, x: (dy,), np.array([-2.0, 0.5]), alpha=0.7)
    with pytest.raises(AssertionError, match="are at a kink; move the numbers"):
        check_gradient_rule("Abs", RULES["Abs"], np.zeros(3))


def test_losses() -> None:
    x = np.array([[1.0, 3.0]])
    check_loss(losses.mean_squared_error, x, 2.0, equals=1.0)
    check_loss(losses.mean_squared_error, x, x + 1, equals=1.0)
    check_loss(losses.cross_entropy, x, np.array([1]), equals=np.log(1 + np.exp(-2)))
    check_loss(losses.power_penalty, x, power=3.0, equals=28.0)


def frozen(op: Any, x: Any) -> Any:
    """Has a value, and no gradient where it should."""
    return op.ReduceSum(op.Mul(x, op.fixed(x)), keepdims=0)


@pytest.mark.parametrize(
    "loss, said",
    [
        (losses.l2_penalty, "the loss is 10, not 11"),
        (lambda op, x: op.ReduceSum(x), r"the loss has shape \(1, 1\) and type float32; it is one number"),
        (lambda op, x: op.cast(losses.l1_penalty(op, x), np.float64), "type float64; it is one number"),
        (frozen, "with respect to the tensor: the output changes by"),
    ],
)
def test_bad_losses(loss: Any, said: str) -> None:
    equals = 10.0 if loss is frozen else 11.0
    with pytest.raises(AssertionError, match=said):
        check_loss(loss, np.array([[1.0, 3.0]]), equals=equals)


# Packages

ECHO = """
from dataclasses import dataclass
from cnnkit import Operation, hookimpl
@dataclass(frozen=True)
class Options:
    '''Do nothing.'''
@hookimpl
def cnnkit_operations():
    return [Operation("echo", print, Options, needs="nothing")]
"""
METADATA = "Summary: Echoes\nLicense-Expression: MIT\nRequires-Dist: cnnkit\n"


@pytest.mark.parametrize(
    "metadata, source, said",
    [
        (METADATA, ECHO, ""),
        (METADATA, ECHO + "import echo_parts", ""),
        (METADATA, ECHO + "import wcwidth_like", "imports wcwidth_like; import it in the function that uses"),
        (METADATA, "raise OSError('no disk')", "BROKEN: .*no disk"),
        (METADATA.replace("Summary", "X-Summary"), ECHO, "has no description"),
        (METADATA.replace("License", "X-License"), ECHO, "has no license"),
        (METADATA.replace("cnnkit", "numpy>=2"), ECHO, "does not depend on cnnkit"),
        (
            METADATA + "Requires-Dist: onnxruntime-gpu>=1.28; extra == 'x'\n",
            ECHO,
            "on onnxruntime-gpu; cnnkit",
        ),
    ],
)
def test_packages(
    metadata: str,
    source: str,
    said: str,
    write_distribution: WriteDistribution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = {"cnnkit.operations": {"echo": "echo_of_test"}}
    modules = {"echo_of_test": source, "echo_parts": ""}
    write_distribution(tmp_path / "ours", "cnnkit-echo", entries, modules)
    (information,) = (tmp_path / "ours").glob("*.dist-info")
    (information / "top_level.txt").write_text("echo_of_test\necho_parts\n")
    with open(information / "METADATA", "a") as file:
        file.write(metadata)
    write_distribution(tmp_path / "theirs", "wcwidth-like", {}, {"wcwidth_like": ""})
    for site in ("theirs", "ours"):
        monkeypatch.syspath_prepend(str(tmp_path / site))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'ours'}:{tmp_path / 'theirs'}")
    monkeypatch.delitem(sys.modules, "echo_of_test", raising=False)
    if not said:
        return check_package("cnnkit-echo")
    with pytest.raises(AssertionError, match=said):
        check_package("cnnkit-echo")


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(AssertionError, match="cnnkit-nothing is not installed; say `pip install"):
        check_package("cnnkit-nothing")


def test_definitions_of_rules_and_losses() -> None:
    from cnnkit.host.check import complaints_about

    assert complaints_about(lambda op, node, dy, x: None, "cnnkit.gradient_rules") == []
    assert complaints_about(lambda op, *rest: None, "cnnkit.gradient_rules") == []
    (said,) = complaints_about(lambda op, dy, x: None, "cnnkit.gradient_rules")
    assert said.endswith("takes too few arguments; it is called with (op, node, dy, x, ...)")
    assert complaints_about(lambda op: None, "cnnkit.losses") != []


def test_the_tests_of_the_page_pass() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    tests = [name for name in names if name.startswith("test_")]
    assert tests == ["test_max_unpool", "test_pseudo_huber"]
    for name in tests:
        names[name]()


def test_the_page_has_every_kind_and_every_check() -> None:
    from cnnkit import testing
    from cnnkit.host.template import KINDS

    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8")
    checks = [name for name in testing.__all__ if name.startswith("check_")]
    assert all(f"`{name}" in page for name in [*KINDS, *checks])
    assert all(f"`{kind.group}`" in page for kind in KINDS.values())
