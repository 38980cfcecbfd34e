"""What the numbers of a pose mean: images of changed poses."""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules.inspection.images import check_images
from keras_capsules.models.capsule_network import CapsuleNetwork
from keras_capsules.types import Tensor
from keras_capsules.utils.labels import to_multi_hot
from keras_capsules.utils.validation import check_boolean
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number


def perturb(
    model: CapsuleNetwork,
    images: Tensor,
    dimensions: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    labels: Tensor | None = None,
    batch_size: int = 128,
    verbose: int = 0,
) -> np.ndarray:
    """Reconstructs images after one number of their pose is changed.

    A decoder draws an image from the pose of its class capsule. If a number is
    added to one dimension of this pose, the drawing shows what the dimension
    means: the thickness of a stroke, say, or the width of a digit.

    Notation: figure 4 of
    [Sabour et al., 2017](https://arxiv.org/abs/1710.09829), whose values are
    the default.

    Args:
        model: A `CapsuleNetwork` with a decoder and one input. Its capsules may
            be vectors or matrices, with or without activations.
        images: `(images, height, width, channels)`, of the shape that the
            network takes.
        dimensions: Sequence of integers, the numbers of a pose to change. Those
            of a matrix are counted row by row. Defaults to `None`, all of them.
        values: Sequence of numbers that are added. With 0, the drawing is the
            reconstruction itself. Defaults to `None`, from -0.25 to 0.25 in
            steps of 0.05.
        labels: Integer or one-hot labels, the class capsule to draw from.
            Defaults to `None`, the class with the highest score.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        Images `(images, dimensions, values, height, width, channels)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, decoder_units=(16,))
    images = np.random.uniform(size=(2, 8, 8, 1)).astype("float32")
    drawn = inspection.perturb(model, images, values=[-0.2, 0.0, 0.2])
    drawn.shape  # (2, 16, 3, 8, 8, 1)
    ```
    """
    coder = _Coder(model, batch_size, verbose, images=images)
    size = int(np.prod(coder.pose_shape))
    dimensions = _check_dimensions(dimensions, size)
    added = np.array(added_numbers(values))
    if not added.size:
        raise ValueError(
            "Invalid value for argument `values`. Expected a sequence of "
            f"finite numbers. Received: values={values!r}"
        )
    poses, classes = coder.encode("images", labels, "labels")
    poses = poses.reshape(len(poses), size)
    shape = (len(poses), len(dimensions), len(added))
    changed_dimensions = np.array(dimensions)

    def variants(number, dimension, value):
        changed = poses[number]
        places = np.arange(len(changed)), changed_dimensions[dimension]
        changed[places] += added[value]
        return coder.in_place(changed, classes[number])

    return coder.decode(shape, variants)


def interpolate(
    model: CapsuleNetwork,
    a: Tensor,
    b: Tensor,
    steps: int = 10,
    labels: Sequence[Any] | None = None,
    batch_size: int = 128,
    verbose: int = 0,
) -> np.ndarray:
    """Reconstructs images on the way from one pose to another.

    The way is the straight line between what the decoder gets for an image of
    `a` and for one of `b`: the pose of its class, with zeros for all other
    classes. Between two images of different classes, one pose fades out while
    the other fades in.

    Args:
        model: As in `perturb`.
        a: Images `(images, height, width, channels)`.
        b: As many images, the ends.
        steps: Integer of at least 2, the number of images on the way. The first
            is the reconstruction of `a`, the last that of `b`. Defaults to
            `10`.
        labels: Pair of integer or one-hot labels, those of `a` and those of
            `b`, the class capsules to draw from. Defaults to `None`, the
            classes with the highest scores.
        batch_size: Positive integer. Defaults to `128`.
        verbose: `0`, or `1` for a progress bar. Defaults to `0`.

    Returns:
        Images `(images, steps, height, width, channels)`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    ```python
    import numpy as np
    from keras_capsules import inspection
    from keras_capsules.models import CapsNet

    model = CapsNet((8, 8, 1), 3, filters=4, decoder_units=(16,))
    a, b = np.random.uniform(size=(2, 5, 8, 8, 1)).astype("float32")
    drawn = inspection.interpolate(model, a, b, steps=7)
    drawn.shape  # (5, 7, 8, 8, 1)
    ```
    """
    coder = _Coder(model, batch_size, verbose, a=a, b=b)
    steps = check_integer(steps, "steps", minimum=2)
    of_a, of_b = _check_pair(labels)
    first, first_classes = coder.encode("a", of_a, "labels[0]")
    last, last_classes = coder.encode("b", of_b, "labels[1]")
    if len(first) != len(last):
        raise ValueError(
            "Expected as many images in `b` as in `a`. Received: "
            f"{len(first)} images in a, {len(last)} in b"
        )
    shares = np.linspace(0, 1, steps, dtype="float32")

    def variants(number, step):
        share = shares[step].reshape(-1, *[1] * len(coder.pose_shape))
        begin, classes = coder.in_place(
            (1 - share) * first[number], first_classes[number]
        )
        end, others = coder.in_place(share * last[number], last_classes[number])
        return begin + end, np.maximum(classes, others)

    return coder.decode((len(first), steps), variants)


