"""*Training*: the classroom experiment."""

from workshop import Workshop


def make(workshop: Workshop) -> None:
    """Of all of caltech-5, on MobileNetV2 and from scratch."""
    workshop.bring_classes("caltech-5", "crab", "dalmatian", "elephant", "pizza", "sunflower")
    workshop.bring_networks("mobilenet_v2")
    for options in (
        "--model mobilenet_v2 --epochs 20 -o frozen/",
        "--model mobilenet_v2 --way fine-tuned --epochs 3 -o tuned/",
        "--way scratch --input-size 64 --epochs 30 --flip --crop 0.5 --colour 0.3 -o scratch/"
        " --beside frozen/caltech-5.train.history.csv --beside tuned/caltech-5.train.history.csv",
    ):
        workshop.run_command(f"cnnkit run train caltech-5 {options}")
    workshop.keep("curves.png", "scratch/caltech-5.train.curves.png")
