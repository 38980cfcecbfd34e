"""scikit-learn's handwritten digits, with splits of our own."""

import os
from typing import TYPE_CHECKING

import numpy as np

from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.prepared import REMEDY
from keras_capsules.datasets.splits import resolve_split

if TYPE_CHECKING:
    import tensorflow as tf

INFO = DatasetInfo(
    name="digits",
    image_shape=(8, 8, 1),
    class_names=tuple("0123456789"),
    num_train=1437,
    num_test=360,
    homepage="https://archive.ics.uci.edu/dataset/80/"
    "optical+recognition+of+handwritten+digits",
    license="CC BY 4.0",
    citation="E. Alpaydin, C. Kaynak. Cascading Classifiers. Kybernetika, "
    "1998.",
    download_size=0,
)


def load_digits(
    info: DatasetInfo, split: str, data_dir: str | os.PathLike[str] | None
) -> "tf.data.Dataset":
    """Loads the digits; see `catalogue.Loader`."""
    del data_dir
    import tensorflow as tf

    try:
        from sklearn.datasets import load_digits as load_scans
    except ImportError as error:
        raise ImportError(
            f"The data set 'digits' needs scikit-learn. {REMEDY}"
        ) from error

    images, labels = load_scans(return_X_y=True)
    images = images.reshape((-1, *info.image_shape)).astype("float32") / 16.0
    indices = split_indices(labels)
    chosen = np.concatenate(
        [
            indices[name][start:stop]
            for name, start, stop in resolve_split(split, info.num_examples)
        ]
    )
    return tf.data.Dataset.from_tensor_slices((images[chosen], labels[chosen]))


def split_indices(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Divides the scans, in scikit-learn's order, into two splits.

    Args:
        labels: The labels of all scans.

    Returns:
        The indices of the scans in `"train"` and in `"test"`.
    """
    # NumPy promises that the stream of this generator never changes.
    generator = np.random.RandomState(0)
    order = generator.permutation(len(labels))
    is_test = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        is_test[np.flatnonzero(labels[order] == label)[:36]] = True
    # Once more, because the scans above are missing from the beginning only.
    return {
        "train": generator.permutation(order[~is_test]),
        "test": generator.permutation(order[is_test]),
    }
