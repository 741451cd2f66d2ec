"""A task document with every key of Conductor's, and the conversion of messages back to REST's JSON.

It was written from the fields of Conductor's classes and protos, not from our protos. Scalars differ from zero,
so that a lost field shows.
"""

import base64
from typing import Any

from google.protobuf.message import Message

PAYLOAD: dict[str, Any] = {
    "text": "Grüße, \u4e16\u754c \U0001f30d",
    "empty": "",
    "integer": 2646.0,
    "negative": -7.0,
    "fraction": 0.1,
    "large": 9007199254740991.0,
    "true": True,
    "false": False,
    "null": None,
    "object": {"inner": {"deep": [1.0, "two", None, False, [], {}, [[3.0]]]}, "": "an empty key"},
    "no object": {},
    "no list": [],
}
"""Every kind of JSON value."""

CACHE_CONFIG: dict[str, Any] = {"key": "${http.input.uri}", "ttlInSecond": 3601}

TASK_DEFINITION: dict[str, Any] = {
    "name": "http_definition",
    "description": "Calls a URL",
    "retryCount": 4,
    "timeoutSeconds": 5_000_000_000,
    "inputKeys": ["uri", "method"],
    "outputKeys": ["response"],
    "timeoutPolicy": "ALERT_ONLY",
    "retryLogic": "LINEAR_BACKOFF",
    "retryDelaySeconds": 61,
    "responseTimeoutSeconds": 6_000_000_000,
    "concurrentExecLimit": 100,
    "inputTemplate": PAYLOAD,
    "rateLimitPerFrequency": 12,
    "rateLimitFrequencyInSeconds": 13,
    "isolationGroupId": "group-definition",
    "executionNameSpace": "space-definition",
    "ownerEmail": "owner@example.com",
    "pollTimeoutSeconds": 14,
    "backoffScaleFactor": 15,
    "maxRetryDelaySeconds": 16,
    "backoffJitterMs": 17,
    "baseType": "HTTP",
    "totalTimeoutSeconds": 7_000_000_000,
    "taskStatusListenerEnabled": True,
    "ownerApp": "app",
    "createTime": 1_770_000_000_001,
    "updateTime": 1_770_000_000_002,
    "createdBy": "ann",
    "updatedBy": "bob",
    "runtimeMetadata": ["SECRET_NAME"],
    "inputSchema": {"name": "input", "version": 1.0, "type": "JSON"},
    "outputSchema": {"name": "output", "version": 2.0, "type": "JSON"},
    "enforceSchema": True,
}

SUB_WORKFLOW_PARAM: dict[str, Any] = {
    "name": "child",
    "version": 3,
    "taskToDomain": {"*": "europe", "other": "asia"},
    "workflowDefinition": {"name": "inline", "tasks": [{"name": "one"}]},
    "idempotencyKey": "once",
    "idempotencyStrategy": "FAIL_ON_RUNNING",
    "priority": "${workflow.input.priority}",
}


def step(name: str, **more: Any) -> dict[str, Any]:
    """A small WorkflowTask."""
    return {"name": name, "taskReferenceName": f"{name}_ref", "type": "SET_VARIABLE", "retryCount": 1, **more}


WORKFLOW_TASK: dict[str, Any] = {
    "name": "http",
    "taskReferenceName": "http_ref",
    "description": "Asks the sampler",
    "inputParameters": PAYLOAD,
    "type": "HTTP",
    "dynamicTaskNameParam": "taskToExecute",
    "caseValueParam": "case",
    "caseExpression": "$.case",
    "scriptExpression": "return 1;",
    "decisionCases": {"yes": [step("a"), step("b")], "no": [step("c")]},
    "dynamicForkTasksParam": "forks",
    "dynamicForkTasksInputParamName": "forkInputs",
    "defaultCase": [step("d")],
    "forkTasks": [[step("e"), step("f")], [step("g", loopOver=[step("h")])]],
    "startDelay": 18,
    "subWorkflowParam": SUB_WORKFLOW_PARAM,
    "joinOn": ["e_ref", "g_ref"],
    "sink": "conductor:event",
    "optional": True,
    "taskDefinition": TASK_DEFINITION,
    "rateLimited": True,
    "defaultExclusiveJoinTask": ["f_ref"],
    "asyncComplete": True,
    "loopCondition": "$.i < 3",
    "loopOver": [step("i")],
    "items": "${workflow.input.items}",
    "retryCount": 2,
    "evaluatorType": "value-param",
    "expression": "case",
    "joinStatus": "joined",
    "cacheConfig": CACHE_CONFIG,
    "permissive": True,
    "joinMode": "ASYNC",
    "metadata": PAYLOAD,
    "onStateChange": {"onSuccess": [{"type": "publish", "payload": {"a": 1.0}}]},
    "dynamicForkJoinTasksParam": "forkJoin",
}

