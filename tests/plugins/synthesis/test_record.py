"""The table of a run, its plot and its animation."""

import csv
import io

import numpy as np
import pytest
from PIL import Image as pillow

from cnnkit.plugins.synthesis.record import MOST_FRAMES, Animation, Record, Row, csv_of, plot_of

WEIGHTS = {"content a": 2.0, "style a": 4.0, "variation": 0.0}


def record(rows: int = 3) -> Record:
    made = Record()
    for number in range(1, rows + 1):
        losses = {"content a": 8.0 / number, "style a": 0.5}
        made.rows.append(
            Row(number, number // 3, (4, 6), losses, WEIGHTS, 8.0 / number + 0.5, 0.1, number / 10)
        )
    return made


def test_the_table_has_each_part_raw_and_weighted() -> None:
    rows = list(csv.DictReader(io.StringIO(record().csv().decode())))
    assert len(rows) == 3
    assert rows[1] == {
        "iteration": "2", "stage": "0", "height": "4", "width": "6",
        "content a raw": "2", "content a weighted": "4",
        "style a raw": "0.125", "style a weighted": "0.5", "total": "4.5", "rate": "0.1", "seconds": "0.200",
    }  # fmt: skip


def test_a_part_that_counts_for_nothing_has_no_raw_value() -> None:
    row = Row(1, 0, (4, 6), {"variation": 0.0}, WEIGHTS, 0.0, 1.0, 0.0)
    assert row.raw("variation") is None and row.raw("style a") is None


def test_a_record_goes_on_from_its_state() -> None:
    first, second = record(), Record()
    second.take_up(first.state())
    assert second.rows == first.rows and second.csv() == first.csv()


def test_the_plot_has_a_colour_for_every_part_and_the_total() -> None:
    plot = pillow.open(io.BytesIO(record(30).plot())).convert("RGB")
    assert plot.size == (1000, 600)
    colours = {tuple(colour) for _, colour in plot.getcolors(1 << 20) or []}
    for channel, name in [(2, "content"), (0, "style")]:
        others = [other for other in range(3) if other != channel]
        assert any(all(c[channel] > c[o] + 40 for o in others) for c in colours), name
    assert (0, 0, 0) in colours


def test_several_runs_are_one_table_and_a_curve_each() -> None:
    other = Record()
    other.rows = [Row(1, 0, (4, 6), {"style b": 3.0}, {"style b": 1.5}, 3.0, 0.1, 0.1)]
    rows = list(csv.DictReader(io.StringIO(csv_of({"first": record(2), "second": other}).decode())))
    assert [row["picture"] for row in rows] == ["first", "first", "second"]
    assert [row["style b raw"] for row in rows] == ["", "", "2"]
    assert rows[2]["total"] == "3" and rows[2]["content a raw"] == ""
    other.rows = [row._replace(total=30.0) for row in record().rows]
    plot = pillow.open(io.BytesIO(plot_of({"first": record(), "second": other})))
    colours, counts = np.unique(np.asarray(plot.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    assert (counts[np.ptp(colours, axis=1) > 40] > 300).sum() == 2


def test_losses_of_zero_can_be_plotted() -> None:
    made = Record()
    made.rows = [Row(n, 0, (1, 1), {"style a": 0.0}, WEIGHTS, 0.0, 1.0, 0.0) for n in range(2)]
    assert made.plot().startswith(b"\x89PNG")


@pytest.mark.parametrize("format", ["gif", "webp"])
@pytest.mark.parametrize("iterations", [1, 7, 1000])
def test_an_animation_is_of_bounded_length_and_ends_with_the_result(format: str, iterations: int) -> None:
    animation = Animation()
    for number in range(iterations):
        if animation.wants_next():
            animation.add(np.full((4 + number % 2, 6, 3), number * 37 % 256, np.uint8))
    last = np.full((8, 12, 3), 77, np.uint8)
    found = pillow.open(io.BytesIO(animation.encode(last, format)))  # type: ignore[arg-type]
    assert found.size == (12, 8)
    assert min(iterations, MOST_FRAMES // 2) < found.n_frames <= MOST_FRAMES + 1  # type: ignore[attr-defined]
    assert found.info["loop"] == 0
    found.seek(found.n_frames - 1)  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.asarray(found.convert("RGB")), last, atol=2)


def test_an_animation_goes_on_from_its_state() -> None:
    def run(breaks: bool) -> list[int]:
        animation = Animation()
        for number in range(300):
            if breaks and number == 170:
                state, animation = animation.state(), Animation()
                animation.take_up(state)
            if animation.wants_next():
                animation.add(np.full((1, 1, 3), number // 2, np.uint8))
        return [int(frame[0, 0, 0]) for frame in animation._frames]

    assert run(True) == run(False)
