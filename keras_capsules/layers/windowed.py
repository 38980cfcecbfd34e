"""Options of layers whose windows lie on a grid."""

from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras

from keras_capsules.engine.windows import output_grid
from keras_capsules.layers.weighted import WeightOptions
from keras_capsules.types import Shape
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_padding
from keras_capsules.utils.validation import check_sizes

# The names of the axes of a grid, by their number.
GRIDS = {1: "length", 2: "height, width", 3: "depth, height, width"}


class WindowOptions(WeightOptions, total=False):
    """Options of a layer's weights, and those of Keras's convolutions."""

    data_format: Literal["channels_last"] | None
    dilation_rate: Sizes


class WindowedLayer(keras.layers.Layer):
    """A layer with a kernel size, strides and a padding.

    Args:
        kernel_size: Positive integer or tuple of them, the sizes of a window
            along the axes of the grid.
        strides: Positive integer or tuple of them. Defaults to `1`.
        padding: `"valid"` or `"same"`, in any case. Defaults to `"valid"`.
        **kwargs: Arguments of `keras.layers.Layer`. Of Keras's convolutions'
            arguments, `data_format` may only be `"channels_last"` and
            `dilation_rate` may only be `1`.
    """

    # The number of axes of the grid; `None` for layers that take any.
    rank: int | None = None

    def __init__(
        self,
        *,
        kernel_size: Sizes,
        strides: Sizes = 1,
        padding: str = "valid",
        **kwargs: Any,
    ) -> None:
        _check_unsupported(kwargs)
        super().__init__(**kwargs)
        self.kernel_size = check_sizes(kernel_size, "kernel_size", self.rank)
        self.strides = check_sizes(strides, "strides", self.rank)
        self.padding = check_padding(padding)

    def sizes_for(self, rank: int) -> tuple[Sequence[int], Sequence[int]]:
        """The kernel size and the strides for a grid with `rank` axes.

        Args:
            rank: The number of axes of the grid.

        Returns:
            Two tuples of integers.

        Raises:
            ValueError: If the layer was given sizes for another grid.
        """
        sizes = []
        for name in ("kernel_size", "strides"):
            value = getattr(self, name)
            size = (value,) * rank if isinstance(value, int) else value
            if len(size) != rank:
                raise ValueError(
                    f"`{name}` does not fit the input, whose grid has the axes "
                    f"({GRIDS[rank]}). Expected an integer or a tuple of "
                    f"{rank} of them. Received: {name}={value!r}"
                )
            sizes.append(size)
        return sizes[0], sizes[1]

    def grid_of(self, input_shape: Shape, rank: int) -> list[Any]:
        """The sizes of the output grid.

        Args:
            input_shape: `(batch, *size, ...)`.
            rank: The number of axes of the grid.

        Returns:
            A list of sizes.

        Raises:
            ValueError: If no window fits.
        """
        return output_grid(input_shape, *self.sizes_for(rank), self.padding)

    def get_config(self) -> dict[str, Any]:
        config = {
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }
        return {**super().get_config(), **config}


def check_features(input_shape: Shape, name: str) -> int:
    """Checks the shape of a signal, an image or a volume.

    Args:
        input_shape: `(batch, *size, channels)`.
        name: Name of the layer, for the message.

    Returns:
        The number of axes of the grid.

    Raises:
        ValueError: If it has another rank, or an unknown number of channels.
    """
    rank = len(input_shape) - 2
    if rank not in GRIDS or not input_shape[-1]:
        shapes = " or ".join(
            f"(batch, {axes}, channels)" for axes in GRIDS.values()
        )
        raise ValueError(
            f"{name} takes feature maps of shape {shapes} with a known number "
            f"of channels. Received: input_shape={tuple(input_shape)}"
        )
    return rank


def _check_unsupported(kwargs):
    """Takes arguments of Keras's convolutions out of `kwargs`, or raises."""
    data_format = kwargs.pop("data_format", None)
    if data_format not in (None, "channels_last"):
        raise ValueError(
            "Capsules are the last axes of a tensor. Expected "
            'data_format="channels_last", for instance after a '
            f"keras.layers.Permute layer. Received: data_format={data_format!r}"
        )
    rate = kwargs.pop("dilation_rate", 1)
    if any(each != 1 for each in keras.tree.flatten(rate)):
        raise ValueError(
            "The windows of capsules have no gaps. Expected dilation_rate=1. "
            f"Received: dilation_rate={rate!r}"
        )
