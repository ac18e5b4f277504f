"""Where the published ImageNet weights are, and the names of the classes.

The addresses and the checksums are those of Keras' `applications`; what has no checksum there has none here.
"""

from collections.abc import Callable
from functools import partial

from cnnkit import Model, Network, Source

KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
TIMM = "https://huggingface.co/timm"
KERNELS = "weights_tf_dim_ordering_tf_kernels"
"""In the middle of the names of Keras' files, `vgg16/vgg16_KERNELS_notop.h5`."""

CLASSES = 1000
LABELS = Source(
    "https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
    "md5:c2c37ea517e94d9795004a39431a14cb",
    35363,
)


def with_top(build: Callable[..., Model], top: bool) -> Callable[..., Model]:
    """A builder that has its dense layers or has not; what is bound here cannot be asked of the network."""
    return partial(build, top=True) if top else partial(build, top=False, classes=0, activation=None)


def keras_network(
    name: str,
    title: str,
    licence: str,
    build: Callable[..., Model],
    top: bool,
    size: int,
    checksum: str = "",
    variant: str = "",
    without: str = "_notop",
    dense: str = "dense layer",
) -> Network:
    """The row of a network with the weights that Keras publishes, with or without its `dense` layers.

    `variant` and `without` are what the file's name says of the one and of the other.
    """
    file = f"{name}_{KERNELS}{variant}{'' if top else without}.h5"
    return Network(
        name=name if top else f"{name}-notop",
        summary=f"{title}, ImageNet" + ("" if top else f", without the {dense}"),
        licence=licence,
        build=with_top(build, top),
        source=Source(f"{KERAS}/{name}/{file}", checksum and f"md5:{checksum}", size),
        labels=LABELS if top else None,
    )
