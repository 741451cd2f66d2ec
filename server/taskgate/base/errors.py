"""Errors that callers can receive, and the one table of their gRPC codes and HTTP statuses.

The tree (raise the leaf where the fault happens; never a bare ``TaskgateError``)::

    TaskgateError
    ├── InvalidTaskId           the caller's ID cannot name a task
    ├── InvalidRequest          the request message could not be decoded
    ├── TokenInvalid            the call has no token, or one that is not valid here
    ├── TokenExpired            the call has a token that was valid and has expired
    ├── CredentialsInvalid      key ID and secret do not give a token
    ├── TooManyAttempts         a caller has been refused too often, and must wait
    ├── RateLimited             a caller makes more calls than one may
    ├── TaskNotFound            a well-formed ID that no stored task has
    ├── PermissionDenied        the caller may not read this task
    ├── StoreUnavailable        the database is unreachable, locked or damaged
    ├── Overloaded              a bounded resource of the server has no room for the call
    ├── DeadlineExceeded        the caller's deadline, or the server's own limit, has passed
    ├── DocumentUnreadable      a stored row is not the JSON document it should be
    ├── DocumentTooLarge        the answer does not fit into one message
    ├── TaskNotRepresentable    the document holds what the typed ``Task`` cannot
    └── InternalError           anything unexpected; made only by the masking layer

Messages are public: they reach clients word for word. They name the fault and never quote a driver, a stack trace, a
document or an address; the log has ``private`` in their place. Transports translate the rows of ``STATUS_OF`` and add
none.
"""

from dataclasses import dataclass

ERROR_DOMAIN = "taskgate"
"""``google.rpc.ErrorInfo.domain`` of every error."""

_NAMED_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ErrorStatus:
    """How clients see one kind of error.

    ``grpc_code`` is a name of ``google.rpc.Code``. ``reason``, a value name of ``taskgate.v1.ErrorReason``, becomes
    ``ErrorInfo.reason``. ``retryable`` says whether the same call may succeed later. ``retry_after`` is the number of
    seconds to wait first (``google.rpc.RetryInfo``, REST header ``retry-after``), or None if unknown. ``rest_error`` is
    the member ``error`` of a REST body, which Conductor's SDKs read after a 401, or None.
    """

    grpc_code: str
    http_status: int
    reason: str
    retryable: bool = False
    retry_after: int | None = None
    rest_error: str | None = None


class TaskgateError(Exception):
    """Base of every refusal; ``message`` is what the client reads, ``metadata`` goes into ``ErrorInfo``.

    ``private`` is the text for the log and the operator's commands: it may name addresses, files and settings.
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

    @property
    def retry_after(self) -> int | None:
        """The seconds to wait before the same call may succeed; None if unknown."""
        return self.status.retry_after


def shortened(task_id: str) -> str:
    """Cut ``task_id`` to 1,024 bytes: an error repeats it three times in headers, of which gRPC clients accept 8 KB."""
    encoded = task_id.encode(errors="replace")
    if len(encoded) <= _NAMED_BYTES:
        return task_id
    return encoded[:_NAMED_BYTES].decode(errors="ignore") + "…"


class SettingsError(ValueError):
    """A setting has a value that taskgate cannot run with; the text is one sentence that a person can act on."""


class StartError(Exception):
    """Taskgate cannot start now, though its settings may be good; the text is a sentence. A later start may succeed."""


class InvalidTaskId(TaskgateError):
    """The ID is empty, holds a control character, or does not have the configured format."""


class InvalidRequest(TaskgateError):
    """The request bytes are not a message of the type that the method expects."""


TOKEN_INVALID = "The token is not valid"  # noqa: S105 - a sentence
TOKEN_MISSING = "The call needs a token: the bare token in x-authorization, or 'Bearer' and the token in authorization"  # noqa: S105 - same


class TokenInvalid(TaskgateError):
    """The call has no token, or one that is not valid here. Only ``private`` says which check failed."""


class TokenExpired(TaskgateError):
    """The token was valid and has expired; a new one is needed."""

    def __init__(self) -> None:
        super().__init__("The token has expired; get a new one")


class CredentialsInvalid(TaskgateError):
    """There is no such key, its secret is another one, or it is disabled; the message does not say which."""

    def __init__(self, private: str) -> None:
        super().__init__("Key ID and secret are not valid", private=private)


class TooManyAttempts(TaskgateError):
    """The caller has been refused too often. ``retry_after`` is the number of seconds until it may try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"Too many refused attempts; try again in {seconds} s")
        self._seconds = seconds

    @property
    def retry_after(self) -> int:
        """The seconds until the next attempt is allowed."""
        return self._seconds


