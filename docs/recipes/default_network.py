"""Train the default network: a small VGG-like classifier of 100 kinds of things, on a CPU, within an hour.

Usage::

    python docs/recipes/default_network.py CALTECH_FOLDER OUT.npz
    python -m cnnkit.models.small_vgg OUT.npz default.onnx

``CALTECH_FOLDER`` is the folder ``101_ObjectCategories`` of Caltech-101, with one folder per class.
The data: Li, Andreeto, Ranzato, Perona, "Caltech 101" (2022), https://doi.org/10.22002/D1.20086,
licence CC BY 4.0. ``Faces`` and ``Faces_easy`` become one class, ``face``; ``BACKGROUND_Google`` is no class.
About a tenth of the pictures, chosen by a hash of their names, is held out and only ever used to measure.

The network: five blocks of two 3x3 convolutions with ReLU, 2x2 max pooling between the blocks, global average
pooling, one dense layer. Batch normalisation helps it train and is folded into the convolutions when saved,
so ``OUT.npz`` holds, as float32, ``<layer>.kernel`` (out, in, 3, 3) and ``<layer>.bias`` for ten
convolutions, ``predictions.kernel`` (features, classes), ``predictions.bias``, and ``labels``.
Its input: RGB, the whole picture squashed to 128 x 128, ``x / 127.5 - 1``, channels first.

The recipe: every picture is decoded once, to 144 x 144 bytes. A batch is then augmented as a whole by one
affine resampling (crop, zoom out into a mirrored surrounding, stretch, rotation, flip) and by changes of
brightness, contrast, tint and saturation down to grey. Training begins with small pictures, which are cheap,
and ends at full size. AdamW, one learning-rate cycle, label smoothing, and an exponential moving average of
the weights, which is what is saved. The clock, not a number of epochs, drives the schedule: it ends in time
on a busy machine too.

The first phase does that. The second continues from its arrays, without batch normalisation: half of the
views are made smaller and put before a picture of ``BACKGROUND_Google``, so that things are found in a scene.

What came of it is in ``docs/default-network.md``. The schedule depends on the clock, so another run gives
other weights.

On Linux, ``MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000`` in the environment keeps
glibc from giving the large buffers back after every step; the run had it set.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256)
SIZE = 128  # side of the network's input
CACHE_SIZE = 144  # side of the decoded training pictures, a little more for crops to draw on
STAGES = ((0.30, 64), (0.75, 96), (1.01, 128))  # until this part of the time, train at this side
BATCH = 32
PEAK_RATE = 2e-3
FINISHING_RATE = 5e-4
WARM_UP = 0.15  # part of the time during which the learning rate rises
WEIGHT_DECAY = 0.05
AVERAGE_DECAY = 0.995  # per step, of the moving average of the weights
CONVOLUTIONS = [f"block{block}_conv{conv}" for block in range(1, 6) for conv in (1, 2)]


# ----------------------------------------------------------------------------------------------- the pictures


def label_of(folder: str) -> str:
    return "face" if folder in ("Faces", "Faces_easy") else folder.replace("_", " ").lower()


def is_held_out(path: Path) -> bool:
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).hexdigest()
    return int(digest, 16) % 10 == 0


def load(paths: list[Path], size: int) -> Tensor:
    """Pictures squashed to a square: (N, 3, size, size), uint8."""
    pictures = np.empty((len(paths), 3, size, size), np.uint8)
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
        pictures[i] = np.asarray(square).transpose(2, 0, 1)
    return torch.from_numpy(pictures)


def normalise(pictures: Tensor) -> Tensor:
    return pictures.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def uniform(n: int, low: float, high: float) -> Tensor:
    return torch.rand(n) * (high - low) + low


def augment(pictures: Tensor, size: int, stretched: float = 0.14) -> Tensor:
    """Random views, (N, 3, size, size), of pictures, stretched by at most exp(stretched) a side."""
    n = len(pictures)
    if pictures.shape[-1] >= 2 * size:
        pictures = F.avg_pool2d(pictures, 2)  # else the resampling below would skip pixels

    # The window that is looked at, as a part of the picture's side. Mostly a crop of 35 % to all of the area;
    # for a quarter up to twice the picture, whose surrounding is then its mirror image.
    side = uniform(n, 0.35, 1.0).sqrt()
    side = torch.where(torch.rand(n) < 0.25, uniform(n, 1.0, 2.0), side)
    stretch = torch.exp(uniform(n, -stretched, stretched))  # by default aspect ratios 3:4 to 4:3
    width, height = side * stretch, side / stretch
    x = (1 - width).abs() * uniform(n, -1, 1)
    y = (1 - height).abs() * uniform(n, -1, 1)
    angle = torch.where(torch.rand(n) < 0.5, uniform(n, -0.2, 0.2), torch.zeros(n))  # up to 11 degrees
    flip = torch.where(torch.rand(n) < 0.5, 1.0, -1.0)
    cos, sin = angle.cos(), angle.sin()
    rows = [flip * width * cos, -height * sin, x, flip * width * sin, height * cos, y]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), [n, 3, size, size], align_corners=False)
    views = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    # Colours: saturation (none in a tenth of them: old photographs), contrast, brightness, tint.
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (views * weights).sum(1, keepdim=True)
    saturation = torch.where(torch.rand(n) < 0.1, torch.zeros(n), uniform(n, 0.5, 1.5)).view(n, 1, 1, 1)
    views = torch.lerp(grey, views, saturation)
    contrast = uniform(n, 0.65, 1.4).view(n, 1, 1, 1)
    tint = uniform(n * 3, -0.07, 0.07).view(n, 3, 1, 1) * (saturation > 0)
    mean = grey.mean((2, 3), keepdim=True)
    shift = mean - mean * contrast + uniform(n, -0.3, 0.3).view(n, 1, 1, 1) + tint
    return (views * contrast + shift).clamp_(-1, 1).contiguous(memory_format=torch.channels_last)


def before(backdrops: Tensor, views: Tensor) -> Tensor:
    """Half of the views, made smaller and put somewhere on a backdrop; the other half as they are."""
    n = len(views)
    factor = 1 / uniform(n, 0.4, 0.9)  # one over the part of the side that the view keeps
    x, y = (factor - 1) * uniform(n, -1, 1), (factor - 1) * uniform(n, -1, 1)
    nothing = torch.zeros(n)
    rows = [factor, nothing, x, nothing, factor, y]
    grid = F.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(views.shape), align_corners=False)
    smaller = F.grid_sample(views, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shape = F.grid_sample(torch.ones_like(views[:, :1]), grid, padding_mode="zeros", align_corners=False)
    placed = smaller + (1 - shape) * backdrops
    chosen = (torch.rand(n) < 0.5).view(n, 1, 1, 1)
    return torch.where(chosen, placed, views).contiguous(memory_format=torch.channels_last)


# ------------------------------------------------------------------------------------------------ the network


class Network(nn.Module):
    """The network as it is trained, with batch normalisation."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = 3
        for name in CONVOLUTIONS:
            width = WIDTHS[int(name[5]) - 1]
            self.add_module(name, nn.Conv2d(channels, width, 3, padding=1, bias=False))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(width))
            nn.init.kaiming_normal_(self.get_submodule(name).weight, mode="fan_out")
            channels = width
        self.predictions = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for name in CONVOLUTIONS:
            x = F.relu(self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x)), inplace=True)
            if name in ("block1_conv2", "block2_conv2", "block3_conv2", "block4_conv2"):
                x = F.max_pool2d(x, 2)
        return self.predictions(x.mean((2, 3)))


