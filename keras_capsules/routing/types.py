"""What routings are given and what they return."""

import typing


class Routed(typing.NamedTuple):
    """The result of a routing, or of one of its iterations.

    Attributes:
        poses: Poses of the output capsules, `[b, j, f]`: all numbers of a pose
            in one row.
        activations: Their activations, `[b, j]`, or `None` unless
            `activation_from` is `"routing"`.
        coupling: Coupling coefficients, `[b, j, i]`: the share of input capsule
            i's vote that went to output capsule j; `None` if the routing has
            none.
    """

    poses: typing.Any
    activations: typing.Any = None
    coupling: typing.Any = None


class RoutingSpec(typing.NamedTuple):
    """The sizes of a layer that a routing serves.

    Attributes:
        num_inputs: The number of input capsules of one output capsule.
        num_outputs: The number of output capsules.
        pose_shape: Rows and columns `(p, e)` of an output pose; `p` is 1 for
            vector capsules.
        input_pose_shape: Rows and columns `(p, d)` of an input pose, its
            coordinates included.
    """

    num_inputs: int
    num_outputs: int
    pose_shape: tuple
    input_pose_shape: tuple