EXECUTION_METADATA: dict[str, Any] = {
    "serverSendTime": 1_770_000_000_003,
    "clientReceiveTime": 1_770_000_000_004,
    "executionStartTime": 1_770_000_000_005,
    "executionEndTime": 1_770_000_000_006,
    "clientSendTime": 1_770_000_000_007,
    "pollNetworkLatency": 8_000_000_000,
    "updateNetworkLatency": 9_000_000_000,
    "additionalContext": PAYLOAD,
    "additionalContextMap": PAYLOAD,
    "empty": True,
    "executionDuration": 10_000_000_000,
}

ANY_TYPE = "type.googleapis.com/google.protobuf.StringValue"

FULL_TASK: dict[str, Any] = {
    "taskType": "HTTP",
    "status": "TIMED_OUT",
    "inputData": PAYLOAD,
    "referenceTaskName": "http_ref",
    "retryCount": 21,
    "seq": 22,
    "correlationId": "order-1",
    "pollCount": 23,
    "taskDefName": "http_definition",
    "scheduledTime": 1_770_621_022_006,
    "startTime": 1_770_621_022_007,
    "endTime": 1_770_621_022_070,
    "updateTime": 1_770_621_022_078,
    "startDelayInSeconds": 24,
    "retriedTaskId": "0d5d0c3e-0586-11f1-8b8d-6219b54da7fe",
    "retried": True,
    "executed": True,
    "callbackFromWorker": True,
    "responseTimeoutSeconds": 11_000_000_000,
    "workflowInstanceId": "1f610b08-0586-11f1-8b8d-6219b54da7fe",
    "workflowType": "DemoWorkflow",
    "taskId": "65fc73fe-0586-11f1-8b8d-6219b54da7fe",
    "reasonForIncompletion": "too slow",
    "callbackAfterSeconds": 12_000_000_000,
    "workerId": "worker-1",
    "outputData": PAYLOAD,
    "workflowTask": WORKFLOW_TASK,
    "domain": "europe",
    "inputMessage": {"@type": ANY_TYPE, "@value": base64.b64encode(b"\n\x05input").decode()},
    "outputMessage": {"@type": ANY_TYPE, "@value": base64.b64encode(b"\n\x06output").decode()},
    "rateLimitPerFrequency": 25,
    "rateLimitFrequencyInSeconds": 26,
    "externalInputPayloadStoragePath": "task/input/1.json",
    "externalOutputPayloadStoragePath": "task/output/1.json",
    "workflowPriority": 27,
    "executionNameSpace": "space",
    "isolationGroupId": "group",
    "iteration": 28,
    "subWorkflowId": "2f610b08-0586-11f1-8b8d-6219b54da7fe",
    "subworkflowChanged": True,
    "firstStartTime": 1_770_621_022_005,
    "executionMetadata": EXECUTION_METADATA,
    "parentTaskId": "3f610b08-0586-11f1-8b8d-6219b54da7fe",
    "runtimeMetadata": {"SECRET_NAME": "value"},
    "queueWaitTime": -1,
    "taskDefinition": TASK_DEFINITION,
    "loopOverTask": True,
}

REST_ONLY = {
    "Task": {"queueWaitTime", "taskDefinition", "loopOverTask"},
    "ExecutionMetadata": {"additionalContextMap", "empty", "executionDuration"},
    "WorkflowTask": {"onStateChange", "dynamicForkJoinTasksParam"},
    "SubWorkflowParams": {"idempotencyKey", "idempotencyStrategy", "priority"},
    "TaskDef": {
        *("ownerApp", "createTime", "updateTime", "createdBy", "updatedBy"),
        *("runtimeMetadata", "inputSchema", "outputSchema", "enforceSchema"),
    },
    "CacheConfig": set[str](),
}
"""Keys without a field in Conductor's protos, by message."""


_VALUE = "google.protobuf.Value"
_ANY = "google.protobuf.Any"


def plain(item: Any) -> Any:
    """REST's JSON for a message: the fields that are set, under their JSON names, lists without their wrapper.

    Accepts messages of any descriptor pool; returns anything else unchanged.
    """
    if not isinstance(item, Message):
        return item
    message: Any = item  # types made at run time have no stubs
    if message.DESCRIPTOR.full_name == _VALUE:
        return plain_value(message)
    if message.DESCRIPTOR.full_name == _ANY:
        return {"@type": message.type_url, "@value": base64.b64encode(message.value).decode()}
    if message.DESCRIPTOR.name == "WorkflowTaskList":
        return [plain(task) for task in message.tasks]
    return {field.json_name: _plain_field(field, value) for field, value in message.ListFields()}


def _plain_field(field: Any, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: plain(value[key]) for key in value}
    if field.is_repeated:
        return [plain(item) for item in value]
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return plain(value)


def plain_value(value: Any) -> Any:
    """The JSON value of a ``google.protobuf.Value`` of any descriptor pool."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {key: plain_value(value.struct_value.fields[key]) for key in value.struct_value.fields}
    if kind == "list_value":
        return [plain_value(item) for item in value.list_value.values]
    return None if kind == "null_value" else getattr(value, kind)
