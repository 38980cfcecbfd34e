"""Facts about a data set."""

import dataclasses

from keras_capsules.datasets.splits import validation_range


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Facts about a data set that are known before it is loaded.

    Attributes:
        name: String, the name that `load` takes.
        image_shape: Tuple of integers, `(height, width, channels)` as stored.
        class_names: Tuple of strings; label `k` means `class_names[k]`.
        num_train: Integer, the number of training images.
        num_test: Integer, the number of test images.
        homepage: String, the address of the data set's own page.
        license: String, the terms that the authors state.
        citation: String, the publication to cite.
        download_size: Integer, the bytes that are downloaded; 0 if nothing is.
    """

    name: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    homepage: str
    license: str
    citation: str
    download_size: int

    @property
    def num_classes(self) -> int:
        """Integer, the number of classes."""
        return len(self.class_names)

    @property
    def num_examples(self) -> dict[str, int]:
        """Dictionary, the number of images in each split."""
        start, stop = validation_range(self.num_train)
        return {
            "train": self.num_train,
            "test": self.num_test,
            "validation": stop - start,
        }
