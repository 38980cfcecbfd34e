"""Loads files of networks, and says in a sentence why one cannot be loaded."""

import pathlib
import re
import textwrap
import zipfile

import keras

from keras_capsules.utils.files import Path

# The length of a reason. Keras adds whole configurations to some.
_LONGEST = 240


class Unusable(ValueError):
    """A file holds no network. The message is the reason, no sentence."""


def load_network(path: Path) -> keras.Model:
    """Loads a network from a file, without its optimizer.

    Args:
        path: The path of a file that `model.save` wrote.

    Raises:
        Unusable: If it cannot be loaded, or its inputs are not known.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise Unusable("there is no such file")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise Unusable("it is no zip file, or a part of one")
    try:
        network = keras.saving.load_model(path, compile=False)
    except Exception as error:  # of many classes, in Keras
        raise Unusable(reason(error)) from error
    if not isinstance(network, keras.Model):
        raise Unusable(f"it holds a {type(network).__name__}, and no Model")
    if not getattr(network, "inputs", None):
        raise Unusable(
            "the model was saved before it was built, or is not functional, so "
            "that its inputs are not known"
        )
    return network


def reason(error: Exception) -> str:
    """What went wrong, without what Keras writes around it.

    Args:
        error: What was raised when a file was loaded.
    """
    if isinstance(error, KeyError):
        text = " ".join(map(str, error.args))  # without quotation marks
    else:
        text = str(error)
    text = text.split("Exception encountered: ")[-1]
    unknown = re.search(r"Could not locate (?:class|function) '(.+?)'", text)
    if unknown:
        return (
            f"it needs {unknown[1]!r}, which is not known here: networks with "
            "code of your own can be loaded where this code is imported"
        )
    text = textwrap.shorten(text, _LONGEST, placeholder=" ...").rstrip(".")
    return text or type(error).__name__
