"""All data sets: facts about each, and the function that loads it.

To add a data set, add its `DatasetInfo` and its loader to the list below, and a
line to the docstring of `datasets.load`.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import TypeAlias

from keras_capsules.datasets import digits
from keras_capsules.datasets.dataset_info import DatasetInfo
from keras_capsules.datasets.prepared import load_prepared

# A function of the data set's `DatasetInfo`, a split and `data_dir`, see
# `datasets.load`. It returns a `tf.data.Dataset` of pairs of a float32 image
# with values from 0 to 1, as large as in the `DatasetInfo`, and a label.
Loader: TypeAlias = Callable[[DatasetInfo, str, Any], Any]

_MNIST = DatasetInfo(
    name="mnist",
    image_shape=(28, 28, 1),
    class_names=tuple("0123456789"),
    num_train=60000,
    num_test=10000,
    homepage="http://yann.lecun.com/exdb/mnist/",
    license="CC BY-SA 3.0",
    citation="Y. LeCun, C. Cortes, C. J. C. Burges. MNIST handwritten digit "
    "database. 2010.",
    download_size=11_594_722,
)

_FASHION_MNIST = DatasetInfo(
    name="fashion_mnist",
    image_shape=(28, 28, 1),
    class_names=tuple(
        "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,"
        "Ankle boot".split(",")
    ),
    num_train=60000,
    num_test=10000,
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    license="MIT",
    citation="H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel Image "
    "Dataset for Benchmarking Machine Learning Algorithms. arXiv:1708.07747, "
    "2017.",
    download_size=30_878_645,
)

_CIFAR10 = DatasetInfo(
    name="cifar10",
    image_shape=(32, 32, 3),
    class_names=tuple(
        "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck".split(",")
    ),
    num_train=50000,
    num_test=10000,
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    license="none stated",
    citation="A. Krizhevsky. Learning Multiple Layers of Features from Tiny "
    "Images. Technical report, University of Toronto, 2009.",
    download_size=170_052_171,
)

_SMALLNORB = DatasetInfo(
    name="smallnorb",
    image_shape=(96, 96, 2),
    class_names=tuple(
        "four-legged animals,human figures,airplanes,trucks,cars".split(",")
    ),
    num_train=24300,
    num_test=24300,
    homepage="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    license="for research purposes; it cannot be sold",
    citation="Y. LeCun, F. J. Huang, L. Bottou. Learning Methods for Generic "
    "Object Recognition with Invariance to Pose and Lighting. CVPR, 2004.",
    download_size=262_778_180,
)

_ALL: list[tuple[DatasetInfo, Loader]] = [
    (digits.INFO, digits.load_digits),
    (_MNIST, load_prepared),
    (_FASHION_MNIST, load_prepared),
    (_CIFAR10, load_prepared),
    (
        _SMALLNORB,
        functools.partial(
            load_prepared, images=("image", "image2"), label="label_category"
        ),
    ),
]

CATALOGUE = {info.name: (info, loader) for info, loader in _ALL}
