"""*How a convolutional network sees*: the page's own Python makes its figures."""

from workshop import Workshop

PHOTOGRAPHIC = ("filter", "stride", "padding", "relu", "pooling", "backward")
DRAWN = ("softmax", "learning")


def make(workshop: Workshop) -> None:
    """Needs nothing but what comes with cnnkit."""
    workshop.run()
    workshop.keep("filters.png", "default.filters.png", 700)
    workshop.keep("maps.jpg", "portrait.activations.block1_conv1.png", 900)
    for name in PHOTOGRAPHIC:
        workshop.keep(f"{name}.jpg", f"{name}.png")
    for name in DRAWN:
        workshop.keep(f"{name}.png", f"{name}.png")
