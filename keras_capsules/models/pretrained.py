"""Weights by name: files inside the package, and what is known of them."""

import dataclasses
import functools
import hashlib
import importlib.resources
import inspect
import io
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any
from typing import TypeVar
from typing import cast

import keras
import numpy as np

from keras_capsules.models import saving
from keras_capsules.utils import loading

FOLDER = importlib.resources.files("keras_capsules").joinpath("weights")

# What networks take as `weights`.
Weights = str | os.PathLike[str] | None

# Arguments that matter in training only.
_FREE = ("reconstruction_weight", "dropout")

Init = TypeVar("Init", bound=Callable[..., None])


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of weights.

    A card is a JSON file. The file of the weights is beside it, with the same
    name and the ending `.npz`: an array for each weight, by its path.

    Args:
        network: String, the name of the class.
        name: String, the name of the weights.
        description: String, a few sentences.
        options: All arguments of the constructor, as plain values.
        sha256: String, the checksum of the file of the weights.
        parameters: Integer, their number without the decoder.
        test_error: Number, in percent, with these very weights.
        data: String, the images and their licence.
        record: The record that `keras-capsules train` wrote.
    """

    network: str
    name: str
    description: str
    options: dict[str, Any]
    sha256: str
    parameters: int
    test_error: float
    data: str
    record: dict[str, Any]

    @property
    def stem(self) -> str:
        """The name of the files, without an ending."""
        return f"{self.network}-{self.name}"


def cards() -> list[Card]:
    """What is known of all weights, by network and name."""
    if not FOLDER.is_dir():
        return []
    found = [
        Card(**json.loads(each.read_text()))
        for each in FOLDER.iterdir()
        if each.name.endswith(".json")
    ]
    return sorted(found, key=lambda card: card.stem)


def takes_weights(init: Init) -> Init:
    """Decorates the constructor of a network that has an argument `weights`.

    With the name of weights, arguments that are not given become those of the
    weights, before the constructor is called; afterwards, the network takes
    the weights.

    Args:
        init: The constructor. It is called without `weights`.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def init_and_load(self, *args, **kwargs):
        options = signature.bind_partial(self, *args, **kwargs).arguments
        options |= options.pop("kwargs", {})
        weights = options.pop("weights", None)
        if weights is None:
            init(**options)
        elif card := _find(type(self), weights):
            arrays = _read(card)
            try:
                init(**{**card.options, **options})
            except ValueError as error:
                error.add_note(
                    "Arguments that were not given are those of the weights "
                    f"{card.name!r}: {card.options}"
                )
                raise
            _check(self, card)
            _assign(self, arrays, card)
        else:
            init(**options)
            _load(self, weights)

    # Keras looks for it in more than one way.
    init_and_load.__signature__ = signature  # type: ignore[attr-defined]
    return cast(Init, init_and_load)


def _find(network: type, weights: Any) -> Card | None:
    """The card of these weights; `None` if they are a file of the user's."""
    every = cards()
    known: dict[str, Card] = {}
    for each in network.__mro__:  # a network's own come first
        if each.__module__.startswith("keras_capsules."):
            found = [card for card in every if card.network == each.__name__]
            known = {card.name: card for card in found} | known
    if isinstance(weights, str) and weights in known:
        return known[weights]
    if isinstance(weights, (str, os.PathLike)) and _is_file(weights):
        return None
    expected = [repr(name) for name in sorted(known)]
    expected.append("the path of a file that `save_weights` wrote")
    raise ValueError(
        f"There are no such weights of {network.__name__}. Expected "
        f"{' or '.join(expected)}. Received: weights={weights!r}"
    )


def _load(network: keras.Model, path: str | os.PathLike[str]) -> None:
    try:
        network.load_weights(path)
    except Exception as error:  # of many classes, in Keras
        raise ValueError(
            f"The weights cannot be loaded into {type(network).__name__}. "
            "Expected a file that `save_weights` wrote, of a network with the "
            f"same arguments. Received: weights={str(path)!r} "
            f"({loading.reason(error)})"
        ) from error


def _is_file(path: str | os.PathLike[str]) -> bool:
    try:
        return pathlib.Path(path).is_file()
    except (OSError, ValueError):  # no name of a file
        return False


def _check(network: keras.Model, card: Card) -> None:
    """Refuses arguments that differ from those of the trained network."""
    free = set(_FREE)
    if getattr(network, "decoder", None) is None:
        free |= {"decoder_units", "decoder_filters"}
    for name, expected in card.options.items():
        # As JSON has it, like that of the card.
        value = json.loads(json.dumps(saving.as_plain(getattr(network, name))))
        if value != expected and name not in free:
            raise ValueError(
                f"The weights {card.name!r} do not fit an argument that was "
                f"given with them. Expected {name}={expected!r}. "
                f"Received: {name}={value!r}"
            )


def _read(card: Card) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, if they are those of the card."""
    file = FOLDER.joinpath(f"{card.stem}.npz")
    content = file.read_bytes() if file.is_file() else b""
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise ValueError(
            "The file of weights is not the one that was published: install "
            f"keras_capsules again. Expected the SHA-256 {card.sha256}. "
            f"Received: {file} with {found}"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _assign(
    network: keras.Model, arrays: dict[str, np.ndarray], card: Card
) -> None:
    """Sets all weights of a network."""
    ours = {each.path: each for each in network.weights}
    if getattr(network, "decoder", None) is None:
        arrays = {
            path: array
            for path, array in arrays.items()
            if not path.startswith("decoder_")
        }
    shapes = {path: tuple(each.shape) for path, each in ours.items()}
    expected = {path: each.shape for path, each in arrays.items()}
    if shapes != expected:  # a subclass has other layers
        raise ValueError(
            f"The weights {card.name!r} do not fit the layers of "
            f"{type(network).__name__}. Expected {expected}. Received: "
            f"weights={shapes}"
        )
    for path, variable in ours.items():
        variable.assign(arrays[path].astype("float32"))
