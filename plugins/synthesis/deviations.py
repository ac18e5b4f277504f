"""How near a picture comes to its targets, layer by layer, in numbers that can be compared."""

from typing import Any

import numpy as np

from cnnkit.plugins.synthesis import objective as objectives
from cnnkit.plugins.synthesis.distances import DISTANCES, Moments
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.loop import Array


def deviations(task: Easel, x: Array) -> dict[str, Any]:
    """By layer: "gram_error" Σ(G - A)²/ΣA², "content_error" Σ(F - P)²/ΣP².

    Of several styles whose losses count, the mean by their shares. With masks "regions" has the "gram_error"
    of each "style" inside its own.
    """
    size, watched = task.size_of(x), task.objective
    feeds = task.feeds(size)
    layers = [*watched.style, *watched.content]
    found = objectives.features(task.eye, layers, x, task.context)

    def relative(value: Array, target: Array) -> float:
        return float(
            np.square(value - target, dtype=np.float64).sum() / np.square(target, dtype=np.float64).sum()
        )

    def gram_error(layer: str, number: int) -> float:
        style, guide = f"style/{layer}/{number}", feeds.get(f"guide/{layer}/{number}")
        gram = Moments.of(found[layer], guide).gram
        return relative(gram, DISTANCES[watched.distance].gram(style, feeds))

    by_style = [
        {layer: gram_error(layer, number) for layer in watched.style} for number in range(watched.styles)
    ]
    shares = task.shares if watched.styles > 1 else None
    deviations: dict[str, Any] = {
        "gram_error": {
            layer: float(np.average([errors[layer] for errors in by_style], weights=shares))
            for layer in watched.style
        },
        "content_error": {
            layer: relative(found[layer], feeds[f"content/{layer}"]) for layer in watched.content
        },
    }
    if watched.guided:
        deviations["regions"] = [
            {"style": style.name, "gram_error": errors}
            for style, errors in zip(task.styles, by_style, strict=True)
        ]
    return deviations
