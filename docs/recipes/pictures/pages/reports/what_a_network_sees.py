"""*What a network sees*: layers, maps and heat maps of free photographs."""

from sheets import row
from workshop import Workshop


def make(workshop: Workshop) -> None:
    """Of a cat, a cup of coffee, a rocket, and a wave by Hokusai."""
    workshop.bring(
        cat="images/free/chelsea.png",
        coffee="images/free/coffee.png",
        rocket="images/free/rocket.jpg",
        wave="images/style/great_wave.jpg",
    )
    workshop.bring_networks("mobilenet_v2", "vgg19-notop")
    workshop.run()

    workshop.keep("layers.jpg", "maps/cat.activations.png", 1100)
    workshop.keep("first.jpg", "maps/cat.activations.Conv1_relu.png", 1000)
    maps = [workshop.load(f"grey/{name}.occlusion.png") for name in ("cat", "coffee", "rocket")]
    workshop.keep("grey-square.jpg", row(360, *maps), 1200)
    for name in "cat", "wave":
        workshop.keep(f"{name}.jpg", f"features/{name}.activations.png", 900)
