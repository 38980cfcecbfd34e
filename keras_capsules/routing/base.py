"""The interface of a routing algorithm."""

import abc
import inspect
from collections.abc import Iterator

from keras_capsules.routing.run import run
from keras_capsules.routing.types import Routed


class Routing(abc.ABC):
    """How the votes of input capsules become output capsules.

    A subclass implements `route`, a function of the tensor of votes
    `[b, j, i, f]`. The votes are those of a few examples, in at least float32;
    a layer calls `route` for one block of examples after the other, and again
    for the gradient. So `route` must treat every example by itself, and use
    nothing but its arguments and options.

    `route` receives what it names in its signature:

    - `votes`: votes of input capsules i for output capsules j, `[b, j, i, f]`;
      f stands for all numbers of a pose.
    - `activations`: activations of the input capsules, `[b, i]`, in the dtype
      of the layer; or `None` if all count alike.
    - `poses`: poses of the input capsules, `[b, i, g]`.
    - `bias`: the bias of the layer, `[j, f]`, or `None`. Layers have one by
      default if the routing takes it.
    - `weights`: a dictionary of the weights that `build` made, as tensors of
      the dtype of `votes`.
    - `windows`: in a convolution, `keras_capsules.routing.Windows`, which knows
      the input capsules that several windows have in common; otherwise `None`.
      The examples are then the windows of whole images.
    - `sum_votes`: a function of weights of the votes, `[b, j, i]`, that returns
      their weighted sums, `[b, j, f]`. A `route` that takes it instead of
      `votes` needs no tensor of votes.
    - `outputs`: poses of the output capsules from an earlier call, `[b, j, f]`,
      to go on from for one iteration; or `None`. `CapsuleStack` needs it.

    It returns a `Routed`, or yields one after each of its iterations.

    These hooks are optional:

    - `build` makes weights.
    - `finish` computes from the outputs of all examples of a batch, such as a
      batch normalization.
    - `combine` makes poses from weighted sums of votes. A routing whose poses
      are `combine(weighted_sum(coupling, votes), bias)`, and which makes no
      activations, may set `stop_gradient = True`. Then the coupling
      coefficients are found without gradient, and only the last weighted sum
      has one.
    - `get_config` returns the options of the constructor.

    Two attributes of a class tell layers and networks what to expect:

    - `activation_from`: `"length"` if the length of a pose is its activation
      (the default), `"routing"` if the routing returns activations, or
      `"nothing"` if it makes poses alone.
    - `averages`: whether poses are means of votes rather than sums; `False` by
      default. It decides how large kernels are at first.

    A routing has options but no state: its weights belong to the layer, so one
    instance may serve several layers. Registered with
    `keras.saving.register_keras_serializable`, it is saved and loaded with the
    layers that use it.

    Example: output capsules are the plain means of their votes.

    ```python
    import keras
    from keras_capsules import CapsuleLayer
    from keras_capsules.routing import Routed
    from keras_capsules.routing import Routing

    @keras.saving.register_keras_serializable(package="my_package")
    class MeanRouting(Routing):
        averages = True

        def route(self, votes):
            return Routed(keras.ops.mean(votes, axis=2))

    layer = CapsuleLayer(5, 4, routing=MeanRouting())
    capsules = layer(keras.random.normal((2, 7, 3)))  # (2, 5, 4)
    ```
    """

    activation_from = "length"
    averages = False
    stop_gradient = False

    @abc.abstractmethod
    def route(self, votes):
        """Routes the votes of some examples to output capsules.

        Args:
            votes: `[b, j, i, f]`.

        Returns:
            A `Routed`; or an iterator of one for each iteration.
        """

    def build(self, layer, spec):
        """Makes the weights of this routing on a layer.

        Args:
            layer: The `keras.layers.Layer` that is being built: call its
                `add_weight`.
            spec: A `RoutingSpec`, the sizes of the layer.

        Returns:
            A dictionary of weights, or of layers that have some, by name. `{}`
            if there are none.
        """
        del layer, spec
        return {}

    def finish(self, routed, weights, training):
        """Computes from the outputs of all examples of a batch.

        Args:
            routed: A `Routed` of the whole batch; in a convolution, of all
                windows.
            weights: The dictionary that `build` returned.
            training: Boolean, whether the layer is called in training.

        Returns:
            A `Routed`.
        """
        del weights, training
        return routed

    def combine(self, sums, bias=None):
        """Makes poses from weighted sums of votes.

        Args:
            sums: `[b, j, f]`.
            bias: The bias of the layer, `[j, f]`, or `None`.

        Returns:
            `[b, j, f]`.
        """
        raise NotImplementedError(
            "A routing with stop_gradient=True has to implement `combine`. "
            f"Received: routing={self!r}"
        )

    def takes(self, name):
        """Whether `route` takes an argument of this name."""
        return name in inspect.signature(self.route).parameters

    def iterate(self, **kwargs):
        """Routes votes, and yields a `Routed` after each iteration.

        Args:
            **kwargs: Arguments of `route`, such as `votes`. Those that it
                does not take are left out.

        Returns:
            An iterator. The last `Routed` is the result.
        """
        taken = {k: v for k, v in kwargs.items() if self.takes(k)}
        result = self.route(**taken)
        if not isinstance(result, Routed | Iterator):
            raise ValueError(
                "`route` has to return a Routed, or an iterator of them. "
                f"Received: {result!r} from routing={self!r}"
            )
        return iter([result]) if isinstance(result, Routed) else result

    def __call__(
        self,
        poses,
        kernel,
        activations=None,
        bias=None,
        weights=None,
        windows=None,
        outputs=None,
        training=False,
        return_coupling=True,
    ):
        """Makes votes and routes them, for a few examples at a time.

        Args:
            poses: Poses of the input capsules, `[b, i, p, d]`.
            kernel: The matrices of a layer, `[k, d, j, e]`; see
                `keras_capsules.engine.votes`.
            activations: Activations of the input capsules, `[b, i]`, or `None`.
            bias: `[j, f]`, or `None`.
            weights: The dictionary that `build` returned, or `None`.
            windows: A `Windows`, if the examples are the windows of images.
            outputs: Poses of an earlier call to go on from, `[b, j, f]`.
            training: Boolean, whether the layer is called in training.
            return_coupling: Boolean, whether to return the coupling.

        Returns:
            A `Routed` in at least float32.

        Raises:
            ValueError: If there are `outputs`, and this routing always begins
                anew.
        """
        return run(
            self,
            {"poses": poses, "activations": activations, "outputs": outputs},
            {"kernel": kernel, "bias": bias, "weights": weights or {}},
            windows,
            bool(training),
            return_coupling,
        )

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
