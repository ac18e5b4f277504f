"""*Why does the network say so?*: five methods on a cat."""

from workshop import Workshop


def make(workshop: Workshop) -> None:
    """By MobileNetV2."""
    workshop.bring(cat="images/free/chelsea.png")
    workshop.bring_networks("mobilenet_v2")
    workshop.run_command("cnnkit run compare cat.jpg --model mobilenet_v2")
    workshop.keep("compare.jpg", "cat.compare.png", 1000)
