"""Pictures put together as pages show them."""

from cnnkit import Image, drawing


def row(height: int, *pictures: Image) -> Image:
    """Pictures of any sizes side by side, all `height` pixels high."""
    equal = [each.resized(height, round(height * each.width / each.height), "lanczos") for each in pictures]
    return Image.load(drawing.beside(*(each.flattened().pixels for each in equal)))


def column(*pictures: Image) -> Image:
    """Pictures of any sizes as they are, one below the other."""
    return Image.load(drawing.below(*(each.flattened().pixels for each in pictures)))
