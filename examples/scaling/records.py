"""Images in TFRecord files, for data sets that are larger than memory."""

import hashlib
import json
import numbers
import pathlib

import numpy as np
import tensorflow as tf

from keras_capsules.utils import files

CONTENTS = "contents.json"
_FEATURES = {
    "image": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def write(folder, examples, shards, num_classes):
    """Writes images as PNG, one at a time, into several files.

    Args:
        folder: The folder to make. An older one that this function wrote is
            replaced once all is written.
        examples: Iterable of images, `uint8` of one shape `(height, width,
            channels)` with 1 to 4 channels, and integer labels from 0 to
            `num_classes - 1`.
        shards: Positive integer, the number of files.
        num_classes: Positive integer.

    Returns:
        The contents, a dictionary.

    Raises:
        ValueError: If an argument is not as described, there are fewer images
            than files, or there is something else in the folder. Then nothing
            is written.
    """
    folder = pathlib.Path(folder)
    _check_replaceable(folder)
    _check_integer("shards", shards, 1)
    _check_integer("num_classes", num_classes, 1)
    found = hashlib.sha256()
    with files.replacing(folder) as fresh:
        fresh.mkdir()
        names = [_name(number, shards) for number in range(shards)]
        sizes, shape = [0] * shards, None
        writers = [tf.io.TFRecordWriter(str(fresh / each)) for each in names]
        try:
            for number, (image, label) in enumerate(examples):
                image = np.asarray(image)
                _check(number, image, label, shape, num_classes)
                shape = list(image.shape)
                place = number % shards
                record = _serialized(image, label)
                found.update(record)
                writers[place].write(record)
                sizes[place] += 1
        finally:
            for each in writers:
                each.close()
        if min(sizes) == 0:
            raise ValueError(
                f"Expected at least one image for each of {shards} files. "
                f"Received: {sum(sizes)} images"
            )
        contents = {
            "num_classes": int(num_classes),
            "image_shape": shape,
            "sha256": found.hexdigest(),
            "files": dict(zip(names, sizes, strict=True)),
            "bytes": {name: (fresh / name).stat().st_size for name in names},
        }
        path = fresh / CONTENTS
        path.write_text(json.dumps(contents, indent=1) + "\n")
        _check_replaceable(folder)  # writing may have taken hours
    return contents


def _check_replaceable(folder):
    """Raises if something that `write` did not write would be lost."""
    if not folder.exists():
        return
    others = [folder.name]
    if folder.is_dir():
        contents = _contents(folder)
        known = {CONTENTS, *contents["files"]} if contents else set()
        others = sorted({each.name for each in folder.iterdir()} - known)
    if others:
        raise ValueError(
            "There is something else in the folder, which would be lost. "
            f"Expected a folder that is new, is empty, or has only {CONTENTS} "
            "and the files of images that it names. Received: "
            f"folder={str(folder)!r} with {', '.join(others[:5])}"
        )


def _check_integer(name, value, least):
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(
            f"Expected an integer of at least {least}. Received: "
            f"{name}={value!r}"
        )


def _check(number, image, label, shape, num_classes):
    """Raises if training could not read an image."""
    if (
        image.dtype != "uint8"
        or image.ndim != 3
        or not 1 <= image.shape[-1] <= 4
        or not image.size
    ):
        raise ValueError(
            "Expected images of dtype uint8 and shape (height, width, "
            f"channels), with 1 to 4 channels. Received: image {number} of "
            f"dtype {image.dtype} and shape {image.shape}"
        )
    if shape is not None and list(image.shape) != shape:
        raise ValueError(
            f"Expected all images to have the shape {tuple(shape)} of the "
            f"first one. Received: image {number} of shape {image.shape}"
        )
    label = np.asarray(label)
    if (
        label.shape != ()
        or not np.issubdtype(label.dtype, np.integer)
        or not 0 <= label < num_classes
    ):
        raise ValueError(
            f"Expected integer labels from 0 to {num_classes - 1}. Received: "
            f"label {label} of image {number}"
        )


def _name(number, shards):
    return f"images-{number:05}-of-{shards:05}.tfrecord"


def _serialized(image, label):
    def feature(**kind):
        return tf.train.Feature(**kind)

    png = tf.io.encode_png(image).numpy()
    features = {
        "image": feature(bytes_list=tf.train.BytesList(value=[png])),
        "label": feature(int64_list=tf.train.Int64List(value=[int(label)])),
    }
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


def contents_of(folder):
    """What `write` wrote into a folder."""
    folder = pathlib.Path(folder)
    contents = _contents(folder)
    if contents is None:
        raise ValueError(
            f"There are no images. Expected a folder with {CONTENTS}, as "
            "examples/sharded_data.py makes it. Received: "
            f"folder={str(folder)!r}"
        )
    for name, size in contents["bytes"].items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            wrong = f"without {name}" if found is None else f"with {found}"
            raise ValueError(
                f"Expected all files that {CONTENTS} names, as they were "
                f"written: {name} of {size} bytes. Received: "
                f"folder={str(folder)!r} {wrong}"
            )
    return contents


def _contents(folder):
    """The contents of a folder, or `None` if `write` did not write them."""
    try:
        contents = json.loads((folder / CONTENTS).read_text())
        names = list(contents["files"])
        as_written = (
            names == [_name(number, len(names)) for number in range(len(names))]
            and list(contents["bytes"]) == names
            and all(size > 0 for size in contents["files"].values())
            and len(contents["image_shape"]) == 3
            and contents["num_classes"] > 0
        )
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return contents if names and as_written else None


def identity(contents):
    """A short text that is another one for other images."""
    text = json.dumps(contents, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def steps(contents, batch_size, parts):
    """How many whole batches there are for each of some processes."""
    _check_integer("batch_size", batch_size, 1)
    number = min(sum(part.values()) for part in _parts(contents, parts))
    if number < batch_size:
        raise ValueError(
            f"A batch is larger than the images of a process. Expected at most "
            f"{number}. Received: batch_size={batch_size}"
        )
    return number // batch_size


def _parts(contents, parts):
    """The files of each of some processes, with their sizes."""
    _check_integer("parts", parts, 1)
    shards = list(contents["files"].items())
    if len(shards) < parts:
        raise ValueError(
            "Each process reads files of its own. Expected at least "
            f"{parts} files, one for each. Received: {len(shards)} files"
        )
    return [dict(shards[number::parts]) for number in range(parts)]


def read(folder, batch_size, part=0, parts=1, epoch=0, seed=0, shuffle=10_000):
    """The images of one process, in the order of one epoch.

    Several files are read, and several images decoded, at a time. In memory
    are no more than `shuffle` encoded images and a few batches.

    Args:
        folder: As `write` made it.
        batch_size: Integer. The last batch may be smaller.
        part: Integer, which of the `parts` to read.
        parts: Integer, among how many processes the files are shared out.
        epoch: Integer of at least 0, which order. It is the same whenever it
            is read, whatever `tf.random.set_seed` was called with.
        seed: Integer of at least 0, of the orders of all epochs.
        shuffle: Integer, from how many images the next one is drawn.

    Returns:
        A `tf.data.Dataset` of batches: images from 0 to 1, and labels.

    Raises:
        ValueError: If an argument is not as described, or a file is missing or
            has another size than it was written with.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("part", part, 0),
        ("epoch", epoch, 0),
        ("seed", seed, 0),
        ("shuffle", shuffle, 1),
    ):
        _check_integer(name, value, least)
    contents = contents_of(folder)
    shares = _parts(contents, parts)
    if part >= parts:
        raise ValueError(
            f"Expected a part from 0 to {parts - 1}, one less than `parts`. "
            f"Received: part={part}"
        )
    names = [str(pathlib.Path(folder, name)) for name in shares[part]]
    names = np.random.default_rng([seed, epoch]).permutation(names)
    data = tf.data.Dataset.from_tensor_slices(names)
    data = data.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(4, len(names)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    data = _shuffled(data, shuffle, seed, epoch)

    def decode(record):
        example = tf.io.parse_single_example(record, _FEATURES)
        image = tf.io.decode_png(example["image"])
        image = tf.ensure_shape(image, contents["image_shape"])
        return tf.cast(image, tf.float32) / 255, example["label"]

    data = data.map(decode, tf.data.AUTOTUNE, deterministic=True)
    return data.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def _shuffled(data, size, seed, epoch):
    """What `data.shuffle(size)` does, in an order of these numbers alone.

    The method mixes TensorFlow's global seed into the one that it is given.
    """
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(data),
        buffer_size=size,
        seed=seed,
        seed2=epoch + 1,  # if both are 0, the order is another one each time
        output_types=[tf.string],
        output_shapes=[[]],
        reshuffle_each_iteration=False,
    )
    return tf.data.experimental.from_variant(shuffled, data.element_spec)
