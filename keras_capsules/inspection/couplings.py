"""How layers of capsules divide their input capsules among their outputs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_capsules.inspection.entropy import entropy_of
from keras_capsules.inspection.graph import Graph
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.images import check_images
from keras_capsules.inspection.routes import Route
from keras_capsules.inspection.routes import axes_of
from keras_capsules.inspection.routes import is_routing
from keras_capsules.inspection.routes import names_of
from keras_capsules.inspection.routes import routes
from keras_capsules.inspection.routes import voters
from keras_capsules.types import Tensor
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer


class LayerCouplings(NamedTuple):
    """The coupling coefficients of one layer.

    Attributes:
        name: The name of the layer. A layer in a `CapsuleStack`, or in a model
            that is part of the model, has both names: `"stack/layer"`.
        coupling: The coupling after the last iteration: how much of its vote an
            output capsule receives from an input capsule. The shape is given in
            `couplings`.
        entropy: `(iterations, images)`, how evenly input capsules divide
            themselves among output capsules, from 0 (each goes to one) to 1
            (each goes to all alike).
    """

    name: str
    coupling: np.ndarray
    entropy: np.ndarray


def couplings(
    model: keras.Model,
    images: Tensor,
    layers: Sequence[str] | None = None,
    reduce: str | None = None,
    batch_size: int = 32,
    verbose: int = 0,
) -> list[LayerCouplings]:
    """Computes how the layers of a model route images.

    Each input capsule divides itself among output capsules. Routing starts with
    equal shares, and should end with unequal ones: the entropy shows how far
    each iteration goes.

    ```
    entropy = mean over i of -(sum over j of p_ij log(p_ij)) / log(J)
    p_ij = c_ij / (sum over j of c_ij)
    ```

    for input capsules i, J output capsules j, and the coupling c_ij. Input
    capsules whose pose is zero, such as padding, vote for nothing. They do not
    count here, and their coupling is given as 0.

    - In a convolution, the entropy is that of the shares in one window, and i
      runs over the input capsules in all windows. So it is also with
      `EMRouting` and `VariationalBayesRouting`, where an input capsule divides
      itself among several windows: how much of it a window receives does not
      matter.
    - In a `SharedKernelConvCapsules2D`, a type as a whole divides itself among
      all output types at all positions: j runs over both.
    - Self-attention routing has one iteration. Its coupling is without the
      trained `coupling_bias`.
    - With a single output capsule, the entropy is 1. It is NaN for an image of
      nothing but padding.

    The layers are `CapsuleLayer`, `ConvCapsules1D` and the like,
    `ConvCapsules2DTranspose`, `SharedKernelConvCapsules2D` and those in a
    `CapsuleStack`, also where they are in a model that is part of the model.
    Those that other layers hold, such as `keras.layers.TimeDistributed`, are
    not found. Layers are called as in inference.

    Args:
        model: A functional model with one input, such as a `CapsuleNetwork`, or
            a Sequential one that is built.
        images: `(images, ...)`, of the shape that the model takes: an array,
            a list or a tensor. At least one.
        layers: Optional sequence of names, the layers to look at, such as
            `["class_capsules"]`. Defaults to `None`, all that route.
        reduce: `"mean"` for the mean coupling of all images, which needs no
            memory for each of them; or `None`, the default.
        batch_size: Positive integer. Defaults to `32`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        A list of `LayerCouplings`, from the input of the model to its output.
        Shapes of `coupling` are, without `images` if `reduce="mean"`:

        - `(images, *inputs, outputs)` for a `CapsuleLayer`, with the axes of
          its input: `(images, 6, 6, 32, 10)`;
        - `(images, *grid, *kernel_size, types, outputs)` for convolutional
          capsules, with the grid of the outputs;
        - `(images, *grid, types, outputs)` for transposed convolutions, in
          which all input capsules of one type in a window vote as one;
        - `(images, types, height, width, outputs)` for a
          `SharedKernelConvCapsules2D`, with the grid of the outputs.

    Raises:
        ValueError: If an argument is not as described, the model has no layer
            that routes, or a routing has no coupling coefficients.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, num_primary_capsules=2)
    images = np.random.uniform(size=(5, 8, 8, 1)).astype("float32")
    (classes,) = inspection.couplings(model, images)
    classes.name  # "class_capsules"
    classes.coupling.shape  # (5, 4, 4, 2, 3)
    classes.entropy[:, 0]  # of three iterations: from 1 downward
    ```
    """
    images = check_images(model, images, at_least_one=True)
    if reduce is not None:
        check_choice(reduce, "reduce", ("mean",))
    batch_size = check_integer(batch_size, "batch_size")
    verbose = int(check_boolean(verbose, "verbose"))
    graph = Graph(model)
    calls = [call for call in graph.calls if is_routing(call)]
    names = [name for call in calls for name in names_of(call)]
    chosen = _check_layers(layers, names, graph, model)
    calls = [call for call in calls if chosen & set(names_of(call))]
    read = graph.reader(x for call in calls for x in call.inputs)
    found = [
        [_Collected(name, len(images), reduce) for name in names_of(call)]
        for call in calls
    ]
    progress = keras.utils.Progbar(len(images), verbose=verbose)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        values = read(batch)
        for call, collected in zip(calls, found, strict=True):
            for one, route in zip(
                collected, routes(graph, call, values), strict=True
            ):
                if one.name in chosen:
                    one.add(route, start)
        progress.update(start + len(batch))
    return [
        one.results()
        for collected in found
        for one in collected
        if one.name in chosen
    ]


class _Collected:
    """The couplings of one layer, batch by batch."""

    def __init__(self, name, number, reduce):
        self.name, self.number, self.reduce = name, number, reduce
        self.coupling = self.entropy = None

    def add(self, route: Route, start: int) -> None:
        if route.coupling[0] is None:
            raise ValueError(
                "A routing has no coupling coefficients. Expected `layers`, "
                "the names of other layers. Received: the layer "
                f"{route.name!r} with routing={route.layer.routing!r}"
            )
        counts = voters(route.trace)
        grid, inputs, outputs = axes_of(route)
        number = len(counts) // math.prod(grid)
        entropy = [
            np.where(counts, entropy_of(as_array(each), 1), np.nan).reshape(
                number, -1
            )
            for each in route.coupling
        ]
        coupling = as_array(route.coupling[-1]) * counts[:, None]
        coupling = coupling.transpose(0, 2, 1)
        coupling = coupling.reshape(number, *grid, *inputs, *outputs)
        if self.coupling is None:
            first = () if self.reduce else (self.number,)
            dtype = "float64" if self.reduce else "float32"
            self.coupling = np.zeros((*first, *coupling.shape[1:]), dtype)
            self.entropy = np.zeros((len(entropy), self.number), "float32")
        part = slice(start, start + number)
        with np.errstate(invalid="ignore"):  # nothing but padding
            self.entropy[:, part] = [
                np.nansum(each, axis=1) / np.isfinite(each).sum(axis=1)
                for each in entropy
            ]
        if self.reduce:
            self.coupling += coupling.sum(axis=0)
        else:
            self.coupling[part] = coupling

    def results(self) -> LayerCouplings:
        coupling = self.coupling
        if self.reduce:
            coupling = (coupling / self.number).astype("float32")
        return LayerCouplings(self.name, coupling, self.entropy)


def _check_layers(layers, names, graph, model):
    """The set of names to look at."""
    if not names:
        raise ValueError(
            "Invalid value for argument `model`. Expected a model with layers "
            "that route capsules, such as CapsuleLayer. Received: the model "
            f"{model.name!r} with the layers "
            f"{[call.name for call in graph.calls]}"
        )
    if layers is None:
        return set(names)
    is_list = isinstance(layers, (list, tuple))
    if not is_list or not layers or not all(each in names for each in layers):
        raise ValueError(
            "Invalid value for argument `layers`. Expected names of layers "
            f"that route capsules, of {names}. Received: layers={layers!r}"
        )
    return set(layers)
