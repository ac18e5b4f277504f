"""*Style transfer*: a cat in three manners, and a cup of coffee in several at once."""

from PIL import Image as PillowImage
from PIL import ImageChops, ImageDraw
from sheets import row
from workshop import Workshop

from cnnkit import Image, drawing

CAT = "cnnkit run style-transfer cat.jpg"
COFFEE = "cnnkit run style-transfer coffee.jpg"

VGG19 = "--model vgg19-notop --content-layers block3_conv4"
BLOCKS = f"{VGG19} --style-layers block1_conv1:4,block2_conv1:2,block3_conv1:1"
"""The first three, weighed as the preset `cnnkit` weighs the layers that it finds."""
QUICK = "--size 160 --pyramid 80 --iterations 80"

CONTENT_WEIGHTS = ("--content-weight 1", "--content-weight 10", "--content-weight 100")
KNOBS = ("--start noise --iterations 300", "--style-scale 2", "--variation-weight 300")
COLOURS = ("", "--colours luminance", "--colours covariance", "--colours histogram")


def make(workshop: Workshop) -> None:
    """By the network that comes with cnnkit, or the first three blocks of VGG19, as the page says."""
    workshop.bring(
        cat="images/free/chelsea.png",
        coffee="images/free/coffee.png",
        rocket="images/free/rocket.jpg",
        composition="images/style/composition_vii.jpg",
        night="images/style/starry_night.jpg",
        wave="images/style/great_wave.jpg",
    )
    workshop.bring_networks("vgg19-notop")
    first(workshop)
    rocket(workshop)
    knobs(workshop)
    colours(workshop)
    strip(workshop)
    regions(workshop)
    wasserstein(workshop)


def first(workshop: Workshop) -> None:
    """The cat as the quick start shows it, and the losses of that run."""
    workshop.run_command(
        f"{CAT} --style composition.jpg --model default --size 256 --iterations 150 -o first/"
    )
    keep_row(workshop, "cat.jpg", "cat.jpg", "composition.jpg", "first/cat.style-transfer.png")
    workshop.keep("losses.png", "first/cat.style-transfer.losses.png")


def rocket(workshop: Workshop) -> None:
    """In Hokusai's wave."""
    command = "cnnkit run style-transfer rocket.jpg --style wave.jpg"
    workshop.run_command(f"{command} {BLOCKS} --size 256 --iterations 150")
    keep_row(workshop, "rocket.jpg", "rocket.jpg", "wave.jpg", "rocket.style-transfer.png")


def knobs(workshop: Workshop) -> None:
    """What some options do."""
    command = f"{CAT} --style composition.jpg --model default {QUICK}"
    for name, choices in ("content-weights", CONTENT_WEIGHTS), ("knobs", KNOBS):
        tiles = [(choice, chosen(workshop, command, choice)) for choice in choices]
        workshop.keep(f"{name}.jpg", drawing.contact_sheet(tiles, 3, 720))


def colours(workshop: Workshop) -> None:
    """The cat in the wave's colours, and in its own."""
    pictures = [("content", workshop.load("cat.jpg")), ("style", workshop.load("wave.jpg"))]
    command = f"{CAT} --style wave.jpg {BLOCKS} {QUICK}"
    pictures += [(choice or "as it comes", chosen(workshop, command, choice)) for choice in COLOURS]
    workshop.keep("colours.jpg", drawing.contact_sheet(pictures, 3, 720))


def strip(workshop: Workshop) -> None:
    """The coffee from one style to the other."""
    styles = "--style composition.jpg --style wave.jpg --strip 5"
    workshop.run_command(f"{COFFEE} {styles} {BLOCKS} {QUICK} -o strip/")
    workshop.keep("strip.jpg", "strip/coffee.style-transfer.png", 1000)


def regions(workshop: Workshop) -> None:
    """The cup in one style, the table in another."""
    cup = cup_on(workshop.load("coffee.jpg"))
    cup.save(workshop.folder / "cup.png")
    ImageChops.invert(cup).save(workshop.folder / "table.png")
    masks = "--style wave.jpg --style night.jpg --mask cup.png --mask table.png"
    size = "--size 256 --pyramid 128 --iterations 100"
    workshop.run_command(f"{COFFEE} {masks} {BLOCKS} {size} -o regions/")
    keep_row(workshop, "regions.jpg", "coffee.jpg", "cup.png", "regions/coffee.style-transfer.png")


def cup_on(coffee: Image) -> PillowImage.Image:
    """The mask of the cup and its saucer, as they stand in a photograph of 600 by 400 pixels."""
    mask = PillowImage.new("L", (600, 400))
    draw = ImageDraw.Draw(mask)
    draw.ellipse((76, 68, 480, 388), 255)
    draw.ellipse((172, 17, 410, 208), 255)
    draw.polygon([(395, 70), (425, 66), (420, 130), (390, 150)], 255)
    return mask.resize((coffee.width, coffee.height))


def wasserstein(workshop: Workshop) -> None:
    """The cat by means and covariances."""
    layers = "--style-layers block1_conv1:256,block2_conv1:64,block3_conv1:16"
    weights = "--content-weight 0.0015 --variation-weight 30000"
    size = "--size 192 --pyramid 0 --iterations 130"
    preset = f"--preset crowsonkb {VGG19} {layers} {weights} {size}"
    workshop.run_command(f"{CAT} --style night.jpg {preset} -o wasserstein/")
    keep_row(workshop, "wasserstein.jpg", "cat.jpg", "night.jpg", "wasserstein/cat.style-transfer.png")


def chosen(workshop: Workshop, command: str, choice: str) -> Image:
    """The cat by a command with further options."""
    workshop.run_command(f"{command} {choice} -o chosen/")
    return workshop.load("chosen/cat.style-transfer.png")


def keep_row(workshop: Workshop, name: str, *files: str) -> None:
    """What went in and what came out, side by side."""
    workshop.keep(name, row(170, *(workshop.load(file) for file in files)))
