"""Data sets that TensorFlow Datasets prepares."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.splits import resolve_split

if TYPE_CHECKING:
    import tensorflow as tf

REMEDY = (
    "Install the extra for data sets: `pip install "
    "'keras-capsules[datasets]'`, or in a clone `pip install '.[datasets]'`."
)

_PROBE_SECONDS = 5.0


def load_prepared(
    info: DatasetInfo,
    split: str,
    data_dir: str | os.PathLike[str] | None,
    images: Sequence[str] = ("image",),
    label: str = "label",
) -> "tf.data.Dataset":
    """Loads from TensorFlow Datasets; see `catalogue.Loader`.

    Args:
        info: A `DatasetInfo`.
        split: String; see `datasets.load`.
        data_dir: Optional path; see `datasets.load`.
        images: The features that become the channels of an image. Defaults to
            `("image",)`.
        label: The feature that is the label. Defaults to `"label"`.
    """
    # TensorFlow Datasets reads the variable only once, when it is imported,
    # and would make a folder called "~".
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    if data_dir is not None:
        if not isinstance(data_dir, (str, os.PathLike)):
            raise ValueError(
                "Invalid value for argument `data_dir`. Expected the path of a "
                f"folder, or None. Received: data_dir={data_dir!r}"
            )
        data_dir = os.path.expanduser(data_dir)
    try:
        import tensorflow_datasets as tfds

        # The module that describes the data set is imported only here.
        builder = tfds.builder(info.name, data_dir=data_dir)
    except ImportError as error:
        raise ImportError(
            f"The data set {info.name!r} needs tensorflow-datasets. {REMEDY}"
        ) from error

    import tensorflow as tf

    if not builder.is_prepared():
        _prepare(builder, info)

    # The folder may hold another number of images than the original data set.
    sizes = {
        name: builder.info.splits[name].num_examples
        for name in ("train", "test")
    }
    dataset = builder.as_dataset(
        split="+".join(
            f"{name}[{start}:{stop}]"
            for name, start, stop in resolve_split(split, sizes)
        ),
        read_config=tfds.ReadConfig(
            # One file after the other: "train" begins with "train[:10]".
            interleave_cycle_length=1,
            # A cache of its own would warn after `take`.
            try_autocache=False,
        ),
    )

    def unpack(example):
        image = tf.concat([example[name] for name in images], axis=-1)
        return tf.cast(image, "float32") / 255.0, example[label]

    return dataset.map(unpack)


def _prepare(builder, info):
    """Downloads the data, or raises at once if the server is unreachable."""
    missing = f"The data set {info.name!r} is not in {builder.data_dir}"
    command = (
        'python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{info.name}', data_dir='DIR').download_and_prepare()\""
    )
    advice = (
        "Either set `data_dir`, or the environment variable TFDS_DATA_DIR, to "
        f"a folder that holds {info.name}/{builder.version}; or make such a "
        f"folder DIR on a machine with network access: `{command}`; or use "
        '`load("digits")`, which needs no download.'
    )
    # Without a network TensorFlow Datasets retries for minutes.
    url = next(iter(builder.url_infos or ()), info.homepage)
    problem = probe(url)
    if problem:
        raise ConnectionError(
            f"{missing}, and {url} cannot be reached ({problem}). {advice}"
        )
    try:
        builder.download_and_prepare()
    except Exception as error:
        error.add_note(f"{missing}. {advice}")
        raise


def probe(url: str, seconds: float = _PROBE_SECONDS) -> str | None:
    """Tries to reach a server.

    Args:
        url: String, an address on the server.
        seconds: Float, how long to wait.

    Returns:
        The reason why the server cannot be reached, or `None` if it can.
    """
    # TensorFlow Datasets downloads with the same package, so both see the same
    # proxies and certificates.
    import requests

    problems: list[str | None] = [f"timed out after {seconds:g} seconds"]

    def ask():
        try:
            # Any answer will do, even a refusal of this kind of request.
            requests.head(url, timeout=seconds).close()
            problems[0] = None
        except requests.RequestException as error:
            problems[0] = str(error)

    # The time limit of `requests` does not cover looking up the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problems[0]
