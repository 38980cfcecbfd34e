"""What is saved of a network beside its weights."""

import inspect
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from keras_capsules import routing as routings


def argument_names(network_class: type[keras.Model]) -> list[str]:
    """The arguments that the constructor of a network names.

    `weights` is left out, because a network is saved with its own.
    """
    parameters = inspect.signature(network_class.__init__).parameters
    return [
        name
        for name, each in list(parameters.items())[1:]  # without self
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name != "weights"
    ]


def arguments_of(network: keras.Model) -> dict[str, Any]:
    """The arguments that a network was made with, as plain values.

    Args:
        network: A network that keeps each as an attribute of the same name.

    Raises:
        ValueError: If it does not.
    """
    arguments = {}
    for name in argument_names(type(network)):
        if not hasattr(network, name):
            class_name = type(network).__name__
            raise ValueError(
                "A network is saved as the arguments of its constructor. "
                "Expected each of them to be kept as an attribute of the same "
                f"name (self.{name} = {name}), or a `get_config` of "
                f"{class_name}'s own. Received: a {class_name} without "
                f"attribute `{name}`"
            )
        arguments[name] = as_plain(getattr(network, name))
    return arguments


def as_plain(value: Any) -> Any:
    """An option as plain values."""
    if isinstance(value, routings.Routing):
        return routings.serialize(value)
    if callable(value):
        return keras.activations.serialize(value)
    return value


def frozen_layers(network: keras.Model) -> list[str]:
    """The paths of a network's layers that are not trainable.

    Args:
        network: A network. If it is not trainable as a whole, that says it all.
    """
    if not network.trainable:
        return []
    return [path for path, layer in walk(network) if not layer.trainable]


def freeze_layers(network: keras.Model, paths: Sequence[str]) -> None:
    """Makes the layers with these paths not trainable.

    Args:
        network: A network.
        paths: As `frozen_layers` returns them.
    """
    for layer in layers_at(network, paths):
        layer.trainable = False


def layers_at(network: keras.Model, paths: Sequence[str]) -> list[Any]:
    """The layers with these paths.

    Args:
        network: A network.
        paths: As `paths_of` returns them.
    """
    return [layer for path, layer in walk(network) if path in paths]


def paths_of(network: keras.Model, layers: Sequence[Any]) -> list[str]:
    """The paths of layers of a network, the same in every instance.

    Args:
        network: A network.
        layers: Layers of it.
    """
    # Layers may compare in their own way.
    wanted = {id(layer) for layer in layers}
    return [path for path, layer in walk(network) if id(layer) in wanted]


def walk(
    layer: Any, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """All layers within a layer, in its decoder, and within these layers."""
    if isinstance(layer, keras.Model):
        found = {each.name: each for each in layer.layers}
        found.setdefault("decoder", getattr(layer, "decoder", None))
    else:
        # Layers such as `Bidirectional` keep others as attributes. The others
        # are in Keras's own list, in the order in which they were made. Private
        # attributes differ from backend to backend.
        found = {}
        attributes = vars(layer)
        # PyTorch keeps those that are layers apart.
        attributes = {**attributes, **attributes.get("_modules", {})}
        for name, value in attributes.items():
            if not name.startswith("_"):
                found |= _named(name, value)
        found |= _named("_layers", getattr(layer, "_layers", []))
    seen = {id(layer)} if seen is None else seen
    # Those of this level first, because others may refer to them.
    fresh = {}
    for name, each in found.items():
        if isinstance(each, keras.layers.Layer) and id(each) not in seen:
            seen.add(id(each))
            fresh[name] = each
    for name, each in fresh.items():
        yield prefix + name, each
        yield from walk(each, f"{prefix}{name}/", seen)


def _named(name: str, value: Any) -> dict[str, Any]:
    """What an attribute holds, by its name and the place in a collection."""
    if isinstance(value, Mapping):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, (list, tuple)):
        parts = enumerate(value)
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for key, each in parts:
        found |= _named(f"{name}/{key}", each)
    return found
