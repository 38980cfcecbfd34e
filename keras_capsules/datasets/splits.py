"""The notation of splits, as in TensorFlow Datasets."""

import re
from collections.abc import Mapping

_PART = re.compile(
    r"""(?P<name>train|test|validation)
    (?:\[
        (?:(?P<start>-?[\d_.]+)(?P<start_unit>%)?)? :
        (?:(?P<stop>-?[\d_.]+)(?P<stop_unit>%)?)?
    \])?""",
    re.VERBOSE,
)


def parse_split(
    split: str,
) -> list[tuple[str, float | None, float | None, bool]]:
    """Parses a split without knowledge of the data set's size.

    Args:
        split: String, such as `"train[:80%]+test"`; see `datasets.load`.

    Returns:
        A list of `(name, start, stop, percent)`, one for each part.

    Raises:
        ValueError: If it is not in the notation of splits.
    """
    if not isinstance(split, str):
        raise _split_error(split)
    parts = []
    for text in re.split(r"\s*\+\s*", split):
        match = _PART.fullmatch(text)
        if not match:
            raise _split_error(split)
        # One percent sign is enough, on either side of the colon.
        percent = bool(match["start_unit"] or match["stop_unit"])
        number = float if percent else int
        try:
            start, stop = (
                None if bound is None else number(bound)
                for bound in match.group("start", "stop")
            )
        except ValueError:
            raise _split_error(split) from None
        parts.append((match["name"], start, stop, percent))
    return parts


def resolve_split(
    split: str, sizes: Mapping[str, int]
) -> list[tuple[str, int, int]]:
    """Finds the images of a split, in TensorFlow Datasets' way.

    Data sets that do not come from TensorFlow Datasets have the same notation.

    Args:
        split: String; see `datasets.load`.
        sizes: The number of images in `"train"` and in `"test"`.

    Returns:
        A list of `(name, start, stop)`, where `name` is `"train"` or `"test"`.

    Raises:
        ValueError: If it is not in the notation of splits, exceeds the data
            set, or holds no images.
    """
    ranges = []
    for name, start, stop, percent in parse_split(split):
        if name == "validation":
            name = "train"
            first, last = validation_range(sizes["train"])
        else:
            first, last = 0, sizes[name]
        size = last - first
        limit = 100 if percent else size
        if max(abs(start or 0), abs(stop or 0)) > limit:
            raise _split_error(split, f" There are {size} images to slice.")
        start = 0 if start is None else _index(start, size, percent)
        stop = size if stop is None else _index(stop, size, percent)
        if start < stop:
            ranges.append((name, first + start, first + stop))
    if not ranges:
        raise _split_error(split, " This one holds no images.")
    return ranges


def validation_range(num_train: int) -> tuple[int, int]:
    """Returns the range of training images that is "validation".

    Args:
        num_train: Integer, the number of training images.
    """
    return _index(90, num_train, percent=True), num_train


def _index(bound, size, percent):
    """Converts a bound to an index in a split of `size` images."""
    index = round(bound * size / 100.0) if percent else bound
    return index + size if index < 0 else index


def _split_error(split, detail=""):
    return ValueError(
        "Invalid value for argument `split`. Expected 'train', 'test' or "
        "'validation', a slice such as 'train[:90%]' or 'test[-100:]', or a "
        f"sum of such parts with '+'.{detail} Received: split={split!r}"
    )
