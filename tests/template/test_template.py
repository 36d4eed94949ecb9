"""What the template promises of every resource of a kind: safe by default, watched, and nothing left over."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import yaml

from docs.markdown import anchors
from docs.reference import SOON, URGENT, described
from kickstand.clients import EXECUTION
from kickstand.monitor.drift import CLASS_MIX, FEATURES, RATES
from kickstand.review.rules import UNDO
from kickstand_cli.local.template import load_yaml
from kickstand_cli.project import PROJECT
from tests.contracts.requests import tasks

TEXT = (PROJECT / "template.yaml").read_text("utf-8")
TEMPLATE: dict[str, Any] = load_yaml(PROJECT / "template.yaml")
TRAINING: dict[str, Any] = load_yaml(PROJECT / "training.yaml")  # nested; for serving.yaml see test_serving.py
RESOURCES: dict[str, dict[str, Any]] = TEMPLATE["Resources"] | TRAINING["Resources"]
NESTED = [item["Properties"] for item in TEMPLATE["Resources"].values() if item["Type"] == "AWS::CloudFormation::Stack"]
GLOBALS: dict[str, Any] = TEMPLATE["Globals"]["Function"]

RAISES_TO_ANSWER = {"AskPersonFunction"}  # AlreadyAsked, for every duplicate: its execution fails where it matters


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """Properties of all resources of this type, by logical ID."""
    return {name: item.get("Properties", {}) for name, item in RESOURCES.items() if item["Type"] == f"AWS::{kind}"}


FUNCTIONS = of_type("Serverless::Function")
MACHINES = of_type("Serverless::StateMachine")
BUCKETS, TABLES = of_type("S3::Bucket"), of_type("DynamoDB::Table")
QUEUES, TOPICS = of_type("SQS::Queue"), of_type("SNS::Topic")
ALARMS = of_type("CloudWatch::Alarm")
SERVING: dict[str, Any] = load_yaml(PROJECT / "serving.yaml")
ALL_ALARMS = ALARMS | {
    name: item["Properties"] for name, item in SERVING["Resources"].items() if item["Type"] == "AWS::CloudWatch::Alarm"
}


def every(resources: Iterable[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", sorted(resources))


def setting(function: str, key: str) -> Any:
    shared = TRAINING["Globals"]["Function"] if function in TRAINING["Resources"] else GLOBALS
    return FUNCTIONS[function].get(key, shared.get(key))


def references(part: Any) -> list[dict[str, Any]]:
    """Every `!Ref` and `!GetAtt` in this part of the template."""
    if isinstance(part, list):
        return [found for value in part for found in references(value)]
    if not isinstance(part, dict):
        return []
    return [part] if part.keys() & {"Ref", "Fn::GetAtt"} else references(list(part.values()))


def statements(part: Any) -> Iterator[dict[str, Any]]:
    """Every policy statement in this part of the template."""
    if isinstance(part, dict):
        if "Effect" in part:
            yield part
        for value in part.values():
            yield from statements(value)
    elif isinstance(part, list):
        for value in part:
            yield from statements(value)


def resource(reference: dict[str, str]) -> str:
    """The logical ID in `!Ref X`, `!Ref X.Alias` or `!GetAtt X.Arn`."""
    (value,) = reference.values()
    return value.split(".")[0]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def denies_plain_http(policy: dict[str, Any]) -> bool:
    return any(
        statement["Effect"] == "Deny"
        and statement["Principal"] == "*"
        and statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in policy["PolicyDocument"]["Statement"]
    )


def definition(machine: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PROJECT / MACHINES[machine]["DefinitionUri"]).read_text("utf-8"))
    return content


# ---- data: encrypted, private, kept


def kept(name: str) -> bool:
    """Whether it outlives its stack, but not a first deployment that has failed."""
    policies = RESOURCES[name]["DeletionPolicy"], RESOURCES[name]["UpdateReplacePolicy"]
    return policies == ("RetainExceptOnCreate", "Retain")


@every(BUCKETS)
def test_a_bucket_is_private_encrypted_versioned_and_kept(name: str) -> None:
    bucket = BUCKETS[name]
    assert bucket["PublicAccessBlockConfiguration"] == dict.fromkeys(
        ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
    )
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert kept(name)


@every(TABLES)
def test_a_table_is_encrypted_and_can_be_restored(name: str) -> None:
    assert TABLES[name]["SSESpecification"] == {"SSEEnabled": True}
    assert TABLES[name]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


@every(TABLES.keys() - {"ControlTable"})  # what it steers goes with the stack
def test_a_table_of_records_is_kept(name: str) -> None:
    assert kept(name)


@every(QUEUES)
def test_a_queue_is_encrypted(name: str) -> None:
    assert QUEUES[name]["SqsManagedSseEnabled"] is True


@every(BUCKETS)
def test_a_bucket_is_reached_by_tls_only(name: str) -> None:
    policies = [policy for policy in of_type("S3::BucketPolicy").values() if policy["Bucket"] == {"Ref": name}]
    assert any(map(denies_plain_http, policies))


@every(QUEUES)
def test_a_queue_is_reached_by_tls_only(name: str) -> None:
    policies = [policy for policy in of_type("SQS::QueuePolicy").values() if {"Ref": name} in policy["Queues"]]
    assert any(map(denies_plain_http, policies))


@every(TOPICS)
def test_a_topic_is_reached_by_tls_only(name: str) -> None:
    policies = [policy for policy in of_type("SNS::TopicPolicy").values() if {"Ref": name} in policy["Topics"]]
    assert any(map(denies_plain_http, policies))


# ---- permissions: the least


@every(FUNCTIONS)
def test_a_function_has_a_role_of_its_own(name: str) -> None:
    assert "Role" not in FUNCTIONS[name]
    assert "Role" not in GLOBALS
    assert "Policies" not in GLOBALS


def test_whoever_may_send_to_a_queue_or_topic_comes_from_this_account() -> None:
    for kind in ("SQS::QueuePolicy", "SNS::TopicPolicy"):
        for policy in of_type(kind).values():
            for statement in policy["PolicyDocument"]["Statement"]:
                if statement["Effect"] == "Allow":
                    assert statement["Condition"]["StringEquals"]["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}


# ---- functions


def test_an_event_is_read_by_its_model_alone() -> None:
    for file in sorted((PROJECT / "functions").glob("*/app.py")):
        handler = file.read_text("utf-8").partition("def handler(event: ")[2]
        assert handler, file
        assert not re.search(r"\bevent(\[|\.get)", handler), file


def test_every_folder_is_a_function_and_every_function_a_folder() -> None:
    folders = {f"functions/{path.parent.name}" for path in PROJECT.glob("functions/*/app.py")}
    assert folders == {function["CodeUri"] for function in FUNCTIONS.values()}


@every(FUNCTIONS)
def test_a_functions_folder_is_its_name(name: str) -> None:
    folder = FUNCTIONS[name]["CodeUri"].split("/")[1]
    assert f"{''.join(map(str.title, folder.split('_')))}Function" == name


@every(FUNCTIONS)
def test_a_function_is_limited_traced_and_its_log_expires(name: str) -> None:
    is_job = "Schedule" in str(FUNCTIONS[name].get("Events")) or name in TRAINING["Resources"]
    waits = "states:StartSyncExecution" in str(FUNCTIONS[name].get("Policies"))
    assert 1 <= setting(name, "Timeout") <= (900 if is_job or waits else 60)
    assert 128 <= setting(name, "MemorySize") <= 10_240
    alone = {"AdmitUploadsFunction", "ReviewFunction"}  # often called, and not by a state machine
    assert setting(name, "Tracing") == ("PassThrough" if name in alone else "Active")
    group = setting(name, "LoggingConfig")["LogGroup"]["Ref"]
    assert of_type("Logs::LogGroup")[group]["RetentionInDays"]


@every(FUNCTIONS)
def test_a_function_can_be_sent_to_a_local_aws(name: str) -> None:
    for template in (TEMPLATE, TRAINING):
        assert template["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] == ""
    assert "AWS_ENDPOINT_URL" not in FUNCTIONS[name].get("Environment", {}).get("Variables", {})


@every(FUNCTIONS)
def test_a_function_runs_on_the_python_that_the_repository_names(name: str) -> None:
    assert setting(name, "Runtime") == f"python{(PROJECT / '.python-version').read_text('utf-8').strip()}"
    assert setting(name, "Handler") == "app.handler"


@every(of_type("Logs::LogGroup"))
def test_logs_expire(name: str) -> None:
    assert of_type("Logs::LogGroup")[name]["RetentionInDays"]


# ---- state machines


@every(MACHINES)
def test_a_state_waits_as_long_as_its_function_may_run(name: str) -> None:
    substitutions = MACHINES[name]["DefinitionSubstitutions"]
    for state in tasks(definition(name)):
        if called := re.fullmatch(r"\$\{(\w+FunctionArn)\}", state.get("Resource", "")):
            function = resource(substitutions[called[1]])
            assert setting(function, "Timeout") == state["TimeoutSeconds"]


@every(MACHINES)
def test_a_state_machine_is_traced_and_logs_no_photo(name: str) -> None:
    assert MACHINES[name]["Tracing"] == {"Enabled": True}
    assert MACHINES[name]["Logging"]["IncludeExecutionData"] is False
    assert MACHINES[name]["Logging"]["Level"] in ("ERROR", "ALL")


def test_x_ray_records_a_share_of_each_state_machines_executions_by_a_rule_of_the_stacks_own() -> None:
    rules = [rule["SamplingRule"] for rule in of_type("XRay::SamplingRule").values()]
    assert {resource(rule["ServiceName"]) for rule in rules} == {
        name for name in MACHINES if name in TEMPLATE["Resources"]
    }
    for rule in rules:
        assert (rule["FixedRate"], rule["ReservoirSize"]) == ({"Ref": "TraceShare"}, 0)
        name, values = rule["RuleName"]["Fn::Sub"]
        assert "AWS::StackId" in str(values)
        assert len(name.replace("${Stack}", "8 digits")) <= 32


def test_one_parameter_ends_photos_records_and_reviews() -> None:
    rules = str(BUCKETS["ImageBucket"]["LifecycleConfiguration"]["Rules"])
    assert "'ExpirationInDays': {'Ref': 'RetentionDays'}" in rules
    for table in ("RecordsTable", "ReviewsTable"):
        assert TABLES[table]["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert setting("RecordResultFunction", "Environment")["Variables"]["RETENTION_DAYS"] == {"Ref": "RetentionDays"}


def test_an_upload_starts_the_workflow() -> None:
    rule, admission = RESOURCES["ImageUploaded"]["Properties"], RESOURCES["AdmitUploads"]["Properties"]
    assert rule["EventPattern"] == RESOURCES["NewUploadsRule"]["Properties"]["EventPattern"]
    assert rule["EventPattern"] == {
        "source": ["aws.s3"],
        "detail-type": ["Object Created"],
        "detail": {
            "bucket": {"name": [{"Ref": "ImageBucket"}]},
            "object": {"$or": [{"key": [{"anything-but": {"suffix": "/"}}]}, {"size": [{"anything-but": 0}]}]},
        },
    }
    (target,) = rule["Targets"]
    assert target["Arn"] == admission["EventSourceArn"] == {"Fn::GetAtt": "UploadQueue.Arn"}
    variables = FUNCTIONS[admission["FunctionName"]["Ref"]]["Environment"]["Variables"]
    assert variables["CLASSIFY_IMAGE"] == {"Ref": "ClassifyImageStateMachine"}
    notifications = BUCKETS["ImageBucket"]["NotificationConfiguration"]
    assert notifications == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}


AT_ONCE = pytest.mark.parametrize("functions_at_once", TEMPLATE["Parameters"]["FunctionsAtOnce"]["AllowedValues"])


@AT_ONCE
def test_admission_leaves_a_tenth_of_the_accounts_concurrency_to_all_else(functions_at_once: int) -> None:
    admitted = TEMPLATE["Mappings"]["Admission"][str(functions_at_once)]
    assert admitted["Functions"] * (1 + admitted["Photos"]) <= 0.9 * functions_at_once
    assert 2 <= admitted["Functions"] <= 1000  # https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
    assert 1 <= admitted["Photos"] <= 10  # more need a window, in which a single photo would wait


@AT_ONCE
def test_the_past_takes_at_most_half_of_the_accounts_concurrency(functions_at_once: int) -> None:
    lane = TEMPLATE["Mappings"]["Past"][str(functions_at_once)]
    assert 0 < lane["Batches"] * (1 + lane["Photos"]) <= functions_at_once / 2


def test_an_upload_is_out_of_sight_for_longer_than_its_execution_may_take() -> None:
    execution, admission = definition("ClassifyImageStateMachine"), setting("AdmitUploadsFunction", "Timeout")
    assert execution["TimeoutSeconds"] < vars(EXECUTION)["read_timeout"] < admission
    assert QUEUES["UploadQueue"]["VisibilityTimeout"] >= 6 * admission
    assert "RedrivePolicy" not in QUEUES["UploadQueue"]


def test_classification_runs_as_express_or_as_standard() -> None:
    assert MACHINES["ClassifyImageStateMachine"]["Type"] == {"Ref": "WorkflowType"}
    assert TEMPLATE["Parameters"]["WorkflowType"]["AllowedValues"] == ["EXPRESS", "STANDARD"]


# ---- alarms


@every(ALL_ALARMS)
def test_an_alarm_says_how_urgent_it_is_in_which_stack_and_where_its_runbook_is(name: str) -> None:
    urgency, meaning, runbook = described(ALL_ALARMS[name])
    assert urgency in (URGENT, SOON)
    assert len(meaning) > 20
    page, _, anchor = runbook.partition("#")
    assert anchor in anchors(PROJECT / "docs" / page)


@every(ALL_ALARMS)
def test_an_alarm_goes_to_the_topic_of_its_urgency(name: str) -> None:
    topic = {"Ref": "AlarmTopic" if described(ALL_ALARMS[name])[0] == URGENT else "ThisWeekTopic"}
    actions = ALL_ALARMS[name]["AlarmActions"] + ALL_ALARMS[name]["OKActions"]
    if name in TEMPLATE["Resources"]:
        assert actions == [topic] * 2
    else:
        (stack,) = (item for item in NESTED if name in load_yaml(PROJECT / item["TemplateURL"])["Resources"])
        parameter = "ThisWeekTopicArn" if "ThisWeekTopicArn" in stack["Parameters"] else "AlarmTopicArn"
        assert actions == [{"Ref": parameter}] * 2
        assert stack["Parameters"][parameter] == topic


@every(ALL_ALARMS)
def test_an_alarms_description_fits_with_a_long_stack_name_and_address(name: str) -> None:
    """CloudWatch's limit: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html"""
    text = ALL_ALARMS[name]["AlarmDescription"]["Fn::Sub"]
    longest = text.replace("${AWS::StackName}", "s" * 128).replace("${DocsUrl}", "u" * 400)
    assert len(longest) <= 1024


