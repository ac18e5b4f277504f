"""What a style transfer is made of: every published program is one `Recipe`, and every field is an option.

All of them minimise Σ s_l·E_l + Σ c_l·C_l + t·TV over a picture x. For a layer of N channels and M places

    E_l = ¼ mean((G/M - A/M')²)     the Gram matrix G against the style's A (Gatys et al. 2015, equation 4)
          or W_l, crowsonkb's       the Wasserstein distance of means and covariances; see `cnnkit.losses`
    C_l = mean((F - P)²)            the features F against the content's P

and differ in s_l, c_l, t, in the layers, in the unit of x, and in how they move it. `coefficients.py`
computes s_l, c_l and t.
"""

from dataclasses import dataclass
from typing import Literal

Pixels = Literal["network", "caffe", "caffe-256", "torch", "torch-255"]
Unit = Literal["network", "0..1", "0..255"]
ContentForm = Literal["mean", "sum", "half-sum", "relative"]
StyleForm = Literal["quarter", "positions", "values", "keras-example", "wasserstein"]
VariationForm = Literal["l1", "mean-squared", "power-2.5", "power-2", "inversion", "nine-point"]
Start = Literal["content", "style", "noise", "file"]
Noise = Literal["uniform", "normal"]
OptimizerName = Literal["lbfgs-scipy", "lbfgs-torch", "lbfgs-wolfe", "lbfgs-damped", "adam", "sgd"]
Weighted = tuple[tuple[str, float], ...]
"""Layers with their weights."""


@dataclass(frozen=True)
class Recipe:
    """The parts of a style transfer, in the order in which they come into play."""

    source: str
    """The program or the paper, with the place in it."""

    # What looks, and in which unit it is shown a picture.
    network: str = "vgg19-notop"
    pixels: Pixels = "network"
    """The network's input for a picture: the network's own preprocessing, or another one of `Preprocessing`.
    "caffe-256" multiplies by 256 in place of 255, "torch-255" subtracts the ImageNet means from 0..255."""
    unit: Unit = "network"
    """Of x: the network's input itself, or pixels."""
    tap: Literal["after", "before"] = "after"
    """The ReLU of a convolution."""
    pooling: Literal["max", "average"] = "max"
    padding: Literal["zero", "replicate", "reflect"] = "zero"
    """Of the first convolution."""

    # The pictures.
    size: str = "long:512"
    """"long", "short", "height" or "width" and pixels; "area:512": those of 512 x 512; "480x640": exact."""
    filter: str = "bilinear"
    style_fit: Literal["own", "stretched"] = "own"
    """The style keeps its own aspect, or is stretched onto the content's size."""
    style_scale: float = 1.0
    """The style's size, as a multiple of the content's by the same rule."""
    styles: Literal["targets", "losses"] = "targets"
    """What is averaged when there are several: their Gram matrices, or the losses against each."""

    # The objective.
    content_layers: Weighted = (("block5_conv2", 1.0),)
    content_form: ContentForm = "mean"
    """"relative" is Σ(F - P)²/ΣP²."""
    content_weight: float = 1.0
    style_layers: Weighted = tuple((f"block{block}_conv1", 1.0) for block in range(1, 6))
    style_form: StyleForm = "quarter"
    """What is weighted, as a multiple of E_l. "quarter": 1. "positions": 4, the mean square of the difference
    of F·Fᵀ/M. "values": 4/N², that of F·Fᵀ/(N·M). "keras-example": N²M²/(9S²) for S pixels of the picture.
    "wasserstein" is W_l itself."""
    style_weight: float = 1.0
    normalised: bool = False
    """Each layer's features divided by their mean on the content, so that weights mean the same anywhere."""
    variation_form: VariationForm = "l1"
    variation_weight: float = 0.0
    """Of x in its unit. "power-2" is ½Σ(dx² + dy²), and "inversion" that divided by σ², as `norm_weight`."""
    norm_weight: float = 0.0
    """Of ½Σ(x - grey)⁶/σ² for x in 0..255, which keeps pixels in range (Mahendran and Vedaldi 2015); σ² is
    that sum of squares for an average photograph, 64² for each number."""

    # The way there.
    start: Start = "content"
    noise: Noise = "uniform"
    noise_scale: float = 255.0
    """Of uniform noise its width, from 0 up, of normal noise its deviation around grey; in 0..255."""
    mix: float = 0.0
    """The share of noise in the start."""
    optimizer: OptimizerName = "lbfgs-scipy"
    rate: float = 1.0
    """The learning rate, at first; the lr of torch's L-BFGS; of "lbfgs-damped" its first step, in tenths of a
    grey level; nothing to "lbfgs-scipy"."""
    decay: float = 1.0
    decay_every: float = 1.0
    """The rate falls by the factor `decay` in so many iterations."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    epsilon_as: Literal["torch", "keras"] = "torch"
    """Of Adam."""
    memory: int = 10
    """Pairs that L-BFGS remembers."""
    iterations: int = 500
    """Evaluations of loss and gradient for L-BFGS, as its programs count; updates for Adam and SGD."""
    restart_every: int = 0
    """L-BFGS forgets what it remembers after so many evaluations; 0: never."""
    clamp: Literal["never", "step", "evaluation"] = "never"
    """When x is clamped to what a picture can hold: after each update, or also where it is evaluated."""
    average: float = 0.0
    """The share that the mean of all iterates keeps at each (an exponential average); 0: the last counts."""
    pyramid: int = 0
    """Sides of at least so many pixels, each √2 of the one before, come first; 0: one size."""
    pyramid_iterations: int = 0
    """Of the first size; the others have `iterations`."""

    # The result.
    rounding: Literal["round", "truncate"] = "round"
    offsets: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added to red, green and blue, 0..255, of what is shown."""
    original_size: bool = False
    """The result is resized to the content's own size."""
