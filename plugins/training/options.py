"""What a person may set of a training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cnnkit import Augmentation, Option

Way = Literal["frozen", "fine-tuned", "scratch"]
OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["constant", "cosine", "one-cycle"]
SplitRule = Literal["keras", "hash"]


@dataclass(frozen=True)
class TrainOptions:
    """Train a classifier on a folder that holds a folder of pictures per class.

    `frozen` teaches a new head on the network's features, `fine-tuned` then the rest of it too, with small
    steps; `scratch` trains all of the small VGG, or of the network that is named, with batch norms and large
    steps. A network that knows these classes keeps its head. What comes out is an .onnx file that every other
    command takes.
    """

    way: Annotated[Way, Option("what learns")] = "frozen"
    epochs: Annotated[
        int | None, Option("times through all pictures (frozen 20, fine-tuned 10, scratch 30)", min=1)
    ] = None
    head_epochs: Annotated[
        int | None,
        Option("of the head alone, before it is fine-tuned (20; 0 where it knows these classes)", min=0),
    ] = None
    from_layer: Annotated[
        str | None, Option("fine-tune from this layer on only", completes="layers", metavar="LAYER")
    ] = None

    validation: Annotated[float, Option("share of the pictures to validate with", min=0, max=0.95)] = 0.2
    validation_folder: Annotated[
        Path | None, Option("validate with the pictures in this folder, and train with all in the first")
    ] = None
    split: Annotated[
        SplitRule,
        Option("who is validated with: as Keras shuffles, or decided by each picture's own name"),
    ] = "keras"
    classes: Annotated[
        Path | None,
        Option("CSV of what the classes are: columns folder, label and, if any, set (train, validation)"),
    ] = None
    unreadable: Annotated[
        Literal["skip", "refuse"], Option("pictures that cannot be read: leave them out, or stop")
    ] = "skip"

    optimizer: Annotated[
        OptimizerName | None, Option("adam, adamw for scratch, or sgd with momentum 0.9")
    ] = None
    rate: Annotated[
        float | None, Option("learning rate (1e-3; fine-tuned 1e-5; of sgd ten times that)", min=0)
    ] = None
    schedule: Annotated[ScheduleName | None, Option("how the rate changes (constant; scratch one-cycle)")] = (
        None
    )
    weight_decay: Annotated[float | None, Option("of kernels (0; adamw 0.05)", min=0)] = None
    smoothing: Annotated[float, Option("share of each target that goes to all classes", min=0, max=0.9)] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced"], Option("balanced: rare classes count more, N / (classes · pictures)")
    ] = "none"
    average: Annotated[
        float, Option("validate and keep a running mean of the weights, such as 0.995", min=0, max=0.9999)
    ] = 0.0
    patience: Annotated[
        int, Option("stop after so many epochs without a lower validation loss; 0: never", min=0)
    ] = 0

    flip: Annotated[bool, Option("show mirror images too")] = False
    rotation: Annotated[float, Option("turn by up to so many degrees", min=0, max=180)] = 0.0
    zoom: Annotated[float, Option("zoom by up to this share, in or out", min=0, max=0.9)] = 0.0
    crop: Annotated[float, Option("show parts of at least this share of the area", min=0.05, max=1)] = 1.0
    colour: Annotated[
        float, Option("change brightness, contrast, saturation by up to this share", min=0, max=1)
    ] = 0.0
    grey: Annotated[float, Option("chance of a picture without colours", min=0, max=1)] = 0.0
    erase: Annotated[float, Option("chance of a grey patch", min=0, max=1)] = 0.0
    mixup: Annotated[float, Option("mix pictures in pairs, by Beta(alpha, alpha)", min=0)] = 0.0

    fold: Annotated[bool, Option("fold batch norms into convolutions in what is written")] = False
    beside: Annotated[
        tuple[Path, ...], Option("history.csv of another run, drawn into the same figure; several times")
    ] = ()

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(
            flip=0.5 if self.flip else 0.0,
            rotation=self.rotation,
            zoom=self.zoom,
            crop=self.crop,
            colour=self.colour,
            grey=self.grey,
            erase=self.erase,
        )