class RateLimited(TaskgateError):
    """The caller's address makes more calls than one may; only Envoy raises this."""

    def __init__(self) -> None:
        super().__init__("Too many calls from this address; try again in a second")


class TaskNotFound(TaskgateError):
    """No stored task has this ID."""

    def __init__(self, task_id: str) -> None:
        # Conductor's own wording (``TaskResource``): released SDKs show it to people.
        super().__init__(f"Task not found for taskId: {shortened(task_id)}", task_id=shortened(task_id))


class PermissionDenied(TaskgateError):
    """The caller may not read this task. ``reason`` is for the log alone: callers learn nothing of the task."""

    def __init__(self, reason: str) -> None:
        message = "The key may not read this task"
        super().__init__(message, private=f"{message}: {reason}")
        self.reason = reason


class StoreUnavailable(TaskgateError):
    """The store cannot answer now; trying again later may help.

    ``reason`` is a clause about the store that clients may read. ``store`` is its name in the log, without a password,
    and ``node`` the server of it that failed; both are for the log alone.
    """

    def __init__(self, reason: str, /, *, store: str = "", node: str = "") -> None:
        super().__init__(
            f"The store is unavailable: {reason}",
            private=f"The store{store and f' {store}'} is unavailable: {reason}{node and f' (node {node})'}",
        )
        self.reason = reason


class Overloaded(TaskgateError):
    """A queue or a budget is full; the message names it, ``metadata`` may hold its size. Try again after a pause."""


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
    """The document has a value that ``taskgate.v1.Task`` cannot hold; ``GetTaskJson`` still returns it exactly."""


class InternalError(TaskgateError):
    """An unexpected fault. The log has its details under the request ID; the client gets only that ID."""


STATUS_OF: dict[type[TaskgateError], ErrorStatus] = {
    InvalidTaskId: ErrorStatus("INVALID_ARGUMENT", 400, "ERROR_REASON_INVALID_TASK_ID"),
    InvalidRequest: ErrorStatus("INVALID_ARGUMENT", 400, "ERROR_REASON_INVALID_REQUEST"),
    # Released SDKs get a new token after these two values of ``error``, and repeat the call once.
    TokenInvalid: ErrorStatus("UNAUTHENTICATED", 401, "ERROR_REASON_TOKEN_INVALID", rest_error="INVALID_TOKEN"),
    TokenExpired: ErrorStatus("UNAUTHENTICATED", 401, "ERROR_REASON_TOKEN_EXPIRED", rest_error="EXPIRED_TOKEN"),
    # Neither of them: the Python SDK would ask for a token again and again.
    CredentialsInvalid: ErrorStatus(
        "UNAUTHENTICATED", 401, "ERROR_REASON_CREDENTIALS_INVALID", rest_error="INVALID_CREDENTIALS"
    ),
    TooManyAttempts: ErrorStatus("RESOURCE_EXHAUSTED", 429, "ERROR_REASON_TOO_MANY_ATTEMPTS", retryable=True),
    RateLimited: ErrorStatus("RESOURCE_EXHAUSTED", 429, "ERROR_REASON_RATE_LIMITED", retryable=True, retry_after=1),
    TaskNotFound: ErrorStatus("NOT_FOUND", 404, "ERROR_REASON_TASK_NOT_FOUND"),
    PermissionDenied: ErrorStatus("PERMISSION_DENIED", 403, "ERROR_REASON_PERMISSION_DENIED"),
    StoreUnavailable: ErrorStatus("UNAVAILABLE", 503, "ERROR_REASON_STORE_UNAVAILABLE", retryable=True),
    # Not UNAVAILABLE: the gateway retries that at once, which would add load to a server that is full.
    Overloaded: ErrorStatus("RESOURCE_EXHAUSTED", 503, "ERROR_REASON_OVERLOADED", retryable=True, retry_after=1),
    DeadlineExceeded: ErrorStatus("DEADLINE_EXCEEDED", 504, "ERROR_REASON_DEADLINE_EXCEEDED", retryable=True),
    DocumentUnreadable: ErrorStatus("DATA_LOSS", 500, "ERROR_REASON_DOCUMENT_UNREADABLE"),
    TaskNotRepresentable: ErrorStatus("DATA_LOSS", 500, "ERROR_REASON_TASK_NOT_REPRESENTABLE"),
    # Not RESOURCE_EXHAUSTED, gRPC's usual code for large messages: REST would say 429 and every SDK would retry.
    DocumentTooLarge: ErrorStatus("INTERNAL", 500, "ERROR_REASON_DOCUMENT_TOO_LARGE"),
    InternalError: ErrorStatus("INTERNAL", 500, "ERROR_REASON_INTERNAL"),
}
