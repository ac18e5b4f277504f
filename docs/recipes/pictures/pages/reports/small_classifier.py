"""*A small classifier from a ready-made network*: crabs, dalmatians and elephants."""

from workshop import Workshop

from cnnkit import drawing

LAYERS = ("block_3_expand_relu", "block_6_expand_relu", "out_relu")


def make(workshop: Workshop) -> None:
    """Of three of five classes of Caltech-101; the earlier network learns the two others."""
    workshop.bring_classes("animals", "crab", "dalmatian", "elephant")
    workshop.bring_classes("others", "pizza", "sunflower")
    workshop.bring_networks("mobilenet_v2")
    workshop.run()

    workshop.keep("examples.jpg", "scratch/animals.train.pictures.png", 900)
    workshop.keep("curves.png", "tuned/animals.train.curves.png", 1000)
    for name in "maps", "summed":
        tiles = [(layer, workshop.load(f"{name}/image_0005.activations.{layer}.png")) for layer in LAYERS]
        workshop.keep(f"{name}.jpg", drawing.contact_sheet(tiles, len(tiles), 1000))
    for name in "right", "wrong":
        workshop.keep(f"{name}.jpg", f"judged/animals.evaluate.{name}.png", 1000)
