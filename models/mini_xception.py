"""The mini-Xception (Arriaga, Valdenegro-Toro and Plöger 2017, arXiv:1710.07557) for feelings in faces.

Two plain convolutions and four blocks of separable ones that halve the plane, as in Xception; then, in place
of a dense layer, a convolution with a channel for each class, averaged over the plane. The layers have the
names that they have in the authors' file.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cnnkit import Model, Network, Preprocessing, Source, hookimpl
from cnnkit.models.architecture import Architecture
from cnnkit.models.weights.filling import read_weights
from cnnkit.models.xception import halved

WIDTHS = (16, 32, 64, 128)
"""The channels of each block."""
LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The classes of FER-2013 (Goodfellow et al. 2013, arXiv:1307.0414)."""


def mini_xception(
    weights: str | Path = "random:0", *, classes: int = len(LABELS), size: tuple[int, int] = (64, 64)
) -> Model:
    """The network with the weights of a file or "random:SEED", for grey pictures of a face.

    Raises UsageError for a size below 5, and ModelError when the weights do not fit or cannot be read.
    """
    net = Architecture("mini-xception", size, channels=1, smallest=5)
    x = net.input("input_1")
    for number in (1, 2):
        x = net.convolution(x, f"conv2d_{number}", 8, 3, padding="valid", bias=False)
        x = net.batch_norm(x, f"batch_normalization_{number}")
        x = net.activation(x, f"activation_{number}", "relu")
    for block, filters in enumerate(WIDTHS, 1):
        before = x
        x = net.separable(x, f"separable_conv2d_{2 * block - 1}", filters)
        x = net.batch_norm(x, f"batch_normalization_{3 * block + 1}")
        x = net.activation(x, f"activation_{block + 2}", "relu")
        x = net.separable(x, f"separable_conv2d_{2 * block}", filters)
        x = net.batch_norm(x, f"batch_normalization_{3 * block + 2}")
        shortcut = f"conv2d_{block + 2}", f"batch_normalization_{3 * block}"
        x = halved(net, x, before, f"max_pooling2d_{block}", *shortcut, f"add_{block}")
    x = net.convolution(x, "conv2d_7", classes, 3)
    x = net.global_average_pool(x, "global_average_pooling2d_1")
    x = net.activation(x, "predictions", "softmax")
    height, width = size
    preprocessing = Preprocessing.preset("tf", channels="grey", height=height, width=width)
    model = net.model(x, read_weights(weights), preprocessing)
    return replace(model, labels=LABELS) if classes == len(LABELS) else model


@hookimpl
def cnnkit_models() -> Sequence[Network]:
    return [
        Network(
            name="mini-xception",
            summary="mini-Xception, seven feelings in a face of 64 x 64 pixels",
            licence="MIT (Octavio Arriaga)",
            build=mini_xception,
            source=Source(
                "https://github.com/oarriaga/face_classification/raw/master/trained_models/emotion_models/"
                "fer2013_mini_XCEPTION.102-0.66.hdf5",
                "sha256:59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
                872_856,
            ),
        )
    ]
