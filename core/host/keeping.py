"""Networks and sessions stay open for the next call: the last few, or in a sweep as many as fit."""

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")

KEPT_OPEN = 4
"""How many values of a kind are kept, however little memory is free."""


class Kept(Generic[Value]):
    """What was made last, by what it was made of."""

    def __init__(self) -> None:
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._spare = math.inf

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made now if it is not there."""
        if key not in self._values:
            self._values[key] = make()
            self._close_the_oldest()
        self._values.move_to_end(key)
        return self._values[key]

    @contextmanager
    def more(self, spare: float) -> Iterator[None]:
        """Inside, all is kept while so many bytes of memory are free."""
        self._spare = spare
        try:
            yield
        finally:
            self._spare = math.inf
            self._close_the_oldest()

    def _close_the_oldest(self) -> None:
        while len(self) > KEPT_OPEN and not self._is_room():
            self._values.popitem(last=False)

    def _is_room(self) -> bool:
        from cnnkit.runtime.device import available_memory

        return self._spare < math.inf and available_memory() >= self._spare


@contextmanager
def as_many_as_fit(*all_kept: Kept[Any]) -> Iterator[None]:
    """Inside, everything is kept while half of the memory that is free now stays free."""
    from cnnkit.runtime.device import available_memory

    spare = available_memory() / 2
    with ExitStack() as stack:
        for kept in all_kept:
            stack.enter_context(kept.more(spare))
        yield