@every(ALL_ALARMS)
def test_an_alarm_says_what_missing_data_means(name: str) -> None:
    assert ALL_ALARMS[name]["TreatMissingData"] in ("notBreaching", "breaching", "ignore")


def watched(metric: str) -> set[str]:
    """The resources whose metric of this name some alarm watches."""
    found = set()
    for alarm in ALARMS.values():
        for source in [alarm, *(part.get("MetricStat", {}).get("Metric", {}) for part in alarm.get("Metrics", []))]:
            if source.get("MetricName") == metric:
                (value, *others) = [dimension["Value"] for dimension in source["Dimensions"]]
                found |= set() if others else {resource(value)}
    return found


@every(MACHINES)
@pytest.mark.parametrize("metric", ["ExecutionsFailed", "ExecutionsTimedOut", "ExecutionsAborted"])
def test_an_execution_that_fails_raises_an_alarm(name: str, metric: str) -> None:
    assert name in watched(metric)


@every(QUEUES.keys() - {"NewUploadsQueue", "UploadQueue", "DeadLetterQueue"})
def test_what_lies_in_a_dead_letter_queue_raises_an_alarm(name: str) -> None:
    assert name in watched("ApproximateNumberOfMessagesVisible")


def test_dead_letters_that_wait_for_a_person_raise_an_alarm() -> None:
    """The ledger moves them out of the queue, and sends again what was only late."""
    assert ALARMS["DeadLetterAlarm"]["MetricName"] == "DeadLetters"


