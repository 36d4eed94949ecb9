"""Lets an execution's wait for a person end when a test says so, instead of when seconds have passed."""

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.stepfunctions.parser.asl.eval.callback.callback import CallbackOutcomeTimedOut
from moto.stepfunctions.parser.models import stepfunctions_parser_backends

from kickstand.review.rules import Review


def end_wait(review: Review) -> None:
    """The execution continues as if nobody had answered in time."""
    assert review.task_token is not None
    token = review.task_token.get_secret_value()
    executions = stepfunctions_parser_backends[DEFAULT_ACCOUNT_ID]["us-east-1"]._get_executions()
    (execution,) = (execution for execution in executions if execution.execution_arn == review.execution)
    assert execution.exec_worker.env.callback_pool_manager.notify(token, CallbackOutcomeTimedOut(token))