class _Coder:
    """Encodes images to the poses of their classes, and decodes such poses."""

    def __init__(self, model, batch_size, verbose, **images):
        if not isinstance(model, CapsuleNetwork):
            raise ValueError(
                "Invalid value for argument `model`. Expected a "
                "CapsuleNetwork, whose decoder draws poses: "
                "CapsuleNetwork(inputs, capsules, decoder) makes one of layers "
                f"of your own. Received: model={model!r}"
            )
        self.model = model
        self.batch_size = check_integer(batch_size, "batch_size")
        self.verbose = check_boolean(verbose, "verbose")
        self._images = {
            name: check_images(model, each, name=name)
            for name, each in images.items()
        }
        first, *_ = self._images.values()
        self.image_shape = first.shape[1:]
        if model.decoder is None:
            model.decode(first)  # raises, and says how to make one
        poses, *activations = keras.tree.flatten(model.encoder.output)
        self.is_pair = bool(activations)
        self.num_classes, *self.pose_shape = poses.shape[1:]

    def encode(self, images, labels, name):
        """Poses `(images, *pose)` of the classes, and the classes as integers.

        One pose is kept for each image, because the images that are drawn of it
        are larger. `images` is the name of an argument, `labels` a value.
        """
        images = self._images[images]
        classes = np.zeros(len(images), "int64")
        poses = np.zeros((len(images), *self.pose_shape), "float32")
        if labels is not None:
            classes[:] = self._check_labels(labels, len(images), name)
        for part in _parts(len(images), self.batch_size):
            capsules = self.model.encode(images[part], self.batch_size)
            of_classes, scores = capsules if self.is_pair else (capsules, None)
            of_classes = np.asarray(of_classes, "float32")
            if labels is None:
                if scores is None:
                    scores = np.linalg.norm(of_classes, axis=-1)
                classes[part] = np.asarray(scores, "float32").argmax(axis=1)
            poses[part] = of_classes[np.arange(len(of_classes)), classes[part]]
        return poses, classes

    def _check_labels(self, labels, number, name):
        shape = (number, self.num_classes)
        multi_hot = ops.convert_to_numpy(to_multi_hot(labels, shape, name))
        if (
            not ((multi_hot == 0) | (multi_hot == 1)).all()
            or (multi_hot.sum(axis=1) != 1).any()
        ):
            raise ValueError(
                f"Expected `{name}` to name one class for each image, as "
                f"integer or one-hot labels. Received: {name}={labels!r}"
            )
        return multi_hot.argmax(axis=1)

    def in_place(self, poses, classes):
        """Poses among zeros for all other classes, and one-hot labels."""
        one_hot = np.eye(self.num_classes, dtype="float32")[classes]
        shape = (*one_hot.shape, *[1] * len(self.pose_shape))
        poses = poses.reshape(len(poses), 1, *self.pose_shape)
        return one_hot.reshape(shape) * poses, one_hot

    def decode(self, shape, variants):
        """Images of many poses, a batch of them at a time.

        Args:
            shape: The axes of the result before those of an image.
            variants: Function from indices along these axes, integers
                `(batch,)`, to poses and labels, as `in_place` returns them.
        """
        total = int(np.prod(shape))
        drawn = np.empty((total, *self.image_shape), "float32")
        progress = keras.utils.Progbar(total, verbose=int(self.verbose))
        for part in _parts(total, self.batch_size):
            numbers = np.arange(part.start, part.stop)
            poses, labels = variants(*np.unravel_index(numbers, shape))
            # Labels stand in for activations, which a decoder does not see.
            capsules = (poses, labels) if self.is_pair else poses
            drawn[part] = self.model.decode(capsules, labels, self.batch_size)
            progress.update(part.stop)
        return drawn.reshape(*shape, *self.image_shape)


def _parts(number: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`, one after the other."""
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


def _check_dimensions(dimensions, size):
    if dimensions is None:
        return list(range(size))
    try:
        found = [check_integer(each, "dimensions", 0) for each in dimensions]
    except (TypeError, ValueError):
        found = []
    if not found or max(found) >= size:
        raise ValueError(
            "Invalid value for argument `dimensions`. Expected integers from 0 "
            f"to {size - 1}, the numbers of a pose. Received: "
            f"dimensions={dimensions!r}"
        )
    return found


def added_numbers(values: Any) -> list[float]:
    """The numbers that are added to poses; an empty list if they are none."""
    if values is None:
        return [0.05 * each for each in range(-5, 6)]
    try:
        # Elements of arrays and tensors become numbers of Python.
        numbers = np.asarray(values).tolist()
        return [check_number(each, "values") for each in numbers]
    except (TypeError, ValueError):
        return []


def _check_pair(labels):
    if labels is None:
        return None, None
    if not isinstance(labels, (list, tuple)) or len(labels) != 2:
        raise ValueError(
            "Invalid value for argument `labels`. Expected a pair, the labels "
            f"of `a` and those of `b`. Received: labels={labels!r}"
        )
    return labels
