"""Routing algorithms, and how to name, save and load them."""

import keras

from keras_capsules.engine.windows import Windows as Windows
from keras_capsules.routing.base import Routing as Routing
from keras_capsules.routing.dynamic import DynamicRouting as DynamicRouting
from keras_capsules.routing.em import EMRouting as EMRouting
from keras_capsules.routing.inverted_attention import (
    InvertedAttentionRouting as InvertedAttentionRouting,
)
from keras_capsules.routing.self_attention import (
    SelfAttentionRouting as SelfAttentionRouting,
)
from keras_capsules.routing.self_routing import SelfRouting as SelfRouting
from keras_capsules.routing.types import Routed as Routed
from keras_capsules.routing.types import RoutingSpec as RoutingSpec
from keras_capsules.routing.variational_bayes import (
    VariationalBayesRouting as VariationalBayesRouting,
)
from keras_capsules.routing.votes import agreement as agreement
from keras_capsules.routing.votes import (
    softmax_over_outputs as softmax_over_outputs,
)
from keras_capsules.routing.votes import total as total
from keras_capsules.routing.votes import weighted_sum as weighted_sum

_ROUTINGS = {
    "dynamic": DynamicRouting,
    "em": EMRouting,
    "inverted_attention": InvertedAttentionRouting,
    "self_attention": SelfAttentionRouting,
    "self_routing": SelfRouting,
    "variational_bayes": VariationalBayesRouting,
}


def get(identifier):
    """Resolves what a layer's `routing` argument may be.

    Args:
        identifier: A `Routing`, which is returned as it is; the name of one,
            which gives it with its default options; or what `serialize`
            returned.

    Returns:
        A `Routing`.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    ```python
    from keras_capsules import routing

    routing.get("dynamic")  # DynamicRouting(num_iterations=3, ...)
    ```
    """
    if isinstance(identifier, Routing):
        return identifier
    if isinstance(identifier, str) and identifier in _ROUTINGS:
        return _ROUTINGS[identifier]()
    if isinstance(identifier, dict):
        return deserialize(identifier)
    names = ", ".join(repr(name) for name in sorted(_ROUTINGS))
    raise ValueError(
        "Invalid value for argument `routing`. Expected an instance of "
        f"keras_capsules.routing.Routing or one of {names}. "
        f"Received: routing={identifier!r}"
    )


def serialize(routing):
    """The configuration of a routing, as a JSON-serializable dictionary."""
    return keras.saving.serialize_keras_object(routing)


def deserialize(config, custom_objects=None):
    """The routing that `config`, from `serialize`, describes.

    Args:
        config: A dictionary returned by `serialize`.
        custom_objects: Optional dictionary from names to classes, for
            routings that are not registered with Keras.

    Returns:
        A `Routing`.

    Raises:
        ValueError: If `config` describes something else.
    """
    routing = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects
    )
    if not isinstance(routing, Routing):
        raise ValueError(
            "The configuration does not describe a routing. Expected what "
            f"routing.serialize returned. Received: config={config!r}"
        )
    return routing
