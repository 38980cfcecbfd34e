"""The benchmark of claims: its changes of images, its measures, its page."""

import argparse
import importlib
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_capsules import datasets
from keras_capsules import models

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="makes its gradients"
)
GENERATOR = np.random.default_rng(11)
IMAGES = GENERATOR.uniform(0.1, 0.9, (23, 28, 28, 1)).astype("float32")


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("claims")


def test_half_of_the_images_turn_to_each_side(claims):
    for times, degrees in ((0, 0), (1, 90), (2, 180)):
        turned = claims.turned(IMAGES, degrees)
        for number, image in enumerate(IMAGES):
            sign = -1 if number % 2 else 1
            expected = np.rot90(image, sign * times)
            np.testing.assert_allclose(turned[number], expected, atol=1e-3)


def test_noise_squares_and_contrast(claims):
    noisy = claims.noisy(np.full((23, 28, 28, 1), 0.5, "float32"), 0.05)
    assert noisy.std() == pytest.approx(0.05, rel=0.05)
    covered = claims.covered(IMAGES, 6)
    assert ((covered == 0).sum(axis=(1, 2, 3)) == 36).all()
    assert (covered[covered > 0] == IMAGES[covered > 0]).all()
    assert len({tuple(np.argwhere(x == 0)[0]) for x in covered}) > 15
    np.testing.assert_allclose(claims.faint(IMAGES, 0.5), IMAGES / 2)


def test_no_quadrant_stays_in_its_place(claims):
    swapped = claims.swapped(IMAGES)

    def quadrants(image):
        return [
            image[row : row + 14, column : column + 14]
            for row in (0, 14)
            for column in (0, 14)
        ]

    for image, result in zip(IMAGES, swapped, strict=True):
        before, after = quadrants(image), quadrants(result)
        sources = [
            [bool((x == y).all()) for y in before].index(True) for x in after
        ]
        assert sorted(sources) == [0, 1, 2, 3]
        assert all(x != y for x, y in enumerate(sources))


def test_attacks_stay_within_their_limit(claims):
    keras.utils.set_random_seed(1)
    model = models.ConvNet(filters=(3,), units=(5,))
    labels = np.arange(23) % 10
    largest = 0.03

    def leads(images):
        logs = np.log(claims.predict(model, images))
        right = logs[np.arange(23), labels]
        logs[np.arange(23), labels] = -np.inf
        return right - logs.max(axis=1)

    gradient = claims.attack_gradient(model, claims.LEADS["logarithms"])
    means = [leads(IMAGES).mean()]
    for options in ({"steps": 1}, {"steps": 20}, {"steps": 20, "seed": 1}):
        changed = claims.attack(
            gradient, IMAGES, labels, largest=largest, **options
        )
        assert np.abs(changed - IMAGES).max() <= largest + 1e-6
        assert changed.min() >= 0 and changed.max() <= 1
        means.append(leads(changed).mean())
    # Many small steps find more than a large one, from wherever they start.
    assert max(means[2:]) < means[1] - 1e-4 and means[1] < means[0]
    assert means[2] != means[3]


@pytest.mark.parametrize("name", ["logarithms", "scores", "before squash"])
def test_leads_that_attacks_lower(claims, name):
    """The gradient raises the lead of the label over the best other class."""
    keras.utils.set_random_seed(2)
    model = models.EfficientCapsNet(
        filters=(3,),
        kernel_sizes=9,
        conv_strides=(2, 3),
        num_primary_capsules=3,
        decoder_units=None,
    )
    images, labels = IMAGES[:3], np.array([7, 0, 3])
    gradient = claims.attack_gradient(model, claims.LEADS[name])

    def lead(images):
        scores = claims.predict(model, images).astype("float64")
        values = {
            "logarithms": np.log(scores + 1e-9),
            "scores": scores,
            "before squash": -np.log(1 - scores),
        }[name]
        right = values[np.arange(3), labels]
        values[np.arange(3), labels] = -np.inf
        return right - values.max(axis=1)

    direction = gradient(tf.constant(images), tf.constant(labels)).numpy()
    change = 0.001 * direction / np.abs(direction).max()
    growth = lead(images + change) - lead(images - change)
    expected = 2 * (direction * change).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(growth, expected, rtol=0.1)
    assert (growth > 0).all()


