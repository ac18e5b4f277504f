"""What is measured decides; memory and time bound it."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cnnkit.graphs.rewrite import Candidate, candidates
from cnnkit.runtime import tuning
from cnnkit.runtime.tuning import Choice, Timing, worth_rewriting

BASE = Candidate("base", 1, 96, 96, 32, 32, ((1, 1), (1, 1)), frozen=True)
LARGE = 1 << 40
Fake = Callable[[dict[int, Timing]], list[Candidate]]


@pytest.fixture(autouse=True)
def nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_measured", {})


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts timings in place of measuring, by the number of filters; what was asked for comes back."""

    def put(timings: dict[int, Timing]) -> list[Candidate]:
        asked: list[Candidate] = []

        def measured(candidate: Candidate, threads: int | None) -> Timing:
            asked.append(candidate)
            return timings[candidate.filters]

        monkeypatch.setattr(tuning, "_measure", measured)
        return asked

    return put


def named(name: str, filters: int) -> Candidate:
    return replace(BASE, name=name, filters=filters)


def test_a_real_measurement() -> None:
    """Whatever the machine, both forms take time, once: the second question is answered from memory."""
    choice = worth_rewriting([BASE, replace(BASE, name="again", batch=None)], threads=1)
    ((kind, timing),) = tuning._measured.items()
    assert kind == (replace(BASE, name="conv"), 1)
    assert 0 < timing.plain < 5 and 0 < timing.rewritten < 5
    gains = timing.rewritten <= 0.9 * timing.plain
    assert set(choice.names) == ({"base", "again"} if gains else set())
    assert worth_rewriting([BASE], threads=1, budget=0).unmeasured == 0


@pytest.mark.parametrize("trained", [False, True])
def test_what_is_measured_is_the_convolution(trained: bool) -> None:
    odd = Candidate("odd", 2, 5, 4, 7, 6, ((0, 2), (1, 0)), frozen=not trained)
    model, feeds = tuning._alone(odd)
    assert candidates(model) == [odd]
    assert {name: value.shape for name, value in feeds.items()} == (
        {"x": (2, 5, 7, 6), "weights": (4, 5, 3, 3)} if trained else {"x": (2, 5, 7, 6)}
    )


def test_only_a_clear_gain_counts_and_the_largest_saving_comes_first(measure: Fake) -> None:
    measure({96: Timing(1.0, 0.91), 128: Timing(1.0, 0.6), 160: Timing(2.0, 1.5), 192: Timing(1.0, 1.2)})
    asked = [named("unclear", 96), named("small", 128), named("large", 160), named("slower", 192)]
    choice = worth_rewriting(asked, max_memory=LARGE)
    assert choice.names == ("large", "small")
    assert choice.timing == Timing(3.0, 2.1)
    assert choice.unmeasured == 0


def test_weights_add_up_but_tiles_are_there_one_at_a_time(measure: Fake) -> None:
    measure({128: Timing(1.0, 0.6), 160: Timing(2.0, 1.5)})
    small, large = named("small", 128), named("large", 160)
    both = small.weight_bytes + large.weight_bytes + large.tile_bytes
    assert worth_rewriting([small, large], max_memory=both).names == ("large", "small")
    assert worth_rewriting([small, large], max_memory=both).extra_bytes == both
    assert worth_rewriting([small, large], max_memory=both - 1).names == ("large",)
    assert worth_rewriting([small, large], max_memory=large.extra_bytes - 1).names == ("small",)
    assert worth_rewriting([small, large], max_memory=0) == Choice((), Timing(0, 0), 0)


def test_what_cannot_gain_is_not_measured(measure: Fake) -> None:
    asked = measure({96: Timing(1.0, 0.1)})
    tiny = replace(BASE, height=4, width=4)
    few = replace(BASE, channels=95)
    assert worth_rewriting([tiny, few], max_memory=LARGE).names == ()
    assert asked == []


def test_convolutions_alike_are_measured_once(measure: Fake) -> None:
    asked = measure({96: Timing(1.0, 0.5)})
    several = [replace(BASE, name=f"conv{index}") for index in range(4)]
    several.append(replace(BASE, name="trained", frozen=False))
    assert len(worth_rewriting(several, max_memory=LARGE).names) == 5
    assert len(asked) == 2
    worth_rewriting(several, max_memory=LARGE)
    assert len(asked) == 2
    worth_rewriting(several, threads=1, max_memory=LARGE)
    assert len(asked) == 4


def test_time_goes_to_the_largest(measure: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measurement takes 2 s by this clock: within 3 s there is time for two of three."""
    asked = measure({96: Timing(1, 0.5), 128: Timing(1, 0.5), 160: Timing(1, 0.5)})
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: 2.0 * len(asked))
    choice = worth_rewriting(
        [named(str(count), count) for count in (96, 160, 128)], max_memory=LARGE, budget=3
    )
    assert [candidate.filters for candidate in asked] == [160, 128]
    assert set(choice.names) == {"160", "128"} and choice.unmeasured == 1


def test_one_line_for_the_log() -> None:
    choice = Choice(("a", "b"), Timing(0.3, 0.2), 5 << 20)
    assert str(choice) == "2 convolution(s) rewritten: 200 ms in place of 300 ms a run, for 5 MiB"
    assert str(Choice((), Timing(0, 0), 0, 2)) == (
        "no convolution is faster rewritten; 2 not measured for lack of time"
    )
