"""Rows that no workflow of ours leaves behind, put into the database to see what Conductor makes of them.

Older and newer servers, other clients and plain damage write such rows; each is one question, and its key says which.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from against_conductor.values import (
    DEEP,
    INFINITE,
    LONG_ASTRAL_REASON,
    LONG_REASON,
    SURROGATES,
    ZOO,
    random_doubles,
)

_NAMESPACE = uuid.UUID("65fc73fe-0586-11f1-8b8d-6219b54da7fe")

_PLAIN = {
    "taskType": "echo",
    "status": "COMPLETED",
    "referenceTaskName": "reference",
    "seq": 1,
    "taskDefName": "echo",
    "scheduledTime": 1_770_000_000_000,
    "startTime": 1_770_000_000_250,
    "endTime": 1_770_000_001_000,
    "updateTime": 1_770_000_000_990,
    "workflowInstanceId": "a-workflow",
    "workflowType": "seeded",
    "inputData": {},
    "outputData": {},
}

_STRINGS = (
    *("taskType", "referenceTaskName", "correlationId", "taskDefName", "retriedTaskId", "workflowInstanceId"),
    *("workflowType", "taskId", "reasonForIncompletion", "workerId", "domain", "externalInputPayloadStoragePath"),
    *("externalOutputPayloadStoragePath", "executionNameSpace", "isolationGroupId", "subWorkflowId", "parentTaskId"),
)
_INTS = (
    *("retryCount", "seq", "pollCount", "startDelayInSeconds", "rateLimitPerFrequency"),
    *("rateLimitFrequencyInSeconds", "workflowPriority", "iteration"),
)
_LONGS = (
    *("scheduledTime", "startTime", "endTime", "updateTime", "responseTimeoutSeconds", "callbackAfterSeconds"),
    *("callbackAfterMs", "firstScheduledTime", "waitTimeout"),
)
_BOOLEANS = ("retried", "executed", "callbackFromWorker", "subworkflowChanged")

_FULL_TASK_DEF = {
    "name": "echo",
    "description": "d",
    "retryCount": 4,
    "timeoutSeconds": 5,
    "inputKeys": ["a"],
    "outputKeys": ["b"],
    "runtimeMetadata": ["r"],
    "timeoutPolicy": "ALERT_ONLY",
    "retryLogic": "LINEAR_BACKOFF",
    "retryDelaySeconds": 6,
    "responseTimeoutSeconds": 7,
    "concurrentExecLimit": 8,
    "inputTemplate": {"z": 1, "a": 1.0, "n": None},
    "rateLimitPerFrequency": 9,
    "rateLimitFrequencyInSeconds": 10,
    "isolationGroupId": "i",
    "executionNameSpace": "e",
    "ownerEmail": "o@example.com",
    "pollTimeoutSeconds": 11,
    "backoffScaleFactor": 12,
    "maxRetryDelaySeconds": 13,
    "backoffJitterMs": 14,
    "baseType": "HTTP",
    "totalTimeoutSeconds": 15,
    "taskStatusListenerEnabled": False,
    "inputSchema": {"name": "s", "version": 2, "type": "JSON", "data": {"x": 1.0}, "externalRef": "r"},
    "outputSchema": {"name": "t", "version": 1, "type": "AVRO"},
    "enforceSchema": True,
    "ownerApp": "app",
    "createTime": 1,
    "updateTime": 2,
    "createdBy": "c",
    "updatedBy": "u",
    "unknown": 1,
}

_NESTED: dict[str, Any] = {"name": "n", "taskReferenceName": "n1", "type": "NOOP", "unknown": {"x": 1}}

_FULL_WORKFLOW_TASK = {
    "name": "echo",
    "taskReferenceName": "reference",
    "description": "d",
    "inputParameters": {"z": 1, "a": 1.0, "n": None, "m": {}},
    "type": "SIMPLE",
    "dynamicTaskNameParam": "dynamic",
    "caseValueParam": "case",
    "caseExpression": "expression",
    "scriptExpression": "script",
    "decisionCases": {"z": [_NESTED], "a": [], "m": [_NESTED, _NESTED]},
    "dynamicForkJoinTasksParam": "j",
    "dynamicForkTasksParam": "f",
    "dynamicForkTasksInputParamName": "i",
    "defaultCase": [_NESTED],
    "forkTasks": [[_NESTED], [], [_NESTED, {"taskDefinition": {"name": "inner"}}]],
    "startDelay": 3,
    "subWorkflowParam": {
        "name": "s",
        "version": 2,
        "taskToDomain": {"*": "d"},
        "priority": "5",
        "idempotencyKey": "k",
        "idempotencyStrategy": "FAIL",
        "unknown": 1,
    },
    "joinOn": ["b", "a"],
    "sink": "conductor",
    "optional": True,
    "taskDefinition": _FULL_TASK_DEF,
    "rateLimited": True,
    "defaultExclusiveJoinTask": ["x"],
    "asyncComplete": True,
    "loopCondition": "c",
    "loopOver": [_NESTED],
    "items": "i",
    "retryCount": 16,
    "evaluatorType": "javascript",
    "expression": "e",
    "onStateChange": {"onStart": [{"type": "t", "payload": {"n": 1, "f": 1.0}, "unknown": 1}], "none": []},
    "joinStatus": "s",
    "cacheConfig": {"key": "k", "ttlInSecond": 17, "unknown": 1},
    "permissive": True,
    "joinMode": "ASYNC",
    "metadata": {"n": 1, "f": 1.0, "null": None},
    "workflowTaskType": "SIMPLE",
    "unknown": [1],
}

_INLINE_DEFINITION = {
    "name": "w",
    "version": 3,
    "schemaVersion": 2,
    "tasks": [_NESTED],
    "inputParameters": ["a"],
    "outputParameters": {"o": 1.0},
    "failureWorkflow": "f",
    "timeoutPolicy": "ALERT_ONLY",
    "timeoutSeconds": 4,
    "variables": {"v": None},
    "inputTemplate": {"t": 1},
    "ownerEmail": "o@example.com",
    "unknown": 1,
}


def seeded_rows() -> Mapping[str, tuple[str, bytes]]:
    """Task ID and row by what the row is about."""
    rows: dict[str, tuple[str, bytes]] = {}
    for name, row in _questions():
        if name in rows:
            raise ValueError(f"two seeded rows are called {name}")
        task_id = str(uuid.uuid5(_NAMESPACE, name))
        rows[name] = task_id, row.replace(b"TASK-ID", task_id.encode())
    return rows


def _plain(**members: Any) -> bytes:
    """An ordinary row with some members changed, None among them."""
    return json.dumps(_PLAIN | {"taskId": "TASK-ID"} | members, separators=(",", ":"), ensure_ascii=False).encode()


def _with(member: str, text: bytes) -> bytes:
    """An ordinary row in which one member has exactly this text."""
    return _without(member)[:-1] + b',"' + member.encode() + b'":' + text + b"}"


def _without(*members: str) -> bytes:
    kept = {key: value for key, value in (_PLAIN | {"taskId": "TASK-ID"}).items() if key not in members}
    return json.dumps(kept, separators=(",", ":")).encode()


def _questions() -> Iterator[tuple[str, bytes]]:
    yield from _whole_rows()
    yield from _scalars()
    yield from _fall_backs()
    yield from _texts_and_numbers()
    yield from _clocks()
    yield from _workflow_tasks()
    yield from _task_definitions()


def _whole_rows() -> Iterator[tuple[str, bytes]]:
    yield "plain", _plain()
    yield "least", b'{"status":"SCHEDULED"}'
    yield "no status", _without("status")
    yield "no type", _without("taskType", "taskDefName")
    yield "unknown members", _plain(unknown=1, taskStatus="COMPLETED", other={"a": [1, None]})
    names = (
        "firstStartTime",
        "executionMetadata",
        "runtimeMetadata",
        "queueWaitTime",
        "loopOverTask",
        "taskDefinition",
    )
    yield "members of the answer", _plain(**dict.fromkeys(names, 7))
    yield (
        "members never answered",
        _plain(
            callbackAfterMs=5,
            firstScheduledTime=6,
            waitTimeout=7,
            loopTaskId="l",
            onStateChange={"onStart": []},
            idempotent=True,
            parentTaskReferenceName="p",
            cachedOutput=True,
            notifications={"a": {"requestId": "r", "hostIp": "h"}},
            nonWorkflowEventTask=True,
            asyncComplete=True,
            idempotentExecution=True,
        ),
    )
    every = (*_STRINGS, *_INTS, *_LONGS, *_BOOLEANS, "inputData", "outputData", "workflowTask", "inputMessage")
    yield "all null", _plain(**dict.fromkeys(every))
    yield "status null", _plain(status=None)
    yield "status unknown", _plain(status="PAUSED")
    yield "status lower case", _plain(status="completed")
    yield "status empty", _plain(status="")
    yield "status number", _plain(status=4)
    yield "status number text", _plain(status="4")
    yield "twice the same member", _plain()[:-1] + b',"seq":8,"inputData":{"a":1},"inputData":{"b":2}}'
    yield "whitespace", b" \t\r\n" + _plain().replace(b",", b" ,\n ").replace(b":{", b" : { ") + b"\n"
    yield "something after it", _plain() + b" {} x"
    yield "cut", _plain()[:-9]
    yield "empty", b""
    yield "null", b"null"
    yield "list", b"[]"
    yield "list of one", b"[" + _plain() + b"]"
    yield "text", b'"text"'
    yield "number", b"1"
    yield "not JSON", b"status: COMPLETED"
    yield "byte order mark", b"\xef\xbb\xbf" + _plain()
    yield "comment", _plain()[:-1] + b"/* no */}"
    yield "trailing comma", _plain()[:-1] + b",}"
    yield "single quotes", _plain().replace(b'"', b"'")
    yield (
        "any message",
        _plain(
            inputMessage={"@type": "type.googleapis.com/a.B", "@value": "AAEC/w=="},
            outputMessage={"@type": "", "@value": ""},
        ),
    )


def _scalars() -> Iterator[tuple[str, bytes]]:
    """What Jackson makes of one kind of value where another one is expected."""
    odd = {
        *{"1", "1.0", "1.9", "-1.9", "1e3", "true", '""', '" "', '"7"', '" 7 "', '"7.5"', '"x"', "[]", "[5]", "{}"},
        *{"2147483648", "9223372036854775808", '"null"', '"true"', '"False"', "0"},
    }
    for text in sorted(odd):
        yield f"string {text}", _with("correlationId", text.encode())
        yield f"int {text}", _with("pollCount", text.encode())
        yield f"long {text}", _with("responseTimeoutSeconds", text.encode())
        yield f"boolean {text}", _with("executed", text.encode())
        yield f"map {text}", _with("inputData", text.encode())
        yield f"workflow task {text}", _with("workflowTask", text.encode())
    for name in _STRINGS:
        yield f"empty {name}", _with(name, b'""')
        yield f"blank {name}", _with(name, b'" "')
    for number, name in enumerate((*_INTS, *_LONGS), start=2):
        yield f"value of {name}", _with(name, str(number).encode())
    for name in _BOOLEANS:
        yield f"true {name}", _with(name, b"true")
        yield f"false {name}", _with(name, b"false")


def _fall_backs() -> Iterator[tuple[str, bytes]]:
    for length in (499, 500, 501, 2000):
        yield f"reason of {length}", _plain(reasonForIncompletion="r" * length)
    yield "reason cut in a pair", _plain(reasonForIncompletion=LONG_REASON)
    yield "reason cut before a pair", _plain(reasonForIncompletion="x" + LONG_REASON)
    yield "reason of pairs", _plain(reasonForIncompletion=LONG_ASTRAL_REASON)
    yield "reason of escapes", _with("reasonForIncompletion", b'"' + rb"\u00e9\n\"\\" * 200 + b'"')
    yield (
        "paths",
        _plain(
            externalInputPayloadStoragePath="in.json",
            externalOutputPayloadStoragePath="out.json",
            inputData={"left": 1},
            outputData={"left": 2},
        ),
    )
    yield (
        "input path",
        _plain(externalInputPayloadStoragePath="in.json", inputData={"subWorkflowId": "i"}, outputData={"o": 1}),
    )
    yield "output path", _plain(externalOutputPayloadStoragePath="out.json", outputData={"subWorkflowId": "o"})
    yield (
        "empty paths",
        _plain(
            externalInputPayloadStoragePath="",
            externalOutputPayloadStoragePath="",
            inputData={"i": 1},
            outputData={"o": 1},
        ),
    )
    children: dict[str, Any] = {"absent": {}, "null": {"subWorkflowId": None}}
    children |= {"empty": {"subWorkflowId": ""}, "blank": {"subWorkflowId": " "}, "own": {"subWorkflowId": "own"}}
    for own, member in children.items():
        yield f"child {own}, output", _plain(**member, outputData={"a": 1, "subWorkflowId": "output", "z": 2})
        yield f"child {own}, input", _plain(**member, inputData={"subWorkflowId": "input"})
        yield (
            f"child {own}, both",
            _plain(**member, inputData={"subWorkflowId": "input"}, outputData={"subWorkflowId": "output"}),
        )
        yield (
            f"child {own}, null in output",
            _plain(**member, inputData={"subWorkflowId": "input"}, outputData={"subWorkflowId": None}),
        )
        yield (
            f"child {own}, empty in output",
            _plain(**member, inputData={"subWorkflowId": "input"}, outputData={"subWorkflowId": ""}),
        )
    for value in (1, 1.0, True, [], {}, {"a": 1}):
        yield f"child {value!r} in output", _plain(outputData={"subWorkflowId": value})
        yield f"child {value!r} in input", _plain(inputData={"subWorkflowId": value})
        yield f"child of its own, {value!r} in output", _plain(subWorkflowId="own", outputData={"subWorkflowId": value})
    yield "iteration", _plain(iteration=3)
    yield "negative iteration", _plain(iteration=-3)
    yield "no names", _without("taskDefName", "referenceTaskName")


def _texts_and_numbers() -> Iterator[tuple[str, bytes]]:
    yield "values", _with("inputData", ZOO)
    yield "values in output", _with("outputData", ZOO)
    yield "infinite numbers", _with("inputData", INFINITE)
    yield "lone surrogates", _with("inputData", SURROGATES)
    yield "lone surrogate in a name", _with("inputData", rb'{"\ud83c":1}')
    yield "lone surrogate at the end", _with("correlationId", rb'"a\ud83c"')
    yield "lone low surrogate", _with("correlationId", rb'"\udf89a"')
    yield "deep", _with("inputData", DEEP)
    for depth in (30, 60, 400, 990, 1100):
        yield f"{depth} levels", _with("inputData", b'{"d":' + b"[" * depth + b"]" * depth + b"}")
    yield "doubles", _with("inputData", random_doubles(150, seed=4))
    for digits in (999, 1000, 1001):
        yield f"{digits} digits", _with("inputData", b'{"n":' + b"7" * digits + b"}")
        yield f"{digits} places", _with("inputData", b'{"n":0.' + b"7" * (digits - 2) + b"}")
    for text in (
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"+1",
        b"01",
        b"1.",
        b".5",
        b"0x1",
        b"-",
        b"1e",
        b"True",
        b"undefined",
    ):
        yield f"number {text.decode()}", _with("inputData", b'{"n":' + text + b"}")
    texts = {
        "control character": b'"a\x01b"',
        "tabulator": b'"a\tb"',
        "nul": rb'"a\u0000b"',
        "odd escape": rb'"\x41"',
        "short escape": rb'"\u00e"',
        "upper case escape": rb'"\u00E9"',
        "solidus": rb'"\/ /"',
        "delete and separators": '"\x7f\x80\x9f\u2028\u2029\ufeff\uffff"'.encode(),
        "html": b'"<a href=x>&\'</a>"',
        "outside the first plane": '"\N{PARTY POPPER}\U0010ffff"'.encode(),
        "outside as escapes": rb'"\ud83c\udf89\udbff\udfff"',
    }
    for name, text in texts.items():
        yield name, _with("inputData", b'{"t":' + text + b"}")
        if b"\\" not in text:
            yield f"{name} in a name", _with("inputData", b"{" + text + b":1}")
    yield "order of names", _with("inputData", b'{"z":1,"a":2,"m":{"y":1,"b":2},"10":1,"9":1,"Z":1}')
    yield "a name twice", _with("inputData", b'{"a":1,"b":2,"a":3,"c":{"x":1,"x":null}}')
    yield "null in maps and lists", _with("outputData", b'{"a":null,"b":[null,{"c":null}]}')


def _clocks() -> Iterator[tuple[str, bytes]]:
    now, hour = 1_770_000_000_000, 3600
    times = {
        "never started": {"startTime": 0},
        "never scheduled": {"scheduledTime": 0},
        "started before it was scheduled": {"startTime": now - 5},
        "due long ago": {"callbackAfterSeconds": hour},
        "due in years": {"callbackAfterSeconds": 20 * 365 * 24 * hour},
        "callback without update": {"callbackAfterSeconds": hour, "updateTime": 0},
        "callback in milliseconds": {"callbackAfterMs": 500},
        "negative callback": {"callbackAfterSeconds": -hour},
        "negative times": {"startTime": -5, "scheduledTime": -7},
        "update beyond all": {"callbackAfterSeconds": 1, "updateTime": 9223372036854775807},
        "callback beyond all": {"callbackAfterSeconds": 9223372036854775807},
        "years between": {"startTime": 9223372036854775807, "scheduledTime": 1},
    }
    for name, members in times.items():
        yield name, _plain(**members)


def _workflow_tasks() -> Iterator[tuple[str, bytes]]:
    yield "full workflow task", _plain(workflowTask=_FULL_WORKFLOW_TASK)
    yield "empty workflow task", _plain(workflowTask={})
    yield "workflow task all null", _plain(workflowTask=dict.fromkeys(_FULL_WORKFLOW_TASK))
    yield "empty texts in workflow task", _plain(workflowTask={"name": "", "taskReferenceName": "", "type": ""})
    yield "names in reverse", _plain(workflowTask=dict(reversed(_FULL_WORKFLOW_TASK.items())))
    for key, value in _FULL_WORKFLOW_TASK.items():
        yield f"workflowTask.{key}", _plain(workflowTask={key: value})
        yield f"workflowTask.{key} null", _plain(workflowTask={key: None})
    for value in ("x", 1, [], {}, ["a", None, 1]):
        text = json.dumps(value)
        yield f"decisionCases {text}", _plain(workflowTask={"decisionCases": value})
        yield f"joinOn {text}", _plain(workflowTask={"joinOn": value})
        yield f"defaultCase {text}", _plain(workflowTask={"defaultCase": value})
        yield f"inputParameters {text}", _plain(workflowTask={"inputParameters": value})
        yield f"subWorkflowParam {text}", _plain(workflowTask={"subWorkflowParam": value})
        yield f"optional {text}", _plain(workflowTask={"optional": value})
        yield f"rateLimited {text}", _plain(workflowTask={"rateLimited": value})
        yield f"retryCount {text}", _plain(workflowTask={"retryCount": value})
        yield f"joinMode {text}", _plain(workflowTask={"joinMode": value})
    yield "null in a list of tasks", _plain(workflowTask={"loopOver": [None, _NESTED], "forkTasks": [None, [None]]})
    yield "null in decision cases", _plain(workflowTask={"decisionCases": {"a": None, "b": [None]}})
    children: dict[str, Any] = {
        "none": {},
        "name only": {"name": "s"},
        "null domains": {"name": "s", "taskToDomain": None},
        "domains": {"name": "s", "taskToDomain": {"a": "b", "n": None}},
        "number priority": {"name": "s", "priority": 5},
        "definition": {"name": "s", "workflowDefinition": _INLINE_DEFINITION},
        "definition without a name": {"workflowDefinition": _INLINE_DEFINITION},
        "empty definition": {"name": "s", "workflowDefinition": {}},
        "definition by expression": {"name": "s", "workflowDefinition": "${workflow.input.definition}"},
        "definition as text": {"name": "s", "workflowDefinition": "w"},
        "definition as number": {"name": "s", "workflowDefinition": 1},
        "definition as list": {"name": "s", "workflowDefinition": []},
        "strategy": {"name": "s", "idempotencyStrategy": "FAIL_ON_RUNNING"},
        "unknown strategy": {"name": "s", "idempotencyStrategy": "MAYBE"},
        "version as text": {"name": "s", "version": "4"},
    }
    for name, value in children.items():
        yield f"sub-workflow, {name}", _plain(workflowTask={"subWorkflowParam": value})


def _task_definitions() -> Iterator[tuple[str, bytes]]:
    yield "empty definition", _plain(workflowTask={"taskDefinition": {}})
    yield "full definition", _plain(workflowTask={"taskDefinition": _FULL_TASK_DEF})
    yield "definition all null", _plain(workflowTask={"taskDefinition": dict.fromkeys(_FULL_TASK_DEF)})
    for key, value in _FULL_TASK_DEF.items():
        yield f"definition with {key}", _plain(workflowTask={"taskDefinition": {key: value}})
        yield f"definition with {key} null", _plain(workflowTask={"taskDefinition": {key: None}})
    yield "definition's unknown policy", _plain(workflowTask={"taskDefinition": {"timeoutPolicy": "NEVER"}})
    yield "definition at the top only", _plain(taskDefinition=_FULL_TASK_DEF)
    for key in ("inputSchema", "outputSchema"):
        for value in ({}, {"data": {"n": 1.0, "null": None}}, {"type": "PROTOBUF", "unknown": 1}, "x"):
            yield f"definition with {key} {json.dumps(value)}", _plain(workflowTask={"taskDefinition": {key: value}})