def test_an_image_is_wrong_if_any_attack_succeeds(claims, monkeypatch):
    right = np.arange(23) % 10
    # Which attacks, by their steps and the number of the lead, succeed on what.
    spoiled = {0: (1, 0), 1: (1, 2), 2: (20, 1), 3: (20, 0), 4: (50, 2)}
    monkeypatch.setattr(
        claims,
        "attack_gradient",
        lambda model, lead: list(claims.LEADS.values()).index(lead),
    )

    def attack(gradient, images, labels, largest, steps, seed=None):
        assert len(images) == len(labels)
        assert (seed is not None) == (steps == 50)
        changed = images.copy()
        changed[:, 0, 0, 0] = 100 * steps + gradient
        return changed

    def predict(model, images):
        codes = images[:, 0, 0, 0]
        wrong = [
            number in spoiled
            and code == 100 * spoiled[number][0] + spoiled[number][1]
            for number, code in enumerate(codes)
        ]
        return np.eye(10)[(right + wrong) % 10]

    monkeypatch.setattr(claims, "attack", attack)
    monkeypatch.setattr(claims, "predict", predict)
    found = claims.attacks(None, IMAGES, right)
    assert list(found["any"]) == [str(each) for each in claims.ATTACKS]
    for claim, number in (("fgsm", 2), ("pgd", 2), ("any", 5)):
        expected = pytest.approx(100 * number / 23, abs=1e-3)
        assert found[claim]["0.1"] == expected


def test_two_networks_image_by_image(claims):
    # 17 and 25 of 42: as SciPy's binomtest(17, 42) says.
    assert claims.mcnemar(17, 25) == pytest.approx(0.2800, abs=1e-4)
    assert claims.mcnemar(25, 17) == claims.mcnemar(17, 25)
    assert claims.mcnemar(0, 0) == 1 and claims.mcnemar(3, 3) == 1
    assert claims.mcnemar(0, 10) == pytest.approx(2 / 2**10)
    found = {
        "a": {"network": "efficient_capsnet", "seed": 4, "wrong": [1, 2, 5]},
        "b": {"network": "conv_net", "seed": 7, "wrong": [2, 3]},
    }
    *_, row, end = claims.pairs_of(found)
    expected = "| EfficientCapsNet, seed 4 | ConvNet, seed 7 | 2 | 1 | 1.0 |"
    assert row == expected and end == ""
    found |= {
        "c": {"network": "conv_net", "seed": 8, "wrong": []},
        "d": {"network": "squeeze_excitation_net", "seed": 0, "wrong": [3]},
    }
    _, _, *rows, _ = claims.pairs_of(found)  # not those of one network
    assert len(rows) == 5
    assert rows[-1].startswith("| ConvNet, seed 8 | SqueezeExcitationNet,")


def test_how_sure_a_network_is(claims):
    digits = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    others = np.array([[0.5, 0.5], [0.7, 0.3], [0.1, 0.05]])
    found = claims.sureness(digits, others)
    assert found["digits"] == pytest.approx(0.7667, abs=1e-4)
    assert found["swapped"] == pytest.approx(0.4333, abs=1e-4)
    assert found["same_class"] == pytest.approx(66.67)
    # 0.6 is less than 0.7: eight of nine pairs.
    assert found["told_apart"] == pytest.approx(8 / 9, abs=1e-4)
    # Scores that are the same tell nothing.
    assert claims.sureness(digits, digits[::-1])["told_apart"] == 0.5
    assert claims.sureness(np.ones((7, 2)), np.ones((7, 2)))[
        "told_apart"
    ] == pytest.approx(0.5)


