"""The base of layers without options of their own."""

from typing import Any

import keras


class PlainLayer(keras.layers.Layer):
    """A layer whose only options are those of every Keras layer.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and
            `dtype`.
    """

    def get_config(self) -> dict[str, Any]:
        # Keras's automatic configuration fails for dtype policies.
        return super().get_config()
