"""Registration of functions with Keras, which keeps their types."""

from collections.abc import Callable
from typing import Any
from typing import TypeVar

import keras

Function = TypeVar("Function", bound=Callable[..., Any])


def register_function(function: Function) -> Function:
    """Registers a function of this package, so that models load it by name.

    Type checkers know nothing about a function that Keras's own decorator
    returns.

    Args:
        function: The function.

    Returns:
        The same function.
    """
    register = keras.saving.register_keras_serializable("keras_capsules")
    return register(function)
