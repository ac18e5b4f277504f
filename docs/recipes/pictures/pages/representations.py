"""*Representations*: both halves of the figure of Gatys, Ecker and Bethge 2015, priors, and bricks."""

from sheets import column
from workshop import Workshop

from cnnkit import Image, drawing

RECONSTRUCT = "cnnkit run reconstruct cat.jpg --model vgg19-notop --size 128 --iterations 80"
LAYER = "block4_conv1"
PRESETS = {"with priors": "mahendran-vedaldi", "plain": "plain"}


def make(workshop: Workshop) -> None:
    """Of a cat and a starry night; the last two blocks, where VGG19 was not pulled, are random."""
    workshop.bring(
        cat="images/free/chelsea.png",
        night="images/style/starry_night.jpg",
        brick="images/free/brick.png",
    )
    workshop.bring_networks("vgg19-notop")
    workshop.run_command(RECONSTRUCT)
    workshop.run_command("cnnkit run texture night.jpg --model vgg19-notop --size 128 --iterations 50")
    sheets = workshop.load("cat.reconstruct.png"), workshop.load("night.texture.png")
    workshop.keep("layers.jpg", column(*sheets), 1000)

    tiles = [reconstructed(workshop, caption) for caption in PRESETS]
    workshop.keep("priors.jpg", beside_original(workshop.load("cat.jpg"), tiles))

    workshop.run_command("cnnkit run texture brick.jpg --preset ustyuzhaninov --size 128 --iterations 300")
    tiles = [("from random filters", workshop.load("brick.texture.png"))]
    workshop.keep("bricks.jpg", beside_original(workshop.load("brick.jpg"), tiles))


def reconstructed(workshop: Workshop, caption: str) -> tuple[str, Image]:
    """The cat from a layer by one of the presets, and how near it came."""
    preset = PRESETS[caption]
    workshop.run_command(f"{RECONSTRUCT} --layers {LAYER} --preset {preset} -o {preset}/")
    found = workshop.found(f"{preset}/cat.reconstruct.json")["layers"][LAYER]
    return f"{caption}: {found['psnr']:.0f} dB", workshop.load(f"{preset}/cat.reconstruct.png")


def beside_original(picture: Image, tiles: list[tuple[str, Image]]) -> Image:
    """What was made of a picture, and the picture with as few pixels."""
    original = picture.resized(*tiles[0][1].size, "lanczos")
    return drawing.contact_sheet([("original", original), *tiles], 1 + len(tiles), 300 * (1 + len(tiles)))
