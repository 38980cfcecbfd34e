"""What the page shows."""

import dataclasses

import numpy as np

from keras_capsules.explorer import figures
from keras_capsules.explorer import networks
from tests.helpers.testing import on_one_backend

pytestmark = on_one_backend


# Figures.


def answer_of(network, scores, winners, *, decoded=0):
    image = np.zeros((28, 28), "float32")
    return networks.Answer(
        image, np.array(scores), winners, (image,) * decoded, (image,) * decoded
    )


def test_bars():
    network = networks.Network("plain", None, ("a", "<b>", "c"))
    html = figures.bars(network, [0.5, 0.123, 1.5], (1,))
    assert html.count("<tr") == 3 and html.count("class=wins") == 1
    assert "<tr class=wins><th scope=row>&lt;b&gt;</th>" in html
    for width in ("50.0%", "12.3%", "100.0%"):
        assert f"width: {width}" in html
    assert "score of each class" in html


def test_an_answer_in_words_and_pictures(shipped):
    scores = np.linspace(0, 0.9, 10)
    found = answer_of(shipped, scores, (9, 8), decoded=2)
    html = figures.answer(shipped, found)
    assert '<p class=said role="status">9 and 8</p>' in html
    assert "activity of each class capsule" in html
    for caption in (
        "what the network sees",
        "decoded from 9",
        "decoded from 8",
        "what supports 9",
        "what supports 8",
    ):
        assert html.count(f'alt="{caption}"') == 1
    assert html.count('src="data:image/png;base64,') == 5
    plain = answer_of(shipped, scores, (9,))
    html = figures.answer(shipped, plain)
    assert html.count("<img") == 1 and "No map" not in html
    html = figures.answer(shipped, dataclasses.replace(plain, remark="<why>"))
    assert "No map of the support: &lt;why&gt;" in html


def test_support_is_painted_where_it_is():
    image = np.full((2, 3), 0.5, "float32")
    support = np.zeros((2, 3), "float32")
    np.testing.assert_array_equal(
        figures.painted(image, support), np.full((2, 3, 3), 0.5)
    )
    support[1, 2] = 0.02
    colours = figures.painted(image, support)
    red, green, blue = colours[1, 2]
    assert red > green > blue
    assert (colours[0] == 0.5).all()