@every(ALARMS)
def test_an_alarm_counts_at_most_ten_metrics(name: str) -> None:
    """CloudWatch's limit: https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarm-limits.html"""
    assert sum("MetricStat" in part for part in ALARMS[name].get("Metrics", [])) <= 10


def test_uploads_that_wait_for_long_raise_an_alarm() -> None:
    assert "UploadQueue" in watched("ApproximateAgeOfOldestMessage")


@every(FUNCTIONS)
def test_a_function_that_is_throttled_raises_an_alarm(name: str) -> None:
    assert name in watched("Throttles")


@every(FUNCTIONS.keys() - RAISES_TO_ANSWER)
def test_a_function_that_fails_raises_an_alarm(name: str) -> None:
    assert name in watched("Errors")


@every(ALARMS.keys() - {"NewVersionReviewsAlarm"})
def test_an_alarm_on_several_metrics_counts_those_that_have_data(name: str) -> None:
    """With `a + b` it hangs on CloudWatch's treatment of a missing b whether a is seen."""
    metrics = ALARMS[name].get("Metrics", [])
    assert [part["Expression"] for part in metrics if part["ReturnData"]] == ["SUM(METRICS())"] * bool(metrics)


# ---- a new version of the model


def test_a_new_version_of_the_model_is_checked_and_watched_while_it_takes_over() -> None:
    preference = FUNCTIONS["ClassifyImageFunction"]["DeploymentPreference"]
    assert preference["Hooks"] == {"PreTraffic": {"Ref": "CheckGoldenImagesFunction"}}
    assert {resource(alarm) for alarm in preference["Alarms"]} == {name for name in ALARMS if name[:3] == "New"}
    assert TEMPLATE["Mappings"]["Rollouts"].keys() == set(TEMPLATE["Parameters"]["Rollout"]["AllowedValues"])


