"""Batches of pictures, loaded and augmented by threads while the network is busy with the batch before.

Pillow and numpy let other threads run while they work on pixels, so threads are enough. What happens to a
picture is decided by the seed, the epoch and its number: not by threads, batches or interruptions.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnnkit import Augmentation, Dataset, Image, ImageError, Preprocessing, available_memory

Array = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Numbers = Sequence[int] | NDArray[np.int64]
Item = TypeVar("Item")
Made = TypeVar("Made")

MARGIN = 1.125
"""Pictures to be augmented are kept so much larger than the network's input, for crops to draw on."""
KEPT = 0.25
"""The share of the free memory that decoded pictures may take."""
NO_AUGMENTATION = Augmentation()
AHEAD = 4
"""What is made before it is asked for."""


class Feeder:
    """Turns the pictures of a dataset into a network's input.

    They are decoded once where all of them fit into memory, and else each time.
    """

    def __init__(
        self,
        dataset: Dataset,
        preprocessing: Preprocessing,
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int = 0,
        threads: int = 2,
    ) -> None:
        height, width = preprocessing.height, preprocessing.width
        assert height and width, "a network in training has one size"
        self.dataset, self.size = dataset, (height, width)
        self._preprocessing, self._augmentation = preprocessing, augmentation
        self._seed, self._threads = seed, threads
        margin = MARGIN if augmentation else 1.0
        stored = round(height * margin), round(width * margin)
        self._loading = replace(preprocessing, height=stored[0], width=stored[1])
        fits = 3 * len(dataset) * stored[0] * stored[1] < KEPT * available_memory()
        self._kept: dict[int, Pixels] | None = {} if fits else None

    def take(self, indices: Sequence[int]) -> "Feeder":
        """For some of the pictures, which are not decoded again."""
        other = copy(self)
        other.dataset = self.dataset.take(indices)
        if self._kept is not None:
            other._kept = {place: self._kept[i] for place, i in enumerate(indices) if i in self._kept}
        return other

    def read(self) -> Iterator[ImageError | None]:
        """Each picture once, in order: None, or why it cannot be read."""

        def attempt(index: int) -> ImageError | None:
            try:
                self._picture(index)
            except ImageError as error:
                return error
            return None

        return ahead(attempt, range(len(self.dataset)), self._threads, 16 * AHEAD)

    def batches(self, indices: Iterable[Numbers], epoch: int) -> Iterator[Array]:
        """(N, ...) for N numbers of pictures each, as this epoch shows them."""

        def made(batch: Numbers) -> Array:
            return self._preprocessing.to_network(np.stack([self.view(int(i), epoch) for i in batch]))

        return ahead(made, indices, self._threads, AHEAD)

    def plain(self, index: int) -> Pixels:
        """A picture (height, width, 3) as it is loaded. Raises ImageError."""
        picture = self._picture(index)
        return Image(picture).resized(*self.size).pixels if self._augmentation else picture

    def view(self, index: int, epoch: int) -> Pixels:
        """A picture (height, width, 3) as an epoch shows it. Raises ImageError."""
        picture = self._picture(index)
        if not self._augmentation:
            return picture
        random = np.random.default_rng((self._seed, epoch, index))
        return self._augmentation.view(picture, self.size, random)

    def _picture(self, index: int) -> Pixels:
        if self._kept is not None and index in self._kept:
            return self._kept[index]
        picture = self._loading.apply(Image.load(self.dataset.path(index))).picture.pixels
        if self._kept is not None:
            self._kept[index] = picture
        return picture


def ahead(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, count: int = AHEAD
) -> Iterator[Made]:
    """What threads make of each item, in the order of the items; `count` of them are under way."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
