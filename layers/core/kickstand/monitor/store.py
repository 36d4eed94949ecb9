"""Runs of the monitor, with its state and the switch that it turns on for alerts, in the control table."""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from kickstand.classify.policy import NO_END, Switch, parse_switch
from kickstand.classify.store import SWITCH, as_item
from kickstand.clients import DynamoDBClient, EventBridgeClient
from kickstand.events import Route
from kickstand.monitor.run import MonitorSettings, MonitorState, Run, Slice, Watch, advance, resume, resume_lost
from kickstand.store import get_item, load_state, plain, publish, put_item_if, save_state, slice_changes

logger = logging.getLogger(__name__)

MONITOR = "monitor"
MOST = 10_000  # records in a slice: about 80 MB
LAST_SECONDS = 60  # of a run, for acting on what was found


def run_monitor(
    dynamodb: DynamoDBClient,
    events: EventBridgeClient,
    settings: MonitorSettings,
    watch: Watch,
    now: datetime,
    seconds_left: Callable[[], float] = lambda: 2 * LAST_SECONDS,
) -> Run | None:
    """Check new records and answers, and act on alerts; None if another run was faster.

    They are read in slices of MOST records, and the state is saved after each; the next run continues. An alert is
    published once. The monitor's own switch is on until a run finds no alert, or a person turns it off. An unreadable
    state is an alert: see `MonitorState.lost`.
    """
    table, end = settings.control_table, now - timedelta(seconds=settings.lag_seconds)
    standing, revision, lost = load_state(dynamodb, table, MONITOR, MonitorState)
    if lost:
        logger.error("the monitor's state cannot be read; it starts with a new one: %s", lost)
    state = resume_lost(lost, watch, end) if lost else resume(standing, watch, end)
    if state.lost and state.switched and _load_switch(dynamodb, table)[0] is None:
        state = state.model_copy(update={"lost": ""})  # somebody has turned it off, so they know
    images, routes = 0, Counter[Route]()
    beyond = now + timedelta(hours=1)  # clocks differ
    left = False
    for moment, changes in slice_changes(dynamodb, settings.records_table, state.until, beyond, MOST):
        until = min(moment, end)  # the next run reads younger records again
        part = Slice(after=state.until, until=until, read_at=now)
        run, after = advance(state, changes, watch, until, settings.image_bucket)
        left = moment < beyond
        state = after.model_copy(update={"slices": (*state.slices, part) if left else ()})
        if not (revision := save_state(dynamodb, table, MONITOR, state, revision)):
            return None
        images += run.images
        routes.update(run.routes)
        if left and seconds_left() <= LAST_SECONDS:
            break
    run = run.model_copy(update={"images": images, "routes": dict(routes)})
    done = state
    if state.degraded:
        if run.calls_for_review(settings.review_everything_when):
            switched = switch_on_for_harm(dynamodb, table, run.harm, now, again=state.switched)
            done = done.model_copy(update={"switched": switched})
        if not state.announced:
            publish(events, ["Model Degraded"], state.degraded.model_dump_json())
            done = done.model_copy(update={"announced": True})
    elif state.switched and not left:
        switch_off_after_harm(dynamodb, table, now)
        done = done.model_copy(update={"switched": False})
    if done != state:
        save_state(dynamodb, table, MONITOR, done, revision)
    return run


def switch_on_for_harm(dynamodb: DynamoDBClient, table: str, reason: str, now: datetime, again: bool) -> bool:
    """Turn the monitor's own switch on, without an end; a person's switch stays as it is. Returns whether the monitor's
    has been on for this alert.

    again: it has been on. If somebody has turned it off since, the table has no switch, and it stays off. If a person
    has set their own instead, the monitor's comes back when that has ended and the alert has not.
    """
    item, standing = _load_switch(dynamodb, table)
    if standing is None and again:
        return True
    since = now
    if standing and standing.is_on(now):
        if standing.by != MONITOR:
            return False
        since = standing.since
    return _replace(dynamodb, table, Switch(reason=reason, by=MONITOR, since=since, until=NO_END), item)


def switch_off_after_harm(dynamodb: DynamoDBClient, table: str, now: datetime) -> None:
    """End the monitor's own switch; a person's switch stays as it is."""
    item, standing = _load_switch(dynamodb, table)
    if standing and standing.by == MONITOR and standing.is_on(now):
        _replace(dynamodb, table, standing.model_copy(update={"until": now}), item)


def _load_switch(dynamodb: DynamoDBClient, table: str) -> tuple[dict[str, Any] | None, Switch | None]:
    item = get_item(dynamodb, table, SWITCH)
    return item, parse_switch(plain(item)) if item else None


def _replace(dynamodb: DynamoDBClient, table: str, switch: Switch, standing: dict[str, Any] | None) -> bool:
    """Replace the item. Returns whether that was possible: if a person was faster, theirs stays."""
    if standing is None:
        return put_item_if(dynamodb, table, as_item(switch), "attribute_not_exists(id)")
    names = [name for name in ("since", "until") if name in standing]
    return put_item_if(
        dynamodb,
        table,
        as_item(switch),
        " AND ".join(["attribute_exists(id)", *(f"#{name} = :{name}" for name in names)]),
        **({"ExpressionAttributeNames": {f"#{name}": name for name in names}} if names else {}),
        **({"ExpressionAttributeValues": {f":{name}": standing[name] for name in names}} if names else {}),
    )
