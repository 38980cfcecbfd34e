"""The explorer in a browser, from drawing to answer: `make test-browser`."""

import io
import re

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.browser

# Corners of lines, from the left and from the top, as shares of the pad.
STROKES = {
    2: [(0.25, 0.3), (0.4, 0.15), (0.68, 0.2), (0.7, 0.4), (0.25, 0.82)]
    + [(0.8, 0.82)],
    3: [(0.3, 0.2), (0.6, 0.15), (0.7, 0.3), (0.5, 0.47), (0.72, 0.62)]
    + [(0.6, 0.85), (0.27, 0.8)],
    7: [(0.25, 0.2), (0.75, 0.2), (0.45, 0.85)],
}
INVITATION = "Draw a digit, take a sample, or upload a picture."


def draw(page, digit, pad=0, lift=True):
    """Draws a digit on one of the pads that are seen."""
    canvas = page.locator(".pad canvas:visible").nth(pad)
    canvas.hover()  # once it is in sight and no longer moves
    box = canvas.bounding_box()
    for index, (x, y) in enumerate(STROKES[digit]):
        x, y = box["x"] + x * box["width"], box["y"] + y * box["height"]
        page.mouse.move(x, y, steps=5 if index else 1)
        if not index:
            page.mouse.down()
    if lift:
        page.mouse.up()


def touch(page, digit):
    """Draws a digit with a finger."""
    page.locator(".pad canvas:visible").hover()
    box = page.locator(".pad canvas:visible").bounding_box()
    session = page.context.new_cdp_session(page)
    for index, (x, y) in enumerate(STROKES[digit]):
        x, y = box["x"] + x * box["width"], box["y"] + y * box["height"]
        session.send(
            "Input.dispatchTouchEvent",
            {
                "type": "touchMove" if index else "touchStart",
                "touchPoints": [{"x": x, "y": y}],
            },
        )
    session.send(
        "Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []}
    )


def said(page, place=0):
    """The line that names the winner."""
    return page.locator(".said:visible").nth(place)


def expect(locator):
    from playwright import sync_api

    sync_api.expect.set_options(timeout=60_000)
    return sync_api.expect(locator)


def bent(page):
    return page.locator(".bent img")


def as_file(name, image, kind="PNG"):
    content = io.BytesIO()
    image.save(content, kind)
    return {
        "name": name,
        "mimeType": f"image/{kind.lower()}",
        "buffer": content.getvalue(),
    }


def upload(page, file):
    page.locator("input[type=file]").first.set_input_files(file)


def test_the_drawn_digit_wins_and_is_decoded(open_page):
    page = open_page()
    expect(said(page)).to_have_text(INVITATION)
    draw(page, 3)
    expect(said(page)).to_have_text("3")
    winner = page.locator("table.bars:visible tr.wins")
    expect(winner).to_have_count(1)
    expect(winner.locator("th")).to_have_text("3")
    score = float(winner.locator("td").last.inner_text())
    assert 0.8 < score < 1
    for caption in ("what the network sees", "decoded from 3", "supports 3"):
        expect(page.get_by_alt_text(caption).first).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(16)


def test_bars_move_before_the_pen_is_lifted(open_page):
    page = open_page()
    draw(page, 7, lift=False)
    expect(said(page)).not_to_have_text(INVITATION)
    page.mouse.up()
    expect(said(page)).to_have_text("7")


def wait_for_bent(page, is_straight):
    """Waits until the bent picture is that of the pose itself, or is not."""
    page.wait_for_function(
        """(expected) => {
            const [one, other] = [".bent img", "img[alt^='decoded from']"].map(
                (each) => document.querySelector(each)
            );
            return one && other && (one.src === other.src) === expected;
        }""",
        arg=is_straight,
    )


def test_a_slider_bends_the_pose(open_page):
    page = open_page()
    draw(page, 3)
    expect(said(page)).to_have_text("3")
    wait_for_bent(page, is_straight=True)
    slider = page.get_by_role("slider").nth(4)
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("0.4")
    wait_for_bent(page, is_straight=False)
    # The next drawing is bent as well.
    page.get_by_role("button", name="8", exact=True).first.click()
    expect(said(page)).to_have_text("8")
    wait_for_bent(page, is_straight=False)
    page.get_by_role("button", name="Back to the pose itself").click()
    expect(slider).to_have_value("0")
    wait_for_bent(page, is_straight=True)


def test_clear_and_reload(open_page):
    page = open_page()
    draw(page, 7)
    expect(said(page)).to_have_text("7")
    page.get_by_role("button", name="Clear").first.click()
    expect(said(page)).to_have_text(INVITATION)
    expect(bent(page)).to_have_count(0)
    # The pad is blank, too: the next digit stands alone.
    draw(page, 3)
    expect(said(page)).to_have_text("3")
    page.reload()
    expect(said(page)).to_have_text(INVITATION)
    draw(page, 7)
    expect(said(page)).to_have_text("7")


# The first question after this reaches the process two seconds late.
DELAY = """() => {
    const { fetch } = window;
    let wait = 2000;
    window.fetch = async (...given) => {
        if (String(given[0].url ?? given[0]).includes("queue/join")) {
            const milliseconds = wait;
            wait = 0;
            await new Promise((done) => setTimeout(done, milliseconds));
        }
        return fetch(...given);
    };
}"""