def test_calibration(claims):
    """Probabilities that are right are calibrated; their squares are not."""
    generator = np.random.default_rng(2)
    logits = generator.normal(0, 2, (40_000, 5))
    right = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    draws = generator.uniform(size=(len(right), 1))
    labels = (right.cumsum(axis=1) < draws).sum(axis=1)
    assert claims.calibration(right, labels)["raw"] < 1
    bold = right**2 / (right**2).sum(axis=1, keepdims=True)
    found = claims.calibration(bold, labels)
    assert found["raw"] > 5 and found["tempered"] < 1
    assert found["temperatures"] == pytest.approx([2, 2], rel=0.1)
    # By hand: one bin of accuracy 0.5, one of accuracy 1.
    confidence = np.array([0.61, 0.63, 0.99, 0.97])
    hits = np.array([True, False, True, True])
    assert claims.expected_error(confidence, hits) == pytest.approx(
        100 * (0.5 * 0.12 + 0.5 * 0.02)
    )


def test_networks_that_are_recorded_can_be_measured_again(claims):
    """From a clone: no run is there, only what is kept, or its figures."""
    recorded = importlib.import_module("recorded")
    equivariance = importlib.import_module("equivariance")
    runs = claims.evidence.RUNS
    arguments = argparse.Namespace(records=runs, runs=ROOT / "none")
    for benchmark, kinds, networks in (
        ("claims", ("",), claims.SAME_SIZE),
        ("equivariance", equivariance.KINDS, tuple(claims.FAMILIES)),
    ):
        earlier = claims.harness.read(benchmark, runs.parent)["networks"]
        found = recorded.recorded(runs, kinds, networks)
        assert "mnist-efficient_capsnet-seed0" in found
        for name, record in found.items():
            if recorded.is_gone(name, record, arguments):
                recorded.earlier_of(earlier, name, record)
            else:
                recorded.load(name, record, arguments)


