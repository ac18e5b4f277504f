"""Which layers are watched in whatever network."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cnnkit import Builder, Model, Preprocessing, UsageError
from cnnkit.models.default import locate
from cnnkit.plugins.synthesis.choosing import by_rule, chosen
from cnnkit.plugins.synthesis.presets import PRESETS


def network(activation: str, blocks: int = 4) -> Model:
    """Blocks of two convolutions, each with an activation, and a pool; 3 channels."""

    b = Builder("test")
    x = b.input("x", ("N", 3, 64, 64))
    for block in range(1, blocks + 1):
        for number in (1, 2):
            kernel = np.full((3, 3, 3, 3), 0.1, np.float32)
            x = b.op.Conv(x, kernel, pads=[1, 1, 1, 1], name=f"conv{block}_{number}")
            if activation == "Swish":
                x = b.op.Mul(x, b.op.Sigmoid(x, name=f"gate{block}_{number}"), name=f"act{block}_{number}")
            elif activation:
                x = getattr(b.op, activation)(x, name=f"act{block}_{number}")
        x = b.op.MaxPool(x, kernel_shape=[2, 2], strides=[2, 2], name=f"pool{block}")
    b.output(b.op.Flatten(b.op.GlobalAveragePool(x)), ("N", 3))
    return Model.of(b.model(), preprocessing=Preprocessing.preset("raw"))


@pytest.mark.parametrize(
    ("activation", "prefix"), [("Relu", "act"), ("Swish", "act"), ("Tanh", "act"), ("", "conv")]
)
def test_the_rule_takes_the_first_activation_of_each_size_and_the_last_at_an_eighth(
    activation: str, prefix: str
) -> None:
    model = network(activation)
    style, told = by_rule(model, "style_layers")
    assert [name for name, _ in style] == [f"{prefix}{block}_1" for block in range(1, 5)]
    assert sum(weight for _, weight in style) == pytest.approx(1)
    assert style[0][1] == pytest.approx(2 * style[1][1])
    assert f"{prefix}2_1 (32x32x3)" in told
    content, told = by_rule(model, "content_layers")
    assert content == ((f"{prefix}4_2", 1.0),) and "(8x8x3)" in told


def test_at_most_five_layers_of_style_are_taken() -> None:
    style, _ = by_rule(network("Relu", blocks=6), "style_layers")
    assert [name for name, _ in style] == [f"act{block}_1" for block in range(1, 6)]


def test_the_preset_cnnkit_takes_its_own_layers_where_they_are() -> None:

    model = Model.load(locate())
    recipe, said = chosen("cnnkit", PRESETS["cnnkit"], model, ())
    assert recipe == PRESETS["cnnkit"] and not said


def test_the_preset_cnnkit_falls_back_on_the_rule_and_says_so() -> None:
    recipe, said = chosen("cnnkit", PRESETS["cnnkit"], network("Relu"), ())
    assert recipe.style_layers == by_rule(network("Relu"), "style_layers")[0]
    assert len(said) == 2 and "first activation of each size" in said[0]


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "cnnkit"])
def test_other_presets_say_what_is_missing_and_what_to_take(name: str) -> None:
    with pytest.raises(UsageError) as error:
        chosen(name, PRESETS[name], network("Relu"), ())
    for part in (name, "'block1_conv1'", PRESETS[name].network, "--style-layers", "--content-layers"):
        assert part in str(error.value)


def test_layers_of_the_user_may_be_patterns_and_must_exist() -> None:

    model = network("Relu")
    mine = replace(PRESETS["jcjohnson"], style_layers=(("act*_1", 2.0),), content_layers=(("act3_2", 1.0),))
    given = ("style_layers", "content_layers")
    recipe, said = chosen("jcjohnson", mine, model, given)
    assert recipe.style_layers == tuple((f"act{block}_1", 2.0) for block in range(1, 5)) and not said
    wrong: Any = replace(mine, content_layers=(("akt3_2", 1.0),))
    with pytest.raises(UsageError, match="Did you mean 'act3_2'"):
        chosen("jcjohnson", wrong, model, given)


def test_layers_share_the_weight_where_the_program_takes_a_mean() -> None:
    def style(preset: str, *layers: tuple[str, float]) -> Any:
        mine = replace(PRESETS[preset], style_layers=layers, content_layers=(("act3_2", 1.0),))
        return chosen(preset, mine, network("Relu"), ("style_layers", "content_layers"))[0].style_layers

    assert style("keras-sgd", ("act*_1", 1.0)) == tuple((f"act{block}_1", 0.25) for block in range(1, 5))
    assert style("keras-sgd", ("act1_*", 3.0), ("act1_2", 1.0)) == (("act1_1", 0.75), ("act1_2", 0.25))
    assert style("jcjohnson", ("act1_1", 1.0), ("act2_1", 1.0)) == (("act1_1", 1.0), ("act2_1", 1.0))


def test_a_network_without_planes_is_refused() -> None:

    b = Builder("dense")
    x = b.op.Flatten(b.input("x", ("N", 3, 4, 4)))
    b.output(b.op.Relu(b.op.MatMul(x, np.ones((48, 2), np.float32))), ("N", 2))
    with pytest.raises(UsageError, match="convolutional"):
        by_rule(Model.of(b.model(), preprocessing=Preprocessing.preset("raw")), "style_layers")
