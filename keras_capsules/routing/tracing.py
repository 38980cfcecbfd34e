"""What happens inside a routing: what it receives, and each iteration.

A routing whose `route` yields a `Routed` after each iteration is run again for
each of them, and stopped there. So neither routings nor layers know of it.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import TypeVar

from keras_capsules.routing.types import Routed
from keras_capsules.types import Tensor

Result = TypeVar("Result")


class Trace(NamedTuple):
    """What a layer routed.

    Axes: b batch, i input capsule, j output capsule, p pose row, d input
    dimension, e output dimension. In a convolution, b are all windows of the
    batch. Poses may have coordinates at their end.

    Attributes:
        coupling: Coupling coefficients after each iteration, tensors
            `[b, j, i]`; or `None`s, if the routing has none.
        poses: Poses of the input capsules, `[b, i, p, d]`. Those of padding are
            zeros.
        activations: Their activations, `[b, i]`; `None` if they have none.
            Defaults to `None`.
        kernel: The matrices of the layer, `[k, d, j, e]`; see
            `keras_capsules.engine.votes`. Defaults to `None`.
        weights: The weights of the routing by their names. Defaults to `None`.
    """

    coupling: Sequence[Tensor]
    poses: Tensor
    activations: Tensor = None
    kernel: Tensor = None
    weights: dict[str, Any] | None = None


class _Stop:
    """After which iteration to stop, and how many there were."""

    def __init__(self, after: int | None):
        self.after, self.number = after, 0


# Each thread has its own, so several may use one model.
_TRACES: contextvars.ContextVar[list[Trace] | None] = contextvars.ContextVar(
    "traces", default=None
)
_STOP: contextvars.ContextVar[_Stop | None] = contextvars.ContextVar(
    "stop", default=None
)


@contextlib.contextmanager
def tracing() -> Iterator[list[Trace]]:
    """A context that records what layers route, outside of compiled graphs.

    Returns:
        A list, to which each call of a layer adds a `Trace`.
    """
    traces: list[Trace] = []
    token = _TRACES.set(traces)
    try:
        yield traces
    finally:
        _TRACES.reset(token)


def is_tracing() -> bool:
    """Whether layers have to record what they route."""
    return _TRACES.get() is not None


def record(trace: Trace) -> None:
    """Records what a layer routed, in the context of `tracing`."""
    traces = _TRACES.get()
    if traces is not None:
        traces.append(trace)


def record_each(route: Callable[[], Routed], **kwargs: Any) -> Routed:
    """Routes, and records each iteration in the context of `tracing`.

    Args:
        route: Function without arguments, which takes the result of a routing
            from `last`.
        **kwargs: What the routing receives: arguments of `Trace`.

    Returns:
        What `route` returns.
    """
    if not is_tracing():
        return route()
    routed, number = _stopped(route, None)
    earlier = [_stopped(route, after)[0].coupling for after in range(1, number)]
    record(Trace([*earlier, routed.coupling], **kwargs))
    return routed


def last(iterations: Iterable[Result]) -> Result:
    """The last of some iterations, or the one to stop after."""
    stop = _STOP.get()
    results = [
        *itertools.islice(iterations, None if stop is None else stop.after)
    ]
    if stop is not None:
        stop.number = len(results)
    if not results:
        raise ValueError(
            "`route` has to yield a Routed after each iteration. Received: no "
            "iteration"
        )
    return results[-1]


def _stopped(route, after):
    stop = _Stop(after)
    token = _STOP.set(stop)
    try:
        return route(), stop.number
    finally:
        _STOP.reset(token)
