"""The evaluator says what AWS's guide says of the guide's own examples."""

from typing import Any

import pytest

from tests.contracts.policies import Request, allows

# The pages named below are in https://docs.aws.amazon.com/IAM/latest/UserGuide/
BUCKET = "arn:aws:s3:::amzn-s3-demo-bucket"


def asked(action: str, resource: str, **context: str | list[str]) -> Request:
    """context: condition keys, with `__` for the colon."""
    pairs = {
        (key.replace("__", ":"), one)
        for key, value in context.items()
        for one in ([value] if isinstance(value, str) else value)
    }
    return Request(action, resource, frozenset(pairs))


def allow(**rest: Any) -> dict[str, Any]:
    return {"Effect": "Allow", **({"Resource": "*"} if "NotResource" not in rest else {}), **rest}


# reference_policies_elements_resource.html, "Using wildcards in resource ARNs"
@pytest.mark.parametrize(
    ("key", "matches"),
    [
        ("1/test/object.jpg", True),
        ("1/2/test/object.jpg", True),
        ("1/2/test/3/object.jpg", True),
        ("1/2/3/test/4/object.jpg", True),
        ("1///test///object.jpg", True),
        ("1/test/.jpg", True),
        ("/test/object.jpg", True),
        ("1/test/", True),
        ("1-test/object.jpg", False),
        ("test/object.jpg", False),
        ("1/2/test.jpg", False),
    ],
)
def test_an_asterisk_takes_any_characters_of_a_key(key: str, matches: bool) -> None:
    policy = [allow(Action="s3:GetObject", Resource=f"{BUCKET}/*/test/*")]
    assert allows(policy, asked("s3:GetObject", f"{BUCKET}/{key}")) is matches


def test_what_nothing_allows_is_denied() -> None:
    assert not allows([], asked("s3:GetObject", f"{BUCKET}/a"))


def test_an_explicit_deny_wins_over_any_allow() -> None:
    policy = [allow(Action="s3:*"), {"Effect": "Deny", "Action": "s3:DeleteObject", "Resource": f"{BUCKET}/*"}]
    assert allows(policy, asked("s3:GetObject", f"{BUCKET}/a"))
    assert not allows(policy, asked("s3:DeleteObject", f"{BUCKET}/a"))


def test_actions_are_compared_without_regard_to_case_and_resources_with() -> None:
    policy = [allow(Action="iam:GetUser", Resource="arn:aws:iam::111122223333:user/Bob")]
    assert allows(policy, asked("IAM:getuser", "arn:aws:iam::111122223333:user/Bob"))
    assert not allows(policy, asked("iam:GetUser", "arn:aws:iam::111122223333:user/bob"))


def test_a_question_mark_is_one_character_and_a_bracket_is_itself() -> None:
    policy = [allow(Action="s3:GetObject", Resource=f"{BUCKET}/?[a]")]
    assert allows(policy, asked("s3:GetObject", f"{BUCKET}/1[a]"))
    assert not allows(policy, asked("s3:GetObject", f"{BUCKET}/1a"))
    assert not allows(policy, asked("s3:GetObject", f"{BUCKET}/12[a]"))


def test_not_action_is_about_all_others() -> None:
    """reference_policies_elements_notaction.html, "NotAction with Allow"."""
    policy = [allow(NotAction="s3:DeleteBucket", Resource="arn:aws:s3:::*")]
    assert allows(policy, asked("s3:PutObject", f"{BUCKET}/a"))
    assert not allows(policy, asked("s3:DeleteBucket", BUCKET))
    assert not allows(policy, asked("sqs:SendMessage", "arn:aws:sqs:us-east-1:111122223333:orders"))


def test_not_resource_is_about_all_others() -> None:
    """reference_policies_elements_notresource.html: everything but the payroll is denied."""
    payroll = ["arn:aws:s3:::HRBucket/Payroll", "arn:aws:s3:::HRBucket/Payroll/*"]
    policy = [allow(Action="s3:*"), {"Effect": "Deny", "Action": "s3:*", "NotResource": payroll}]
    assert allows(policy, asked("s3:GetObject", "arn:aws:s3:::HRBucket/Payroll/May"))
    assert not allows(policy, asked("s3:GetObject", "arn:aws:s3:::HRBucket/Other"))


# reference_policies_condition-logic-multiple-context-keys-or-values.html, and ..._elements_condition_operators.html
@pytest.mark.parametrize(
    ("condition", "context", "holds"),
    [
        ({"StringEquals": {"aws:x": ["a", "b"]}}, {"aws__x": "b"}, True),  # values: or
        ({"StringEquals": {"aws:x": "a", "aws:y": "b"}}, {"aws__x": "a", "aws__y": "c"}, False),  # keys: and
        ({"StringEquals": {"aws:x": "a"}, "Bool": {"aws:y": "true"}}, {"aws__x": "a", "aws__y": "false"}, False),
        ({"StringNotEquals": {"aws:x": ["a", "b"]}}, {"aws__x": "b"}, False),  # negated: nor
        ({"StringNotEquals": {"aws:x": ["a", "b"]}}, {"aws__x": "c"}, True),
        ({"StringEquals": {"aws:x": "a"}}, {}, False),  # a missing key
        ({"StringNotEquals": {"aws:x": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"aws:x": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"aws:x": "a"}}, {"aws__x": "b"}, False),
        ({"StringEquals": {"AWS:X": "a"}}, {"aws__x": "a"}, True),  # keys without regard to case
        ({"StringEquals": {"aws:x": "A"}}, {"aws__x": "a"}, False),
        ({"StringLike": {"aws:x": "end*:?"}}, {"aws__x": "endpoint:1"}, True),
        ({"Null": {"aws:x": "true"}}, {}, True),
        ({"Null": {"aws:x": "true"}}, {"aws__x": "a"}, False),
        ({"ArnLike": {"aws:x": "arn:aws:sns:*:111122223333:*"}}, {"aws__x": "arn:aws:sns:a:111122223333:b"}, True),
        ({"ForAllValues:StringLike": {"aws:k": ["Created*"]}}, {"aws__k": ["CreatedBy", "CreatedAt"]}, True),
        ({"ForAllValues:StringLike": {"aws:k": ["Created*"]}}, {"aws__k": ["CreatedBy", "Owner"]}, False),
        ({"ForAllValues:StringLike": {"aws:k": ["Created*"]}}, {}, True),  # "also returns true if there are no keys"
        ({"ForAnyValue:StringLike": {"aws:k": ["Created*"]}}, {"aws__k": ["CreatedBy", "Owner"]}, True),
        ({"ForAnyValue:StringLike": {"aws:k": ["Created*"]}}, {}, False),
    ],
)
def test_conditions(condition: dict[str, Any], context: dict[str, Any], holds: bool) -> None:
    assert allows([allow(Action="s3:*", Condition=condition)], asked("s3:GetObject", BUCKET, **context)) is holds


def test_what_it_does_not_know_it_says() -> None:
    with pytest.raises(NotImplementedError):
        allows(
            [allow(Action="*", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})], asked("s3:GetObject", BUCKET)
        )
    with pytest.raises(NotImplementedError):
        allows([allow(Action="*", Resource="arn:aws:s3:::b/${aws:username}")], asked("s3:GetObject", f"{BUCKET}/a"))