@pytest.mark.parametrize("name, text", [("Clear", INVITATION), ("8", "8")])
def test_a_late_answer_does_not_stay(name, text, open_page):
    page = open_page()
    draw(page, 7)
    expect(said(page)).to_have_text("7")
    page.wait_for_timeout(1000)  # until the last stroke is answered, too
    page.evaluate(DELAY)
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("button", name=name, exact=True).first.click()
    page.wait_for_timeout(4000)
    expect(said(page)).to_have_text(text)


def a_one():
    """A 1, in blue on yellowish paper."""
    pixels = np.full((90, 120, 3), (240, 230, 220), "uint8")
    pixels[20:70, 55:62] = (20, 20, 90)
    return as_file("one.jpg", Image.fromarray(pixels), "JPEG")


@pytest.mark.parametrize("how", ["sample", "upload"])
def test_what_comes_before_clear_does_not_stay(how, open_page):
    page = open_page()
    draw(page, 7)
    expect(said(page)).to_have_text("7")
    page.wait_for_timeout(1000)  # until the last stroke is answered, too
    page.evaluate(DELAY)
    if how == "sample":
        page.get_by_role("button", name="8", exact=True).first.click()
    else:
        upload(page, a_one())
        page.wait_for_timeout(500)
    page.get_by_role("button", name="Clear", exact=True).first.click()
    page.wait_for_timeout(4000)
    expect(said(page)).to_have_text(INVITATION)


def test_by_keyboard_alone(open_page):
    page = open_page()
    # The samples may appear after the pad.
    page.locator("button", has_text=re.compile(r"^\s*5\s*$")).first.wait_for()
    expect(said(page)).to_have_text(INVITATION)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.innerText") == "5":
            break
    page.keyboard.press("Enter")
    expect(said(page)).to_have_text("5")


def test_an_uploaded_picture_is_read(open_page):
    page = open_page()
    upload(page, a_one())
    expect(said(page)).to_have_text("1")


def test_what_is_no_picture_is_refused_kindly(open_page):
    page = open_page()
    draw(page, 7)
    expect(said(page)).to_have_text("7")
    rubbish = {"mimeType": "image/png", "buffer": b"rubbish" * 99}
    files = {
        "no picture that can be read": {"name": "rubbish.png", **rubbish},
        "too many pixels": as_file("bomb.png", Image.new("1", (9000, 9000))),
        "maximum allowed size": {
            "name": "large.png",
            "mimeType": "image/png",
            "buffer": bytes(11 * 2**20),
        },
        "Nothing stands out": as_file("blank.png", Image.new("L", (50, 50))),
        "Invalid file type": {**rubbish, "name": "x", "mimeType": "text/plain"},
    }
    for text, file in files.items():
        upload(page, file)
        expect(page.get_by_text(text)).to_be_visible()
    expect(said(page)).to_have_text("7")  # the drawing is left as it was


def test_two_digits(open_page):
    page = open_page()
    page.get_by_role("tab", name="Two digits").click()
    expect(said(page)).to_have_text("Draw a digit on each pad.")
    draw(page, 2, pad=0)
    draw(page, 7, pad=1)
    expect(said(page)).to_have_text(re.compile("^(2 and 7|7 and 2)$"))
    expect(page.get_by_alt_text("decoded from")).to_have_count(2)
    expect(page.get_by_alt_text("what supports")).to_have_count(2)
    seen = page.get_by_alt_text("what the network sees")
    before = seen.get_attribute("src")
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    expect(seen).not_to_have_attribute("src", before)


def test_compare(open_page):
    page = open_page()
    page.get_by_role("tab", name="Compare").click()
    draw(page, 3)
    expect(said(page, 0)).to_have_text("3")
    expect(said(page, 1)).to_have_text(re.compile(r"^\d$"))  # is untrained
    expect(page.get_by_text("score of each class")).to_have_count(1)
    page.get_by_label("Right network").click()
    page.get_by_role("option", name="EfficientCapsNet, mnist").click()
    expect(said(page, 1)).to_have_text("3")


def test_two_pages_at_once(open_page):
    pages = {digit: open_page() for digit in (3, 7)}
    for digit, page in pages.items():
        draw(page, digit)
    for digit, page in pages.items():
        expect(said(page)).to_have_text(str(digit))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(open_page, scheme):
    page = open_page(
        viewport={"width": 390, "height": 844},
        color_scheme=scheme,
        has_touch=True,
        is_mobile=True,
    )
    touch(page, 3)
    expect(said(page)).to_have_text("3")
    # The page was not scrolled by the finger.
    assert page.evaluate("window.scrollY") == 0
    for tab in ("One digit", "Two digits", "Compare"):
        page.get_by_role("tab", name=tab).click()
        page.locator(".pad canvas:visible").first.wait_for()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
    # Text stands out from the page.
    ink, paper = (
        np.mean([float(x) for x in re.findall(r"[\d.]+", colour)[:3]])
        for colour in page.evaluate(
            """[
                getComputedStyle(document.querySelector(".said")).color,
                getComputedStyle(document.body).backgroundColor,
            ]"""
        )
    )
    assert (paper < ink) == (scheme == "dark")
    assert abs(paper - ink) > 150


def test_nothing_is_loaded_from_other_hosts(open_page, explorer):
    page = open_page()  # what it asks for is checked there
    loaded = page.evaluate(
        """[...document.querySelectorAll("[src], link[href]")].map(
            (each) => each.src || each.href
        )"""
    )
    assert loaded
    for address in loaded:
        assert address.startswith((explorer, "data:")), address
    assert page.evaluate("!window.gradio_config.analytics_enabled")
