"""LIME, from Ribeiro, Singh and Guestrin 2016 (arXiv:1602.04938): which superpixels speak for a class?

What the network sees is divided into superpixels, by scikit-image's SLIC. Again and again a random half of
them is hidden under their mean colours, and the network is asked how probable the class is now. A linear
model, fitted to the answers, in which those count most that hid least, has a weight for each superpixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import (
    Context,
    Image,
    Model,
    Operation,
    Option,
    Result,
    drawing,
    hookimpl,
    label_of,
    resolve_targets,
)

WIDTH = 0.25
"""Of the kernel that says how much an answer counts, in cosine distances; that of the authors' program."""
RIDGE = 1.0
"""What the squares of the weights cost; that of the authors' program."""


@dataclass(frozen=True)
class LimeOptions:
    """Weigh the superpixels of a picture by what they do for the probability of a class (LIME).

    Red ones raise it, blue ones lower it.
    """

    target: Annotated[str, Option("class: top, index or label", parse=str, completes="labels")] = "top"
    superpixels: Annotated[int, Option("about how many", min=2)] = 50
    compactness: Annotated[float, Option("the higher, the squarer they are", min=0.01)] = 10.0
    samples: Annotated[int, Option("how often a random half of them is hidden", min=1)] = 500
    alpha: Annotated[float, Option("opacity of the weights on the picture", min=0, max=1)] = 0.6


def lime(picture: Image, model: Model, options: LimeOptions, context: Context) -> Result:
    """See `LimeOptions`.

    Arrays: `superpixels` (height, width) int64, that of each pixel of the network's input; `weights`
    (superpixels,), by how much showing it raises the probability.
    """
    prepared = model.preprocessing.apply(picture)
    session, watched = context.session(model), model.probabilities
    probabilities = watched.of(session.run(prepared.tensor, [watched.tensor]))[0]
    (target, *_) = resolve_targets(options.target, model.labels, probabilities)

    pixels = model.preprocessing.to_pixels(prepared.tensor)[0]
    superpixels = divided(prepared.picture, options)
    count = superpixels.max() + 1
    shown = context.random.random((options.samples, count)) < 0.5
    shown[0] = True
    inputs = (model.preprocessing.to_network(part) for part in hiding(pixels, superpixels, shown))
    asked = context.progress(session.map(inputs, [watched.tensor]), len(shown), f"{picture.name}: samples")
    weights = fitted(shown, np.array([watched.of_one(answer)[target] for answer in asked]))

    best = float(weights.max())
    label, probability = label_of(target, model.labels), float(probabilities[target])
    heat = prepared.geometry.to_picture(weights[superpixels], outside=np.nan)
    caption = f"{label}: probability {drawing.compact(probability)}"
    figure = drawing.heat_figure(picture, heat, caption, "weight", "blue-red", options.alpha)
    return Result(
        pictures={"": figure},
        arrays={"superpixels": superpixels, "weights": weights},
        data={"class": target, "label": label, "probability": probability, "superpixels": int(count)},
        text=f"{picture.name}  {label} {probability:.3f}: one of {count} superpixels adds {best:.3f}",
    )


def divided(picture: Image, options: LimeOptions) -> NDArray[np.int64]:
    """The superpixel of each pixel, (height, width), from 0 up."""
    from skimage.segmentation import slic

    return slic(picture.pixels, options.superpixels, options.compactness, start_label=0)


def hiding(
    pixels: NDArray[Any], superpixels: NDArray[Any], shown: NDArray[np.bool_]
) -> Iterator[NDArray[Any]]:
    """The picture (height, width, 3) with the superpixels that a row does not show in their mean colours."""
    sizes = np.bincount(superpixels.ravel())
    sums = [np.bincount(superpixels.ravel(), channel) for channel in pixels.reshape(-1, 3).T]
    hidden = (np.stack(sums, axis=1) / sizes[:, None])[superpixels]
    return (np.where(row[superpixels][..., None], pixels, hidden) for row in shown)


def fitted(shown: NDArray[np.bool_], answers: NDArray[Any]) -> NDArray[np.float64]:
    """The weights (superpixels,) of ridge regression, in which an answer counts by how much was shown."""
    distances = 1 - np.sqrt(shown.mean(axis=1))  # the cosine's, from showing everything
    counts = np.sqrt(np.exp(-(distances**2) / WIDTH**2))
    x = shown - np.average(shown, axis=0, weights=counts)
    y = answers - np.average(answers, weights=counts)
    squares = x.T @ (counts[:, None] * x) + RIDGE * np.eye(x.shape[1])
    return np.linalg.solve(squares, x.T @ (counts * y))


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("lime", lime, LimeOptions, takes="picture", needs="classifier")]
