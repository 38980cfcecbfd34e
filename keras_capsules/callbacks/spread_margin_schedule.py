"""Training callbacks."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_capsules.losses import SpreadLoss
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number

_COARSEST_RESOLUTION = 0.1


def spread_margin(
    step: int,
    start: float = 0.2,
    growth: float = 0.79,
    duration: float = 50000,
    delay: float = 4.0,
) -> float:
    """Computes the margin of the spread loss from the number of steps.

    The margin follows a sigmoid up to an argument of 10 and is constant from
    there on:

    ```
    margin = start + growth * sigmoid(min(10, step / duration - delay))
    ```

    With the default constants, it is 0.214 at first, 0.595 after 200,000 steps
    and 0.99 after 700,000.

    Notation: m in equation 3 of
    [Hinton et al., 2018](https://openreview.net/forum?id=HJWLfGWRb), whose
    text has it grow linearly from 0.2 to 0.9. This is the formula that the
    authors gave in answer to a question there.

    Args:
        step: Integer of at least 0, the number of training steps so far.
        start: Float in [0, 1], the limit of the margin before the growth.
            Defaults to `0.2`.
        growth: Float of at least 0, the growth of the margin; `start + growth`
            is at most 1. Defaults to `0.79`.
        duration: Float greater than 0, the number of steps in which the
            sigmoid's argument grows by 1. Defaults to `50000`.
        delay: Float, the middle of the growth, as a multiple of `duration`.
            Defaults to `4.0`.

    Returns:
        A float.

    Raises:
        ValueError: If an argument is invalid.

    Example:

    ```python
    from keras_capsules.callbacks import spread_margin

    print([spread_margin(step) for step in (0, 200_000, 700_000)])
    ```
    """
    step = check_integer(step, "step", minimum=0)
    start = check_number(start, "start", 0, 1)
    growth = check_number(growth, "growth", 0)
    duration = check_number(duration, "duration", 0, open_minimum=True)
    delay = check_number(delay, "delay")
    if start + growth > 1:
        raise ValueError(
            "Invalid value for argument `growth`. Expected start + growth of "
            f"at most 1. Received: start={start}, growth={growth}"
        )
    # The sigmoid as a tanh, which does not overflow.
    argument = min(10.0, step / duration - delay)
    return start + growth * (0.5 + 0.5 * math.tanh(0.5 * argument))


class SpreadMarginSchedule(keras.callbacks.Callback):
    """Schedules the margin of a `SpreadLoss`, recompiling the training step.

    Compiled training and test functions contain the margin as a constant,
    because it is not part of the model's state. They are compiled again when
    the margin changes, which takes as long as the first step of training. So
    the margin moves in steps of `resolution`: with the default options,
    functions are compiled again about 80 times in 700,000 steps.

    The optimizer counts the steps, so training that is resumed with its
    optimizer continues the schedule. In the history of `fit`, `spread_margin`
    is the margin at the end of an epoch.

    Args:
        schedule: Function from the number of training steps so far, an integer,
            to the margin, a float in [0, 1]. Defaults to `spread_margin`.
        resolution: Float from 0 to 0.1. The margin is rounded to a multiple
            of it, thus changed by at most half of it. 0 sets the exact margin
            in every step, which suits models compiled with `run_eagerly=True`.
            Defaults to `0.01`.
        loss: The `SpreadLoss` whose margin is set. Defaults to `None`, which
            means each `SpreadLoss` in the `loss` that the model is compiled
            with.

    Raises:
        ValueError: If an argument is invalid. In `fit`, if `loss` is `None` and
            the model is not compiled with a `SpreadLoss`, or a margin is not in
            [0, 1].

    Example:

    ```python
    import functools

    import keras
    import numpy as np
    from keras_capsules.callbacks import SpreadMarginSchedule
    from keras_capsules.callbacks import spread_margin
    from keras_capsules.losses import SpreadLoss

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("sgd", loss=SpreadLoss())
    faster = functools.partial(spread_margin, duration=1, delay=1)
    model.fit(
        np.random.normal(size=(12, 5)),
        np.random.randint(3, size=12),
        batch_size=4,
        callbacks=[SpreadMarginSchedule(faster)],
        verbose=0,
    )
    print(model.loss.margin)  # 0.78, the margin of the third step
    ```
    """

    def __init__(
        self,
        schedule: Callable[[int], float] = spread_margin,
        resolution: float = 0.01,
        loss: SpreadLoss | None = None,
    ):
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                "Invalid value for argument `schedule`. Expected a function "
                "of the number of training steps. "
                f"Received: schedule={schedule!r}"
            )
        if loss is not None and not isinstance(loss, SpreadLoss):
            raise ValueError(
                "Invalid value for argument `loss`. Expected a SpreadLoss or "
                f"None. Received: loss={loss!r}"
            )
        self.schedule = schedule
        # A coarse resolution would round the margin to 0 and disable the loss.
        self.resolution = check_number(
            resolution, "resolution", 0, _COARSEST_RESOLUTION
        )
        self.loss = loss
        self._losses: list[SpreadLoss] = []
        self._first_step = 0
        self._batches_per_step = 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Finds the losses whose margin is set."""
        given = self.model.loss if self.loss is None else self.loss
        self._losses = [
            loss
            for loss in keras.tree.flatten(given)
            if isinstance(loss, SpreadLoss)
        ]
        if not self._losses:
            raise ValueError(
                "There is no margin to set. Expected a model compiled with a "
                f"SpreadLoss, or its loss as an argument. Received: "
                f"loss={given!r}"
            )

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Notes the number of steps before the epoch."""
        # Within an epoch batches are counted instead. On JAX, reading the
        # optimizer there would bring all variables of the model up to date.
        optimizer = self.model.optimizer
        self._first_step = int(keras.ops.convert_to_numpy(optimizer.iterations))
        # With scaled losses, the optimizer inside accumulates gradients.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._batches_per_step = optimizer.gradient_accumulation_steps or 1

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets the margin of the step."""
        self._set(self._first_step + batch // self._batches_per_step)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Adds the margin to the logs of the epoch."""
        if logs is not None:
            logs["spread_margin"] = self._losses[0].margin

    def _set(self, step):
        margin = check_number(self.schedule(step), "schedule(step)", 0, 1)
        if self.resolution:
            margin = round(margin / self.resolution) * self.resolution
            # In logs, 0.41 and not 0.41000000000000003.
            margin = min(round(margin, 12), 1.0)
        changed = [loss for loss in self._losses if loss.margin != margin]
        for loss in changed:
            loss.margin = margin
        if changed:
            self.model.make_train_function(force=True)
            self.model.make_test_function(force=True)
