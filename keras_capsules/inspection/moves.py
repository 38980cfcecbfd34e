"""Images that are turned, shifted, scaled or sheared by known amounts."""

import numpy as np
from keras import ops

# Where a pixel of the result is in the image: x right, y down, from the middle.
# The rows of x and of y, each [from x, from y, offset].


def _rotation(amounts):
    angle = np.radians(amounts)
    zeros = np.zeros_like(angle)
    return (
        [np.cos(angle), -np.sin(angle), zeros],
        [np.sin(angle), np.cos(angle), zeros],
    )


def _shift_x(amounts):
    ones, zeros = np.ones_like(amounts), np.zeros_like(amounts)
    return [ones, zeros, -amounts], [zeros, ones, zeros]


def _shift_y(amounts):
    ones, zeros = np.ones_like(amounts), np.zeros_like(amounts)
    return [ones, zeros, zeros], [zeros, ones, -amounts]


def _scale(amounts):
    zeros = np.zeros_like(amounts)
    return [1 / amounts, zeros, zeros], [zeros, 1 / amounts, zeros]


def _shear(amounts):
    ones, zeros = np.ones_like(amounts), np.zeros_like(amounts)
    return [ones, amounts, zeros], [zeros, ones, zeros]


MOVES = {
    "rotation": _rotation,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
    "scale": _scale,
    "shear": _shear,
}


def move(images: np.ndarray, name: str, amounts: np.ndarray) -> np.ndarray:
    """Moves images around their middle, with bilinear interpolation.

    What comes from outside of an image is 0.

    Args:
        images: `(batch, height, width, channels)`.
        name: A key of `MOVES`: `"rotation"`, in degrees, counter-clockwise;
            `"shift_x"`, in pixels to the right; `"shift_y"`, in pixels down;
            `"scale"`, a factor that is greater than 0, larger above 1;
            `"shear"`, by which part of the height the top moves to the right
            of the bottom.
        amounts: `(batch,)`.

    Returns:
        Images of the same shape, in float32.
    """
    height, width = images.shape[1:3]
    x, y = (width - 1) / 2, (height - 1) / 2
    rows = [
        [a, b, middle + offset - a * x - b * y]
        for middle, (a, b, offset) in zip(
            (x, y), MOVES[name](amounts.astype("float64")), strict=True
        )
    ]
    zeros = np.zeros(len(images))
    transform = np.stack([*rows[0], *rows[1], zeros, zeros], axis=1)
    return ops.convert_to_numpy(
        ops.image.affine_transform(
            images.astype("float32"),
            transform.astype("float32"),
            interpolation="bilinear",
            fill_mode="constant",
            fill_value=0,
            data_format="channels_last",
        )
    )
