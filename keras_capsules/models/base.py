"""The base of all networks."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any
from typing import Self

import keras

from keras_capsules import routing as routings
from keras_capsules.models import batches

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
        self.trainable = kwargs.get("trainable", True)
        self._quantizations: list[dict[str, Any]] = []

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> Any:
        inputs = batches.with_sizes(self, batches.only_input(self, inputs))
        mask = batches.only_input(self, mask)
        return super().call(inputs, training=training, mask=mask)

    def quantize(
        self, mode: str | None = None, config: Any = None, **kwargs: Any
    ) -> None:
        super().quantize(mode, config=config, **kwargs)
        # A saved network is made from options: it repeats these calls.
        config = config and keras.saving.serialize_keras_object(config)
        self._quantizations.append({"mode": mode, "config": config, **kwargs})

    def get_config(self) -> dict[str, Any]:
        options = {
            name: _serialize(getattr(self, name))
            for name in inspect.signature(type(self).__init__).parameters
            if name not in ("self", "kwargs")
        }
        if self._quantizations:
            options["quantizations"] = list(map(dict, self._quantizations))
        return {**super().get_config(), **options}

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> Self:
        options = dict(config)
        quantizations = options.pop("quantizations", [])
        with keras.saving.custom_object_scope(custom_objects or {}):
            model = cls(**options)
            for each in quantizations:
                quantizer = each["config"] and (
                    keras.saving.deserialize_keras_object(each["config"])
                )
                model.quantize(**{**each, "config": quantizer})
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
    parameters = inspect.signature(type(network).__init__).parameters
    known = [*parameters, "name", "dtype", "trainable"]
    known = [name for name in known if name not in ("self", "kwargs")]
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


def _serialize(value: Any) -> Any:
    """An option as plain values."""
    if isinstance(value, routings.Routing):
        return routings.serialize(value)
    if callable(value):
        return keras.activations.serialize(value)
    return value