@every(name for name in ALARMS if name.startswith("NewVersion"))
def test_a_rollouts_alarm_watches_the_new_version_alone(name: str) -> None:
    assert {"Fn::GetAtt": "ClassifyImageFunction.Version.Version"} in references(ALARMS[name])


def test_traffic_is_shared_between_versions_by_the_alias_that_the_workflow_calls() -> None:
    substitutions = MACHINES["ClassifyImageStateMachine"]["DefinitionSubstitutions"]
    assert substitutions["ClassifyImageFunctionArn"] == {"Ref": "ClassifyImageFunction.Alias"}


# ---- what is watched and shown is there


DASHBOARD: str = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][0]
RESOLVED = DASHBOARD.replace("${CircuitOpen}", "").replace("${ReviewAgeAlarmHours}", "36")
WIDGETS = [widget["properties"] for widget in json.loads(RESOLVED)["widgets"]]


def test_the_dashboard_shows_every_alarm_of_the_stack_by_its_urgency() -> None:
    own = ALARMS.keys() - TRAINING["Resources"].keys() - {"CircuitOpenAlarm"}
    shown = {widget["title"]: {arn[2:-5] for arn in widget["alarms"]} for widget in WIDGETS if "alarms" in widget}
    assert shown == {
        "Alarms that wake somebody": {name for name in own if described(ALARMS[name])[0] == URGENT},
        "Alarms for this week": {name for name in own if described(ALARMS[name])[0] == SOON},
    }
    optional = RESOURCES["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"][1]["CircuitOpen"]["Fn::If"]
    assert optional == ["UsesEndpoint", {"Fn::Sub": ', "${CircuitOpenAlarm.Arn}"'}, ""]


