"""What the page shows, as HTML: pictures, bars, and the support of a class."""

import html
from collections.abc import Sequence

import numpy as np

from keras_capsules.explorer import drawing
from keras_capsules.explorer.networks import Answer
from keras_capsules.explorer.networks import Network

# Orange: told from grey by everyone.
_COLOUR = np.array([1.0, 0.45, 0.0], "float32")


def painted(image: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Paints the support of a class over a picture.

    Args:
        image: A picture.
        support: Array of the same shape, at least 0.

    Returns:
        Array `(height, width, 3)` of colours.
    """
    strongest = support.max()
    share = support / strongest if strongest > 0 else support
    share = 0.8 * share[..., None]
    return (1 - share) * image[..., None] + share * _COLOUR


def picture(image: np.ndarray | None, caption: str) -> str:
    """A picture with its caption.

    Args:
        image: As `drawing.as_address` takes it; or `None`, an empty frame.
        caption: String.
    """
    caption = html.escape(caption)
    shown = (
        "<span></span>"
        if image is None
        else f'<img src="{drawing.as_address(image)}" alt="{caption}">'
    )
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def bars(
    network: Network,
    scores: Sequence[float] | np.ndarray,
    winners: Sequence[int],
) -> str:
    """A bar for each class.

    Args:
        network: A `Network`.
        scores: Numbers from 0 to 1.
        winners: Integers, the classes to point out.
    """
    what = "activity of each class capsule"
    if not network.has_capsules:
        what = "score of each class"
    rows = (
        f"<tr{' class=wins' if index in winners else ''}>"
        f"<th scope=row>{html.escape(name)}</th>"
        f'<td><div style="width: {100 * np.clip(score, 0, 1):.1f}%"></div></td>'
        f"<td>{score:.2f}</td></tr>"
        for index, (name, score) in enumerate(
            zip(network.classes, scores, strict=True)
        )
    )
    return f"<table class=bars><caption>{what}</caption>{''.join(rows)}</table>"


def said(text: str) -> str:
    """The line above the bars, which screen readers read out.

    Args:
        text: String.
    """
    return f'<p class=said role="status">{html.escape(text)}</p>'


def answer(network: Network, found: Answer) -> str:
    """All that a network says of a picture.

    Args:
        network: A `Network`.
        found: Its `Answer`.
    """
    names = [network.classes[winner] for winner in found.winners]
    pictures = [picture(found.image, "what the network sees")]
    for name, image in zip(names, found.reconstructions, strict=False):
        pictures.append(picture(image, f"decoded from {name}"))
    for name, support in zip(names, found.supports, strict=False):
        colours = painted(found.image, support)
        pictures.append(picture(colours, f"what supports {name}"))
    remark = ""
    if found.remark:
        remark = html.escape(f"No map of the support: {found.remark}")
        remark = f"<p class=remark>{remark}</p>"
    return "".join(
        [
            said(" and ".join(names)),
            bars(network, found.scores, found.winners),
            f"<div class=pictures>{''.join(pictures)}</div>",
            remark,
        ]
    )


def nothing(network: Network, text: str) -> str:
    """The page before anything is drawn, or after something went wrong.

    Args:
        network: A `Network`.
        text: String, the line to read out.
    """
    return said(text) + bars(network, [0.0] * len(network.classes), ())


def bent(image: np.ndarray | None) -> str:
    """The picture of a bent pose.

    Args:
        image: A picture; or `None`, an empty frame.
    """
    return f"<div class=pictures>{picture(image, 'decoded, bent')}</div>"
