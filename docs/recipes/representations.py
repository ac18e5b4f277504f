"""The two-part figure of Gatys, Ecker and Bethge 2015: what the layers of VGG19 know of a picture.

Usage::

    python docs/recipes/representations.py WEIGHTS.npz PHOTO PAINTING OUT_FOLDER [SIZE [ITERATIONS]]

``WEIGHTS.npz`` holds the kernels and biases of VGG19 under Keras' names, ``block1_conv1.kernel`` and so on.
Layers that it lacks have random weights, which reconstruct nearly as well (He, Wang and Hopcroft 2016). The
upper row of ``figure.png`` is the photograph and its reconstructions from one layer each, the lower row the
painting and textures from more and more layers.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import cnnkit
from cnnkit import Image, Model, Preprocessing, Result, drawing
from cnnkit.models.vgg import CONVOLUTIONS, WIDTHS, vgg


def network(weights: Path, seed: int = 0) -> Model:
    """VGG19 without its dense layers; what the file lacks is random."""
    arrays = dict(np.load(weights))
    random = np.random.default_rng(seed)
    inputs = 3
    for block, (count, width) in enumerate(zip(CONVOLUTIONS["vgg19"], WIDTHS, strict=True), 1):
        for number in range(1, count + 1):
            layer = f"block{block}_conv{number}"
            if f"{layer}.kernel" not in arrays:
                kernel = random.standard_normal((3, 3, inputs, width), np.float32)
                arrays[f"{layer}.kernel"] = kernel * np.float32(np.sqrt(2 / (9 * inputs)))
                arrays[f"{layer}.bias"] = np.zeros(width, np.float32)
            inputs = width
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "vgg19.npz"
        np.savez(whole, **arrays)
        return vgg("vgg19", whole, top=False)


def row(source: Image, result: Result, captions: list[str]) -> drawing.Pixels:
    """The source and what was made of it, from left to right, with a line below each."""
    pictures = [picture for name, picture in result.pictures.items() if name]
    height, width = pictures[0].size
    first = Preprocessing(height, width, fit="crop").apply(source).picture
    tiles = [first.pixels, *(picture.pixels for picture in pictures)]
    return drawing.grid(tiles, len(tiles), padding=6, captions=[source.name, *captions])


def main(
    weights: str, photo: str, painting: str, folder: str, size: str = "224", iterations: str = "200"
) -> None:
    """Run both operations and draw the figure."""
    model = network(Path(weights))
    settings = {"model": model, "size": size, "iterations": int(iterations)}
    content = cnnkit.run("reconstruct", photo, **settings)
    style = cnnkit.run("texture", painting, **settings)
    print(content.text, style.text, sep="\n")
    content.save(f"{folder}/")
    style.save(f"{folder}/")
    layers = content.data["layers"]
    found = [f"{layer}: {each['psnr']:.0f} dB" for layer, each in layers.items()]
    more = [f"{'and ' if place else ''}{layer}" for place, layer in enumerate(layers)]
    rows = [row(Image.load(photo), content, found), row(Image.load(painting), style, more)]
    Image.load(drawing.below(*rows)).save(Path(folder) / "figure.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
