"""Explores networks in the browser: the command `keras-capsules explore`.

python examples/explorer.py
python examples/explorer.py --model outputs/digits/capsnet.keras
python examples/explorer.py --help
"""

import sys

from keras_capsules_cli import main

if __name__ == "__main__":
    sys.exit(main(["explore", *sys.argv[1:]]))
