"""`python -m keras_capsules` is the command `keras-capsules`."""

import sys

from keras_capsules_cli import main

if __name__ == "__main__":
    sys.exit(main())
