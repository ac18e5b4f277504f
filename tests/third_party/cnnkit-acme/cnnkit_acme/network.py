"""A network of the plugin's own, written when it is first asked for."""

from pathlib import Path

import numpy as np

from cnnkit import Builder, Model, Network, Preprocessing, hookimpl


def locate() -> Path:
    path = Path(__file__).with_name("acme-net.onnx")
    if not path.exists():
        builder = Builder("acme-net")
        op = builder.op
        x = builder.input("input", ["N", 3, 8, 8])
        x = op.Relu(op.Conv(x, np.eye(3, dtype=np.float32)[:, :, None, None], name="mix"), name="mix_relu")
        x = op.Flatten(op.GlobalAveragePool(x, name="mean"), name="flat")
        builder.output(op.Softmax(x, axis=1, name="shares"), ["N", 3])
        preprocessing = Preprocessing.preset("tf", height=8, width=8)
        Model.of(builder.model(), preprocessing=preprocessing, labels=["red", "green", "blue"]).save(path)
    return path


@hookimpl
def cnnkit_models() -> list[Network]:
    return [Network("acme-net", "which of red, green and blue there is most of", "MIT", locate)]
