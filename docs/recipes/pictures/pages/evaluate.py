"""*How good is it, and where is it wrong?*: three pictures that MobileNetV2 takes for something else."""

from workshop import Workshop

FILED = {
    "three/cup/coffee": "images/free/coffee.png",
    "three/tabby/cat": "images/free/chelsea.png",
    "three/space shuttle/rocket": "images/free/rocket.jpg",
}


def make(workshop: Workshop) -> None:
    """By MobileNetV2."""
    workshop.bring(**FILED)
    workshop.bring_networks("mobilenet_v2")
    workshop.run_command("cnnkit run evaluate three/ --model mobilenet_v2")
    workshop.keep("wrong.jpg", "three.evaluate.wrong.png", 800)
