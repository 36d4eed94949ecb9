"""What a parameter changes: the resources that differ between two deployments, and what CloudFormation does to each."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from kickstand_cli.project import TEMPLATE
from tests.contracts.stacks import ALL, SERVES, Document, Stack, read

PARAMETERS: dict[str, Document] = read(TEMPLATE)["Parameters"]
BASES: tuple[dict[str, str], ...] = ({}, SERVES | {"Serving": "none", "EndpointName": "photos"}, ALL)
"""Deployments that each parameter is changed in: as it comes, with an endpoint of one's own, with everything."""

OTHERS = {  # another value, where neither the type nor the allowed values give one
    "AlarmEmail": "others@example.com",
    "DocsUrl": "https://example.com/docs",
    "EndpointName": "other-photos",
    "ImageClassificationImage": "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1",
    "InventoryBucket": "other-inventories",
    "LedgerSchedule": "rate(2 hours)",
    "AuditSchedule": "rate(14 days)",
    "MonitorSchedule": "rate(1 hour)",
    "PermissionsBoundary": "arn:aws:iam::123456789012:policy/boundary",
    "ReportSchedule": "rate(2 days)",
    "ReviewEmail": "others@example.com",
    "ServingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/kickstand:2",
    "ServingModel": "s3://models/other.tar.gz",
    "TrainingGpuInstanceType": "ml.g5.xlarge",
    "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/train:2",
    "ThisWeekEmail": "others@example.com",
    "TrainingInstanceType": "ml.c6i.4xlarge",
}


def other_values(parameter: str, value: str) -> list[str]:
    """Values of a parameter that differ from this one."""
    declared = PARAMETERS[parameter]
    if allowed := declared.get("AllowedValues"):
        return [str(each) for each in allowed if str(each) != value]
    if declared["Type"] == "Number":
        step = float(value) + 1
        return [f"{step if step <= declared.get('MaxValue', step) else float(value) / 2:g}"]
    return [OTHERS[parameter]] + ([""] if value and declared["Default"] == "" else [])


@cache
def deployed(chosen: frozenset[tuple[str, str]]) -> Stack:
    return Stack(parameters=dict(chosen))


def allowed(parameters: Document) -> bool:
    """Whether the template's rules let it be deployed."""
    rules = read(TEMPLATE).get("Rules", {})
    stack = deployed(frozenset(parameters.items()))
    return all(
        stack.resolve(assertion["Assert"])
        for rule in rules.values()
        if stack.resolve(rule["RuleCondition"])
        for assertion in rule["Assertions"]
    )


def pairs(parameter: str) -> Iterator[tuple[Stack, Stack]]:
    """Deployments before and after a change of this parameter alone."""
    for base in BASES:
        before = base.get(parameter, str(PARAMETERS[parameter]["Default"]))
        for value in other_values(parameter, before):
            if allowed(base | {parameter: value}):
                yield deployed(frozenset(base.items())), deployed(frozenset((base | {parameter: value}).items()))


def effects(before: Stack, after: Stack) -> dict[str, str]:
    """What happens to each resource that differs, by logical ID: created, removed, replaced or updated.

    What is replaced gets another name, and so changes what refers to it.
    """
    while True:
        found = {}
        for logical_id in {**before.all, **after.all}:
            old, new = before.all.get(logical_id), after.all.get(logical_id)
            if old is None or new is None:
                found[logical_id] = "created" if old is None else "removed"
            elif logical_id in after.renamed or old != new:
                found[logical_id] = "replaced" if is_replaced(old, new) else "updated"
        renamed = frozenset(logical_id for logical_id, effect in found.items() if effect == "replaced")
        if renamed == after.renamed:
            return found
        after = Stack(*after.made_of, renamed)


def is_replaced(old: Document, new: Document) -> bool:
    """Whether CloudFormation makes another resource in its place, which cfn-lint's copy of the registry says."""
    from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", old["Type"]).schema
    paths = [path.split("/")[2:] for path in schema.get("createOnlyProperties", [])]
    return any(at(old["Properties"], path) != at(new["Properties"], path) for path in paths)


def at(part: Any, path: list[str]) -> Any:
    for word in path:
        part = part.get(word) if isinstance(part, dict) else None
    return part


# ---- the table in docs/operating.md

MEANS = {  # what it means that a resource, or one of this type, is made anew or removed; of all others nobody notices
    "AWS::Lambda::Version": "a rollout",
    "AWS::S3::Bucket": "the bucket stays, with what is in it",
    "AWS::SNS::Subscription": "nothing is sent before the new address has confirmed",
    "AWS::SageMaker::EndpointConfig": "a blue/green update of the endpoint",
    "AWS::StepFunctions::StateMachine": "executions that run may be ended; `kickstand ledger` names their photos",
    "ServingStack": "the endpoint comes or goes",
    "TrainingStack": "trainings that run are ended",
}
SAID = {"created": "made or removed", "removed": "made or removed"}
MANY = 12  # of one type are not named one by one


def describe_changes() -> str:
    """What a change of each parameter changes, and what that interrupts, as Markdown."""
    rows = ["| a change of | changes | interrupts |", "|---|---|---|"]
    for parameter in PARAMETERS:
        changed: dict[str, dict[str, str]] = {}
        means: set[str] = set()
        for before, after in pairs(parameter):
            found = effects(before, after)
            for logical_id, effect in found.items():
                if is_covered_by_its_stack(logical_id, before, after):
                    continue
                kind = (before.all.get(logical_id) or after.all[logical_id])["Type"]
                name = re.sub(r"[0-9a-f]{10}$", "", logical_id)
                changed.setdefault(SAID.get(effect, effect), {})[name] = kind
                if effect != "updated":
                    means |= {MEANS[key] for key in (kind, logical_id) if key in MEANS}
                function = re.fullmatch(r"(\w+Function)Version[0-9a-f]{10}", logical_id)
                if function and f"{function[1]}Role" in found:  # a role has no versions
                    means.add("until the rollout ends, the embedded model answers for the old version")
        cells = [f"{effect}: {named(kinds)}" for effect, kinds in sorted(changed.items())]
        rows.append(f"| `{parameter}` | {'; '.join(cells)} | {'; '.join(sorted(means)) or 'nothing'} |")
    return "\n".join(rows)


def named(kinds: dict[str, str]) -> str:
    """Logical IDs; of many of one type, the type."""
    if len(kinds) > MANY and len(set(kinds.values())) == 1:
        return f"each `{next(iter(kinds.values()))}`"
    return ", ".join(f"`{name}`" for name in sorted(kinds))


def is_covered_by_its_stack(logical_id: str, before: Stack, after: Stack) -> bool:
    """Whether it comes or goes with its nested stack; or is a nested stack whose resources show what changes."""
    if logical_id in before.nested.keys() & after.nested.keys():
        return True
    lone = before.nested.keys() ^ after.nested.keys()
    return any(logical_id in side.nested[name].all for name in lone for side in (before, after) if name in side.nested)
