"""The base of all networks."""

import difflib
import functools
import inspect
from collections.abc import Mapping
from typing import Any
from typing import Self

import keras

from keras_capsules.models import batches
from keras_capsules.models import saving
from keras_capsules.models.checks import checking

# Arguments that users of other networks expect, by the names they have here.
_OTHER_NAMES = {
    "input_shape": "image_shape",
    "classes": "num_classes",
    "num_iterations": "routing=DynamicRouting(num_iterations=...)",
}


class Network(keras.Model):
    """A functional model that is saved as the arguments of its constructor.

    `keras.models.clone_model` copies the graph from inputs to scores alone, as
    a plain `keras.Model`. `from_config(model.get_config())` makes a network of
    the same class.

    Layers that are not trainable, and calls of `quantize`, are saved as well.

    A network takes an empty batch where it is called, or predicts, by itself;
    not as a part of another model, or in a graph of any batch size.

    A subclass keeps each argument of its constructor as an attribute of the
    same name, makes a graph of layers, and hands its inputs and outputs on. All
    layers have names of their own, so the paths of weights are the same in
    every process.

    Args:
        inputs: The `keras.Input`s of the graph.
        outputs: Its outputs.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.
    """

    def __init__(self, inputs: Any, outputs: Any, **kwargs: Any):
        policy = get_policy(self, kwargs)
        super().__init__(
            inputs=inputs, outputs=outputs, name=kwargs.get("name")
        )
        self.dtype_policy = policy
        if not kwargs.get("trainable", True):  # or layers keep their own
            self.trainable = False
        self._quantizations: list[dict[str, Any]] = []

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        inputs = batches.arrange(self, inputs)
        mask = batches.arrange(self, mask)
        forward = functools.partial(super().call, training=training, mask=mask)
        if batches.is_empty(inputs):
            # Convolutions of some backends give it wrong sizes.
            return batches.none_of(forward, inputs)
        return forward(inputs)

    # Labels are checked where they can be looked at.

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains the network; see `keras.Model.fit`.

        Args:
            x: See `keras.Model.fit`.
            y: See `keras.Model.fit`. For several objects in one image, see
                `CapsuleNetwork`.
            *args: See `keras.Model.fit`.
            **kwargs: See `keras.Model.fit`.

        Raises:
            ValueError: If labels do not fit the network. Arrays are checked
                before the first step, the batches of a `tf.data.Dataset` or a
                generator as they come. A label that does not fit in another
                data set makes the loss NaN.
        """
        try:
            bound = inspect.signature(super().fit).bind(x, y, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.fit: {error}") from None
        given = bound.arguments
        with checking(self) as check:
            given["x"] = check(x, y)
            validation = given.get("validation_data")
            if isinstance(validation, (list, tuple)):
                check(*validation[:2])
            elif validation is not None:
                given["validation_data"] = check(validation)
            return super().fit(*bound.args, **bound.kwargs)

    def evaluate(
        self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluates the network; see `keras.Model.evaluate`.

        Args:
            x: See `keras.Model.evaluate`.
            y: As in `fit`.
            *args: See `keras.Model.evaluate`.
            **kwargs: See `keras.Model.evaluate`.

        Raises:
            ValueError: As `fit`.
        """
        if kwargs.get("_use_cached_eval_dataset"):  # called by `fit`
            return super().evaluate(x, y, *args, **kwargs)
        with checking(self) as check:
            return super().evaluate(check(x, y), y, *args, **kwargs)

    def train_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains on one batch; see `keras.Model.train_on_batch`.

        Args:
            x: See `keras.Model.train_on_batch`.
            y: As in `fit`.
            *args: See `keras.Model.train_on_batch`.
            **kwargs: See `keras.Model.train_on_batch`.

        Raises:
            ValueError: As `fit`.
        """
        with checking(self) as check:
            return super().train_on_batch(check(x, y), y, *args, **kwargs)

    def test_on_batch(
        self, x: Any, y: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Evaluates one batch; see `keras.Model.test_on_batch`.

        Args:
            x: See `keras.Model.test_on_batch`.
            y: As in `fit`.
            *args: See `keras.Model.test_on_batch`.
            **kwargs: See `keras.Model.test_on_batch`.

        Raises:
            ValueError: As `fit`.
        """
        with checking(self) as check:
            return super().test_on_batch(check(x, y), y, *args, **kwargs)

    # Keras predicts nothing of an empty batch, not even its shape.

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Predicts scores; see `keras.Model.predict`.

        Args:
            x: See `keras.Model.predict`. There may be no examples at all.
            *args: See `keras.Model.predict`.
            **kwargs: See `keras.Model.predict`.
        """
        predict = super().predict
        if batches.is_empty(x):
            return batches.none_of(lambda x: predict(x, *args, **kwargs), x)
        return predict(x, *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        """Predicts scores of one batch; see `keras.Model.predict_on_batch`.

        Args:
            x: See `keras.Model.predict_on_batch`. There may be no examples.
        """
        if batches.is_empty(x):
            return batches.none_of(super().predict_on_batch, x)
        return super().predict_on_batch(x)

    def quantize(
        self, mode: str | None = None, config: Any = None, **kwargs: Any
    ) -> None:
        filters = kwargs.get("filters")
        accepted: list[Any] = []

        def accepts(layer):
            if is_accepted := filters(layer):
                accepted.append(layer)
            return is_accepted

        if callable(filters):
            kwargs["filters"] = accepts
        super().quantize(mode, config=config, **kwargs)
        # A saved network is made from options: it repeats these calls. A
        # function cannot be saved, the layers that it accepted can.
        if callable(filters):
            del kwargs["filters"]
            kwargs["paths"] = saving.paths_of(self, accepted)
        config = config and keras.saving.serialize_keras_object(config)
        self._quantizations.append({"mode": mode, "config": config, **kwargs})

    def _quantize_again(self, mode, config, paths=None, **kwargs):
        """Repeats a call of `quantize` that was saved."""
        if config:
            config = keras.saving.deserialize_keras_object(config)
        if paths is not None:
            layers = {id(each) for each in saving.layers_at(self, paths)}
            kwargs["filters"] = lambda layer: id(layer) in layers
        self.quantize(mode, config, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = {**super().get_config(), **saving.arguments_of(self)}
        if self._quantizations:
            config["quantizations"] = list(map(dict, self._quantizations))
        if frozen := saving.frozen_layers(self):
            config["frozen"] = frozen
        return config

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Self:
        options = dict(config)
        quantizations = options.pop("quantizations", [])
        frozen = options.pop("frozen", [])
        with keras.saving.custom_object_scope(custom_objects or {}):
            model = cls(**options)
            for each in quantizations:
                model._quantize_again(**each)
        saving.freeze_layers(model, frozen)
        return model


def get_policy(network: Network, kwargs: Mapping[str, Any]) -> Any:
    """The dtype policy of a network.

    Args:
        network: The network, for messages.
        kwargs: The keyword arguments that its constructor does not name.

    Returns:
        A `keras.dtype_policies.DTypePolicy`.

    Raises:
        ValueError: If there are other arguments than `name`, `dtype` and
            `trainable`.
    """
    known = saving.argument_names(type(network))
    known += ["name", "dtype", "trainable"]
    for name in kwargs:
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        expected = _OTHER_NAMES.get(name, close[0] if close else "")
        if expected.split("=")[0] not in known:
            expected = f"one of {', '.join(known)}"
        raise ValueError(
            f"{type(network).__name__} has no argument `{name}`. Expected "
            f"{expected}. Received: {name}={kwargs[name]!r}"
        )
    return keras.dtype_policies.get(kwargs.get("dtype"))
