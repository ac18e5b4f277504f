"""*Networks that make pictures*: a cat by the filter that the page builds."""

from sheets import row
from workshop import Workshop


def make(workshop: Workshop) -> None:
    """The page's Python saves the filter."""
    workshop.bring(cat="images/free/chelsea.png")
    workshop.run(["python"])
    workshop.run_command("cnnkit run apply cat.jpg --model kuwahara.onnx")
    workshop.keep("cat.jpg", row(300, workshop.load("cat.jpg"), workshop.load("cat.apply.png")))
