"""*Neural style transfer after Gatys, the Keras way*: three photographs and three paintings."""

from sheets import column
from workshop import Workshop

from cnnkit import Image, drawing


def make(workshop: Workshop) -> None:
    """With layers of the first three blocks, so that all weights are VGG19's own."""
    workshop.bring(
        cat="images/free/chelsea.png",
        coffee="images/free/coffee.png",
        rocket="images/free/rocket.jpg",
        night="images/style/starry_night.jpg",
        wave="images/style/great_wave.jpg",
        composition="images/style/composition_vii.jpg",
    )
    workshop.bring_networks("vgg19-notop")
    workshop.run()
    workshop.keep("layers.jpg", "layers/sweep.png", 1000)
    workshop.keep("three-by-three.jpg", "nine/sweep.png", 800)
    workshop.keep("snapshots.jpg", "weights/sweep.snapshots.png", 1200)
    workshop.keep("slower.jpg", with_curves(workshop, "slower"), 1000)
    workshop.keep("losses.png", "weights/cat.content-weight=2.5e-8.style-transfer.losses.png")
    workshop.keep("means.jpg", "means/sweep.png", 1000)
    workshop.keep("lbfgs.jpg", with_curves(workshop, "styled", "kept"), 1000)


def with_curves(workshop: Workshop, *folders: str) -> Image:
    """What runs painted, one below the other, each with the curves of its losses on the right."""
    rows = []
    for folder in folders:
        curves = workshop.load(f"{folder}/cat.style-transfer.losses.png").flattened().pixels
        painted = workshop.load(f"{folder}/cat.style-transfer.png").pixels
        rows.append(Image.load(drawing.beside(drawing.fitted(painted, len(curves), 400), curves)))
    return column(*rows)
