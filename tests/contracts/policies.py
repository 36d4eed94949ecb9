"""Whether a role's own policies allow a request, by the logic that AWS documents.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html

Identity-based policies in one account, and the condition operators that the templates use: others, and policy
variables, are errors here. No library: the maintained simulator is for Node and under the AGPL, PMapper's is of 2022.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

Statement = Mapping[str, Any]
NEGATED = {"StringNotEquals": "StringEquals", "StringNotLike": "StringLike", "ArnNotLike": "ArnLike"}


class Request(NamedTuple):
    """What a principal asks for. context: condition keys and their values; a key may have several."""

    action: str
    resource: str
    context: frozenset[tuple[str, str]] = frozenset()


def allows(statements: Iterable[Statement], request: Request) -> bool:
    """Nothing is allowed but what a statement allows, and none of that which another one denies."""
    effects = {statement["Effect"] for statement in statements if applies(statement, request)}
    return effects == {"Allow"}


def applies(statement: Statement, request: Request) -> bool:
    """Whether the statement is about this request."""
    return (
        _is_about(statement, "Action", request.action, _is_action)
        and _is_about(statement, "Resource", request.resource, _is_arn)
        and all(
            _holds(operator, key, listed(values), request)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _is_about(statement: Statement, element: str, value: str, matches: Any) -> bool:
    if f"Not{element}" in statement:
        return not any(matches(pattern, value) for pattern in listed(statement[f"Not{element}"]))
    return any(matches(pattern, value) for pattern in listed(statement[element]))


def _is_action(pattern: str, action: str) -> bool:
    return wildcard(pattern.lower()).fullmatch(action.lower()) is not None


def _is_arn(pattern: str, arn: str) -> bool:
    """A wildcard may reach beyond a colon, as AWS's guide says of one at a segment's end."""
    return wildcard(pattern).fullmatch(arn) is not None


def _holds(operator: str, key: str, expected: list[str], request: Request) -> bool:
    quantifier, _, name = operator.rpartition(":")
    bare = name.removesuffix("IfExists")
    values = [value for other, value in request.context if other.lower() == key.lower()]
    if bare == "Null":
        return (not values) == (expected[0] == "true")
    positive = NEGATED.get(bare, bare)
    if positive not in ("StringEquals", "StringLike", "ArnLike", "ArnEquals", "Bool"):
        raise NotImplementedError(operator)
    equal = [any(_is_value(positive, pattern, value) for pattern in expected) for value in values]
    if bare in NEGATED:
        equal = [not one for one in equal]
    if quantifier == "ForAllValues":
        return all(equal)
    if quantifier == "ForAnyValue":
        return any(equal)
    return equal == [True] if values else name != bare or bare in NEGATED


def _is_value(operator: str, pattern: str, value: str) -> bool:
    if operator == "StringEquals":
        return pattern == value
    if operator == "Bool":
        return pattern.lower() == value.lower()
    return _is_arn(pattern, value) if operator.startswith("Arn") else wildcard(pattern).fullmatch(value) is not None


@cache
def wildcard(pattern: str) -> re.Pattern[str]:
    """`*` is any number of characters, `?` any one."""
    if "${" in pattern:
        raise NotImplementedError(f"{pattern}: a policy variable")
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def statements_of(role: Mapping[str, Any], attached: Iterable[Mapping[str, Any]] = ()) -> list[Statement]:
    """Every statement of a role's own policies, and of those attached to it. role: its resolved properties."""
    policies = [*role.get("Policies", []), *attached]
    return [statement for policy in policies for statement in listed(policy["PolicyDocument"]["Statement"])]


def atoms(statements: Iterable[Statement]) -> Iterator[Statement]:
    """The statements, each with but one action and one resource."""
    for statement in statements:
        for action in listed(statement["Action"]):
            for resource in listed(statement["Resource"]):
                yield {**statement, "Action": action, "Resource": resource}
