"""How often do reviewers err? From photos that two of them answered, and from golden photos shown unannounced."""

import math
from collections.abc import Iterable

from kickstand.events import Payload, Probability
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.review.rules import CANNOT_TELL


class Agreement(Payload):
    """How often reviewers agree, and so how often they err at most.

    pairs: photos that two reviewers answered, neither of them with "can't tell". disagreed: pairs whose answers differ.
    golden: answers about golden photos, other than "can't tell". golden_wrong: those that are wrong.
    label_error: estimated share of people's answers that are wrong, if all photos are equally hard.
    label_error_at_most: its upper bound, one-sided, at confidence_level; photos may differ in how hard they are.
        Both are None without pairs.
    """

    pairs: int
    disagreed: int
    golden: int
    golden_wrong: int
    label_error: Probability | None
    label_error_at_most: Probability | None
    confidence_level: float


def agreement(records: Iterable[Record], golden: tuple[int, int] = (0, 0), confidence_level: float = 0.95) -> Agreement:
    """What these records say of the people who answered.

    golden: further answers about golden photos, and how many of them are wrong, beside those in the records.

    >>> agreement([]).label_error_at_most is None
    True
    """
    pairs = disagreed = 0
    shown, wrong = golden
    for record in records:
        review = record.review
        if review and review.answer and review.second and CANNOT_TELL not in (review.answer.label, review.second.label):
            pairs += 1
            disagreed += review.answer.label != review.second.label
        if review and review.golden and review.golden.label != CANNOT_TELL:
            shown += 1
            wrong += review.golden.label != review.golden.expected
    return conclude(pairs, disagreed, shown, wrong, confidence_level)


def conclude(pairs: int, disagreed: int, golden: int, wrong: int, confidence_level: float = 0.95) -> Agreement:
    """The label error that these numbers support.

    Let each reviewer err on a photo with probability e, independently. Two of them disagree with probability 2e(1 - e)
    where there are two possible answers: one is right, the other wrong. With more possible answers they disagree at
    least as often, since two wrong answers may differ. If e is the same for all photos, the share d of pairs that
    disagree gives e = (1 - √(1 - 2d)) / 2: the estimate.

    Some photos are harder than others, though, and then that formula is too small: 1 photo in 10 with e = 0.3 gives
    d = 0.042, hence 0.021, where 0.03 are wrong. But 2e(1 - e) ≥ e for every e ≤ 1/2, so the mean of e is at most d,
    whatever the photos are: the upper bound of d (Clopper–Pearson) is one of the label error. If the second reviewer
    errs with another probability f, the same holds, since e(1 - f) + f(1 - e) ≥ e.

    Assumed: on no photo does the first reviewer err with probability above 1/2; the two err independently, given the
    photo; the photos that two have answered are like those that one has.

    Golden photos are easy, so they give no bound without pairs. But two reviewers who press the same button unseen
    agree, and golden photos show it: where answers about them are wrong, the larger of both bounds counts.

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
    """In one sentence; without pairs, what is missing.

    >>> describe(conclude(pairs=60, disagreed=3, golden=0, wrong=0))
    'Reviewers agreed on 57 of 60 photos that two people saw; so at most 12.5 % of their answers are wrong (95 %).'
    """
    if found.label_error_at_most is None:
        told = "No two people have said of one photo what it shows, so nothing is known of how often reviewers err."
    else:
        told = (
            f"Reviewers agreed on {found.pairs - found.disagreed:,} of {found.pairs:,} photos that two people saw; "
            f"so at most {math.ceil(1000 * found.label_error_at_most) / 10:.1f} % of their answers are wrong "
            f"({100 * found.confidence_level:g} %)."
        )
    if found.golden:
        told += f" Of {found.golden:,} answers about golden photos {found.golden_wrong:,} were wrong."
    return told
