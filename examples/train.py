"""Trains any network on any data set: the command `keras-capsules train`.

python examples/train.py efficient_capsnet digits
python examples/train.py --help
"""

import sys

from keras_capsules_cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
