"""What a change of a parameter does: it reaches what runs, and loses nothing."""

import re

import pytest

from tests.contracts.changes import PARAMETERS, effects, pairs
from tests.contracts.stacks import Document, Stack, stack

KEPT = {"Retain", "RetainExceptOnCreate"}
every_parameter = pytest.mark.parametrize("parameter", PARAMETERS)


def versions(deployed: Stack) -> dict[str, str]:
    """The logical ID of each function's published version, by the function's own."""
    return {
        name: logical_id
        for logical_id in deployed.of("Lambda::Version")
        for name in deployed.of("Lambda::Function")
        if re.fullmatch(rf"{name}Version[0-9a-f]+", logical_id)
    }


@every_parameter
def test_a_parameter_changes_something(parameter: str) -> None:
    assert any(effects(before, after) for before, after in pairs(parameter))


@every_parameter
def test_what_a_published_version_reads_changes_only_with_a_new_version(parameter: str) -> None:
    """The alias continues with the version that it has: what changes in $LATEST alone, nobody ever sees."""
    unseen = set()
    for before, after in pairs(parameter):
        changed = effects(before, after)
        for name, version in versions(before).items():
            if name in changed and changed.get(version) not in ("removed", "replaced"):
                unseen.add((name, *sorted(differing(before.all[name], after.all[name]))))
    assert not unseen


@every_parameter
def test_a_new_version_comes_only_with_a_changed_function(parameter: str) -> None:
    """Of a function that is as it was Lambda publishes no version, and the deployment fails."""
    for before, after in pairs(parameter):
        changed = effects(before, after)
        assert changed.keys() >= {name for name, version in versions(before).items() if version in changed}


def differing(old: Document, new: Document) -> set[str]:
    """Which properties differ; of the environment, which variables."""
    found = {key for key in old["Properties"] if old["Properties"][key] != new["Properties"].get(key)}
    variables = [item["Properties"]["Environment"]["Variables"] for item in (old, new)]
    return (found - {"Environment"}) | {key for key in variables[0] if variables[0][key] != variables[1].get(key)}


@every_parameter
def test_what_holds_data_is_kept(parameter: str) -> None:
    for before, after in pairs(parameter):
        for logical_id, effect in effects(before, after).items():
            if effect in ("replaced", "removed") and re.search(r"::(Bucket|Table)$", before.all[logical_id]["Type"]):
                assert {before.all[logical_id][key] for key in ("DeletionPolicy", "UpdateReplacePolicy")} <= KEPT


@every_parameter
def test_what_has_a_name_of_its_own_is_never_replaced(parameter: str) -> None:
    """CloudFormation makes the new one first, and then the name is taken."""
    for before, after in pairs(parameter):
        for logical_id in (name for name, effect in effects(before, after).items() if effect == "replaced"):
            word = before.all[logical_id]["Type"].rpartition("::")[2]
            assert f"{word}Name" not in after.all[logical_id]["Properties"], logical_id


@pytest.mark.parametrize("folder", ["layers/core", "layers/model", "functions/classify_image"])
def test_a_new_model_and_new_code_are_a_new_version(folder: str) -> None:
    before, again, after = Stack(), Stack(), Stack(changed=folder)
    assert versions(before) == versions(again)
    assert versions(before).keys() == versions(after).keys() == {"ClassifyImageFunction"}
    assert versions(before) != versions(after)


def test_codedeploy_is_left_out_where_a_rollout_is_unchecked() -> None:
    def of_codedeploy(rollout: str) -> set[str]:
        return {item["Type"] for item in stack(Rollout=rollout).all.values() if "CodeDeploy" in item["Type"]}

    assert of_codedeploy("Unchecked") == set()
    assert of_codedeploy("AllAtOnce") == {"AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup"}
