r"""Conductor's ``TaskModel`` rows as the REST Task that Conductor answers with: one test for each rule.

``docs/conductor-contract.md`` has the rules. What Conductor's own classes answer for several hundred rows, odd ones
above all, is kept in ``tests/data/task_model_rows.json`` (``tools/conductor_rows`` makes it) and compared here byte for
byte.
"""

import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from support.documents import DOCUMENTED, DOCUMENTED_COMPACT, compact
from taskgate.documents.conductor import project_task_model
from taskgate.documents.conductor.decoder import _read_leniently, read_task_model
from taskgate.documents.conductor.encoder import _encode_slowly, encodable_double, encode, java_double
from taskgate.documents.document import MAX_NESTING, DocumentError
from taskgate.documents.task_message import task_from_document
from taskgate.v1.task_pb2 import Task

NOW = 1_770_621_100_000

MADE_BY_CONDUCTOR: list[dict[str, Any]] = json.loads(
    Path(__file__).parents[2].joinpath("data/task_model_rows.json").read_bytes()
)


def project(row: str | bytes) -> bytes:
    return project_task_model(row.encode() if isinstance(row, str) else row, NOW).document


def answer(fields: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """What is answered for a row of these fields and a status."""
    parsed: dict[str, Any] = json.loads(project(compact({"status": "COMPLETED"} | (fields or {}) | more)))
    return parsed


def payload(text: str) -> str:
    """How the JSON ``text`` comes back from within ``inputData``."""
    document = project(f'{{"status":"COMPLETED","inputData":{{"a":{text}}}}}').decode()
    found = re.search(r'"inputData":\{"a":(.*)\},"retryCount"', document, re.DOTALL)
    assert found
    return found[1]


def refused(row: str | bytes) -> bool:
    try:
        project(row)
    except DocumentError:
        return True
    return False


def step(**fields: Any) -> dict[str, Any]:
    """The answered ``workflowTask`` for a stored one of these fields."""
    found: dict[str, Any] = answer(workflowTask=fields)["workflowTask"]
    return found


# --- The whole, against Conductor itself ---


EXECUTION_METADATA = '"executionMetadata":{"additionalContext":{},"additionalContextMap":{},"empty":true}'
METADATA_WITHOUT_SERVER = '"executionMetadata":{"additionalContext":{},"empty":true,"additionalContextMap":{}}'
"""The same from Conductor's classes in a JVM of their own: a JVM promises no order of getters. The server's counts."""


def answered(row: str) -> str | None:
    """The Task; None if the row is refused."""
    try:
        return project(row).decode()
    except DocumentError:
        return None


def test_rows_are_answered_as_conductor_answered_them() -> None:
    """Byte for byte where Conductor 3.32.3 made a Task, and refused where its classes raised."""
    assert {case["task"].count(METADATA_WITHOUT_SERVER) for case in MADE_BY_CONDUCTOR if case["task"]} == {1}
    wrong = [
        f"{number}: {case['row']} becomes {found}, and should become {expected}"
        for number, case in enumerate(MADE_BY_CONDUCTOR)
        if (found := answered(case["row"]))
        != (expected := case["task"] and case["task"].replace(METADATA_WITHOUT_SERVER, EXECUTION_METADATA))
    ]
    assert not wrong, f"{len(wrong)} of {len(MADE_BY_CONDUCTOR)} rows: " + "\n".join(wrong[:3])


def test_the_documented_task_as_a_row_is_the_documented_task() -> None:
    """Current Conductor adds ``metadata`` and ``executionMetadata``, and ends with another order of getters."""
    row = json.loads(DOCUMENTED) | {"callbackAfterMs": 0, "idempotent": False, "notifications": {}}
    document = project(compact(row)).decode()
    assert document.count(f",{EXECUTION_METADATA}") == 1
    assert document.count(',"metadata":{}') == 1
    document = document.replace(f",{EXECUTION_METADATA}", "").replace(',"metadata":{}', "")
    newer, older = '"taskDefinition":null,"loopOverTask":false', '"loopOverTask":false,"taskDefinition":null'
    assert document.replace(newer, older).encode() == DOCUMENTED_COMPACT


TASK_DEFAULTS: dict[str, Any] = json.loads("""
{"status":"COMPLETED","inputData":{},"retryCount":0,"seq":0,"pollCount":0,"scheduledTime":0,"startTime":0,"endTime":0,
"updateTime":0,"startDelayInSeconds":0,"retried":false,"executed":false,"callbackFromWorker":true,
"responseTimeoutSeconds":0,"callbackAfterSeconds":0,"outputData":{},"workflowTask":{},"rateLimitPerFrequency":0,
"rateLimitFrequencyInSeconds":0,"workflowPriority":0,"iteration":0,"subworkflowChanged":false,"firstStartTime":0,
"executionMetadata":{"additionalContext":{},"additionalContextMap":{},"empty":true},"taskDefinition":null,
"loopOverTask":false,"queueWaitTime":0}
""")

WORKFLOW_TASK_DEFAULTS: dict[str, Any] = json.loads("""
{"inputParameters":{},"type":"SIMPLE","decisionCases":{},"defaultCase":[],"forkTasks":[],"startDelay":0,"joinOn":[],
"optional":false,"defaultExclusiveJoinTask":[],"asyncComplete":false,"loopOver":[],"onStateChange":{},
"permissive":false,"metadata":{}}
""")

TASK_DEFINITION_DEFAULTS: dict[str, Any] = json.loads("""
{"createTime":0,"updateTime":0,"retryCount":3,"timeoutSeconds":0,"inputKeys":[],"outputKeys":[],"runtimeMetadata":[],
"timeoutPolicy":"TIME_OUT_WF","retryLogic":"FIXED","retryDelaySeconds":60,"responseTimeoutSeconds":3600,
"inputTemplate":{},"rateLimitPerFrequency":0,"rateLimitFrequencyInSeconds":1,"backoffScaleFactor":1,
"maxRetryDelaySeconds":0,"backoffJitterMs":0,"totalTimeoutSeconds":0,"taskStatusListenerEnabled":true,
"enforceSchema":false}
""")

WORKFLOW_DEFINITION_DEFAULTS: dict[str, Any] = json.loads("""
{"createTime":0,"updateTime":0,"version":1,"tasks":[],"inputParameters":[],"outputParameters":{},"schemaVersion":2,
"restartable":true,"workflowStatusListenerEnabled":false,"timeoutPolicy":"ALERT_ONLY","timeoutSeconds":0,
"variables":{},"inputTemplate":{},"enforceSchema":true,"metadata":{},"maskedFields":[]}
""")

# --- Fields (``Task``, ``TaskModel``) ---


def test_a_row_of_nothing_but_a_status_has_all_defaults() -> None:
    assert answer() == TASK_DEFAULTS | {"workflowTask": WORKFLOW_TASK_DEFAULTS}
    assert list(answer()) == list(TASK_DEFAULTS)


def test_what_only_rows_have_is_dropped() -> None:
    """What ``TaskModel`` has and ``Task`` has not, and the getters of the model."""
    stored = json.loads("""
        {"callbackAfterMs":5,"firstScheduledTime":6,"waitTimeout":7,"loopTaskId":"l","idempotent":true,
        "onStateChange":{"onStart":[{"type":"t","payload":{"a":1}}]},"parentTaskReferenceName":"p","cachedOutput":true,
        "notifications":{"n":{"requestId":"r"}},"nonWorkflowEventTask":true,"asyncComplete":true,
        "idempotentExecution":false}
    """)
    assert answer(stored) == answer()


def test_unknown_keys_of_newer_rows_are_dropped_at_every_level() -> None:
    row = {"status": "COMPLETED", "new": [1.5], "workflowTask": {"new": {}, "taskDefinition": {"name": "d", "new": 1}}}
    assert "new" not in project(compact(row)).decode()


def test_what_a_row_cannot_set_is_made_anew() -> None:
    """Made by getters of ``Task``, or never stored: whatever a row says there, even nonsense, counts for nothing."""
    stored = json.loads("""
        {"firstStartTime":7,"executionMetadata":{"serverSendTime":5},"runtimeMetadata":{"TOKEN":"secret"},
        "queueWaitTime":"x","loopOverTask":[],"taskDefinition":5}
    """)
    assert answer(stored) == answer()


def test_null_properties_are_dropped_and_null_primitives_become_zero() -> None:
    assert answer(correlationId=None, domain=None, retryCount=None, startTime=None, workflowTask=None) == answer()
    assert answer(callbackFromWorker=None)["callbackFromWorker"] is False


def test_nulls_in_maps_are_kept() -> None:
    data = {"a": None, "b": {"c": None, "d": [None]}}
    assert answer(inputData=data)["inputData"] == data
    assert step(inputParameters=data)["inputParameters"] == data


def test_null_payloads_become_empty() -> None:
    found = answer(inputData=None, outputData=None)
    assert (found["inputData"], found["outputData"]) == ({}, {})


def test_payload_keys_keep_their_order_and_duplicates_their_first_place() -> None:
    assert payload('{"z":1,"a":2,"z":3,"b":4}') == '{"z":3,"a":2,"b":4}'


def test_payloads_stored_elsewhere_are_answered_empty_with_their_paths() -> None:
    """``TaskModel.toTask()``; an empty path is a path."""
    found = answer(inputData={"a": 1}, externalInputPayloadStoragePath="task/input/1.json", outputData={"b": 2})
    assert (found["inputData"], found["outputData"]) == ({}, {"b": 2})
    assert found["externalInputPayloadStoragePath"] == "task/input/1.json"
    assert answer(outputData={"b": 2}, externalOutputPayloadStoragePath="")["outputData"] == {}


def test_reason_is_cut_at_500_utf16_units() -> None:
    """``Task.setReasonForIncompletion``; a pair that is cut in two leaves its first half."""
    assert answer(reasonForIncompletion="é" * 501)["reasonForIncompletion"] == "é" * 500
    assert answer(reasonForIncompletion="😀" * 251)["reasonForIncompletion"] == "😀" * 250
    row = compact({"status": "FAILED", "reasonForIncompletion": "x" * 499 + "😀"})
    assert b"x" * 499 + rb'\uD83D","callback' in project(row)


def test_task_definition_name_falls_back_to_the_task_type() -> None:
    """Where it is missing or empty; blank is a name."""
    for stored, expected in ((None, "HTTP"), ("", "HTTP"), (" ", " "), ("d", "d")):
        found = answer(taskType="HTTP", taskDefName=stored)
        assert (found["taskDefName"], found["workflowTask"]["name"]) == (expected, expected)
    assert "taskDefName" not in answer()


SUB_WORKFLOW_IDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "its own": ({"subWorkflowId": "s"}, {"subWorkflowId": "s"}),
    "from the output": ({"outputData": {"subWorkflowId": "o"}}, {"subWorkflowId": "o"}),
    "from the input": ({"inputData": {"subWorkflowId": "i"}}, {"subWorkflowId": "i"}),
    "output before input": (
        {"inputData": {"subWorkflowId": "i"}, "outputData": {"subWorkflowId": "o"}},
        {"subWorkflowId": "o"},
    ),
    "none from an input stored elsewhere": (
        {"inputData": {"subWorkflowId": "i"}, "externalInputPayloadStoragePath": "p"},
        {"subWorkflowId": None},
    ),
    "even from an output stored elsewhere": (
        {"outputData": {"subWorkflowId": "o"}, "externalOutputPayloadStoragePath": "p"},
        {"subWorkflowId": "o", "outputData": {}},
    ),
    "none if blank": ({"subWorkflowId": " \t"}, {"subWorkflowId": None}),
    "a no-break space is not blank": ({"subWorkflowId": "\u00a0"}, {"subWorkflowId": "\u00a0"}),
    "written into the output where that has the key": (
        {"subWorkflowId": "s", "outputData": {"subWorkflowId": "o", "b": 1}},
        {"outputData": {"subWorkflowId": "s", "b": 1}},
    ),
    "written over a null, from the input": (
        {"inputData": {"subWorkflowId": "i"}, "outputData": {"subWorkflowId": None}},
        {"outputData": {"subWorkflowId": "i"}, "subWorkflowId": "i"},
    ),
    "not written where the output has no such key": ({"subWorkflowId": "s", "outputData": {}}, {"outputData": {}}),
    "a blank one behind the output overwrites it": (
        {"outputData": {"subWorkflowId": "o"}, "subWorkflowId": ""},
        {"outputData": {"subWorkflowId": ""}, "subWorkflowId": ""},
    ),
    "a blank one before the output does not": (
        {"subWorkflowId": "", "outputData": {"subWorkflowId": "o"}},
        {"outputData": {"subWorkflowId": "o"}, "subWorkflowId": "o"},
    ),
}


