"""The pictures in docs/pictures/, each made by the commands of its page.

Usage::

    python docs/recipes/pictures DATA [--small] [PAGE ...]

``DATA`` holds free pictures in ``images/free``, paintings in ``images/style``, folders of classes in
``datasets/caltech-5.tar``, weights in ``weights`` and the names of ImageNet's classes in ``labels``. A
network that was pulled on this machine is used as it is; ``stock.py`` makes the others of these weights.
A ``PAGE`` is named by its path below docs/, ``sweep`` or ``reports/small-classifier``; without any all are
made. ``--small`` makes them quickly and badly, to see whether they can be made, and keeps none.

The pictures of docs/sweep.md are made by ``pages/sweep.py``, and so on. Its ``make(workshop)`` brings the
files that the page names, runs the commands of a guide or the whole of a report, and keeps the pictures: see
`Workshop`. What the commands print comes out on standard output, so that the figures on the page can be
compared.
"""

import sys
import tempfile
from pathlib import Path

from workshop import Workshop, pages


def main(data: str, *words: str) -> None:
    """Make the pictures of the named pages, or of all."""
    named = [word for word in words if word != "--small"]
    for page in named or pages():
        with tempfile.TemporaryDirectory() as folder:
            Workshop(page, Path(data).resolve(), Path(folder), "--small" in words).make()


if __name__ == "__main__":
    main(*sys.argv[1:])
