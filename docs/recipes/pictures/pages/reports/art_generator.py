"""*An art generator*: a cat from noise, in a starry night."""

from workshop import Workshop

from cnnkit import Image, drawing

SHOWN = 0, 1, -1
"""Of the snapshots: 100, 200 and 500."""


def make(workshop: Workshop) -> None:
    """Of a cat, from noise; VGG16, where it was not pulled, is a part of VGG19, which the page says."""
    workshop.bring(cat="images/free/chelsea.png", night="images/style/starry_night.jpg")
    workshop.bring_networks("vgg16-notop")
    workshop.run()
    workshop.keep("first.jpg", "first/portrait.style-transfer.png")
    workshop.keep("iterations.jpg", iterations(workshop), 1000)
    workshop.keep("losses.png", "noise/cat.style-transfer.losses.png")
    workshop.keep("weights.jpg", "weights/sweep.png", 1000)


def iterations(workshop: Workshop) -> Image:
    """The picture on its way."""
    snapshots = sorted((workshop.folder / "noise").glob("*.step*.png"))
    shown = [snapshots[place] for place in SHOWN]
    tiles = [(f"{int(path.stem[-4:])} iterations", Image.load(path)) for path in shown]
    return drawing.contact_sheet(tiles, columns=len(tiles))
