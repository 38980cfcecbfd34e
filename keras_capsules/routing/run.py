"""Runs a routing: makes votes and routes them, for a few examples at a time."""

import functools
import inspect
import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
from keras import ops

from keras_capsules.engine.blocks import block_size
from keras_capsules.engine.blocks import over_examples
from keras_capsules.engine.blocks import whole
from keras_capsules.engine.compilation import in_xla
from keras_capsules.engine.votes import count_votes
from keras_capsules.engine.votes import make_votes
from keras_capsules.engine.votes import sum_votes
from keras_capsules.engine.windows import Windows
from keras_capsules.routing import tracing
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import check_routed
from keras_capsules.routing.votes import weighted_sum
from keras_capsules.types import Tensor
from keras_capsules.utils.dtypes import at_least_float32

if TYPE_CHECKING:
    from keras_capsules.routing.base import Routing


def run(
    routing: "Routing",
    examples: Mapping[str, Tensor],
    shared: Mapping[str, Any],
    windows: Windows | None,
    mask: Tensor | None,
    training: bool,
    return_coupling: bool,
) -> Routed:
    """Runs a routing; see `Routing.__call__`.

    Args:
        routing: A `Routing`.
        examples: Dictionary of `poses`, `activations`, `outputs` and
            `num_inputs`; all but the first may be `None`.
        shared: Dictionary of `kernel`, `bias`, which may be `None`, and
            `weights`, a dictionary.
        windows: A `Windows`, or `None`.
        mask: Booleans `[b]` for `finish`, or `None`.
        training: Boolean.
        return_coupling: Boolean.

    Returns:
        A `Routed` of all examples, in at least float32.

    Raises:
        ValueError: If there are `outputs`, and the routing does not take them.
    """
    outputs = examples["outputs"]
    if outputs is not None and not routing.takes("outputs"):
        raise ValueError(
            "This routing cannot start from earlier outputs. Expected "
            f"outputs=None. Received: routing={routing!r}, outputs of shape "
            f"{tuple(outputs.shape)}"
        )
    tensors = {
        name: weight
        for name, weight in shared["weights"].items()
        if not isinstance(weight, keras.layers.Layer)
    }
    activations = examples["activations"]
    examples = {
        name: x
        for name, x in examples.items()
        if name == "poses" or routing.takes(name)
    }
    examples = _mapped(whole, _tensors(examples))
    received = _tensors({**shared, "weights": tensors})
    route = functools.partial(
        _route,
        routing,
        examples,
        received,
        windows if routing.takes("windows") else None,
        training,
        return_coupling or tracing.is_tracing(),
    )
    routed = tracing.record_each(
        route,
        poses=examples["poses"],
        activations=activations,
        kernel=received["kernel"],
        weights=received["weights"],
    )
    options = {}
    if "mask" in inspect.signature(routing.finish).parameters:
        options["mask"] = mask
    return routing.finish(routed, shared["weights"], training, **options)


def _route(routing, examples, shared, windows, training, return_coupling):
    """Routes all examples."""
    poses, dtype = examples["poses"], at_least_float32(examples["poses"].dtype)
    # Cast once: in each block, TensorFlow would also read variables again.
    shared = keras.tree.map_structure(lambda x: ops.cast(x, dtype), shared)
    votes = count_votes(poses, shared["kernel"])
    if windows is not None:
        votes = votes * windows.number
    batch = poses.shape[0]
    is_known = isinstance(batch, numbers.Integral)
    size = block_size(
        votes, math.prod(shared["kernel"].shape), not training and not is_known
    )
    if not training and is_known and size is not None and batch <= size:
        size = None  # plain operations, which every runtime has
    if not routing.takes("votes") and not in_xla():
        # No loop over output capsules if there is none over examples: not every
        # runtime has loops.
        return _route_block(
            routing, windows, examples, shared, None if size is None else 1
        )

    def route(names, examples, shared):
        def block(examples, shared):
            examples = _mapped(windows and windows.ungroup, examples)
            routed = _route_block(
                routing,
                windows,
                examples,
                shared,
                poses_needed="poses" in names,
            )
            results = {name: getattr(routed, name) for name in names}
            return _mapped(windows and windows.group, _tensors(results))

        # A block holds all windows of its images.
        examples = _mapped(windows and windows.group, examples)
        # XLA takes tens of seconds to compile windows that compete.
        results = over_examples(
            block, examples, shared, size, windows is None, training
        )
        return _mapped(windows and windows.ungroup, results)

    # Elsewhere, making the votes once is quicker than a sum without them.
    if routing.stop_gradient and training and size is not None:
        constants = _mapped(ops.stop_gradient, (examples, shared))
        coupling = route(["coupling"], *constants)["coupling"]
        sums = sum_votes(coupling, ops.cast(poses, dtype), shared["kernel"])
        return Routed(routing.combine(sums, shared.get("bias")), None, coupling)
    names = ["poses", "activations"] + ["coupling"] * return_coupling
    return Routed(**route(names, examples, shared))


def _route_block(routing, windows, examples, shared, step=1, poses_needed=True):
    """Routes the examples of one block.

    If the routing takes no votes, `sum_votes` works on `step` output capsules
    at once; `None` for all.
    """
    poses, kernel = examples["poses"], shared["kernel"]
    poses = ops.cast(poses, kernel.dtype)
    _, inputs, rows, dim = ops.shape(poses)
    arguments = {
        "activations": None,
        "outputs": None,
        "num_inputs": None,
        "bias": None,
        "windows": windows,
        **examples,
        **shared,
    }
    arguments["poses"] = ops.reshape(poses, (-1, inputs, rows * dim))
    if routing.takes("votes") or in_xla():
        arguments["votes"] = votes = make_votes(poses, kernel)
        arguments["sum_votes"] = functools.partial(weighted_sum, votes=votes)
    else:
        arguments["sum_votes"] = functools.partial(
            sum_votes, poses=poses, kernel=kernel, size=step
        )
    sizes = kernel.shape[2], rows * kernel.shape[3], examples["poses"].shape[1]

    def last(**arguments):
        routed = tracing.last(routing.iterate(**arguments))
        return check_routed(routed, routing, sizes)

    if not (routing.stop_gradient and poses_needed):
        return last(**arguments)
    sum_all, bias = arguments.pop("sum_votes"), arguments["bias"]
    tensors = _tensors({k: x for k, x in arguments.items() if k != "windows"})
    constants = {**arguments, **_mapped(ops.stop_gradient, tensors)}
    routed = last(
        **constants, sum_votes=lambda x: ops.stop_gradient(sum_all(x))
    )
    coupling = ops.stop_gradient(routed.coupling)
    return Routed(routing.combine(sum_all(coupling), bias), None, coupling)


def _tensors(named):
    """Converts to tensors, without the entries that are `None`."""
    return {
        name: keras.tree.map_structure(ops.convert_to_tensor, each)
        for name, each in named.items()
        if each is not None
    }


def _mapped(function, tensors):
    """Applies a function to each tensor; `None` changes nothing."""
    if not function:
        return tensors
    return keras.tree.map_structure(function, tensors)
