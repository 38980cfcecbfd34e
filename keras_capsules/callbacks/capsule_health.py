"""Looks after capsules in training."""

import math
import numbers
import os
import warnings
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.callbacks.event_files import check_log_dir
from keras_capsules.callbacks.event_files import event_writer
from keras_capsules.callbacks.training_problems import CONSEQUENCES
from keras_capsules.callbacks.training_problems import FARTHEST
from keras_capsules.callbacks.training_problems import high_learning_rate
from keras_capsules.callbacks.training_problems import undefined_loss
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.health import Health
from keras_capsules.inspection.health import capsule_health
from keras_capsules.inspection.kernels import kernels_of
from keras_capsules.inspection.problems import Problem
from keras_capsules.inspection.problems import steps_of
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_integer

# How many images TensorBoard shows with their reconstructions.
_PICTURES = 8


class CapsuleHealthWarning(UserWarning):
    """Something is wrong with a network that `CapsuleHealth` looks after."""


class CapsuleHealth(keras.callbacks.Callback):
    """Measures the health of capsules in training, and warns of problems.

    Before the first step and after each epoch, the callback looks at some
    images, as `keras_capsules.inspection.capsule_health` does. It also looks at
    how far the first step of each epoch moves the kernels. Training goes on as
    it would without the callback: no weight, no metric and no random state
    changes.

    The history of `fit` shows for each layer of capsules `"{layer}_activation"`
    (the mean activation), `"{layer}_dead"` (the part of its capsules that are
    dead) and, if it routes, `"{layer}_entropy"` (that of the coupling).
    TensorBoard shows these figures, the mean length of poses and, for networks
    with a decoder, images beside their reconstructions.

    The callback warns of each problem once, with a `CapsuleHealthWarning`: its
    name, the layer, the number seen, the number expected, and what to do. These
    are the problems, by the signs that they have and the causes behind them:

    - `images_not_finite`: pixels are NaN or infinite. The files are broken, or
      images were divided by zero. *Remove these images.*
    - `large_pixels`: the first layer with a kernel is given numbers above 16.
      Pixels are from 0 to 255. *Divide them by 255.*
    - `labels_out_of_range`: labels are of no class, often because they are
      counted from 1. *Subtract 1.* (The networks of this package raise an error
      where they are trained with such labels.)
    - `labels_from_one`: no label is 0, but each other one occurs. The labels
      may be counted from 1. *Subtract 1*, and give the network one class less.
      Nobody can see a shift within the range if all labels occur.
    - `learning_rate`: one step moves a kernel by more than half of its size.
      The learning rate is too high. *Lower it* as the warning says.
    - `not_finite`: a layer makes NaN of finite input. If its weights are NaN,
      training made them so: *lower the learning rate, and look for NaN in the
      training images and for labels out of range*. Otherwise numbers overflow:
      *compute in float32*.
    - `loss_not_finite`: the loss is NaN, but the network is not. A label is out
      of range, or an image is broken that the callback does not have. *Check
      the training data.*
    - `small_kernel`: activations vanish, and a kernel is smaller than a fifth
      of its usual size. It was initialized, or regularized, to almost nothing.
      *Use the default initializer.*
    - `vanished_activations`: no capsule of a layer has an activation above
      0.0005, or all images give the same output, though kernels have their
      usual size. Squash shortened short vectors in several layers. *Use fewer
      layers, or `"exponential_squash"` and `"self_attention"` routing.*
    - `uniform_routing`: input capsules divide themselves equally, with one
      iteration, or after 1000 steps of training. *Use 2 or 3 iterations;* or
      check that the layer is trainable.
    - `dead_class`: of three or more classes, one never wins, and its score is
      the same for its own images as for others, while 80 % of the images of
      other classes are recognized. The training data lacks it, or its capsule
      died. *Check the data, or train from another seed.*

    What may follow from another problem is not reported after it: NaN from
    images and labels, and all later ones from the learning rate. The thresholds
    stand with their reasons in `keras_capsules.inspection.diagnosis`, and those
    of training in `keras_capsules.callbacks.training_problems`.

    Args:
        images: `(images, ...)`, what to look at: an array, a list or a tensor
            of the shape that the model takes. Some hundred, of all classes, are
            enough. A look takes about as long as predicting them, and up to ten
            times as long with routing in convolutions.
        labels: Integer, one-hot or multi-hot labels of these images. Without
            them, problems of labels and classes are not found. Defaults to
            `None`.
        frequency: `"epoch"`, or a positive integer, to look once more after so
            many batches. Defaults to `"epoch"`.
        log_dir: Path of a folder for TensorBoard, or `None`. It needs
            TensorFlow, with any backend. Defaults to `None`.
        batch_size: Positive integer, the batch size of a look. Defaults to
            `128`.

    Raises:
        ValueError: If an argument is invalid. In `fit`, before the first step,
            if the images or labels do not fit the model, or it has no layer of
            capsules.

    Example:

    ```python
    import numpy as np
    from keras_capsules import MarginLoss
    from keras_capsules.callbacks import CapsuleHealth
    from keras_capsules.models import CapsNet

    images = np.random.uniform(size=(60, 8, 8, 1)).astype("float32")
    labels = np.random.randint(3, size=60)
    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    model.compile("adam", MarginLoss())
    health = CapsuleHealth(images[:20], labels[:20])
    history = model.fit(images, labels, callbacks=[health], verbose=0)
    print(history.history["class_capsules_entropy"])
    ```
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        frequency: str | int = "epoch",
        log_dir: str | os.PathLike[str] | None = None,
        batch_size: int = 128,
    ):
        super().__init__()
        self.images, self.labels = images, labels
        self.frequency = _check_frequency(frequency)
        self.log_dir = check_log_dir(log_dir)
        self.batch_size = check_integer(batch_size, "batch_size")
        # Problems not to warn of: known, or consequences of known ones.
        self._silent: set[str] = set()
        self._write: Any = None
        self._kernels: list[Any] = []
        # Their values at the beginning of an epoch, until the first step.
        self._before: list[np.ndarray] | None = None
        self._first_step = self._last_batch = 0
        self._gathered = 1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Looks at the network before it is trained."""
        self._silent = set()
        self._look()
        self._kernels = list(kernels_of(Graph(self.model)))

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Notes the kernels before the first step of the epoch."""
        # On JAX, `self.model` brings its variables up to date.
        self._first_step = steps_of(self.model)
        self._before = [kernel.value for kernel in self._kernels]
        self._last_batch = 0
        # With scaled losses, the optimizer inside gathers gradients.
        optimizer = self.model.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        self._gathered = optimizer.gradient_accumulation_steps or 1

    # Not at the ends of batches: Keras would wait for the results of each.

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Looks at the first step of an epoch, and at each so many batches."""
        if self._before is not None and batch >= self._gathered:
            self._look_at_step()
        every = self.frequency
        if every != "epoch" and batch - self._last_batch >= int(every):
            self._last_batch = batch
            self._look()

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Looks at the network, and adds figures to the logs of the epoch."""
        if self._before is not None:
            self._look_at_step()
        health = self._look()
        if logs is None:
            return
        logs.update(
            {
                f"{name}_{figure}": value
                for name, figure, value in _figures(health)
                if figure != "norm"
            }
        )
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            self._warn_of([undefined_loss(self.model.name, loss)])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Lets go of the file of events and of copies of kernels."""
        self._write = self._before = None

    def _look(self):
        model = self.model
        health = capsule_health(
            model, self.images, self.labels, self.batch_size
        )
        self._warn_of(health.problems)
        if self.log_dir is not None:
            if self._write is None:
                self._write = event_writer(self.log_dir)
            scalars = {f"{n}/{figure}": x for n, figure, x in _figures(health)}
            self._write(steps_of(model), scalars, self._reconstructions())
        return health

    def _look_at_step(self):
        """Looks at how far one step has moved the kernels."""
        before, self._before = self._before, None
        # Several, if the model is compiled so.
        steps = max(
            (steps_of(self.model) - self._first_step) // self._gathered, 1
        )
        changes = [
            kernel.change_since(earlier) / steps
            for kernel, earlier in zip(self._kernels, before, strict=True)
        ]
        if not np.isfinite(changes).all():
            self._look()
        elif max(changes, default=0.0) > FARTHEST:
            farthest = int(np.argmax(changes))
            rate = float(as_array(self.model.optimizer.learning_rate))
            name = self._kernels[farthest].name
            self._warn_of([high_learning_rate(name, changes[farthest], rate)])

    def _warn_of(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem.name in self._silent:
                continue
            follows = CONSEQUENCES.get(problem.name, set())
            self._silent |= {problem.name, *follows}
            warnings.warn(
                f"{problem.name} in {problem.layer}: {problem.message} "
                f"{problem.remedy}",
                CapsuleHealthWarning,
                stacklevel=2,
            )

    def _reconstructions(self):
        """Images beside their reconstructions, if there are any."""
        model = self.model
        if getattr(model, "decoder", None) is None:
            return {}
        pictures = ops.convert_to_tensor(self.images[:_PICTURES], "float32")
        if len(pictures.shape) != 4 or pictures.shape[-1] not in (1, 3, 4):
            return {}
        with keras.StatelessScope():  # so that nothing changes
            drawn = ops.cast(model.reconstruct(pictures), "float32")
            both = ops.concatenate([pictures, drawn], axis=2)
        return {"reconstructions": ops.convert_to_numpy(both)}


def _figures(health: Health) -> list[tuple[str, str, float]]:
    """The names of layers and figures, and the figures."""
    found = []
    for layer in health.layers:
        if np.isfinite(layer.activation).all():
            mean = float(layer.activation.mean())
            found.append((layer.name, "activation", mean))
        found.append((layer.name, "dead", float(layer.dead.mean())))
        found.append((layer.name, "norm", float(layer.norm[1])))
        if layer.entropy is not None:
            found.append((layer.name, "entropy", layer.entropy))
    return found


def _check_frequency(value):
    is_integer = isinstance(value, numbers.Integral)
    if is_integer and not isinstance(value, bool) and value > 0:
        return value
    # An array is compared number by number.
    if isinstance(value, str) and value == "epoch":
        return value
    raise ValueError(
        "Invalid value for argument `frequency`. Expected 'epoch' or a "
        f"positive integer. Received: frequency={value!r}"
    )
