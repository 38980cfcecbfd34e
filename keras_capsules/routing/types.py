"""The sizes that a layer gives to its routing, and the routing's results."""

from typing import Any
from typing import NamedTuple

from keras_capsules.types import Tensor

_AXES = {
    "poses": "output capsules and the numbers of a pose",
    "activations": "output capsules",
    "coupling": "output capsules and input capsules",
}


class Routed(NamedTuple):
    """The result of a routing, or of one of its iterations.

    Attributes:
        poses: Poses of the output capsules, `[b, j, f]`, with all numbers of a
            pose in one row.
        activations: Activations of the output capsules, `[b, j]`. `None`
            unless the routing has `activation_from = "routing"`.
        coupling: Coupling coefficients, `[b, j, i]`: the share of input capsule
            i's vote that output capsule j received. `None` if the routing has
            no coupling coefficients. Layers return them as `[b, i, j]`.
    """

    poses: Tensor
    activations: Tensor = None
    coupling: Tensor = None


class RoutingSpec(NamedTuple):
    """The sizes of the layer that a routing serves.

    Attributes:
        num_inputs: The number of input capsules that vote for an output
            capsule; `None` if it is unknown.
        num_outputs: The number of output capsules; in a convolution, at one
            position.
        pose_shape: Rows and columns `(p, e)` of an output pose. Vector
            capsules have `p = 1`.
        input_pose_shape: Rows and columns `(p, d)` of an input pose, with its
            coordinates if the layer adds some.
    """

    num_inputs: int | None
    num_outputs: int
    pose_shape: tuple[int, int]
    input_pose_shape: tuple[int, int]


def check_routed(
    routed: Routed, routing: Any, sizes: tuple[Any, ...]
) -> Routed:
    """Checks what the `route` of a routing returned.

    Args:
        routed: A `Routed`.
        routing: The routing.
        sizes: Numbers of output capsules, of an output pose and of input
            capsules; `None` where a number is unknown.

    Returns:
        `routed`.

    Raises:
        ValueError: If one of its tensors has another shape.
    """
    outputs, numbers, inputs = sizes
    for name, expected in (
        ("poses", (outputs, numbers)),
        ("activations", (outputs,)),
        ("coupling", (outputs, inputs)),
    ):
        tensor = getattr(routed, name)
        if tensor is None:
            continue
        given = tuple(tensor.shape)
        if len(given) != 1 + len(expected) or any(
            None not in pair and pair[0] != pair[1]
            for pair in zip(given[1:], expected, strict=True)
        ):
            raise ValueError(
                f"The `route` of a routing returned {name} of another shape. "
                f"Expected {(None, *expected)}, for examples, "
                f"{_AXES[name]}. Received: {name}.shape={given} from "
                f"routing={routing!r}"
            )
    return routed
