"""The network that every install has."""

from pathlib import Path

from cnnkit import Network, hookimpl


def locate() -> Path:
    """The packaged file."""
    return Path(__file__).with_name("default.onnx")


@hookimpl
def cnnkit_models() -> list[Network]:
    return [
        Network(
            name="default",
            summary="small VGG for 110 kinds of things, of Imagenette and Caltech-101; 128 x 128 pixels",
            licence="CC BY 4.0",
            locate=locate,
        )
    ]
