"""What can go wrong, and the one table that says how callers hear of it.

The tree (raise the leaf where the fault happens; never a bare ``TaskgateError``)::

    TaskgateError
    ├── InvalidTaskId           the caller's ID cannot name a task
    ├── InvalidRequest          the request message could not be decoded
    ├── TaskNotFound            a well-formed ID that no stored task has
    ├── StoreUnavailable        the database is away, locked or damaged
    ├── Overloaded              a bounded resource of the server has no room for the call
    ├── DeadlineExceeded        the caller's deadline, or ours, passed first
    ├── DocumentUnreadable      a stored row is not the JSON document it should be
    ├── DocumentTooLarge        the answer does not fit into one message
    ├── TaskNotRepresentable    the document holds what the typed ``Task`` cannot
    └── InternalError           anything unexpected; made only by the masking layer

Messages are public: they reach clients word for word, so they name the fault and never quote a driver, a stack, a
document, or the address of anything; ``private`` is what the log has in their place. ``STATUS_OF`` is the one
table of statuses; transports translate its rows and add none.
"""

from dataclasses import dataclass

ERROR_DOMAIN = "taskgate"
"""``google.rpc.ErrorInfo.domain`` of every error."""

_NAMED_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """How one kind of error looks from outside.

    ``grpc_code`` is a name of ``google.rpc.Code``; ``reason``, a value name of ``taskgate.v1.ErrorReason``, is what
    clients find in ``ErrorInfo.reason``; ``retryable`` says whether the same call may succeed later; ``retry_after``,
    where there is a figure, says after how many seconds (``google.rpc.RetryInfo``, REST header ``retry-after``).
    """

    grpc_code: str
    http_status: int
    reason: str
    retryable: bool = False
    retry_after: int | None = None


class TaskgateError(Exception):
    """Base of every refusal; ``message`` is what the client reads, ``metadata`` goes into ``ErrorInfo``.

    ``private`` is what the log and the commands of the operator say instead: it may name places and settings.
    """

    def __init__(self, message: str, /, *, private: str | None = None, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.private = message if private is None else private
        self.metadata = metadata

    @property
    def status(self) -> ErrorStatus:
        """The row of ``STATUS_OF`` for this error."""
        return STATUS_OF[type(self)]


def shortened(task_id: str) -> str:
    """``task_id`` for an error, cut after 1,024 bytes: gRPC clients take 8 KB of headers, and it is in them thrice."""
    encoded = task_id.encode(errors="replace")
    if len(encoded) <= _NAMED_BYTES:
        return task_id
    return encoded[:_NAMED_BYTES].decode(errors="ignore") + "…"


class SettingsError(ValueError):
    """A setting has a value that taskgate cannot run with; the text is one sentence a person can act on."""


class InvalidTaskId(TaskgateError):
    """The ID is empty, holds a control character, or is not of the configured format."""


class InvalidRequest(TaskgateError):
    """The request bytes are not the message that the method takes."""


class TaskNotFound(TaskgateError):
    """No stored task has this ID."""

    def __init__(self, task_id: str) -> None:
        # The wording is Conductor's own (``TaskResource``): released SDKs show it to people.
        super().__init__(f"Task not found for taskId: {shortened(task_id)}", task_id=shortened(task_id))


class StoreUnavailable(TaskgateError):
    """The store cannot answer now; trying again later may help.

    ``reason`` is a clause about the store, in public words. ``store`` is what the log calls it, without a password, and
    ``node`` which of its servers it was; neither is for clients.
    """

    def __init__(self, reason: str, /, *, store: str = "", node: str = "") -> None:
        super().__init__(
            f"The store is unavailable: {reason}",
            private=f"The store{store and f' {store}'} is unavailable: {reason}{node and f' (node {node})'}",
        )
        self.reason = reason


class Overloaded(TaskgateError):
    """A queue or a budget is full; the message names which, ``metadata`` may hold its size. Try again after a pause."""


class DeadlineExceeded(TaskgateError):
    """The time allowed for the call ran out."""


class DocumentUnreadable(TaskgateError):
    """The stored value for this ID is not a JSON object in UTF-8."""

    def __init__(self, task_id: str) -> None:
        name = shortened(task_id)
        super().__init__(f"The stored document of task {name} cannot be read", task_id=name)


class DocumentTooLarge(TaskgateError):
    """The document, or its typed form, is larger than one message may be."""


class TaskNotRepresentable(TaskgateError):
    """A value in the document has no place in ``taskgate.v1.Task``; ``GetTaskJson`` still returns it exactly."""


class InternalError(TaskgateError):
    """An unexpected fault. The log has all of it under the request ID; the client gets only that ID."""


STATUS_OF: dict[type[TaskgateError], ErrorStatus] = {
    InvalidTaskId: ErrorStatus("INVALID_ARGUMENT", 400, "ERROR_REASON_INVALID_TASK_ID"),
    InvalidRequest: ErrorStatus("INVALID_ARGUMENT", 400, "ERROR_REASON_INVALID_REQUEST"),
    TaskNotFound: ErrorStatus("NOT_FOUND", 404, "ERROR_REASON_TASK_NOT_FOUND"),
    StoreUnavailable: ErrorStatus("UNAVAILABLE", 503, "ERROR_REASON_STORE_UNAVAILABLE", retryable=True),
    # Not UNAVAILABLE, which the gateway tries again at once: the load would grow by what there is no room for.
    Overloaded: ErrorStatus("RESOURCE_EXHAUSTED", 503, "ERROR_REASON_OVERLOADED", retryable=True, retry_after=1),
    DeadlineExceeded: ErrorStatus("DEADLINE_EXCEEDED", 504, "ERROR_REASON_DEADLINE_EXCEEDED", retryable=True),
    DocumentUnreadable: ErrorStatus("DATA_LOSS", 500, "ERROR_REASON_DOCUMENT_UNREADABLE"),
    TaskNotRepresentable: ErrorStatus("DATA_LOSS", 500, "ERROR_REASON_TASK_NOT_REPRESENTABLE"),
    # Not RESOURCE_EXHAUSTED, gRPC's habit for large messages: REST would say 429 and every SDK would try again.
    DocumentTooLarge: ErrorStatus("INTERNAL", 500, "ERROR_REASON_DOCUMENT_TOO_LARGE"),
    InternalError: ErrorStatus("INTERNAL", 500, "ERROR_REASON_INTERNAL"),
}