def test_the_dashboard_shows_every_statistic_of_drift() -> None:
    assert [name for name in (*FEATURES, *RATES, CLASS_MIX) if f"max(drift.{name}) as {name}" not in DASHBOARD] == []


def test_a_metric_on_the_dashboard_that_fires_an_alarm_has_its_threshold_drawn_on_its_axis() -> None:
    fires = {
        alarm["MetricName"]
        for alarm in ALARMS.values()
        if alarm.get("Namespace") == "Kickstand" and alarm["ComparisonOperator"].startswith("Greater")
    }
    drawn = set()
    for widget in WIDGETS:
        lines = widget.get("annotations", {}).get("horizontal", [])
        for series in widget.get("metrics", []):
            for name in fires & {word for word in series if isinstance(word, str)}:
                axis = next((part.get("yAxis") for part in series if isinstance(part, dict)), None)
                assert axis in [line.get("yAxis") for line in lines], name
                drawn.add(name)
    assert drawn == fires - {"LedgerMissing"}


# ---- the whole


@pytest.mark.parametrize("file", ["template.yaml", "training.yaml", "serving.yaml"])
def test_every_role_stays_within_the_boundary(file: str) -> None:
    template = load_yaml(PROJECT / file)
    shared = template.get("Globals", {}).get("Function", {})
    for logical_id, item in template["Resources"].items():
        own = item.get("Properties", {})
        if item["Type"] == "AWS::CloudFormation::Stack":
            assert own["Parameters"]["PermissionsBoundary"] == {"Ref": "PermissionsBoundary"}
        elif item["Type"] in ("AWS::IAM::Role", "AWS::Serverless::Function", "AWS::Serverless::StateMachine"):
            own = shared | own if item["Type"] == "AWS::Serverless::Function" else own
            assert own["PermissionsBoundary"]["Fn::If"] == [
                "HasPermissionsBoundary",
                {"Ref": "PermissionsBoundary"},
                {"Ref": "AWS::NoValue"},
            ], logical_id


