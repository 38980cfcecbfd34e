"""Routing algorithms: how votes of input capsules become output capsules.

A layer takes a routing by name, by class or as an instance, see `get`.
`Routing` is the base class for your own algorithms. The algorithms of this
package are built from the functions here and in
`keras_capsules.routing.mixtures`.
"""

from collections.abc import Mapping
from typing import Any
from typing import TypeAlias

import keras

from keras_capsules.engine.windows import Windows
from keras_capsules.routing.base import Routing
from keras_capsules.routing.dynamic import DynamicRouting
from keras_capsules.routing.em import EMRouting
from keras_capsules.routing.fixed import FixedRouting
from keras_capsules.routing.inverted_attention import InvertedAttentionRouting
from keras_capsules.routing.self_attention import SelfAttentionRouting
from keras_capsules.routing.self_routing import SelfRouting
from keras_capsules.routing.types import Routed
from keras_capsules.routing.types import RoutingSpec
from keras_capsules.routing.variational_bayes import VariationalBayesRouting
from keras_capsules.routing.votes import agreement
from keras_capsules.routing.votes import full_coupling
from keras_capsules.routing.votes import softmax_over_outputs
from keras_capsules.routing.votes import total
from keras_capsules.routing.votes import weighted_sum

__all__ = [
    "ROUTINGS",
    "DynamicRouting",
    "EMRouting",
    "FixedRouting",
    "InvertedAttentionRouting",
    "Routed",
    "Routing",
    "RoutingLike",
    "RoutingSpec",
    "SelfAttentionRouting",
    "SelfRouting",
    "VariationalBayesRouting",
    "Windows",
    "agreement",
    "deserialize",
    "full_coupling",
    "get",
    "serialize",
    "softmax_over_outputs",
    "total",
    "weighted_sum",
]

# The routings of this package by name. Tests and benchmarks go through them.
ROUTINGS: dict[str, type[Routing]] = {
    "dynamic": DynamicRouting,
    "em": EMRouting,
    "inverted_attention": InvertedAttentionRouting,
    "self_attention": SelfAttentionRouting,
    "self_routing": SelfRouting,
    "variational_bayes": VariationalBayesRouting,
}

# The arguments that `get` takes.
RoutingLike: TypeAlias = str | Mapping[str, Any] | Routing | type[Routing]


def get(identifier: RoutingLike) -> Routing:
    """Resolves the `routing` argument of a layer or a network.

    Args:
        identifier: A `Routing`, which is returned as it is; a subclass of
            `Routing`, or the name of one in this package (`"em"` or
            `"EMRouting"`), or the name under which Keras knows one of your own
            (`"my_package>MeanRouting"`), for its default options; or a
            configuration that `serialize` returned.

    Returns:
        A `Routing`.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    ```python
    from keras_capsules import routing

    routing.get("dynamic")  # DynamicRouting(num_iterations=3, ...)
    routing.get(routing.DynamicRouting)  # the same
    ```
    """
    if isinstance(identifier, Routing):
        return identifier
    if isinstance(identifier, Mapping):
        return deserialize(identifier)
    classes = {cls.__name__: cls for cls in ROUTINGS.values()} | ROUTINGS
    found: Any = identifier
    if isinstance(identifier, str):
        found = classes.get(identifier) or (
            keras.saving.get_registered_object(identifier)
        )
    if (
        isinstance(found, type)
        and issubclass(found, Routing)
        and found is not Routing
    ):
        return found()
    names = ", ".join(repr(name) for name in sorted(ROUTINGS))
    raise ValueError(
        "Invalid value for argument `routing`. Expected an instance or a "
        "subclass of keras_capsules.routing.Routing, its configuration, or "
        f"one of {names}. Received: routing={identifier!r}"
    )


def serialize(routing: Routing) -> dict[str, Any]:
    """Returns the configuration of a routing, a JSON-serializable dictionary.

    Args:
        routing: A `Routing`.

    Returns:
        A dictionary that `deserialize` and `get` take.
    """
    return keras.saving.serialize_keras_object(routing)


def deserialize(
    config: Mapping[str, Any],
    custom_objects: Mapping[str, Any] | None = None,
) -> Routing:
    """Makes a routing from its configuration.

    Args:
        config: A dictionary that `serialize` returned.
        custom_objects: Optional dictionary from names to classes, for
            routings that are not registered with Keras.

    Returns:
        A `Routing`.

    Raises:
        ValueError: If `config` describes something else.
    """
    routing = keras.saving.deserialize_keras_object(
        dict(config), custom_objects=custom_objects
    )
    if not isinstance(routing, Routing):
        raise ValueError(
            "The configuration does not describe a routing. Expected a "
            "dictionary that routing.serialize returned. "
            f"Received: config={config!r}"
        )
    return routing
