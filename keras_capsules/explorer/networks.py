"""The networks that can be explored, and what they say of a picture."""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_capsules import models
from keras_capsules.explorer import drawing
from keras_capsules.inspection.graph import Untraceable
from keras_capsules.inspection.graph import as_array
from keras_capsules.inspection.painter import Painter
from keras_capsules.layers import CapsuleLength
from keras_capsules.models import pretrained
from keras_capsules.training import trained
from keras_capsules.utils import loading

# The name of the weights that know two digits in one picture.
TWO_DIGITS = "multi_mnist"
# While JAX runs a compiled network, no other thread can read its weights.
_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a network says of a picture.

    Args:
        image: What the network saw, a picture.
        scores: Array `(classes,)`.
        winners: Classes, the most active one first.
        reconstructions: A picture for each winner, decoded from its capsule
            alone; nothing without a decoder.
        supports: An array like `image` for each winner, where in the picture
            its support comes from; nothing without capsules.
        capsules: The class capsules, as the encoder makes them, if any.
        remark: Why nothing is known of the support of capsules.
    """

    image: np.ndarray
    scores: np.ndarray
    winners: tuple[int, ...]
    reconstructions: tuple[np.ndarray, ...]
    supports: tuple[np.ndarray, ...]
    capsules: Any = None
    remark: str = ""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its name and those of its classes.

    Args:
        name: String.
        model: The network.
        classes: The names of the classes.
    """

    name: str
    model: keras.Model
    classes: tuple[str, ...]

    @property
    def has_capsules(self) -> bool:
        """Whether it is a capsule network."""
        return isinstance(self.model, models.CapsuleNetwork)

    @property
    def pose_size(self) -> int:
        """How many numbers a pose has that can be decoded."""
        if not self.has_capsules or self.model.decoder is None:
            return 0
        poses = keras.tree.flatten(self.model.encoder.output)[0]
        return int(np.prod(poses.shape[2:]))

    def frame(self, digit: np.ndarray) -> np.ndarray:
        """A digit in the frame of the pictures that the network takes.

        Args:
            digit: A picture.
        """
        return drawing.framed(digit, *self.model.inputs[0].shape[1:3])

    def answer(self, image: np.ndarray, num_winners: int = 1) -> Answer:
        """What the network says of a picture.

        Args:
            image: A picture in the frame of this network.
            num_winners: Integer, how many classes win.
        """
        with _one_at_a_time:
            return self._answer(image, num_winners)

    def _answer(self, image, num_winners):
        images = image[None, ..., None].astype("float32")
        if not self.has_capsules:
            scores = _scores(self.model, images)[0]
            return Answer(image, scores, _winners(scores, num_winners), (), ())
        capsules, scores = self._encode(images)
        winners = _winners(scores, num_winners)
        decoded = self._decode(capsules, winners) if self.pose_size else ()
        answer = Answer(image, scores, winners, tuple(decoded), (), capsules)
        try:
            images = np.repeat(images, len(winners), axis=0)
            supports = self._painter.paint(images, winners)
        except Untraceable as error:
            return dataclasses.replace(answer, remark=str(error))
        return dataclasses.replace(answer, supports=tuple(supports))

    def warm_up(self, num_winners: int = 1) -> None:
        """Computes everything once, because the first time takes longest.

        Args:
            num_winners: As in the answers that will be asked for.
        """
        image = self.frame(np.eye(drawing.SIZE, dtype="float32"))
        answer = self.answer(image, num_winners)
        if self.pose_size:
            self.bend(answer, np.zeros(self.pose_size))

    def bend(
        self, answer: Answer, offsets: Sequence[float] | np.ndarray
    ) -> np.ndarray:
        """The picture of the winning pose when numbers are added to it.

        Args:
            answer: What this network says of a picture.
            offsets: Numbers, as many as the pose has.
        """
        poses, *activations = keras.tree.flatten(answer.capsules)
        poses = poses + np.reshape(offsets, poses.shape[2:]).astype(poses.dtype)
        bent = (poses, *activations) if activations else poses
        return self._decode(bent, answer.winners[:1])[0]

    @functools.cached_property
    def _painter(self):
        return Painter(self.model, compiled=True)

    def _encode(self, images):
        """The class capsules of one image, and the scores of its classes."""
        found = self.model.encoder.predict_on_batch(images)
        capsules = tuple(found) if isinstance(found, list) else found
        return capsules, as_array(CapsuleLength()(capsules))[0]

    def _decode(self, capsules, winners):
        """Pictures `(winners, height, width)` of the capsules of one image."""
        capsules = keras.tree.map_structure(
            lambda x: ops.repeat(x, len(winners), axis=0), capsules
        )
        labels = np.asarray(winners, "int32")
        return as_array(self.model.decode(capsules, labels))[..., 0]


