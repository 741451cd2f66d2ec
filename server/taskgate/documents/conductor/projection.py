"""Turn a ``TaskModel`` into a ``Task`` as Conductor's ``TaskModel.toTask()`` and the accessors of ``Task`` do."""

from typing import Any, NamedTuple

from msgspec import UNSET, Raw, UnsetType

from taskgate.documents.conductor.coercion import is_blank, refuse
from taskgate.documents.conductor.decoder import read_task_model
from taskgate.documents.conductor.encoder import encode, encode_string
from taskgate.documents.conductor.schema import NOT_IN_TASK, TaskModel, WorkflowTask
from taskgate.documents.document import DocumentError, check_text

_REASON_UNITS = 500
"""``Task.setReasonForIncompletion``: UTF-16 units, even where that cuts a pair in two."""

_LONG = 2**64

_SUB_WORKFLOW_ID = "subWorkflowId"

_EXECUTION_METADATA = Raw(b'{"additionalContext":{},"additionalContextMap":{},"empty":true}')
"""No row stores it; the getter returns an empty one. The key order is that of all recorded answers of a server."""


class Projection(NamedTuple):
    """The REST document of a row."""

    document: bytes
    cacheable: bool
    """Whether the document does not depend on the time."""


def project_task_model(stored: bytes, now: int) -> Projection:
    """Return the REST document that Conductor answers with for a stored row, without whitespace.

    ``now`` is the time in epoch milliseconds. Only the ``queueWaitTime`` of a started task with
    ``callbackAfterSeconds`` depends on it; such a document is not cacheable.

    Some rows that Conductor refuses are answered: those with a number of more than 1000 digits or a key of more than
    50,000 characters (Jackson's limits), and those where a valid value follows an invalid one of the same key.

    Raises:
        NullRowError: the row is null; Conductor answers that the task does not exist.
        DocumentError: Conductor cannot answer either (500): the row is not JSON, has no known ``status``, or holds a
            value that Conductor's classes refuse.
    """
    check_text(stored)
    try:
        model = read_task_model(stored)
        cacheable = _to_task(model, now)
        return Projection(encode(model, len(stored)), cacheable)
    except RecursionError as error:  # only with unclosed brackets: check_text has counted the others
        raise DocumentError("nested too deep") from error


def _to_task(task: TaskModel, now: int) -> bool:
    """Turn the model into the Task, in place; return whether the result does not depend on ``now``."""
    if task.status is UNSET:
        raise DocumentError("no status")
    if task.reasonForIncompletion is not UNSET:
        task.reasonForIncompletion = _shortened(task.reasonForIncompletion)
    if not task.taskDefName:
        task.taskDefName = task.taskType
    _set_payloads(task)
    _set_workflow_task(task)
    task.firstStartTime = 0  # no row stores it
    task.executionMetadata = _EXECUTION_METADATA
    task.loopOverTask = task.iteration > 0
    task.queueWaitTime, cacheable = _queue_wait_time(task, now)
    for name in NOT_IN_TASK:
        setattr(task, name, UNSET)
    return cacheable


def _shortened(reason: str) -> Any:
    """Return the text, cut if it is long; as Raw JSON if the cut leaves half a pair."""
    if 2 * len(reason) <= _REASON_UNITS:
        return reason
    units = reason[:_REASON_UNITS].encode("utf-16-le", "surrogatepass")
    short = units[: 2 * _REASON_UNITS].decode("utf-16-le", "surrogatepass")
    if not "\ud800" <= short[-1] <= "\udbff":
        return short
    # Encode half a pair here, so that the rest of the task is encoded on the fast path.
    return Raw(encode(short[:-1])[:-1] + encode_string(short[-1])[1:].encode())


def _set_payloads(task: TaskModel) -> None:
    """Empty externally stored payloads, and look up ``subWorkflowId`` in the payloads before and after that."""
    if (
        task.subWorkflowId is UNSET
        and task.externalInputPayloadStoragePath is UNSET
        and task.externalOutputPayloadStoragePath is UNSET
        and _SUB_WORKFLOW_ID not in task.outputData
        and _SUB_WORKFLOW_ID not in task.inputData
    ):
        return  # most tasks
    outside_input = task.externalInputPayloadStoragePath is not UNSET
    # The getters of TaskModel hide an external input, but not an external output.
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
    """Fill in the workflow task, with its two names, and copy its definition to the top."""
    step = task.workflowTask
    if step is UNSET:
        task.workflowTask = step = WorkflowTask()
    if step.name is UNSET:
        step.name = task.taskDefName
    if step.taskReferenceName is UNSET:
        step.taskReferenceName = task.referenceTaskName
    # Jackson writes an empty Optional as null, and omits a null property.
    task.taskDefinition = None if step.taskDefinition is UNSET else step.taskDefinition


def _queue_wait_time(task: TaskModel, now: int) -> tuple[int, bool]:
    """Return milliseconds, negative if a clock was set back, and whether they do not depend on ``now``."""
    started, scheduled = task.startTime, task.scheduledTime
    if started <= 0 or scheduled <= 0:
        return 0, True
    if task.callbackAfterSeconds > 0 and task.updateTime > 0:
        return max(_as_long(now - (task.updateTime + task.callbackAfterSeconds * 1000)), 0), False
    return started - scheduled, True  # both positive, so within a long


def _as_long(number: int) -> int:
    """Wrap around as Java's long arithmetic does."""
    return (number + _LONG // 2) % _LONG - _LONG // 2