def test_page_and_picture(claims, tmp_path, monkeypatch):
    try:
        datasets.load_arrays("mnist", "test")
    except ConnectionError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(claims, "ANGLES", (0, 30))
    monkeypatch.setattr(claims, "ATTACKED", 7)
    options = {"filters": [3], "units": [5]}
    for seed in (0, 1):
        run = tmp_path / "runs" / f"mnist-conv_net-seed{seed}"
        run.mkdir(parents=True)
        record = {
            "network": "conv_net",
            "parameters": 1234,
            "seed": seed,
            "commits": [],
            "settings": {"options": options},
        }
        (run / "record.json").write_text(json.dumps(record))
        (tmp_path / "records").mkdir(exist_ok=True)
        kept = tmp_path / "records" / f"{run.name}.json"
        kept.write_text(json.dumps(record))
        models.ConvNet(**options).save_weights(run / "model.weights.h5")
    few = [
        {
            "network": "efficient_capsnet",
            "settings": {"per_class": number},
            "task": task,
            "seed": 0,
            "name": f"{task}-efficient_capsnet-few{number}-seed0",
            "test_error": error,
        }
        for number, error, task in (
            (100, 3.0, "mnist"),
            (1, 10.0, "mnist"),
            (1, 14.0, "mnist"),
            (1, 90.0, "fashion_mnist"),
            (None, 0.5, "mnist"),
        )
    ]
    few += [
        {
            "network": network,
            "settings": {},
            "task": task,
            "seed": seed,
            "name": f"{task}-{network}{size}-seed{seed}",
            "test_error": error,
        }
        for network, task, size, seed, error in (
            ("conv_net", "affine_mnist", "", 0, 6.0),
            ("conv_net", "affine_mnist", "", 1, 8.0),
            ("efficient_capsnet", "affine_mnist", "", 0, 2.5),
            ("efficient_capsnet", "affine_mnist", "-11k", 0, 99.0),
            # Both are of other sizes than those of other tasks.
            ("conv_net", "multi_mnist", "-deep", 0, 9.0),
            ("efficient_capsnet", "multi_mnist", "-deep", 0, 6.0),
            ("efficient_capsnet", "multi_mnist", "-both_above_half", 0, 99.0),
            ("conv_net", "cifar10", "", 0, 13.0),
        )
    ]
    monkeypatch.setattr(claims.evidence, "read", lambda folder: few)
    page = tmp_path / "docs" / "claims.md"
    page.parent.mkdir()
    page.write_text((ROOT / "docs" / "claims.md").read_text())
    arguments = ["claims", f"--runs={tmp_path / 'runs'}", "--images=50"]
    arguments += [f"--page={page}", f"--output={tmp_path}"]
    arguments += [f"--records={tmp_path / 'records'}"]
    monkeypatch.setattr("sys.argv", arguments)
    claims.main()
    text = page.read_text()
    figures = text.split("<!-- figures -->")[1]
    assert figures.count("| ConvNet |") == 9 and "±" in figures
    # CIFAR-10 has only one network: there is nothing to compare.
    head = "| Test error, % | affine MNIST | MultiMNIST, both digits right |\n"
    assert head in text
    assert "| EfficientCapsNet | 2.50 | 6.00 |\n" in text
    assert "| ConvNet | 7.00 ± 1.41 | 9.00 |\n" in text
    assert (page.parent / "claims-tasks.png").stat().st_size > 1000
    row = "| EfficientCapsNet | 12.00 ± 2.83 | 3.00 |"
    assert row in text
    assert (page.parent / "claims-less-data.png").stat().st_size > 1000
    assert (page.parent / "claims.png").stat().st_size > 1000
    results = json.loads((tmp_path / "claims.json").read_text())
    assert set(results["networks"]) == {
        "mnist-conv_net-seed0",
        "mnist-conv_net-seed1",
    }
    monkeypatch.setattr("sys.argv", [*arguments, "--redraw"])
    claims.main()
    assert page.read_text() == text
    # Weights are kept: the same figures again, without the runs.
    shutil.rmtree(tmp_path / "runs")
    monkeypatch.setattr("sys.argv", arguments)
    claims.main()
    again = json.loads((tmp_path / "claims.json").read_text())
    assert again["networks"] == results["networks"]
    # Others than those that are asked for stay as they are.
    with monkeypatch.context() as patch:
        patch.setattr("recorded.load", None)
        patch.setattr(
            "sys.argv", [*arguments, "--networks", "efficient_capsnet"]
        )
        claims.main()
        kept = json.loads((tmp_path / "claims.json").read_text())
        assert kept["networks"] == results["networks"]
    # Figures of networks that are too large to be kept stay, if they are of
    # the same records.
    with monkeypatch.context() as patch:
        patch.setattr("recorded.LARGEST", 1000)
        patch.setattr("recorded.load", None)
        claims.main()
        kept = json.loads((tmp_path / "claims.json").read_text())
        assert kept["networks"] == results["networks"]
        first = tmp_path / "records" / "mnist-conv_net-seed0.json"
        text = first.read_text()
        first.write_text(text.replace("1234", "5678"))
        with pytest.raises(
            ValueError, match="no figures of a network.*another rec"
        ):
            claims.main()
        first.write_text(text)
    # Runs of other settings than the record's are not taken for it.
    other = tmp_path / "runs" / "mnist-conv_net-seed1"
    other.mkdir(parents=True)
    (other / "record.json").write_text("{}")
    kept = tmp_path / "records" / "mnist-conv_net-seed1"
    kept.with_suffix(".npz").unlink()
    with pytest.raises(ValueError, match="weights are not there.*Received: ru"):
        claims.main()
    kept.with_suffix(".json").unlink()
    path = tmp_path / "records" / "mnist-conv_net-seed0.json"
    text = path.read_text()
    path.write_text(text.replace("1234", "5678"))
    with pytest.raises(ValueError, match="another record.*seed0.npz"):
        claims.main()
    path.unlink()
    with pytest.raises(ValueError, match="No networks are rec.*records='recor"):
        claims.main()
    assert json.loads((tmp_path / "claims.json").read_text()) == again
