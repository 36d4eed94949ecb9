"""A run of the monitor: where it stands, and the switch that it turns on for harm, in the table of controls."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

from kickstand.classify.policy import Switch
from kickstand.classify.store import as_item, load_switch
from kickstand.clients import DynamoDBClient, EventBridgeClient
from kickstand.events import Route
from kickstand.monitor.look import Look, MonitorSettings, MonitorState, Slice, Watch, advance, resume
from kickstand.store import get_item, publish, put_item_if, slice_changes

MONITOR = "monitor"
MOST = 10_000  # records in a slice: about 80 MB
LAST_SECONDS = 60  # of a run, for acting on what was found
HOLD = timedelta(hours=4)  # of the automatic switch, after the last run that found harm


def run_monitor(
    dynamodb: DynamoDBClient,
    events: EventBridgeClient,
    settings: MonitorSettings,
    watch: Watch,
    now: datetime,
    seconds_left: Callable[[], float] = lambda: 2 * LAST_SECONDS,
) -> Look | None:
    """Look at what is new, and act on harm; None where another run was faster.

    What is new is read in slices of MOST records, and the state is saved after each; what a run has no time for is left
    to the next one. Harm is published once; the switch holds as long as the harm lasts, unless a person turns it.
    """
    table, end = settings.control_table, now - timedelta(seconds=settings.lag_seconds)
    standing, revision = load_monitor(dynamodb, table)
    state, images, routes = resume(standing, watch, end), 0, Counter[Route]()
    beyond = now + timedelta(hours=1)  # clocks differ
    for moment, changes in slice_changes(dynamodb, settings.records_table, state.until, beyond, MOST):
        until = min(moment, end)  # the next run reads again what is younger
        part = Slice(after=state.until, until=until, read_at=now)
        look, after = advance(state, changes, watch, until, settings.image_bucket)
        left = moment < beyond
        state = after.model_copy(update={"slices": (*state.slices, part) if left else ()})
        if not save_monitor(dynamodb, table, state, revision):
            return None
        revision, images = revision + 1, images + look.images
        routes.update(look.routes)
        if left and seconds_left() <= LAST_SECONDS:
            break
    look = look.model_copy(update={"images": images, "routes": dict(routes)})
    if state.degraded:
        switches = look.calls_for_review(settings.review_everything_when)
        if switches:
            switch_on_for_harm(dynamodb, table, look.harm, now, HOLD, again=state.switched)
        if not state.announced:
            publish(events, ["Model Degraded"], state.degraded.model_dump_json())
        done = state.model_copy(update={"announced": True, "switched": state.switched or switches})
        if done != state:
            save_monitor(dynamodb, table, done, revision)
    return look


def switch_on_for_harm(
    dynamodb: DynamoDBClient, table: str, reason: str, now: datetime, hold: timedelta, again: bool
) -> None:
    """Let the monitor's own switch be on until `hold` from now; a person's is left as it is.

    again: it has been on for this harm. Then it is only prolonged: once somebody has switched it off, nothing stands in
        the table, and it stays off.
    """
    switch = Switch(reason=reason, by=MONITOR, since=now, until=now + hold)
    standing = load_switch(dynamodb, table)
    if standing is None and again:
        return
    if standing and standing.is_on(now):
        if standing.by != MONITOR:
            return
        switch = switch.model_copy(update={"since": standing.since})
    # Where a person is faster, theirs stands.
    if standing is None:
        put_item_if(dynamodb, table, as_item(switch), "attribute_not_exists(id)")
        return
    put_item_if(
        dynamodb,
        table,
        as_item(switch),
        "since = :since AND #until = :until",
        ExpressionAttributeNames={"#until": "until"},
        ExpressionAttributeValues={f":{name}": as_item(standing)[name] for name in ("since", "until")},
    )


def load_monitor(dynamodb: DynamoDBClient, table: str) -> tuple[MonitorState | None, int]:
    """Where the monitor stands, and how often that has been written; None and 0 before its first look."""
    item = get_item(dynamodb, table, {"id": {"S": MONITOR}})
    if item is None:
        return None, 0
    return MonitorState.model_validate_json(item["state"]["S"]), int(item["revision"]["N"])


def save_monitor(dynamodb: DynamoDBClient, table: str, state: MonitorState, standing: int) -> bool:
    """Whether the state could take the place of the standing revision: of two looks at once one is in vain."""
    item = {
        "id": {"S": MONITOR},
        "revision": {"N": str(standing + 1)},
        "state": {"S": state.model_dump_json(exclude_defaults=True)},
    }
    if not standing:
        return put_item_if(dynamodb, table, item, "attribute_not_exists(id)")
    values = {":standing": {"N": str(standing)}}
    return put_item_if(dynamodb, table, item, "revision = :standing", ExpressionAttributeValues=values)
