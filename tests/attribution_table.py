"""How faithful the heat maps are, over 100 pictures: `python tests/attribution_table.py RESULTS.json PAGE`.

Measures every method on MobileNetV2 and validation pictures of ImageNet, as `cnnkit run faithfulness`
does, and writes the table of docs/attribution-table.md between its two marks. RESULTS.json keeps what is
measured, a method at a time, so that a run that was stopped goes on.
"""

import argparse
import importlib.metadata
import json
import platform
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cnnkit
from cnnkit.plugins.faithfulness import CONTROLS, edges
from cnnkit.plugins.metrics import average_drop, deletion, explained, increase_in_confidence, insertion

DATA = Path(__file__).parents[2] / "shared" / "data"
WEIGHTS, LABELS = "weights/mobilenet_v2_1.0_224.onnx", "labels/imagenet_labels_1001.txt"
STEPS = 20
MARKS = ("<!-- table -->", "<!-- end of table -->")
VERSIONS = ("cnnkit", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Method:
    """A row of the table: an operation with options, or a control, which has no operation."""

    name: str
    operation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    """Methods whose maps are the same on this network, which is checked on the first pictures."""

    @property
    def settings(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.options.items() if name != "method")


def _cam(name: str, also: tuple[str, ...] = (), **options: Any) -> Method:
    return Method(name, "grad-cam", {"method": name, **options}, also)


METHODS = (
    *(Method(name) for name in CONTROLS),
    _cam("grad-cam", ("cam", "hirescam", "xgradcam")),
    _cam("grad-cam++"),
    _cam("layercam"),
    _cam("scorecam", channels=64),
    Method("occlusion", "occlusion", {"patch": 32, "stride": 16}),
    Method("integrated gradients", "integrated-gradients", {"steps": 20}),
    Method("saliency", "saliency"),
    Method("smoothgrad", "saliency", {"method": "smoothgrad", "samples": 10}),
)
SAME = {
    "cam": ("cam", {"sign": "positive"}),
    "hirescam": ("grad-cam", {"method": "hirescam"}),
    "xgradcam": ("grad-cam", {"method": "xgradcam"}),
}


class Bench:
    """A network and pictures, each with what it is said to show."""

    def __init__(self, pictures: Sequence[Path], data: Path, threads: int) -> None:
        self.pictures = pictures
        self.model = cnnkit.Model.load(data / WEIGHTS, preprocess="tf", labels=data / LABELS)
        self.host, self.settings = cnnkit.Host(), cnnkit.Settings(device="cpu", threads=threads)
        self.session = self.host.session(self.model, **asdict(self.settings))

    def maps(self, operation: str, options: Mapping[str, Any], count: int) -> Iterator[NDArray[np.float32]]:
        """The map of each picture's best class."""
        asked: dict[str, Any] = {"model": self.model, "host": self.host, "settings": self.settings}
        for outcome in cnnkit.map(operation, self.pictures[:count], plain=True, **asked, **options):
            yield outcome.unwrap().arrays["heatmap"][0]

    def controls(self, name: str) -> Iterator[NDArray[np.float32]]:
        for number, picture in enumerate(self.pictures):
            seen = self.model.preprocessing.apply(cnnkit.Image.load(picture)).picture
            noise = np.random.default_rng(number).random(seen.size, np.float32)
            yield noise if name == "random" else edges(seen.pixels)

    def measure(self, method: Method) -> list[dict[str, float]]:
        """The metrics of each picture."""
        many = len(self.pictures)
        maps = (
            self.maps(method.operation, method.options, many)
            if method.operation
            else self.controls(method.name)
        )
        return [self._one(path, heatmap) for path, heatmap in zip(self.pictures, maps, strict=True)]

    def _one(self, path: Path, heatmap: NDArray[np.float32]) -> dict[str, float]:
        x = self.model.preprocessing.apply(cnnkit.Image.load(path)).tensor[0]
        grey = np.zeros_like(x)  # 127.5 in the numbers of "tf"
        target = int(self._probabilities(x[None])[0].argmax())

        def scores(batch: NDArray[np.float32]) -> NDArray[np.float32]:
            return self._probabilities(batch)[:, target]

        whole, masked = scores(np.stack([x, explained(x, grey, heatmap)]))
        return {
            "deletion": deletion(scores, x, grey, heatmap, STEPS).area,
            "insertion": insertion(scores, x, grey, heatmap, STEPS).area,
            "whole": float(whole),
            "masked": float(masked),
        }

    def _probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        watched = self.model.probabilities
        return np.stack([watched.of_one(one) for one in self.session.map(batch, [watched.tensor])])

    def same(self, method: Method, count: int = 5) -> None:
        """Assert that the maps of `also` are this method's, up to a factor."""
        for name in method.also:
            pairs = zip(
                self.maps(method.operation, method.options, count), self.maps(*SAME[name], count), strict=True
            )
            for one, other in pairs:
                difference = np.abs(one / np.abs(one).max() - other / np.abs(other).max()).max()
                assert difference < 1e-4, f"{name} differs from {method.name} by {difference:.1e}"


def rows(found: Mapping[str, list[dict[str, float]]]) -> list[str]:
    """The lines of the table, and of what is worse than a control."""
    known = {method.name: method for method in METHODS if method.name in found}
    assert found.keys() >= set(CONTROLS), "the controls are measured first"
    means = {
        name: {key: float(np.mean([one[key] for one in pictures])) for key in ("deletion", "insertion")}
        for name, pictures in found.items()
    }
    lines = [
        "| map | deletion ↓ | insertion ↑ | average drop ↓ | increase ↑ | better than both controls |",
        "|---|--:|--:|--:|--:|---|",
    ]
    failures = []
    for name, method in known.items():
        whole, masked = ([one[key] for one in found[name]] for key in ("whole", "masked"))
        told = f"{name} (= {', '.join(method.also)})" if method.also else name
        told += f", {method.settings}" if method.settings else ""
        areas = " | ".join(
            f"{means[name][key]:.3f} ± {np.std([one[key] for one in found[name]]) / len(whole) ** 0.5:.3f}"
            for key in ("deletion", "insertion")
        )
        worse, near = [], []
        for control in CONTROLS if method.operation else ():
            for key, sign in (("deletion", -1), ("insertion", 1)):
                pairs = zip(found[name], found[control], strict=True)
                gains = [sign * (one[key] - other[key]) for one, other in pairs]
                if np.mean(gains) <= 0:
                    worse.append(f"{key}: {control}")
                    failures.append(f"{name} does not beat {control} in {key}")
                elif np.mean(gains) < 2 * np.std(gains) / len(gains) ** 0.5:
                    near.append(f"{key}: {control}")
        verdict = "**no**: " + ", ".join(worse) if worse else "yes"
        verdict += f"; hardly: {', '.join(near)}" if near else ""
        verdict = verdict if method.operation else "control"
        lines.append(
            f"| {told} | {areas} | {100 * average_drop(whole, masked):.1f} % "
            f"| {100 * increase_in_confidence(whole, masked):.0f} % | {verdict} |"
        )
    if failures:
        lines += ["", f"**Not better than a control:** {'; '.join(failures)}."]
    return lines


def _versions(count: int, threads: int) -> str:
    installed = {
        entry.metadata["Name"].lower(): entry.version for entry in importlib.metadata.distributions()
    }
    named = [f"{name} {installed[name]}" for name in VERSIONS if name in installed]
    return (
        f"Means over {count} pictures ± their standard error. Python {platform.python_version()}, "
        f"{', '.join(named)}; {platform.machine()}, {threads} thread{'s' if threads > 1 else ''}."
    )


def _chosen(names: Iterable[str]) -> list[Method]:
    wanted = set(names)
    return [method for method in METHODS if not wanted or method.name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how faithful the heat maps are.")
    parser.add_argument("results", type=Path, help="JSON, which is gone on with where it exists")
    parser.add_argument("page", type=Path, nargs="?", help="the page whose table is written anew")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--methods", nargs="*", default=[], help="only these")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    pictures = sorted((given.data / "images" / "imagenet_val").glob("*.JPEG"))[: given.pictures]
    bench = Bench(pictures, given.data, given.threads)
    kept = json.loads(given.results.read_text()) if given.results.exists() else {}
    for method in _chosen(given.methods):
        if len(kept.get(method.name, [])) == len(pictures):
            continue
        start = time.perf_counter()
        bench.same(method)
        kept[method.name] = bench.measure(method)
        given.results.write_text(json.dumps(kept))
        print(f"{method.name}: {time.perf_counter() - start:.0f} s", flush=True)
    table = rows(kept)
    print("\n".join(table))
    if given.page:
        text = given.page.read_text("utf-8")
        inside = "\n".join([MARKS[0], "", *table, "", _versions(len(pictures), given.threads), "", MARKS[1]])
        text, count = re.subn(f"{MARKS[0]}.*{MARKS[1]}", lambda _: inside, text, flags=re.DOTALL)
        assert count == 1, f"{given.page} has no place for the table"
        given.page.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
