"""Capsules on text of any length: which complaints does a review contain?

    python examples/text.py
    python examples/text.py --epochs 1 --reviews 500    # a quick look

The reviews are made up. Each has two to six clauses in any order, such as "the
food was not bad", "i found the room dirty" or "we came on a monday". The labels
are the complaints: any number of food, staff, room and price, or none at all.
Words alone do not tell: "not good" is a complaint, "not bad" is none, and
every adjective is used with every subject.

    Embedding(mask_zero=True) -> Bidirectional(GRU) -> CapsuleLayer
        -> CapsuleLength

Every word is an input capsule, and every complaint an output capsule, whose
length is the probability that the review contains it. Words that are padding
vote for nothing, so more padding does not change the scores.

Expected result, after two minutes on two CPU cores: exactly the right
complaints are found in nearly all test reviews (100.0 % of 1000 with seed 0).
The answer "none" is right for about 23 %. During the first four epochs the
network seems to learn little.
"""

import argparse

import keras
import numpy as np

from keras_capsules import CapsuleLayer
from keras_capsules import CapsuleLength
from keras_capsules import MarginLoss
from keras_capsules.metrics import ExactMatchAccuracy

COMPLAINTS = ["food", "staff", "room", "price"]
GOOD = ["good", "great", "fine", "lovely", "perfect"]
BAD = ["bad", "awful", "poor", "dreadful", "disappointing"]
OTHER = [
    "we came on a monday",
    "my sister had recommended it",
    "it is near the station",
    "a good friend was with us",
    "it had been a bad week",
]
TEMPLATES = [
    "the {subject} was {opinion}",
    "i found the {subject} {opinion}",
    "{opinion} was the {subject}",
    "what we thought of the {subject} was {opinion}",
]


def main(argv=None):
    arguments = parse(argv)
    keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    reviews, labels = make_reviews(rng, arguments.reviews)
    test_reviews, test_labels = make_reviews(rng, 1000)
    words = number_words(reviews)
    longest = max(len(review.split()) for review in reviews + test_reviews)

    model = make_model(len(words))
    model.compile(
        keras.optimizers.Adam(0.003),
        MarginLoss(),
        metrics=[ExactMatchAccuracy()],
    )
    model.summary()
    model.fit(
        to_numbers(reviews, words, longest),
        labels,
        batch_size=64,
        epochs=arguments.epochs,
        validation_split=0.1,
    )
    _, right = model.evaluate(
        to_numbers(test_reviews, words, longest), test_labels, verbose=0
    )
    print(f"\nTest reviews with exactly the right complaints: {right:.1%}")

    review = "the food was not bad and the staff was dreadful"
    scores = model.predict(to_numbers([review], words), verbose=0)[0]
    print(f"\n{review}")
    for name, score in zip(COMPLAINTS, scores, strict=True):
        print(f"  {name:<6} {score:.2f}")
    padded = to_numbers([review], words, 5 * longest)
    difference = np.abs(model.predict(padded, verbose=0)[0] - scores).max()
    print(
        f"With {np.sum(padded == 0)} words of padding the scores differ by "
        f"{difference:.0e}."
    )


def make_model(num_words):
    """A network for texts of any length, as numbers of words; 0 is padding."""
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32", name="words"),
            keras.layers.Embedding(num_words + 1, 32, mask_zero=True),
            keras.layers.Bidirectional(
                keras.layers.GRU(32, return_sequences=True)
            ),
            # One matrix for each complaint, the same for all words, because
            # the number of words is unknown.
            CapsuleLayer(len(COMPLAINTS), 8, share_over_positions=True),
            CapsuleLength(),
        ]
    )


def make_reviews(rng, number):
    """Texts and the complaints in each, as multi-hot labels."""
    reviews, labels = [], np.zeros((number, len(COMPLAINTS)), "float32")
    for label in labels:
        clauses = list(rng.choice(OTHER, rng.integers(1, 3), replace=False))
        subjects = rng.permutation(len(COMPLAINTS))[: rng.integers(1, 5)]
        for subject in subjects:
            complaint, negated = rng.integers(0, 2, 2)
            opinion = rng.choice(BAD if complaint != negated else GOOD)
            clauses.append(
                rng.choice(TEMPLATES).format(
                    subject=COMPLAINTS[subject],
                    opinion=f"not {opinion}" if negated else opinion,
                )
            )
            label[subject] = complaint
        rng.shuffle(clauses)
        reviews.append(" and ".join(clauses))
    return reviews, labels


def number_words(reviews):
    """A number from 1 on for each word; 0 is kept for padding."""
    words = sorted({word for review in reviews for word in review.split()})
    return {word: number for number, word in enumerate(words, start=1)}


def to_numbers(reviews, words, length=None):
    """The numbers of the words of each review, padded at the end."""
    numbers = [[words[word] for word in review.split()] for review in reviews]
    return keras.utils.pad_sequences(numbers, length, padding="post")


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--reviews", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
