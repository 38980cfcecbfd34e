"""The interface that every routing algorithm has."""

import abc
import collections

Routed = collections.namedtuple("Routed", ["poses", "activations", "coupling"])
Routed.__doc__ = """What a routing returns.

Attributes:
    poses: Poses of the output capsules, `[j, b, p, e]`.
    activations: Their activations, `[j, b]`, or `None` where the length of
        the pose is the activation.
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

    Example: parents are the plain means of their votes.

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import Routed
    from keras_capsules.routing import Routing

    @keras.saving.register_keras_serializable(package="my_package")
    class MeanRouting(Routing):
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

    def build(self, layer, num_inputs, num_outputs, pose_shape):
        """Makes the trainable weights of this routing on `layer`.

        Args:
            layer: The `keras.layers.Layer` that is being built: call its
                `add_weight`.
            num_inputs: Integer, number of input capsules.
            num_outputs: Integer, number of output capsules.
            pose_shape: Pair of integers `(p, e)`, the shape of an output
                pose; `p` is 1 for vector capsules.

        Returns:
            A dictionary of the weights by name, `{}` if there are none.
        """
        del layer, num_inputs, num_outputs, pose_shape
        return {}

    @abc.abstractmethod
    def call(
        self,
        votes,
        activations=None,
        bias=None,
        weights=None,
        training=False,
    ):
        """Routes votes to output capsules.

        Args:
            votes: A `keras_capsules.votes.Votes`.
            activations: Activations of the input capsules, `[b, i]`, or
                `None` where a capsule's length is its activation.
            bias: The layer's bias, `[j, 1, p, e]`, or `None`.
            weights: What `build` returned.
            training: Whether the layer is called in training.

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
