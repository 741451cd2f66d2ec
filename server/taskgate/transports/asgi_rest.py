"""Answer REST calls over ASGI: the bare document, a token, Conductor's error body.

Envoy's transcoder has made each of them a gRPC call. The answer is not gRPC, and the transcoder passes it on unchanged.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from taskgate.base.errors import InvalidRequest, StoreUnavailable, TaskgateError
from taskgate.service.calls import Call, EagerCoroutine, Handler
from taskgate.transports.asgi import Receive, Send, finish, send_body, send_large
from taskgate.transports.asgi_answers import REQUEST_ID, request_id_header
from taskgate.transports.asgi_requests import Request
from taskgate.transports.grpc_wire import ProtocolError
from taskgate.transports.pace import Turns
from taskgate.v1.token_service_pb2 import CreateTokenResponse

_TASK_PATH = b"/api/tasks/"
_JSON = (b"content-type", b"application/json")
_NO_STORE = (b"cache-control", b"no-store")  # RFC 9111, section 3.5: caches know no x-authorization


class Rest:
    """The REST side of the ASGI application."""

    def __init__(self, get_document: Handler, *, instance: str, turns: Turns, no_store: bool) -> None:
        """``get_document`` answers the bytes of an ID; ``instance`` is the name of this node in error bodies.

        With ``no_store``, every answer says that no cache may keep it.
        """
        self._get_document = get_document
        self._instance = instance
        self._turns = turns
        self._of_every_answer = (_JSON, _NO_STORE) if no_store else (_JSON,)

    async def get_task(self, path: bytes, call: Call, receive: Receive, send: Send) -> None:
        """Answer ``GET /api/tasks/{taskId}``. Only the path names the task; query parameters and body are ignored."""
        task_id = path.partition(b"?")[0][len(_TASK_PATH) :]
        if b"%" in task_id:
            task_id = unquote_to_bytes(task_id)
        id_header = (REQUEST_ID, call.request_id.encode())
        try:
            started = EagerCoroutine(self._get_document(call, task_id))
            document = started.result if started.done else await finish(started, receive)
            assert isinstance(document, bytes)  # noqa: S101 - the document endpoint returns no LargeAnswer
            length = (b"content-length", str(len(document)).encode())
            headers = [*self._of_every_answer, length, id_header]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if call.room is not None:
                await send_large(send, document, self._turns)
                document = b""
            await send_body(send, document)
        except TaskgateError as error:
            refusal = error.with_traceback(None)
        else:
            return
        finally:
            if call.room is not None:
                call.room.release()
        await self.send_error(send, refusal, id_header)  # outside "except": no traceback keeps the document

    async def create_token(self, create: Handler, call: Call, request: Request, receive: Receive, send: Send) -> None:
        """Answer ``POST /api/token`` with ``create``, the endpoint of ``CreateToken``."""
        id_header = (REQUEST_ID, call.request_id.encode())
        try:
            started = EagerCoroutine(create(call, await request.only_message()))
            answer = started.result if started.done else await finish(started, receive)
            assert isinstance(answer, bytes)  # noqa: S101 - it is no LargeAnswer
        except ProtocolError as refused:
            await self.send_error(send, InvalidRequest(refused.message), id_header)
        except TaskgateError as error:
            await self.send_error(send, error, id_header)
        else:
            token = CreateTokenResponse.FromString(answer).token
            body = json.dumps({"token": token}, separators=(",", ":")).encode()
            length = (b"content-length", str(len(body)).encode())
            headers = [*self._of_every_answer, length, id_header]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send_body(send, body)

    async def healthz(self, method: str, headers: Mapping[bytes, bytes], send: Send, *, serving: bool) -> None:
        """Answer ``/healthz``: 200 while calls should be sent here, else 503."""
        id_header = request_id_header(headers)
        if not serving:
            await self.send_error(send, StoreUnavailable("it does not answer"), id_header)
            return
        body = b'{"healthy":true}'
        length = (b"content-length", str(len(body)).encode())
        headers_sent = [*self._of_every_answer, length, id_header]
        await send({"type": "http.response.start", "status": 200, "headers": headers_sent})
        await send_body(send, b"" if method == "HEAD" else body)

    async def send_error(self, send: Send, error: TaskgateError, id_header: tuple[bytes, bytes]) -> None:
        """Send ``error`` with its HTTP status and Conductor's error body."""
        row = error.status
        body = {
            "status": row.http_status,
            "message": error.message,
            "instance": self._instance,
            "retryable": row.retryable,
        }
        if row.rest_error is not None:
            body["error"] = row.rest_error
        encoded = json.dumps(body, separators=(",", ":")).encode()
        headers = [*self._of_every_answer, (b"content-length", str(len(encoded)).encode()), id_header]
        if row.http_status == HTTPStatus.UNAUTHORIZED:
            headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 15.5.2
        if error.retry_after is not None:
            headers.append((b"retry-after", str(error.retry_after).encode()))
        await send({"type": "http.response.start", "status": row.http_status, "headers": headers})
        await send_body(send, encoded)
