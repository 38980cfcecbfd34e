"""The settings of a training."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import keras

from keras_capsules.training import networks
from keras_capsules.training.augmentation import Augmentation
from keras_capsules.types import Sizes
from keras_capsules.utils.validation import check_choice
from keras_capsules.utils.validation import check_integer
from keras_capsules.utils.validation import check_number
from keras_capsules.utils.validation import check_sizes

COLOR_MODES = {"grayscale": 1, "rgb": 3}
_OF_FOLDERS = ("image_size", "color_mode")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained on what, and how.

    The names are those of the options of `keras-capsules train`.

    Args:
        network: String, one of `networks.NAMES`.
        task: String, one of `tasks.NAMES`, or the path of a folder of images
            with one subfolder for each class.
        options: Dictionary of further arguments of the network.
        epochs: Positive integer.
        passes: Positive integer, the passes over the images in an epoch.
        per_class: Positive integer, how many images of each class to train on;
            or `None` for all.
        batch_size: Positive integer.
        learning_rate: Positive number, the largest rate. It falls to zero along
            a cosine.
        warmup: Number of epochs in which the rate rises from zero.
        weight_decay: Number, for AdamW. Biases and scales are left out.
        average: Number below 1, the momentum of an average of the weights, such
            as 0.999; or 0 for none.
        patience: Positive integer, after how many epochs that are not better on
            the validation images to stop; or `None`. Needs such images.
        no_validation: Boolean, whether to train on all images and to keep the
            last epoch, instead of the best one on a tenth of the images.
        seed: Integer, for weights, the order of images and random changes.
        dtype: String, a dtype policy of Keras.
        name: String, the name of the run; or `None`.
        image_size: Integer or pair `(height, width)`, in pixels, for images of
            a folder alone. Defaults to `None`, which is 32 for them.
        color_mode: `"rgb"` or `"grayscale"`, for images of a folder alone.
            Defaults to `None`, which is `"rgb"` for them.
        augmentation: An `Augmentation`.

    Raises:
        ValueError: If one of them is invalid.
    """

    network: str
    task: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 10
    passes: int = 1
    per_class: int | None = None
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.0
    weight_decay: float = 0.0
    average: float = 0.0
    patience: int | None = None
    no_validation: bool = False
    seed: int = 0
    dtype: str = "float32"
    name: str | None = None
    image_size: Sizes | None = None
    color_mode: str | None = None
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        check_choice(self.network, "network", networks.NAMES)
        _check_plain(self.options)
        for name in ("epochs", "passes", "batch_size"):
            check_integer(getattr(self, name), name)
        for name in ("per_class", "patience"):
            if getattr(self, name) is not None:
                check_integer(getattr(self, name), name)
        check_integer(self.seed, "seed", 0, 2**32 - 1)  # NumPy's largest
        check_number(
            self.learning_rate, "learning_rate", 0.0, open_minimum=True
        )
        check_number(self.warmup, "warmup", 0.0)
        if self.warmup >= self.epochs:
            raise ValueError(
                "The rate would never fall again. Expected `warmup` to be less "
                f"than the {self.epochs} epochs. Received: "
                f"warmup={self.warmup!r}"
            )
        check_number(self.weight_decay, "weight_decay", 0.0)
        check_number(self.average, "average", 0.0, 1.0)
        _check_dtype(self.dtype)
        if self.image_size is not None:
            check_sizes(self.image_size, "image_size", 2)
        if self.color_mode is not None:
            check_choice(self.color_mode, "color_mode", tuple(COLOR_MODES))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of images of a folder."""
        given = self._of_folder()
        height, width = check_sizes(given["image_size"], "image_size", 2)
        return height, width, COLOR_MODES[given["color_mode"]]

    def check_use(self, is_folder: bool) -> None:
        """Refuses settings that would do nothing in a training, or harm.

        Runs of earlier versions may have them, and can still be read.

        Args:
            is_folder: Boolean, whether the task is a folder of images.

        Raises:
            ValueError: If there is one.
        """
        if self.patience is not None and self.no_validation:
            raise ValueError(
                "Without validation, no epoch is better than another. Expected "
                "patience=None with no_validation=True. Received: "
                f"patience={self.patience!r}"
            )
        if self.augmentation.scale >= 1:
            raise ValueError(
                "Images would be scaled by 0 or less. Expected `scale` to be "
                f"below 1. Received: scale={self.augmentation.scale!r}"
            )
        given = [x for x in _OF_FOLDERS if getattr(self, x) is not None]
        if given and not is_folder:
            raise ValueError(
                "Only images of a folder are resized and converted. Expected "
                "None for a data set by name. Received: "
                + ", ".join(f"{x}={getattr(self, x)!r}" for x in given)
                + f" and task={self.task!r}"
            )

    def _of_folder(self):
        return {
            "image_size": self.image_size or 32,
            "color_mode": self.color_mode or "rgb",
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Settings":
        """The settings that `as_record` wrote.

        Args:
            record: Dictionary. Other keys than those of settings are ignored.
        """
        names = [each.name for each in dataclasses.fields(cls)]
        changes = [each.name for each in dataclasses.fields(Augmentation)]
        return cls(
            **{name: record[name] for name in names if name in record},
            augmentation=Augmentation(
                **{name: record[name] for name in changes if name in record}
            ),
        )

    def as_record(self, is_folder: bool) -> dict[str, Any]:
        """The settings as a flat dictionary of plain values, for JSON.

        Args:
            is_folder: Boolean, whether the task is a folder of images. The
                settings that only concern folders are left out otherwise.
        """
        record = dataclasses.asdict(self) | self._of_folder()
        changes = record.pop("augmentation")
        if not is_folder:
            for name in _OF_FOLDERS:
                del record[name]
        return {**record, **changes}


def _check_plain(options):
    """Refuses options that a record could not hold."""
    try:
        json.dumps(dict(options))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Invalid value for argument `options`. Expected a dictionary that "
            "JSON can hold: of numbers, strings, lists and dictionaries. "
            f"Received: options={options!r}"
        ) from error


def _check_dtype(dtype):
    try:
        keras.dtype_policies.get(dtype)
    except Exception as error:  # of several classes, in Keras
        raise ValueError(
            "Invalid value for argument `dtype`. Expected the name of a dtype "
            "policy of Keras, such as 'float32' or 'mixed_bfloat16'. Received: "
            f"dtype={dtype!r}"
        ) from error