def _scores(model, images):
    """The only output of a model, whatever structure holds it."""
    (scores,) = keras.tree.flatten(model(images, training=False))
    return as_array(scores)


def _winners(scores, number):
    return tuple(int(each) for each in np.argsort(-scores)[:number])


def find(
    paths: Sequence[str], two_digits: str | None = None
) -> tuple[list[Network], Network | None]:
    """The networks to explore, called once so that they are warm.

    Args:
        paths: Strings, `.keras` files or folders of runs, which come first.
        two_digits: See `of_two_digits`.

    Returns:
        List of `Network`: the files, and the weights that the package has for
        grey pictures. And the `Network` of two digits: the file, or the weights
        that the package has for them, or `None`.

    Raises:
        ValueError: As `of_file` and `of_two_digits`.
    """
    own = [of_file(path) for path in paths]
    cards = [
        card
        for card in sorted(pretrained.cards(), key=lambda x: x.name != "mnist")
        if card.options["image_shape"][-1] == 1
    ]
    shipped = [_of_card(card) for card in cards if card.name != TWO_DIGITS]
    if two_digits is not None:
        pairs = [of_two_digits(two_digits)]
    else:
        pairs = [_of_card(card) for card in cards if card.name == TWO_DIGITS]
    singles = [*own, *shipped]
    for network in singles:
        network.warm_up()
    for pair in pairs:
        pair.warm_up(num_winners=2)
    return singles, pairs[0] if pairs else None


def two_kinds(singles: Sequence[Network]) -> tuple[Network, Network]:
    """Two networks to compare: with capsules and, if there is one, without.

    Args:
        singles: Networks, of which at least one has capsules.
    """
    with_capsules = next(each for each in singles if each.has_capsules)
    others = [each for each in singles if not each.has_capsules]
    return with_capsules, [*others, singles[-1]][0]


def _of_card(card):
    found = trained.of_card(card)
    name = f"{card.network}, {card.name}"
    return Network(name, found.model, found.class_names)


def of_file(path: str) -> Network:
    """A network of a `.keras` file, or of a run with the names of its classes.

    Args:
        path: String, the file or the folder of the run.

    Raises:
        ValueError: If it is no such file, takes other inputs than grey pictures
            of one size, or returns other scores than from 0 to 1.
    """
    if pathlib.Path(path).is_dir():
        found = trained.load(path)
        return _checked(Network(path, found.model, found.class_names))
    try:
        model = loading.load_network(path)
    except loading.Unusable as error:
        raise ValueError(
            "A network cannot be loaded. Expected the path of a `.keras` file "
            f"that `model.save` wrote. Received: path={path!r} ({error})"
        ) from error
    return _checked(Network(path, model, ()))


def of_two_digits(path: str) -> Network:
    """The network of two digits, from a `.keras` file or one of weights.

    Args:
        path: String.

    Raises:
        ValueError: As `of_file`; if the weights do not fit the network; or if
            it has no decoder, or one class alone.
    """
    if pathlib.Path(path).suffix == ".keras":
        network = of_file(path)
    else:
        model = models.EfficientCapsNet.multi_mnist(weights=path)
        network = _checked(Network(path, model, ()))
    shape = network.model.inputs[0].shape[1:]
    classes = len(network.classes)
    if not network.pose_size or shape != (36, 36, 1) or classes < 2:
        raise ValueError(
            "Two digits need a capsule network with a decoder for pictures of "
            "(36, 36, 1) and at least two classes. Received: "
            f"{path} for {shape} and {classes} classes"
        )
    return network


def _checked(network):
    inputs, outputs = network.model.inputs, network.model.outputs
    shapes = [tuple(each.shape[1:]) for each in (*inputs, *outputs)]
    valid = len(shapes) == 2 and len(shapes[0]) == 3 and len(shapes[1]) == 1
    if not valid or shapes[0][-1] != 1 or None in shapes[0]:
        raise ValueError(
            "Expected a network from grey pictures (height, width, 1) to "
            f"scores (classes,). Received: {network.name} with {shapes}"
        )
    noise = np.random.default_rng(0).uniform(size=(8, *shapes[0]))
    scores = _scores(network.model, noise.astype("float32"))
    if not np.isfinite(scores).all():
        raise ValueError(
            "A network returns scores that are not finite. Expected one whose "
            f"training has not failed. Received: {network.name} with scores of "
            "NaN or infinity"
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(
            "The page shows scores from 0 to 1, and a network returns others, "
            "such as logits. Expected one that ends in a softmax or a sigmoid. "
            f"Received: {network.name} with scores from {scores.min():.3g} to "
            f"{scores.max():.3g}"
        )
    classes = tuple(map(str, range(shapes[1][0])))
    return dataclasses.replace(network, classes=network.classes or classes)