def test_training_is_off_by_default_and_is_given_every_parameter() -> None:
    stack = TEMPLATE["Resources"]["TrainingStack"]
    assert TEMPLATE["Parameters"]["Training"]["Default"] == "off"
    assert TEMPLATE["Conditions"][stack["Condition"]] == {"Fn::Equals": [{"Ref": "Training"}, "on"]}
    assert stack["Properties"]["Parameters"].keys() == TRAINING["Parameters"].keys()
    text = (PROJECT / "training.yaml").read_text("utf-8")
    for name, parameter in TRAINING["Parameters"].items():
        assert re.search(rf"(!Ref |\$\{{){name}\b", text), name
        assert parameter["Description"], name


def test_every_parameter_has_a_default_and_every_condition_is_used() -> None:
    for name, parameter in TEMPLATE["Parameters"].items():
        assert "Default" in parameter, f"{name}: sam deploy needs no answer"
    for name in TEMPLATE["Conditions"]:
        assert re.search(rf"(Condition: |!If\n *- |!If \[){name}\b", TEXT), name


def test_the_monitor_counts_no_answer_that_can_still_be_undone() -> None:
    lag = float(RESOURCES["MonitorFunction"]["Properties"]["Environment"]["Variables"]["LAG_SECONDS"])
    assert UNDO.total_seconds() < lag
