"""Code of a user who checks types: `make lint` runs mypy on it.

`right` type-checks as it is. In `wrong`, mypy has to find a mistake in each
line that is marked, because it also reports marks that are not needed.
"""

from typing import assert_type

import keras
import numpy as np

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import ConvCapsules2D
from keras_capsules import ExactMatchAccuracy
from keras_capsules import MarginLoss
from keras_capsules import PrimaryCapsules
from keras_capsules import SpreadLoss
from keras_capsules import datasets
from keras_capsules import routing
from keras_capsules import squash
from keras_capsules.callbacks import SpreadMarginSchedule
from keras_capsules.callbacks import spread_margin
from keras_capsules.models import CapsNet
from keras_capsules.models import MatrixCapsNet
from keras_capsules.routing import DynamicRouting
from keras_capsules.routing import EMRouting
from keras_capsules.routing import Routed
from keras_capsules.routing import Routing
from keras_capsules.routing import RoutingLike
from keras_capsules.routing import RoutingSpec
from keras_capsules.routing import VariationalBayesRouting
from keras_capsules.routing import agreement
from keras_capsules.routing import softmax_over_outputs
from keras_capsules.routing import weighted_sum
from keras_capsules.types import Tensor


class Scaled(Routing):
    """A routing that a user wrote."""

    averages = True

    def __init__(self, scale: float = 1.0):
        self.scale = scale

    def build(
        self, layer: keras.layers.Layer, spec: RoutingSpec
    ) -> dict[str, Tensor]:
        shape = (spec.num_outputs, 1)
        return {"gain": layer.add_weight(name="gain", shape=shape)}

    def route(self, votes: Tensor, weights: dict[str, Tensor]) -> Routed:
        logits = self.scale * agreement(votes, votes[:, :, 0])
        coupling = softmax_over_outputs(logits)
        poses = weights["gain"] * weighted_sum(coupling, votes)
        return Routed(poses, coupling=coupling)

    def get_config(self) -> dict[str, float]:
        return {"scale": self.scale}


def network(how: RoutingLike = "dynamic") -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            PrimaryCapsules(8, 4, kernel_size=9, strides=2),
            CapsuleLayer(10, 16, routing=how),
            CapsuleLength(),
        ]
    )


def right() -> None:
    models = [
        network(),
        network("EMRouting"),
        network(DynamicRouting(num_iterations=2, leaky=True)),
        network(VariationalBayesRouting),
        network({"class_name": "keras_capsules>EMRouting", "config": {}}),
        network(Scaled(2.0)),
    ]
    models[0].compile(
        "adam",
        MarginLoss(absent_weight=0.5, reduction_over_classes="half_mean"),
        metrics=[ExactMatchAccuracy(top_k=2)],
    )
    images, labels = datasets.load_arrays("digits", image_size=(28, 28))
    assert_type(images, np.ndarray)
    callback = SpreadMarginSchedule(lambda step: spread_margin(step, 0.1))
    models[0].fit(images, labels, callbacks=[callback])
    capsnet = CapsNet((8, 8, 1), 3, routing=DynamicRouting(), conv_strides=2)
    capsnet.decode(capsnet.encode(images))
    assert_type(MatrixCapsNet.paper(num_classes=3), MatrixCapsNet)
    assert_type(routing.get("em"), Routing)
    assert_type(SpreadLoss(0.5).margin, float)
    assert_type(datasets.info("mnist").class_names, tuple[str, ...])
    squash(np.ones((2, 3)), axis=(0, 1))
    ConvCapsules2D(8, 4, 3, data_format="channels_last", dilation_rate=1)


def wrong() -> None:
    CapsuleLayer("ten", None)  # type: ignore[arg-type]
    CapsuleLayer(10, 16, routing=3)  # type: ignore[arg-type]
    PrimaryCapsules(8, 4, kernel_size="9")  # type: ignore[arg-type]
    ConvCapsules2D(8, 4, 3, data_format="channels_first")  # type: ignore[arg-type]
    ConvCapsules2D(8, 4, 3, dilation_rate="1")  # type: ignore[arg-type]
    CapsuleLayer(10, 16, dilation_rate=1)  # type: ignore[call-arg]
    CapsNet(routing=3)  # type: ignore[arg-type]
    CapsNet(conv_strides="2")  # type: ignore[arg-type]
    DynamicRouting(num_iterations="two")  # type: ignore[arg-type]
    EMRouting(iterations=3)  # type: ignore[call-arg]
    EMRouting(cost_scale=None)  # type: ignore[arg-type]
    routing.get(3)  # type: ignore[arg-type]
    network(squash)  # type: ignore[arg-type]
    MarginLoss("paper")  # type: ignore[arg-type]
    SpreadLoss(margin=None)  # type: ignore[arg-type]
    ExactMatchAccuracy(top_k=0.5)  # type: ignore[arg-type]
    squash([[1.0]], axis="last")  # type: ignore[arg-type]
    datasets.load(3)  # type: ignore[arg-type]
    datasets.load_arrays("digits", "test", 28)  # type: ignore[call-arg]
    datasets.info("mnist").num_train = 3  # type: ignore[misc]
