"""The published programs, a row each. Fields that a row leaves out are those of `Recipe`.

A row's numbers are the program's own, so that the values of its flags mean what they mean there;
`coefficients.py` makes them comparable. Where a program takes the mean over its style layers, their weights
add up to 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from cnnkit.plugins.synthesis.recipe import Recipe, Weighted


def _each(layers: Sequence[str], weight: float = 1.0) -> Weighted:
    return tuple((layer, weight) for layer in layers)


FIRST_OF_BLOCKS = tuple(f"block{block}_conv1" for block in range(1, 6))

GATYS_PAPER = Recipe(
    source="Gatys, Ecker, Bethge 2016, equations 1 to 7; the network is scaled to activations of mean 1",
    pooling="average",
    size="area:512",
    content_layers=_each(["block4_conv2"]),
    content_form="half-sum",
    content_weight=1.0,
    style_layers=_each(FIRST_OF_BLOCKS, 1 / 5),
    style_form="quarter",
    style_weight=1e3,
    normalised=True,
    start="noise",
    optimizer="lbfgs-scipy",
    iterations=500,
)

GATYS_CODE = Recipe(
    source="leongatys/PytorchNeuralStyleTransfer be6c8e2, cells 2 to 8, without the second run at 800 pixels",
    size="short:512",
    content_layers=_each(["block4_conv2"]),
    style_form="values",
    style_weight=1e3,
    start="content",
    optimizer="lbfgs-torch",
    memory=100,
    iterations=520,
    rounding="truncate",
)

JCJOHNSON = Recipe(
    source="jcjohnson/neural-style 07c4b82, neural_style.lua; its total variation counts in the loss here",
    pixels="caffe-256",
    content_layers=_each(["block4_conv2"]),
    content_weight=5.0,
    style_form="values",
    style_weight=100.0,
    variation_form="power-2",
    variation_weight=1e-3,
    start="noise",
    noise="normal",
    noise_scale=1e-3,
    optimizer="lbfgs-torch",
    memory=100,
    iterations=1000,
    rounding="truncate",
)

NEURAL_STYLE_PT = replace(
    JCJOHNSON,
    source="ProGamerGov/neural-style-pt 7251405, neural_style.py",
    pixels="caffe",
    variation_form="l1",
)

KERAS_LBFGS = Recipe(
    source="keras examples/neural_style_transfer.py, last version on SciPy: ten calls of 20 evaluations",
    size="height:400",
    filter="nearest",
    style_fit="stretched",
    content_layers=_each(["block5_conv2"]),
    content_form="sum",
    content_weight=0.025,
    style_layers=_each(FIRST_OF_BLOCKS, 1 / 5),
    style_form="keras-example",
    style_weight=1.0,
    variation_form="power-2.5",
    variation_weight=1.0,
    start="content",
    optimizer="lbfgs-scipy",
    iterations=200,
    restart_every=20,
    rounding="truncate",
)

KERAS_SGD = replace(
    KERAS_LBFGS,
    source="keras-io examples/generative/neural_style_transfer.py 0896b2e",
    content_weight=2.5e-8,
    style_weight=1e-6,
    variation_weight=1e-6,
    optimizer="sgd",
    rate=100.0,
    decay=0.96,
    decay_every=100,
    iterations=4000,
    restart_every=0,
)

PYTORCH_TUTORIAL = Recipe(
    source="pytorch/tutorials advanced_source/neural_style_tutorial.py 0a7e686",
    network="vgg19-torchvision",
    unit="0..1",
    tap="before",
    size="short:512",
    content_layers=_each(["block2_conv2"]),
    style_layers=_each(["block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2", "block3_conv1"]),
    style_form="values",
    style_weight=1e6,
    start="content",
    optimizer="lbfgs-torch",
    memory=100,
    iterations=320,
    clamp="evaluation",
    rounding="truncate",
)

TENSORFLOW_TUTORIAL = Recipe(
    source="tensorflow/docs generative/style_transfer.ipynb 023b91c, its second run, with total variation",
    unit="0..1",
    filter="bilinear-plain",
    content_weight=1e4,
    style_layers=_each(FIRST_OF_BLOCKS, 1 / 5),
    style_form="positions",
    style_weight=1e-2,
    variation_form="l1",
    variation_weight=30.0,
    start="content",
    optimizer="adam",
    rate=0.02,
    betas=(0.99, 0.999),
    epsilon=0.1,
    epsilon_as="keras",
    iterations=1000,
    clamp="step",
    rounding="truncate",
)

GORDICALEKSA = Recipe(
    source="gordicaleksa/pytorch-neural-style-transfer a244dc6; its content layer is before the ReLU",
    network="vgg19-torchvision",
    pixels="torch-255",
    size="height:400",
    filter="bicubic",
    content_layers=_each(["block4_conv2/conv"]),
    content_weight=1e5,
    style_layers=_each(FIRST_OF_BLOCKS, 1 / 5),
    style_form="positions",
    style_weight=3e4,
    variation_form="l1",
    variation_weight=1.0,
    start="content",
    noise="normal",
    noise_scale=90.0,
    optimizer="lbfgs-wolfe",
    memory=100,
    iterations=1000,
    rounding="truncate",
)

PYSTICHE = Recipe(
    source="pystiche/pystiche 71217c2, its command line",
    network="vgg19-torchvision",
    unit="0..1",
    size="short:500",
    content_layers=_each(["block4_conv2"]),
    style_layers=_each(FIRST_OF_BLOCKS, 1 / 5),
    style_form="positions",
    style_weight=1e3,
    start="content",
    optimizer="lbfgs-torch",
    memory=100,
    iterations=500,
    rounding="truncate",
)

CROWSONKB = Recipe(
    source="crowsonkb/style-transfer-pytorch e7e2c71; its root of a matrix is taken to more digits here",
    network="vgg19-torchvision",
    unit="0..1",
    padding="replicate",
    filter="bicubic",
    content_layers=_each(["block4_conv2"]),
    content_weight=0.015,
    style_layers=tuple((layer, 4.0 ** (4 - place) / 341) for place, layer in enumerate(FIRST_OF_BLOCKS)),
    style_form="wasserstein",
    style_weight=1.0,
    variation_form="nine-point",
    variation_weight=2.0,
    start="content",
    optimizer="adam",
    rate=0.02,
    betas=(0.9, 0.99),
    iterations=500,
    clamp="step",
    average=0.99,
    pyramid=128,
    pyramid_iterations=1000,
    rounding="truncate",
)

VGG16_NOISE = Recipe(
    source="Gatys et al. 2016 as course reports build it on Keras: VGG16, from noise, at 512 x 512",
    network="vgg16-notop",
    size="512x512",
    filter="nearest",
    style_fit="stretched",
    content_layers=_each(["block4_conv2"]),
    content_form="half-sum",
    content_weight=1.0,
    style_layers=_each(FIRST_OF_BLOCKS[:4], 1 / 4),
    style_form="quarter",
    style_weight=1e4,
    start="noise",
    noise="uniform",
    noise_scale=255.0,
    optimizer="lbfgs-scipy",
    iterations=500,
    rounding="truncate",
    original_size=True,
)

CNNKIT = Recipe(
    source="cnnkit's own: large strokes from a pyramid, a quiet surface from averaged Adam, on any network",
    unit="0..1",
    pooling="average",
    padding="replicate",
    size="long:384",
    filter="lanczos",
    content_layers=_each(["block4_conv2"]),
    style_layers=tuple((layer, 2.0 ** (4 - place) / 31) for place, layer in enumerate(FIRST_OF_BLOCKS)),
    style_form="positions",
    style_weight=100.0,
    normalised=True,
    variation_form="nine-point",
    variation_weight=50.0,
    start="content",
    optimizer="adam",
    rate=0.02,
    betas=(0.9, 0.99),
    iterations=150,
    clamp="step",
    average=0.98,
    pyramid=128,
    pyramid_iterations=300,
)

PRESETS: Mapping[str, Recipe] = MappingProxyType(
    {
        "cnnkit": CNNKIT,
        "gatys-paper": GATYS_PAPER,
        "gatys-code": GATYS_CODE,
        "jcjohnson": JCJOHNSON,
        "neural-style-pt": NEURAL_STYLE_PT,
        "keras-lbfgs": KERAS_LBFGS,
        "keras-sgd": KERAS_SGD,
        "pytorch-tutorial": PYTORCH_TUTORIAL,
        "tensorflow-tutorial": TENSORFLOW_TUTORIAL,
        "gordicaleksa": GORDICALEKSA,
        "pystiche": PYSTICHE,
        "crowsonkb": CROWSONKB,
        "vgg16-noise": VGG16_NOISE,
    }
)
