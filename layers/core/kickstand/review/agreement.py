"""How often reviewers are wrong: by photos that two of them answered, and golden photos shown unannounced."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from kickstand.events import Payload, Probability, hash_upload
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.review.rules import AUDIT, CANNOT_TELL, Review
from kickstand.text import counted


class Agreement(Payload):
    """How often reviewers agree, and so how often they are wrong at most.

    pairs: photos that two reviewers answered, neither of them with "can't tell". disagreed: pairs whose answers differ.
    golden: answers about golden photos, other than "can't tell". golden_wrong: those that are wrong.
    label_error: estimated share of people's answers that are wrong, if all photos are equally hard.
    label_error_at_most: its upper bound, one-sided, at confidence_level, even if some photos are harder than others.
        Both are None without pairs.
    """

    pairs: int
    disagreed: int
    golden: int
    golden_wrong: int
    label_error: Probability | None
    label_error_at_most: Probability | None
    confidence_level: float


def agreement(records: Iterable[Record], confidence_level: float = 0.95) -> Agreement:
    """The agreement in these records.

    >>> agreement([]).label_error_at_most is None
    True
    """
    pairs = disagreed = shown = wrong = 0
    for record in records:
        review = record.review
        if review and review.answer and review.second and CANNOT_TELL not in (review.answer.label, review.second.label):
            pairs += 1
            disagreed += review.answer.label != review.second.label
        if review and review.golden and review.golden.label != CANNOT_TELL:
            shown += 1
            wrong += review.golden.label != review.golden.expected
    return conclude(pairs, disagreed, shown, wrong, confidence_level)


FEWEST_CHECKS, MOST_WRONG = 5, 0.2
"""A reviewer is known after this many checks, and trusted while at most this share of them failed."""
UNCONFIRMED = 20
"""This many unconfirmed answers per label always count for each reviewer, and for all unknown reviewers together."""
PART = 4
"""Beyond that, at most one for this many photos of the base: one person's answers are at most a fifth of both."""


def choose_answers(reviews: Iterable[Review], base: Mapping[tuple[bool, str], int]) -> Iterator[tuple[Review, str]]:
    """The answered reviews, each with the reason why its answer is not used for training or testing; empty if it is.

    base: photos of the base dataset, by whether they are held out and what they show.

    Checks are second answers and golden photos. An answer that two reviewers agree on is confirmed, and counts; of two
    contradictory ones neither does. Of the others only a limited number counts for each reviewer and label, in training
    and among the held-out photos: no single person determines what the model learns, or how it is tested. Reviewers who
    are not known yet share one limit, since a name is quickly invented. A hash of the photo's name selects the answers
    that count, not the time of the answer.
    """
    answered = [review for review in reviews if review.answer]
    checks, wrong = Counter[str](), Counter[str]()
    for review in answered:
        for who, went_wrong in _checks(review):
            checks[who] += 1
            wrong[who] += went_wrong
    used = Counter[tuple[str, bool, str]]()
    for review in sorted(answered, key=lambda review: hash_upload(*review.key)):
        if review.answer is None or review.answer.label == CANNOT_TELL:
            yield review, "" if review.answer is None else CANNOT_TELL
            continue
        who, label, held_out = review.answer.reviewer.casefold(), review.answer.label, review.why == AUDIT
        second = review.second.label if review.second and review.second.label != CANNOT_TELL else None
        if second is not None:
            yield review, "" if second == label else "contradictory"
            continue
        known = checks[who] >= FEWEST_CHECKS
        if known and wrong[who] > MOST_WRONG * checks[who]:
            yield review, "not_trusted"
            continue
        place = who if known else "", held_out, label
        allowed = max(UNCONFIRMED, base.get((held_out, label), 0) // PART)
        used[place] += 1
        yield review, "" if used[place] <= allowed else "too_many_of_one"


def _checks(review: Review) -> Iterator[tuple[str, bool]]:
    """The reviewers checked by this review, and whether they failed: if two disagree, both fail."""
    first, second, golden = review.answer, review.second, review.golden
    if first and second and CANNOT_TELL not in (first.label, second.label):
        for one in (first, second):
            yield one.reviewer.casefold(), first.label != second.label
    if first and golden and golden.label != CANNOT_TELL:
        yield first.reviewer.casefold(), golden.label != golden.expected


def conclude(pairs: int, disagreed: int, golden: int, wrong: int, confidence_level: float = 0.95) -> Agreement:
    """The label error that these numbers support.

    Let each reviewer be wrong about a photo with probability e, independently. With two possible answers, two reviewers
    disagree with probability 2e(1 - e): one is right, the other wrong. With more possible answers they disagree at
    least as often, since two wrong answers may differ. If e is the same for all photos, the share d of disagreeing
    pairs gives the estimate e = (1 - √(1 - 2d)) / 2.

    If some photos are harder than others, that formula is too small: 1 photo in 10 with e = 0.3 gives d = 0.042, hence
    0.021, although 0.03 are wrong. But 2e(1 - e) ≥ e for every e ≤ 1/2, so the mean of e is at most d for any photos:
    the upper bound of d (Clopper–Pearson) is also one of the label error. If the second reviewer is wrong with another
    probability f, the same holds, since e(1 - f) + f(1 - e) ≥ e.

    Assumptions: the first reviewer is wrong about no photo with probability above 1/2; the two are wrong independently,
    given the photo; photos with two answers are like those with one.

    Golden photos are easy, so they give no bound without pairs. But two reviewers who always press the same button
    agree, and golden photos reveal it: if answers about them are wrong, the larger of both bounds counts.

    >>> found = conclude(pairs=60, disagreed=3, golden=20, wrong=0)
    >>> f"{found.label_error:.3f}, at most {found.label_error_at_most:.3f}"
    '0.026, at most 0.124'
    >>> conclude(pairs=60, disagreed=0, golden=20, wrong=6).label_error
    0.3
    """
    likely = at_most = None
    if pairs:
        likely = (1 - math.sqrt(1 - 2 * min(0.5, disagreed / pairs))) / 2
        at_most = upper_bound(disagreed, pairs, confidence_level)
        if wrong:
            likely, at_most = max(likely, wrong / golden), max(at_most, upper_bound(wrong, golden, confidence_level))
    return Agreement(
        pairs=pairs,
        disagreed=disagreed,
        golden=golden,
        golden_wrong=wrong,
        label_error=None if likely is None else round(likely, 6),
        label_error_at_most=None if at_most is None else math.ceil(at_most * 1e6) / 1e6,
        confidence_level=confidence_level,
    )


def describe(found: Agreement) -> str:
    """The agreement in one sentence; without pairs, what is missing.

    >>> describe(conclude(pairs=60, disagreed=3, golden=0, wrong=0))
    'Reviewers agreed on 57 of 60 photos that two people saw; so at most 12.5 % of their answers are wrong (95 %).'
    """
    if found.label_error_at_most is None:
        told = "No photo has answers of two people yet, so it is unknown how often reviewers are wrong."
    else:
        told = (
            f"Reviewers agreed on {found.pairs - found.disagreed:,} of {counted(found.pairs, 'photo')} that two people "
            f"saw; so at most {math.ceil(1000 * found.label_error_at_most) / 10:.1f} % of their answers are wrong "
            f"({100 * found.confidence_level:g} %)."
        )
    if found.golden:
        told += f" Of {found.golden:,} answers about golden photos {found.golden_wrong:,} were wrong."
    return told
