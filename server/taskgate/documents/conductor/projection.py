"""``TaskModel.toTask()`` and what the getters and setters of ``Task`` add."""

from typing import Any, NamedTuple

from msgspec import UNSET, Raw, UnsetType

from taskgate.documents.conductor.coercion import is_blank, refuse
from taskgate.documents.conductor.decoder import read_task_model
from taskgate.documents.conductor.encoder import encode, string
from taskgate.documents.conductor.schema import NOT_IN_TASK, TaskModel, WorkflowTask
from taskgate.documents.document import DocumentError, check_text

_REASON_UNITS = 500
"""``Task.setReasonForIncompletion``: UTF-16 units, even where that cuts a pair in two."""

_LONG = 2**64

_SUB_WORKFLOW_ID = "subWorkflowId"

_EXECUTION_METADATA = Raw(b'{"additionalContext":{},"additionalContextMap":{},"empty":true}')
"""Rows keep none; its getter makes an empty one. In the order of every recorded answer of a server."""


class Projection(NamedTuple):
    """A row as REST answers it."""

    document: bytes
    lasts: bool
    """Whether it would be the same at any other time."""


def project_task_model(stored: bytes, now: int) -> Projection:
    """The REST document that Conductor answers with for a stored row, without whitespace.

    ``now`` is the time in epoch milliseconds, for the ``queueWaitTime`` of a started task that has
    ``callbackAfterSeconds``; only such a document does not last.

    A little more is answered than Conductor would: what is beyond Jackson's limits on the length of a number (1000
    digits) or of a key (50,000 characters), and a broken value that is followed by a good one of the same key.

    Raises:
        NoTaskError: the row is null, and Conductor says that there is no such task.
        DocumentError: Conductor could not answer either (it says 500): the row is not JSON, has no known ``status``, or
            holds a value that its classes do not take.
    """
    check_text(stored)
    try:
        model = read_task_model(stored)
        lasts = _to_task(model, now)
        return Projection(encode(model, len(stored)), lasts)
    except RecursionError as error:  # only where brackets are left open: nesting has been checked
        raise DocumentError("nested too deep") from error


def _to_task(task: TaskModel, now: int) -> bool:
    """Turn the model into the Task, in place; whether it would become the same at any other time."""
    if task.status is UNSET:
        raise DocumentError("no status")
    if task.reasonForIncompletion is not UNSET:
        task.reasonForIncompletion = _shortened(task.reasonForIncompletion)
    if not task.taskDefName:
        task.taskDefName = task.taskType
    _set_payloads(task)
    _set_workflow_task(task)
    task.firstStartTime = 0  # there is no such thing in a row
    task.executionMetadata = _EXECUTION_METADATA
    task.loopOverTask = task.iteration > 0
    task.queueWaitTime, lasts = _queue_wait_time(task, now)
    for name in NOT_IN_TASK:
        setattr(task, name, UNSET)
    return lasts


def _shortened(reason: str) -> Any:
    """The text, or what is to be written for it."""
    if 2 * len(reason) <= _REASON_UNITS:
        return reason
    units = reason[:_REASON_UNITS].encode("utf-16-le", "surrogatepass")
    short = units[: 2 * _REASON_UNITS].decode("utf-16-le", "surrogatepass")
    if not "\ud800" <= short[-1] <= "\udbff":
        return short
    # Half a pair is written here, so that the rest of the task is written at once.
    return Raw(encode(short[:-1])[:-1] + string(short[-1])[1:].encode())


def _set_payloads(task: TaskModel) -> None:
    """What is stored elsewhere is answered with empty; ``subWorkflowId`` is looked for before that, and again after."""
    if (
        task.subWorkflowId is UNSET
        and task.externalInputPayloadStoragePath is UNSET
        and task.externalOutputPayloadStoragePath is UNSET
        and _SUB_WORKFLOW_ID not in task.outputData
        and _SUB_WORKFLOW_ID not in task.inputData
    ):
        return  # most tasks have neither
    outside_input = task.externalInputPayloadStoragePath is not UNSET
    # The model's getter shows no input once it is outside; its output, it shows.
    found = _sub_workflow_id(task.subWorkflowId, task.outputData, {} if outside_input else task.inputData)
    if _SUB_WORKFLOW_ID in task.outputData:  # setSubWorkflowId
        task.outputData[_SUB_WORKFLOW_ID] = None if found is UNSET else found
    if outside_input:
        task.inputData = {}
    if task.externalOutputPayloadStoragePath is not UNSET:
        task.outputData = {}
    task.subWorkflowId = _sub_workflow_id(found, task.outputData, task.inputData)


def _sub_workflow_id(own: str | UnsetType, output: dict[str, Any], given: dict[str, Any]) -> str | UnsetType:
    if own is not UNSET and not is_blank(own):
        return own
    found = output.get(_SUB_WORKFLOW_ID)
    if found is None:
        found = given.get(_SUB_WORKFLOW_ID)
    if found is None:
        return UNSET
    return found if isinstance(found, str) else refuse(found, "text for subWorkflowId")


def _set_workflow_task(task: TaskModel) -> None:
    """A Task always has one, with its two names; it is asked for the definition."""
    step = task.workflowTask
    if step is UNSET:
        task.workflowTask = step = WorkflowTask()
    if step.name is UNSET:
        step.name = task.taskDefName
    if step.taskReferenceName is UNSET:
        step.taskReferenceName = task.referenceTaskName
    # An empty Optional is written as null, where a null property is not written.
    task.taskDefinition = None if step.taskDefinition is UNSET else step.taskDefinition


def _queue_wait_time(task: TaskModel, now: int) -> tuple[int, bool]:
    """Milliseconds, less than nothing where a clock was set back; and whether they are the same at any other time."""
    started, scheduled = task.startTime, task.scheduledTime
    if started <= 0 or scheduled <= 0:
        return 0, True
    if task.callbackAfterSeconds > 0 and task.updateTime > 0:
        return max(_as_long(now - (task.updateTime + task.callbackAfterSeconds * 1000)), 0), False
    return started - scheduled, True  # both positive, so within a long


def _as_long(number: int) -> int:
    """Java's long arithmetic wraps around."""
    return (number + _LONG // 2) % _LONG - _LONG // 2
