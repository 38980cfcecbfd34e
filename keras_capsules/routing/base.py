"""The interface of a routing algorithm."""

import abc
import inspect
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import Self

import keras

from keras_capsules.engine.windows import Windows
from keras_capsules.routing.run import run
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.types import Tensor


class Routing(abc.ABC):
    """Base class of algorithms that turn votes into output capsules.

    A subclass implements `route`, a function of the votes of a few examples,
    `[b, j, i, f]`, in at least float32. A layer calls `route` for one block of
    examples after the other, and again for the gradient. So `route` must treat
    each example by itself and use only its arguments and the options of the
    routing.

    `route` receives the arguments that it names in its signature:

    - `votes`: votes of input capsules for output capsules, `[b, j, i, f]`.
      Input capsules that a mask excludes have votes and activations of 0.
    - `activations`: activations of the input capsules, `[b, i]`, in the dtype
      of the layer; or `None` if all input capsules count equally.
    - `poses`: poses of the input capsules, `[b, i, g]`.
    - `bias`: the bias of the layer, `[j, f]`, or `None`. Layers have one by
      default if the routing takes it.
    - `weights`: a dictionary of the weights that `build` made, as tensors of
      the dtype of `votes`.
    - `windows`: in a convolution, a `keras_capsules.routing.Windows`, which
      knows the input capsules that several windows share; otherwise `None`.
      The examples are then the windows of whole images.
    - `sum_votes`: a function from weights of the votes, `[b, j, i]`, to the
      weighted sums of the votes, `[b, j, f]`. A `route` that takes `sum_votes`
      instead of `votes` needs no tensor of votes.
    - `outputs`: poses of the output capsules from an earlier call, `[b, j, f]`,
      that one more iteration starts from; or `None`. `CapsuleStack` needs it.
    - `num_inputs`: how many input capsules a mask leaves, `[b, 1]`; or `None`
      if there is no mask, or in a convolution.

    It returns a `Routed`, or yields one after each of its iterations.

    Axes: b batch, i input capsule, j output capsule; f all numbers of an output
    pose and g all numbers of an input pose. A layer with `return_coupling=True`
    returns coupling coefficients as `[b, i, j]`.

    These methods are optional:

    - `build` makes weights.
    - `finish` computes from the outputs of all examples of a batch, such as a
      batch normalization. If it has an argument `mask`, it also receives which
      outputs count, `[b]`, or `None`.
    - `combine` makes poses from weighted sums of votes. A routing whose poses
      are `combine(weighted_sum(coupling, votes), bias)` and that makes no
      activations may set `stop_gradient = True`. The coupling coefficients are
      then computed without a gradient; only the last weighted sum has one.
    - `get_config` returns the options of the constructor.

    These attributes describe the outputs to layers and networks:

    - `activation_from`: `"length"` if the length of a pose is the activation
      (the default), `"routing"` if the routing returns activations, or
      `"nothing"` if there are only poses.
    - `averages`: whether poses are means of votes rather than sums; `False` by
      default. The initial scale of a layer's kernel depends on it.
    - `batch_normalization`: whether `finish` normalizes the poses over the
      batch; `False` by default. `MatrixCapsNet` then does not do so again.

    A `CapsuleStack` iterates by itself. It sets the attribute `num_iterations`
    of its copies of routings, if they have one, to 1.

    A routing has options but no state. Its weights belong to the layer, so one
    instance may serve several layers. Register a subclass with
    `keras.saving.register_keras_serializable`, so that layers that use it can
    be saved and loaded.

    Example: each output capsule is the mean of its votes.

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

    activation_from: str = "length"
    averages: bool = False
    batch_normalization: bool = False
    stop_gradient: bool = False

    @abc.abstractmethod
    def route(self, *args: Any, **kwargs: Any) -> Routed | Iterator[Routed]:
        """Routes the votes of some examples to output capsules.

        A subclass names the arguments that it takes; see `Routing`.

        Returns:
            A `Routed`; or an iterator over the `Routed` of each iteration.
        """

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Any]:
        """Makes the weights of this routing on a layer.

        Args:
            layer: The `keras.layers.Layer` that is being built. Weights are
                made with its `add_weight`.
            spec: A `RoutingSpec`, the sizes of the layer.

        Returns:
            A dictionary from names to weights or to layers that have weights.
            `{}` if there are none.
        """
        del layer, spec
        return {}

    def finish(
        self, routed: Routed, weights: dict[str, Any], training: bool
    ) -> Routed:
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

    def combine(self, sums: Tensor, bias: Tensor | None = None) -> Tensor:
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

    def takes(self, name: str) -> bool:
        """Returns whether `route` takes an argument of this name.

        Args:
            name: String, such as `"activations"`.
        """
        return name in inspect.signature(self.route).parameters

    def iterate(self, **kwargs: Any) -> Iterator[Routed]:
        """Routes votes, and yields a `Routed` after each iteration.

        Args:
            **kwargs: Arguments of `route`, such as `votes`. Arguments that
                `route` does not take are ignored.

        Returns:
            An iterator. The last `Routed` is the result.
        """
        taken = {k: v for k, v in kwargs.items() if self.takes(k)}
        result = self.route(**taken)
        if not isinstance(result, Routed | Iterator):
            raise ValueError(
                "`route` has to return a Routed, or an iterator of them. "
                f"Received: {type(result).__name__} from routing={self!r}"
            )
        return iter([result]) if isinstance(result, Routed) else result

    def __call__(
        self,
        poses: Tensor,
        kernel: Tensor,
        activations: Tensor | None = None,
        bias: Tensor | None = None,
        weights: Mapping[str, Any] | None = None,
        windows: Windows | None = None,
        outputs: Tensor | None = None,
        num_inputs: Tensor | None = None,
        mask: Tensor | None = None,
        training: bool = False,
        return_coupling: bool = True,
    ) -> Routed:
        """Makes votes and routes them, for a few examples at a time.

        Args:
            poses: Poses of the input capsules, `[b, i, p, d]`.
            kernel: The matrices of a layer, `[k, d, j, e]`; see
                `keras_capsules.engine.votes`.
            activations: Activations of the input capsules, `[b, i]`, or `None`.
            bias: `[j, f]`, or `None`.
            weights: The dictionary that `build` returned, or `None`.
            windows: A `Windows`, if the examples are the windows of images.
            outputs: Poses of an earlier call to start from, `[b, j, f]`.
            num_inputs: How many input capsules count, `[b, 1]`, or `None`.
            mask: Booleans, which outputs count in `finish`, `[b]`, or `None`.
            training: Boolean, whether the layer is called in training.
            return_coupling: Boolean, whether to return the coupling.

        Returns:
            A `Routed` in at least float32.

        Raises:
            ValueError: If there are `outputs` and this routing does not take
                any.
        """
        return run(
            self,
            {
                "poses": poses,
                "activations": activations,
                "outputs": outputs,
                "num_inputs": num_inputs,
            },
            {"kernel": kernel, "bias": bias, "weights": weights or {}},
            windows,
            mask,
            bool(training),
            return_coupling,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the options of the constructor, JSON-serializable.

        Raises:
            NotImplementedError: If a subclass has options and no method of its
                own. Otherwise they would be lost where a model is saved.
        """
        options = [*inspect.signature(type(self)).parameters]
        if options:
            raise NotImplementedError(
                f"{type(self).__name__} has options, which are saved with a "
                "model. Expected a method `get_config` that returns them as a "
                f"dictionary. Received: options={options}"
            )
        return {}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Makes a routing with the options in a configuration.

        Args:
            config: A dictionary that `get_config` returned.
        """
        return cls(**config)

    def __repr__(self) -> str:
        try:
            config = self.get_config()
        except NotImplementedError:
            return f"{type(self).__name__}(...)"
        options = ", ".join(f"{k}={v!r}" for k, v in config.items())
        return f"{type(self).__name__}({options})"
