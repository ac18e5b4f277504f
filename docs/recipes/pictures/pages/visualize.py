"""*Visualize*: channels of the network that comes with cnnkit."""

from workshop import Workshop

from cnnkit import Image, drawing

COMMAND = "cnnkit run visualize --layer block4_conv2 --steps 128"
CHANNEL = 10
CHOICES = {
    "by default": "",
    "pixels": "--parametrisation pixels",
    "plain colours": "--colours plain",
    "jitter": "--transforms jitter",
    "no transforms": "--transforms none",
    "pixels, no transforms": "--parametrisation pixels --transforms none",
}


def make(workshop: Workshop) -> None:
    """Sixteen channels, and one of them by other choices."""
    workshop.run_command(f"{COMMAND} --channels 0:16")
    workshop.keep("channels.jpg", "default.visualize.png", 700)
    tiles = [chosen(workshop, name) for name in CHOICES]
    workshop.keep("choices.jpg", drawing.contact_sheet(tiles, 3, 720))


def chosen(workshop: Workshop, name: str) -> tuple[str, Image]:
    """The channel by one of the choices, and what it answers to that picture."""
    workshop.run_command(f"{COMMAND} --channels {CHANNEL} {CHOICES[name]} -o '{name}/'")
    stem = f"{name}/default.visualize"
    answer = workshop.found(f"{stem}.json")["drawn"][0]["end"]
    return f"{name}: {answer:.3g}", workshop.load(f"{stem}.block4_conv2-{CHANNEL}.png")
