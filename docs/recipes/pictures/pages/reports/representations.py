"""*Content and style representations*: a rocket, a painting, and both."""

from workshop import Workshop


def make(workshop: Workshop) -> None:
    """Of a rocket and Kandinsky; the last two blocks, where VGG19 was not pulled, are random."""
    workshop.bring(rocket="images/free/rocket.jpg", composition="images/style/composition_vii.jpg")
    workshop.bring_networks("vgg19-notop")
    workshop.run()
    workshop.keep("content.jpg", "content/rocket.reconstruct.png", 1000)
    workshop.keep("style.jpg", "style/composition.texture.png", 1000)
    workshop.keep("both.jpg", "both/sweep.png", 900)