@pytest.mark.parametrize(("stored", "expected"), SUB_WORKFLOW_IDS.values(), ids=SUB_WORKFLOW_IDS)
def test_sub_workflow_id_is(stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """``Task.getSubWorkflowId()``; None stands for no such key."""
    found = answer(stored)
    assert {key: found.get(key) for key in expected} == expected


def test_sub_workflow_id_that_is_no_text_is_refused() -> None:
    """Conductor casts it to a String."""
    assert refused('{"status":"COMPLETED","outputData":{"subWorkflowId":5}}')
    assert refused('{"status":"COMPLETED","inputData":{"subWorkflowId":1.5}}')


QUEUE_WAIT_TIMES = {
    "never started": ({"scheduledTime": 10}, 0),
    "from scheduled to started": ({"scheduledTime": 10, "startTime": 25}, 15),
    "negative where a clock went back": ({"scheduledTime": 25, "startTime": 10}, -15),
    "since the callback was due": (
        {"scheduledTime": 1, "startTime": 2, "updateTime": NOW - 9000, "callbackAfterSeconds": 5},
        4000,
    ),
    "none before it is due": (
        {"scheduledTime": 1, "startTime": 2, "updateTime": NOW, "callbackAfterSeconds": 5},
        0,
    ),
    "never updated": ({"scheduledTime": 1, "startTime": 2, "callbackAfterSeconds": 5}, 1),
    "long arithmetic that wraps around": (
        {"scheduledTime": 1, "startTime": 2, "updateTime": 5, "callbackAfterSeconds": 2**63 - 1},
        NOW + 995,
    ),
}


@pytest.mark.parametrize(("stored", "expected"), QUEUE_WAIT_TIMES.values(), ids=QUEUE_WAIT_TIMES)
def test_queue_wait_time_is_as_conductor_computes_it(stored: dict[str, int], expected: int) -> None:
    assert answer(**stored)["queueWaitTime"] == expected


@pytest.mark.parametrize(("stored", "expected"), QUEUE_WAIT_TIMES.values(), ids=QUEUE_WAIT_TIMES)
def test_an_answer_lasts_unless_another_time_makes_another(stored: dict[str, int], expected: int) -> None:
    row = compact({"status": "COMPLETED"} | stored)
    (now, cacheable), (later, still_cacheable) = (project_task_model(row, time) for time in (NOW, NOW + 10_000))
    assert (cacheable, still_cacheable) == (now == later, now == later)


def test_loop_over_task_says_whether_there_is_an_iteration() -> None:
    assert [answer(iteration=number)["loopOverTask"] for number in (-1, 0, 1)] == [False, False, True]


def test_messages_are_type_and_base64() -> None:
    """``JsonProtoModule``; decoded and encoded again, other keys lost."""
    message = {"@type": "type.googleapis.com/x.Y", "@value": "aGVsbG8="}
    assert answer(inputMessage=message, outputMessage=None)["inputMessage"] == message
    loose = {"@value": "\naGVs bG9=", "@type": "t", "more": 1}
    assert answer(outputMessage=loose)["outputMessage"] == {"@type": "t", "@value": "aGVsbG8="}
    for broken in ({}, {"@type": "t"}, {"@type": 5, "@value": ""}, {"@type": "t", "@value": "aGVsbG8"}, "x", 5):
        assert refused(compact({"status": "COMPLETED", "inputMessage": broken}))


# --- Nested definitions (``WorkflowTask``, ``TaskDef``, ``WorkflowDef``) ---


def test_workflow_task_gets_every_default() -> None:
    assert step() == WORKFLOW_TASK_DEFAULTS
    assert list(step()) == list(WORKFLOW_TASK_DEFAULTS)


def test_workflow_task_drops_what_is_null_but_primitives_and_metadata() -> None:
    nulls = dict.fromkeys([*step(), "rateLimited", "joinMode", "retryCount", "cacheConfig", "taskDefinition"])
    assert step(**nulls) == {"startDelay": 0, "optional": False, "permissive": False, "metadata": {}}


def test_workflow_task_gets_its_names_from_the_task() -> None:
    found = answer(taskType="T", referenceTaskName="r", workflowTask={"name": "n"})["workflowTask"]
    assert (found["name"], found["taskReferenceName"]) == ("n", "r")
    found = answer(taskType="T", referenceTaskName="r")["workflowTask"]
    assert (found["name"], found["taskReferenceName"]) == ("T", "r")


def test_nested_workflow_tasks_get_defaults_but_no_names() -> None:
    inner = {"name": "n", "unknown": 1}
    full = {"name": "n", **step()}
    assert step(decisionCases={"a": [inner], "b": None})["decisionCases"] == {"a": [full], "b": None}
    assert step(defaultCase=[inner, None])["defaultCase"] == [full, None]
    assert step(forkTasks=[[inner], []])["forkTasks"] == [[full], []]
    assert step(loopOver=[{"loopOver": [{}]}])["loopOver"][0]["loopOver"] == [step()]


def test_task_definition_is_completed_and_shown_twice() -> None:
    defaults = TASK_DEFINITION_DEFAULTS | {"name": "d"}
    found = answer(workflowTask={"taskDefinition": {"name": "d"}})
    assert found["taskDefinition"] == found["workflowTask"]["taskDefinition"] == defaults
    nulls = {"createTime": None, "rateLimitPerFrequency": None, "rateLimitFrequencyInSeconds": None}
    assert answer(workflowTask={"taskDefinition": {"name": "d", **nulls}})["taskDefinition"] == defaults


def test_inline_workflow_definition_is_completed_and_names_the_sub_workflow() -> None:
    """Its getters answer with the definition's name and version, not with their own."""
    inline = {"name": "w", "tasks": [{"type": "HTTP"}], "unknown": 1}
    found = step(subWorkflowParam={"name": "n", "version": 3, "workflowDefinition": inline})["subWorkflowParam"]
    assert (found["name"], found["version"]) == ("w", 1)
    assert found["workflowDefinition"] == WORKFLOW_DEFINITION_DEFAULTS | {"name": "w", "tasks": [step(type="HTTP")]}


def test_workflow_definition_may_be_an_expression() -> None:
    found = step(subWorkflowParam={"name": "n", "workflowDefinition": "${a.output.b}"})["subWorkflowParam"]
    assert found == {"name": "n", "workflowDefinition": "${a.output.b}"}
    for other in ("a", "", "${a}\n", 5, []):
        assert refused(
            compact({"status": "COMPLETED", "workflowTask": {"subWorkflowParam": {"workflowDefinition": other}}})
        )


def test_sub_workflow_parameters_keep_any_priority_and_have_no_domains_of_their_own() -> None:
    for priority in (5, "${p}", 1.5, {"a": [None]}, True):
        assert step(subWorkflowParam={"priority": priority})["subWorkflowParam"] == {"priority": priority}
    assert step(subWorkflowParam={"priority": None, "taskToDomain": None})["subWorkflowParam"] == {}


# --- What Jackson takes and refuses ---

TAKEN = {
    "text for an int": ("retryCount", '" +5 "', 5),
    "no text for an int": ("retryCount", '""', 0),
    "a fraction for an int": ("retryCount", "-5.7", -5),
    "the null word for a long": ("startTime", '"null"', 0),
    "a double as large as the largest long": ("startTime", "9.223372036854775807e18", 2**63 - 1),
    "text for a boolean": ("retried", '"True"', True),
    "a number for a boolean": ("retried", "2", True),
    "no text for a boolean": ("callbackFromWorker", '" "', False),
    "a number for text, as written": ("correlationId", "5.50", "5.50"),
    "a large number for text": ("correlationId", "1e400", "1e400"),
    "a boolean for text": ("correlationId", "true", "true"),
    "an enum with spaces": ("status", '" FAILED "', "FAILED"),
    "an enum by its place": ("status", "8", "SKIPPED"),
}


@pytest.mark.parametrize(("field", "stored", "expected"), TAKEN.values(), ids=TAKEN)
def test_scalars_of_other_types_are_taken_as_jackson_takes_them(field: str, stored: str, expected: Any) -> None:
    found = json.loads(project(f'{{"status":"COMPLETED","{field}":{stored}}}'))[field]
    assert (found, type(found)) == (expected, type(expected))


REFUSED = {
    "nothing": "",
    "no object": "[]",
    "null": "null",
    "cut": '{"status":"COMPLETED"',
    "no status": "{}",
    "null status": '{"status":null}',
    "unknown status": '{"status":"NOT_INVENTED_YET"}',
    "empty status": '{"status":""}',
    "status out of range": '{"status":9}',
    "int out of range": '{"status":"COMPLETED","retryCount":2147483648}',
    "text that is no int": '{"status":"COMPLETED","retryCount":"5.0"}',
    "boolean for an int": '{"status":"COMPLETED","seq":true}',
    "long out of range": '{"status":"COMPLETED","startTime":9223372036854775808}',
    "fraction for a boolean": '{"status":"COMPLETED","retried":1.0}',
    "object for text": '{"status":"COMPLETED","domain":{}}',
    "list for a map": '{"status":"COMPLETED","inputData":[]}',
    "empty text for a map": '{"status":"COMPLETED","inputData":""}',
    "one value for a list": '{"status":"COMPLETED","workflowTask":{"joinOn":"a"}}',
    "text for an object": '{"status":"COMPLETED","workflowTask":"a"}',
    "wrong type in a field that is dropped": '{"status":"COMPLETED","waitTimeout":"soon"}',
    "null among notifications": '{"status":"COMPLETED","notifications":{"a":null}}',
    "NaN": '{"status":"COMPLETED","inputData":{"a":NaN}}',
    "raw control character": '{"status":"COMPLETED","inputData":{"a":"\n"}}',
    "endless number": '{"status":"COMPLETED","inputData":{"a":' + "9" * 5000 + "}}",
    "too deep": '{"status":"COMPLETED","inputData":{"a":' + "[" * MAX_NESTING + "]" * MAX_NESTING + "}}",
}


@pytest.mark.parametrize("row", REFUSED.values(), ids=REFUSED)
def test_row_that_jackson_refuses_is_refused(row: str) -> None:
    assert refused(row)


def test_not_utf8_is_refused() -> None:
    assert refused(b'{"status":"COMPLETED","domain":"\xe9"}')


def test_the_reason_for_a_refusal_quotes_nothing_of_the_row() -> None:
    with pytest.raises(DocumentError) as caught:
        project('{"status":"COMPLETED","retryCount":"a secret"}')
    assert str(caught.value) == "found str where Conductor reads a whole number"


def test_what_follows_the_object_is_ignored() -> None:
    assert project('{"status":"COMPLETED"} trailing') == project('{"status":"COMPLETED"}')


# --- Text, as Jackson writes it ---

DOUBLES = """
0.0 0.0
-0.0 -0.0
1e0 1.0
100.00 100.0
0.001 0.001
1e-3 0.001
9999999.0 9999999.0
1e7 1.0E7
12345678.9 1.23456789E7
1e10 1.0E10
-1.5e21 -1.5E21
0.00099 9.9E-4
1e-5 1.0E-5
1e23 1.0E23
2e23 2.0E23
5e-324 4.9E-324
1e-323 9.9E-324
2.2250738585072014e-308 2.2250738585072014E-308
0.1 0.1
2e-3 0.002
1.7976931348623157e308 1.7976931348623157E308
123456789012345680.0 1.2345678901234568E17
1e400 "Infinity"
-1e400 "-Infinity"
1e-400 0.0
9007199254740993.0 9.007199254740992E15
"""
"""What is stored, and what is written."""


@pytest.mark.parametrize(("stored", "expected"), [line.split() for line in DOUBLES.split("\n") if line])
def test_double_is_written_as_java_writes_it(stored: str, expected: str) -> None:
    """``Double.toString`` of Java 19 and newer (seen in Java 25)."""
    assert java_double(stored) == payload(stored) == expected


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_comes_back_the_same_in_javas_form(number: float) -> None:
    text = java_double(repr(number))
    assert encode(encodable_double(repr(number))).decode() == text
    assert float(text) == number
    assert math.copysign(1, float(text)) == math.copysign(1, number)
    scientific = number != 0 and not 1e-3 <= abs(number) < 1e7
    assert re.fullmatch(r"-?[1-9]\.\d+E-?[1-9]\d*" if scientific else r"-?\d+\.\d+", text)


def by_decimal(number: float) -> str:
    """``java_double`` as its rule reads, with numbers taken apart by ``Decimal``."""
    shortest = repr(number)
    if 1e-3 <= abs(number) < 1e7 or number == 0:
        return shortest
    if math.isinf(number):
        return '"Infinity"' if number > 0 else '"-Infinity"'
    decimal = Decimal(shortest).normalize()
    if len(decimal.as_tuple().digits) == 1:
        decimal = Decimal(f"{number:.1e}").normalize()
    digits = "".join(map(str, decimal.as_tuple().digits))
    return f"{'-' if number < 0 else ''}{digits[0]}.{digits[1:] or '0'}E{decimal.adjusted()}"


odd_doubles = (
    st.floats(allow_nan=False)
    | st.builds("{}e{}".format, st.integers(-99, 99), st.integers(-330, 310)).map(float)
    | st.builds("{}e{}".format, st.integers(-(10**17), 10**17), st.integers(-22, 6)).map(float)
    | st.integers(-5000, 5000).map(lambda steps: steps * 5e-324)
)


@given(odd_doubles)
@example(2e-323)  # its shortest text has one digit, the nearest two another exponent
@example(1e16)
@example(9999999999999998.0)
def test_double_is_written_as_digit_by_digit(number: float) -> None:
    assert java_double(repr(number).replace("inf", "1e400")) == by_decimal(number)


def test_integers_of_any_size_stay_exact() -> None:
    for text in ("0", "-7", str(2**63), str(-(2**64)), "9" * 1000):
        assert payload(text) == text
    assert payload("-0") == "0"


STRINGS = {
    "short escapes": (r'"\"\\\/\b\f\n\r\t"', r'"\"\\/\b\f\n\r\t"'),
    "control characters in upper case": (r'"\u0001\u001b\u001F"', r'"\u0001\u001B\u001F"'),
    "an escaped backslash is no escape": (r'"\\u001b"', r'"\\u001b"'),
    "delete and line separators are plain": (r'"\u007f\u0080\u2028"', '"\x7f\x80\u2028"'),
    "what is not ASCII is plain": (r'"\u00e9\u4e16"', '"é世"'),
    "pairs are escaped": ('"😀"', r'"\uD83D\uDE00"'),
    "escaped pairs, too": (r'"\ud83d\ude00"', r'"\uD83D\uDE00"'),
    "lone surrogates": (r'"\ud800é\udc00\u001b"', r'"\uD800é\uDC00\u001B"'),
    "keys": (r'{"\ud800\u0001":"\ud83d\ude00","é":1.50}', r'{"\uD800\u0001":"\uD83D\uDE00","é":1.5}'),
}


@pytest.mark.parametrize(("stored", "expected"), STRINGS.values(), ids=STRINGS)
def test_string_is_written_as_jackson_writes_it(stored: str, expected: str) -> None:
    assert payload(stored) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@example({"": "\x00\x1f\\u001f\U0010ffff"})
def test_the_way_to_write_lone_surrogates_is_the_same_for_all_else(value: Any) -> None:
    assert _encode_slowly(value).encode() == encode(value)


# --- Properties ---

TEXTS = dict.fromkeys(["taskType", "correlationId", "taskDefName", "reasonForIncompletion", "domain"], st.text())
INTS = dict.fromkeys(["retryCount", "seq", "iteration"], st.integers(-(2**31), 2**31 - 1))
TIMES = dict.fromkeys(["scheduledTime", "startTime", "updateTime"], st.integers(0, 2**63 - 1))
BOOLEANS = dict.fromkeys(["retried", "callbackFromWorker", "idempotent"], st.booleans())
FIELDS = {
    "inputData": st.dictionaries(st.text(), json_values | st.floats(allow_nan=False), max_size=4),
    "outputData": st.dictionaries(st.text(), json_values, max_size=3),
    "workflowTask": st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(),
            "type": st.sampled_from(["HTTP", "SWITCH"]),
            "inputParameters": st.dictionaries(st.text(), json_values, max_size=2),
            "decisionCases": st.dictionaries(st.text(), st.lists(st.just({"name": "n"}), max_size=2), max_size=2),
            "taskDefinition": st.fixed_dictionaries({}, optional={"name": st.text(), "retryCount": st.integers(0, 9)}),
        },
    ),
}
rows = st.fixed_dictionaries(
    {"status": st.sampled_from(["COMPLETED", "FAILED"])}, optional=FIELDS | TEXTS | INTS | TIMES | BOOLEANS
).map(lambda row: json.dumps(row).replace("Infinity", "1e400").encode())


@given(rows)
def test_both_ways_to_read_agree(row: bytes) -> None:
    """What msgspec reads at once is what the rules for everything else make of it."""
    assert encode(read_task_model(row)) == encode(_read_leniently(row))


@given(rows)
def test_an_answer_is_its_own_answer(row: bytes) -> None:
    """A Task read as a row is that Task; old versions stored Tasks."""
    document = project(row)
    assert project(document) == document


@given(rows)
def test_every_answer_is_a_typed_task(row: bytes) -> None:
    """What REST answers, ``task_message`` converts."""
    document = json.loads(project(row))
    task = task_from_document(project(row))
    assert Task.Status.Name(task.status) == document["status"]
    assert task.workflow_task.type == document["workflowTask"]["type"]
    assert set(task.input_data) == set(document["inputData"])
