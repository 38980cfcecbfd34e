"""The interface that every routing algorithm has."""

import abc
import collections

Routed = collections.namedtuple("Routed", ["poses", "activations", "coupling"])
Routed.__doc__ = """What a routing returns.

Attributes:
    poses: Poses of the output capsules, `[j, b, p, e]`.
    activations: Their activations, `[j, b]`, or `None` unless
        `activation_from` is `"routing"`.
    coupling: Coupling coefficients of the last iteration, `[j, b, i]`: the
        share of input capsule i's vote that went to output capsule j, or
        `None` if the routing has none.
"""


class Routing(abc.ABC):
    """How the votes of input capsules become output capsules.

    A routing has options but no state: the weights that it needs are made by
    the layer it serves, so that one instance may serve several layers. All
    routings are called alike, and each documents which arguments it has no
    use for.

    A subclass implements `call` (and `build`, if it has weights, and
    `get_config`, if it has options), and is final: share by composition, not
    by inheriting from a sibling. Registered with
    `keras.saving.register_keras_serializable`, it is saved and loaded with
    the layers that use it.

    Three attributes of a class tell layers and networks what to expect:

    - `activation_from`: `"length"` if the length of a pose says how likely its
      entity is present (the default), `"routing"` if the routing returns
      activations, or `"nothing"` if it makes poses alone.
    - `has_bias`: whether it adds the layer's bias; `True` by default.
    - `averages`: whether poses are means of votes rather than sums; `False` by
      default. It decides how large kernels are at first.

    Example: parents are the plain means of their votes.

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import Routed
    from keras_capsules.routing import Routing

    @keras.saving.register_keras_serializable(package="my_package")
    class MeanRouting(Routing):
        averages = True

        def call(self, votes, activations=None, bias=None, **kwargs):
            total = votes.sum()  # [j, b, p, e]
            batch = keras.ops.shape(total)[1]
            coupling = keras.ops.full(
                (votes.num_outputs, batch, votes.num_inputs),
                1 / votes.num_inputs,
            )
            return Routed(total / votes.num_inputs, None, coupling)

    layer = CapsuleLayer(5, 4, routing=MeanRouting(), use_bias=False)
    capsules = layer(keras.random.normal((2, 7, 3)))  # (2, 5, 4)
    ```
    """

    activation_from = "length"
    has_bias = True
    averages = False

    def build(
        self, layer, num_inputs, num_outputs, pose_shape, input_pose_shape
    ):
        """Makes the trainable weights of this routing on `layer`.

        Args:
            layer: The `keras.layers.Layer` that is being built: call its
                `add_weight`.
            num_inputs: Integer, number of input capsules.
            num_outputs: Integer, number of output capsules.
            pose_shape: Pair of integers `(p, e)`, the shape of an output
                pose; `p` is 1 for vector capsules.
            input_pose_shape: Pair of integers `(p, d)`, that of an input pose
                as `Votes` has it, with its coordinates if they were added.

        Returns:
            A dictionary of the weights, or of layers that have some, by name;
            `{}` if there are none.
        """
        del layer, num_inputs, num_outputs, pose_shape, input_pose_shape
        return {}

    @abc.abstractmethod
    def call(
        self,
        votes,
        activations=None,
        bias=None,
        weights=None,
        training=False,
        windows=None,
        parents=None,
    ):
        """Routes votes to output capsules.

        Args:
            votes: A `keras_capsules.votes.Votes`.
            activations: Activations of the input capsules, `[b, i]`, or
                `None` where all count alike.
            bias: The layer's bias, `[j, 1, p, e]`, or `None`.
            weights: What `build` returned.
            training: Whether the layer is called in training.
            windows: In a convolution, where the examples of this batch are
                windows of a grid, a `keras_capsules._windows.Windows`: it
                knows which children are the same. Otherwise `None`.
            parents: Poses of the output capsules from an earlier call,
                `[j, b, p, e]`, to go on from; `None` to begin anew.

        Returns:
            A `Routed`: poses, activations and coupling coefficients.
        """

    def __call__(self, votes, **kwargs):
        return self.call(votes, **kwargs)

    def get_config(self):
        """Options of the constructor, as a JSON-serializable dictionary."""
        return {}

    @classmethod
    def from_config(cls, config):
        """The routing with the options in `config`."""
        return cls(**config)

    def __repr__(self):
        options = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({options})"


def refuse_parents(routing, parents):
    """Raises if there are parents, for a routing that always begins anew."""
    if parents is not None:
        raise ValueError(
            "This routing cannot go on from given parents. Expected "
            f"parents=None. Received: routing={routing!r}, "
            f"parents of shape {tuple(parents.shape)}"
        )