def fold(network: Network, labels: list[str]) -> dict[str, np.ndarray]:
    """The arrays to save: batch normalisation becomes part of each convolution's kernel and bias."""
    arrays = {}
    for name in CONVOLUTIONS:
        norm = network.get_submodule(f"{name}_bn")
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        kernel = network.get_submodule(name).weight.double() * scale.view(-1, 1, 1, 1)
        bias = norm.bias.double() - norm.running_mean.double() * scale
        arrays[f"{name}.kernel"] = np.ascontiguousarray(kernel.detach().float().numpy())
        arrays[f"{name}.bias"] = bias.detach().float().numpy()
    arrays["predictions.kernel"] = np.ascontiguousarray(network.predictions.weight.detach().numpy().T)
    arrays["predictions.bias"] = network.predictions.bias.detach().numpy().copy()
    arrays["labels"] = np.array(labels)
    return arrays


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write to a file beside it and rename, so that a reader never meets half a file."""
    partial = path.with_name(path.stem + ".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def predict(arrays: dict[str, np.ndarray], x: Tensor) -> Tensor:
    """Logits by the folded arrays alone."""
    return logits_of({name: torch.from_numpy(arrays[name]) for name in arrays if name != "labels"}, x)


def logits_of(values: dict[str, Tensor], x: Tensor) -> Tensor:
    """Convolution, ReLU, pooling, dense."""
    for name in CONVOLUTIONS:
        x = F.relu(F.conv2d(x, values[f"{name}.kernel"], values[f"{name}.bias"], padding=1))
        if name in ("block1_conv2", "block2_conv2", "block3_conv2", "block4_conv2"):
            x = F.max_pool2d(x, 2)
    return x.mean((2, 3)) @ values["predictions.kernel"] + values["predictions.bias"]


@torch.inference_mode()
def measure(arrays: dict[str, np.ndarray], pictures: Tensor, targets: Tensor) -> tuple[float, float]:
    """Top-1 and top-5 accuracy."""
    hits = torch.zeros(2)
    for i in range(0, len(pictures), 64):
        best = predict(arrays, normalise(pictures[i : i + 64])).topk(5).indices == targets[i : i + 64, None]
        hits += torch.stack([best[:, 0].sum(), best.sum()])
    top1, top5 = (hits / len(pictures)).tolist()
    return top1, top5


# ----------------------------------------------------------------------------------------------- the training


def rate_at(progress: float) -> float:
    """One cycle: up in a straight line, down along half a cosine."""
    if progress < WARM_UP:
        return PEAK_RATE * (0.05 + 0.95 * progress / WARM_UP)
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def train(folder: Path, out: Path, minutes: float) -> None:
    started = time.monotonic()
    torch.manual_seed(0)
    paths = sorted(path for path in folder.glob("*/*.jpg") if path.parent.name != "BACKGROUND_Google")
    labels = sorted({label_of(path.parent.name) for path in paths})
    index = {label: i for i, label in enumerate(labels)}
    train_paths = [path for path in paths if not is_held_out(path)]
    test_paths = [path for path in paths if is_held_out(path)]
    pictures, test_pictures = load(train_paths, CACHE_SIZE), load(test_paths, SIZE)
    targets = torch.tensor([index[label_of(path.parent.name)] for path in train_paths])
    test_targets = torch.tensor([index[label_of(path.parent.name)] for path in test_paths])
    print(f"{len(labels)} classes, {len(targets)} to train, {len(test_targets)} held out", flush=True)
    print(f"decoded in {time.monotonic() - started:.0f} s", flush=True)

    # Rare classes are drawn more often than they occur, by the square root of how rare they are.
    chances = torch.bincount(targets).double().rsqrt()[targets]

    network = Network(len(labels)).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in network.parameters())} parameters before folding", flush=True)
    average = copy.deepcopy(network).requires_grad_(False)
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=PEAK_RATE)

    begun = time.monotonic()
    progress, step, epoch = 0.0, 0, 0
    while progress < 1:
        epoch += 1
        order = torch.multinomial(chances, len(targets), replacement=True)
        total, hits, seen = 0.0, 0, 0
        for batch in order.split(BATCH):
            progress = (time.monotonic() - begun) / (60 * minutes)
            if progress >= 1:
                break
            size = next(size for end, size in STAGES if progress < end)
            views = augment(normalise(pictures[batch]), size)
            for group in optimiser.param_groups:
                group["lr"] = rate_at(progress)
            logits = network(views)
            loss = F.cross_entropy(logits, targets[batch], label_smoothing=0.1)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
            with torch.no_grad():
                newest = network.state_dict()
                for name, ours in average.state_dict().items():
                    if ours.is_floating_point():
                        ours.lerp_(newest[name], 1 - decay)
            total += loss.item() * len(batch)
            hits += int((logits.argmax(1) == targets[batch]).sum())
            seen += len(batch)
        if not seen:
            break
        report = f"epoch {epoch} size {size} loss {total / seen:.3f} train {hits / seen:.3f}"
        arrays = fold(average, labels)
        save(out.with_name(out.stem + "_checkpoint.npz"), arrays)
        if progress > 1 / 3:
            save(out.with_name(out.stem + "_preliminary.npz"), arrays)
        if epoch % 3 == 0:
            report += " held out {:.3f} {:.3f}".format(*measure(arrays, test_pictures, test_targets))
        print(f"{report} ({time.monotonic() - begun:.0f} s)", flush=True)

    save(out, fold(average, labels))
    with np.load(out) as saved:
        arrays = dict(saved)
    top1, top5 = measure(arrays, test_pictures, test_targets)
    epochs, seconds = step * BATCH / len(targets), time.monotonic() - begun
    numbers = sum(array.size for name, array in arrays.items() if name != "labels")
    print(f"{step} steps, {epochs:.1f} epochs, {seconds:.0f} s including the measurements")
    print(f"saved {numbers} numbers: top-1 {top1:.4f}, top-5 {top5:.4f}")


def finish(folder: Path, start: Path, out: Path, minutes: float) -> None:
    """The second phase, from the arrays of the first: things in a scene, before a backdrop."""
    torch.manual_seed(1)
    paths = sorted(folder.glob("*/*.jpg"))
    scenes = [path for path in paths if path.parent.name == "BACKGROUND_Google"]
    paths = [path for path in paths if path.parent.name != "BACKGROUND_Google"]
    train_paths = [path for path in paths if not is_held_out(path)]
    test_paths = [path for path in paths if is_held_out(path)]
    with np.load(start) as saved:
        labels = [str(label) for label in saved["labels"]]
        values = {name: torch.from_numpy(saved[name]) for name in saved.files if name != "labels"}
    index = {label: i for i, label in enumerate(labels)}
    pictures, backdrops = load(train_paths, CACHE_SIZE), load(scenes, CACHE_SIZE)
    targets = torch.tensor([index[label_of(path.parent.name)] for path in train_paths])
    chances = torch.bincount(targets).double().rsqrt()[targets]
    average = {name: value.clone() for name, value in values.items()}
    for value in values.values():
        value.requires_grad_()
    optimiser = torch.optim.AdamW(values.values(), lr=FINISHING_RATE, weight_decay=WEIGHT_DECAY)

    begun, progress, step = time.monotonic(), 0.0, 0
    while progress < 1:
        total, seen = 0.0, 0
        for batch in torch.multinomial(chances, len(targets), replacement=True).split(BATCH):
            progress = (time.monotonic() - begun) / (60 * minutes)
            if progress >= 1:
                break
            size = 96 if progress < 0.5 else SIZE
            views = augment(normalise(pictures[batch]), size, stretched=0.35)
            scene = augment(normalise(backdrops[torch.randint(len(backdrops), (len(batch),))]), size)
            for group in optimiser.param_groups:
                group["lr"] = FINISHING_RATE * min(1, step / 100) * 0.5 * (1 + math.cos(math.pi * progress))
            loss = F.cross_entropy(
                logits_of(values, before(scene, views)), targets[batch], label_smoothing=0.1
            )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            with torch.no_grad():
                for name, ours in average.items():
                    ours.lerp_(values[name], 1 - AVERAGE_DECAY)
            total, seen = total + loss.item() * len(batch), seen + len(batch)
        print(f"step {step} loss {total / max(seen, 1):.3f} ({time.monotonic() - begun:.0f} s)", flush=True)
        arrays = {name: value.numpy() for name, value in average.items()}
        save(out, arrays | {"labels": np.array(labels)})

    test_targets = torch.tensor([index[label_of(path.parent.name)] for path in test_paths])
    top1, top5 = measure(arrays, load(test_paths, SIZE), test_targets)
    print(f"{step * BATCH / len(targets):.1f} epochs: top-1 {top1:.4f}, top-5 {top5:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the default network on Caltech-101.")
    parser.add_argument("folder", type=Path, help="the folder 101_ObjectCategories")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--minutes", type=float, default=34, help="how long the first phase is (default 34)")
    parser.add_argument("--finish-minutes", type=float, default=13, help="the second phase (default 13)")
    parser.add_argument(
        "--finish-only", action="store_true", help="from OUT_first.npz, the second phase alone"
    )
    parser.add_argument("--threads", type=int, default=2, help="how many cores to use (default 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    first = arguments.out.with_name(arguments.out.stem + "_first.npz")
    if not arguments.finish_only:
        train(arguments.folder, first, arguments.minutes)
    finish(arguments.folder, first, arguments.out, arguments.finish_minutes)


if __name__ == "__main__":
    main()
