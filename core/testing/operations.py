"""The contract of an operation."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cnnkit import Image, Job, Operation, UsageError, run
from cnnkit.host.check import complaints_about
from cnnkit.host.options import build_options, complete, fields_of
from cnnkit.testing.networks import make_tiny_model
from cnnkit.testing.pictures import pictures

NONSENSE: list[Any] = ["", "no such thing", "1,,", "-1", -1, 0.5, True, None, [], [None], ["x", "y", "z"], {}]
"""What people and programs give to an option."""


def check_operation(operation: Operation, **options: Any) -> None:
    """Assert what every operation owes its users.

    Its definition is complete; it accepts the kinds of pictures that people have (one pixel, grey,
    transparent, 16-bit, turned by EXIF, long and thin), or a folder of them; the same seed gives the same
    result; its data is JSON; its options survive a manifest, and nonsense is refused in one sentence; it
    leaves the picture and the working folder as they were. `options` are used in every run; the network is
    `tiny_model`'s.
    """
    complaints = complaints_about(operation)
    assert not complaints, complaints
    first = build_options(operation.options, options, Image.load)
    job = Job.from_json(Job(operation.name, options=complete(first, options)).to_json())
    second = build_options(operation.options, job.options, Image.load)
    assert first == second, f"the options change on their way through a manifest: {first} became {second}"
    check_refusals(operation)

    before = set(Path().iterdir())
    model = make_tiny_model()
    with _sources(operation) as sources:
        for kind, source in sources:
            pixels = source.pixels.copy() if isinstance(source, Image) else None
            one, other = (
                run(operation, source, model=model, seed=1, **options).contents(".png", {}) for _ in range(2)
            )
            assert one.keys() == other.keys(), f"{kind}: the second run gave other outputs"
            differing = [part for part in one if one[part] != other[part]]
            assert not differing, f"{kind}: two runs with the same seed differ in {', '.join(differing)}"
            if isinstance(source, Image):
                assert (source.pixels == pixels).all(), f"{kind}: the operation changed the picture"
    assert set(Path().iterdir()) == before, "the operation left files in the working folder"


def check_refusals(operation: Operation) -> None:
    """Assert that its options refuse nonsense in one sentence, where a parse function of theirs decides."""
    for field in fields_of(operation.options):
        for value in NONSENSE if field.option.parse else ():
            try:
                field.convert(value, Image.load)
            except UsageError as error:
                assert "\n" not in str(error), f"{field.flag}: a refusal is one line, not {str(error)!r}"
            except Exception as error:
                raise AssertionError(
                    f"the parse function of {field.flag} raises {type(error).__name__} for {value!r}; "
                    "ValueError with a sentence says what it takes"
                ) from error


@contextmanager
def _sources(operation: Operation) -> Iterator[Iterator[tuple[str, Any]]]:
    """What to run it on, by what is special about each."""
    if operation.takes == "nothing":
        yield iter([("nothing", None)])
    elif operation.takes != "folder":
        yield pictures()
    else:
        with TemporaryDirectory() as folder:
            for number, (_, picture) in enumerate(pictures()):
                place = Path(folder) / ("even", "odd")[number % 2]
                place.mkdir(exist_ok=True)
                picture.save(place / f"{number}.png")
            yield iter([("a folder", Path(folder))])
