"""How often do reviewers err? From photos that two of them answered, and from golden photos shown unannounced."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from kickstand.events import Payload, Probability
from kickstand.quality import upper_bound
from kickstand.records import Record
from kickstand.review.rules import AUDIT, CANNOT_TELL, Review


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


FEWEST_CHECKS, MOST_WRONG = 5, 0.2
"""A reviewer is known after so many checks, and vouched for while at most this share of them went against them."""
UNCONFIRMED = 20
"""So many unconfirmed answers about one label each reviewer may give in any case, and all unknown ones together."""
PART = 4
"""Else at most one for so many images of the base: one person's answers are at most a fifth of both."""


def choose_answers(reviews: Iterable[Review], base: Mapping[tuple[bool, str], int]) -> Iterator[tuple[Review, str]]:
    """The answered reviews, each with why its answer is not to be learnt from or tested by; empty where it is.

    base: images of the base dataset, by whether they are held out and what they show.

    Checks are second answers and golden photos. An answer that two reviewers gave alike is confirmed, and counts; of
    contradictory ones neither does. Of the others only so many count for each reviewer and label, in training and
    among the held-out images: nobody alone is to say what the model learns, and what it is tested by. Reviewers who
    are not known yet share one allowance, since a name is quickly invented. Which answers count is drawn by the
    photo's name, not by when it was answered.
    """
    answered = [review for review in reviews if review.answer]
    checks, wrong = Counter[str](), Counter[str]()
    for review in answered:
        for who, went_wrong in _checks(review):
            checks[who] += 1
            wrong[who] += went_wrong
    used = Counter[tuple[str, bool, str]]()
    for review in sorted(answered, key=_draw):
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
    """Who was checked by this review, and whether it went against them: of two who disagree, against both."""
    first, second, golden = review.answer, review.second, review.golden
    if first and second and CANNOT_TELL not in (first.label, second.label):
        for one in (first, second):
            yield one.reviewer.casefold(), first.label != second.label
    if first and golden and golden.label != CANNOT_TELL:
        yield first.reviewer.casefold(), golden.label != golden.expected


def _draw(review: Review) -> bytes:
    return hashlib.sha256(f"{review.image}\n{review.version}".encode()).digest()


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
