"""*Quick start*: the first heat map."""

from workshop import Workshop


def make(workshop: Workshop) -> None:
    """Needs nothing but what comes with cnnkit."""
    workshop.run_command("cnnkit run occlusion sample:portrait")
    workshop.keep("occlusion.jpg", "portrait.occlusion.png")
