"""The workflows that are run: every kind of task, ending in every way, with data that is easy to get wrong.

Each was written for what its tasks leave in the database; as a workflow none of them makes sense.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from against_conductor.conductor import PAYLOAD_LIMIT_KB, PAYLOAD_THRESHOLD_KB
from against_conductor.values import DEEP, INFINITE, LONG_ASTRAL_REASON, LONG_REASON, SURROGATES, ZOO
from against_conductor.worker import Behaviour, Result

OWNER = "owner@example.com"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One workflow definition, what it is started with, and how it ends."""

    name: str
    tasks: Sequence[Mapping[str, Any]]
    ends: str = "COMPLETED"
    """Its last status. RUNNING: it waits for ever, and is recorded once the tasks ``waiting`` have got there."""
    input: bytes = b"{}"
    start: Mapping[str, Any] = field(default_factory=dict)
    """Other members of the request that starts it: priority, correlationId, taskToDomain."""
    waiting: Mapping[str, str] = field(default_factory=dict)
    """For RUNNING: statuses by reference name to wait for."""
    then: Sequence[tuple[str, str]] = ()
    """HTTP calls (method, path below ``/api/workflow/ID``) once the tasks ``waiting`` have got there."""
    definition: Mapping[str, Any] = field(default_factory=dict)
    """Other members of the definition."""
    decide: bool = False
    """Have Conductor look for what has timed out again and again; by itself it would after half a minute or more."""

    def define(self) -> dict[str, Any]:
        """The definition to register."""
        known = {"name": self.name, "version": 1, "schemaVersion": 2, "ownerEmail": OWNER, "tasks": list(self.tasks)}
        return known | {"timeoutPolicy": "ALERT_ONLY", "timeoutSeconds": 0} | dict(self.definition)


def _task(kind: str, reference: str, **members: Any) -> dict[str, Any]:
    return {"name": members.pop("name", reference), "taskReferenceName": reference, "type": kind} | members


def _simple(name: str, reference: str | None = None, **members: Any) -> dict[str, Any]:
    return _task("SIMPLE", reference or name, name=name, **members)


def _inline(reference: str, expression: str, **parameters: Any) -> dict[str, Any]:
    parameters = {"evaluatorType": "graaljs", "expression": expression} | parameters
    return _task("INLINE", reference, inputParameters=parameters)


def _http(reference: str, path: str, method: str = "GET", **members: Any) -> dict[str, Any]:
    request = {"uri": "${workflow.input.target}" + path, "method": method, "readTimeOut": 5000}
    request |= members.pop("request", {})
    return _task("HTTP", reference, inputParameters={"http_request": request}, **members)


_VALUES = {"values": "${workflow.input.values}"}

TASK_DEFINITIONS: Sequence[Mapping[str, Any]] = [
    {"name": "echo"},
    {"name": "in_domain"},
    {"name": "never_polled", "responseTimeoutSeconds": 3600, "timeoutSeconds": 7200},
    {"name": "calls_back"},
    {"name": "polled_only"},
    {"name": "chosen_at_run_time", "description": "by a DYNAMIC task"},
    {"name": "fails_twice", "retryCount": 2, "retryDelaySeconds": 0},
    {"name": "fails_always", "retryCount": 0},
    {"name": "broken", "retryCount": 1, "retryDelaySeconds": 0},
    {"name": "fails_for_good", "retryCount": 3, "retryDelaySeconds": 0},
    {"name": "backs_off", "retryCount": 1, "retryLogic": "EXPONENTIAL_BACKOFF", "retryDelaySeconds": 600},
    {
        "name": "times_out",
        "retryCount": 0,
        "responseTimeoutSeconds": 1,
        "timeoutSeconds": 2,
        "timeoutPolicy": "TIME_OUT_WF",
    },
    {"name": "large_output", "retryCount": 0},
    {"name": "too_large_output", "retryCount": 0},
    {"name": "names_a_child"},
    {
        "name": "templated",
        "description": "everything a definition can say \N{PARTY POPPER}",
        "retryCount": 1,
        "retryLogic": "LINEAR_BACKOFF",
        "retryDelaySeconds": 7,
        "backoffScaleFactor": 3,
        "maxRetryDelaySeconds": 90,
        "backoffJitterMs": 5,
        "timeoutSeconds": 1200,
        "totalTimeoutSeconds": 4000,
        "timeoutPolicy": "RETRY",
        "responseTimeoutSeconds": 600,
        "pollTimeoutSeconds": 900,
        "concurrentExecLimit": 5,
        "rateLimitPerFrequency": 50,
        "rateLimitFrequencyInSeconds": 1,
        "inputKeys": ["values", "x"],
        "outputKeys": ["answer"],
        "inputTemplate": {"from": "the template", "number": 1, "float": 1.0, "big": 2**70, "null": None, "map": {}},
        "ownerApp": "tests",
        "isolationGroupId": "apart",
        "executionNameSpace": "space",
        "inputSchema": {"name": "shape", "version": 1, "type": "JSON", "data": {"type": "object", "minProperties": 0}},
    },
]

_TEXT_KB = "t" * 1000


def _echo(task: Mapping[str, Any]) -> Result:
    return Result(output=ZOO if "values" in task["inputData"] else b'{"answer":1.0}')


def _fail_twice(task: Mapping[str, Any]) -> Result:
    if task["retryCount"] < 2:
        reason = (LONG_REASON, LONG_ASTRAL_REASON)[task["retryCount"]]
        return Result("FAILED", b'{"try":1.50}', {"reasonForIncompletion": reason})
    return Result(output=DEEP)


BEHAVIOURS: Mapping[tuple[str, str], Behaviour] = {
    ("echo", ""): _echo,
    ("templated", ""): _echo,
    ("chosen_at_run_time", ""): _echo,
    ("in_domain", "north"): _echo,
    ("fails_twice", ""): _fail_twice,
    ("fails_always", ""): lambda _: Result("FAILED", ZOO, {"reasonForIncompletion": ""}),
    ("fails_for_good", ""): lambda _: Result(
        "FAILED_WITH_TERMINAL_ERROR", b'{"code":40}', {"reasonForIncompletion": LONG_REASON[:501]}
    ),
    ("backs_off", ""): lambda _: Result("FAILED", b"{}", {"reasonForIncompletion": "\N{PARTY POPPER}" * 250}),
    ("times_out", ""): lambda _: None,
    ("polled_only", ""): lambda _: None,
    ("calls_back", ""): lambda _: Result(
        "IN_PROGRESS", b'{"progress":0.5}', {"callbackAfterSeconds": 1800, "reasonForIncompletion": "not yet"}
    ),
    ("names_a_child", ""): lambda _: Result(
        output=b'{"subWorkflowId":"of the output"}', members={"subWorkflowId": "of the update"}
    ),
    ("large_output", ""): lambda _: Result(
        output=b'{"text":"' + _TEXT_KB.encode() * (PAYLOAD_THRESHOLD_KB + 4) + b'"}'
    ),
    ("too_large_output", ""): lambda _: Result(
        output=b'{"text":"' + _TEXT_KB.encode() * (PAYLOAD_LIMIT_KB + 4) + b'"}'
    ),
}

_CHILD = "child"

SCENARIOS: Sequence[Scenario] = [
    Scenario(
        "values",
        [
            _simple("echo", inputParameters=_VALUES | {"literal": 1, "float": 1.0, "null": None, "empty": {}}),
            _inline("inline", "(function () { return $.values; })()", **_VALUES),
            _inline("computed", "(function () { return {i: 1, f: 1.5, b: 1e21, n: null, l: [1, [2.0]], o: {}}; })()"),
            _task(
                "JSON_JQ_TRANSFORM",
                "jq",
                inputParameters=_VALUES
                | {"queryExpression": ".values | {one, float, big, tenth, list, nested, exponent, null}"},
            ),
            _task(
                "JSON_JQ_TRANSFORM", "jq_list", inputParameters=_VALUES | {"queryExpression": ".values | keys, length"}
            ),
            _task("SET_VARIABLE", "variable", inputParameters=_VALUES | {"count": 3}),
            _task("NOOP", "nothing"),
        ],
        input=b'{"values":' + ZOO + b"}",
        start={"correlationId": "order 7 \N{PARTY POPPER}", "priority": 7},
        definition={"outputParameters": {"out": "${echo.output}"}, "inputTemplate": {"of": "template"}},
    ),
    Scenario("deep", [_simple("echo", inputParameters=_VALUES)], input=b'{"values":' + DEEP + b"}"),
    Scenario("infinite", [_simple("echo", inputParameters=_VALUES)], input=b'{"values":' + INFINITE + b"}"),
    Scenario("surrogates", [_simple("echo", inputParameters=_VALUES)], input=b'{"values":' + SURROGATES + b"}"),
    Scenario(
        "http",
        [
            _http("get_values", "/values"),
            _http("get_list", "/list", request={"accept": "application/json", "headers": {"X-Number": 1}}),
            _http("get_text", "/text"),
            _http("get_nothing", "/nothing"),
            _http(
                "post",
                "/values",
                "POST",
                request={"body": {"a": 1, "b": [1.0, None]}, "contentType": "application/json"},
            ),
            _http("missing_but_optional", "/missing", optional=True, retryCount=0),
        ],
    ),
    Scenario("http_fails", [_http("broken", "/broken", retryCount=1)], ends="FAILED"),
    Scenario(
        "branches",
        [
            _task(
                "SWITCH",
                "by_value",
                inputParameters={"way": "left"},
                evaluatorType="value-param",
                expression="way",
                decisionCases={"left": [_simple("echo", "on_the_left")], "right": [_simple("echo", "on_the_right")]},
                defaultCase=[_task("NOOP", "by_default")],
            ),
            _task(
                "SWITCH",
                "by_script",
                inputParameters={"number": 4},
                evaluatorType="graaljs",
                expression="$.number > 5 ? 'many' : 'few'",
                decisionCases={"many": [_task("NOOP", "for_many")]},
                defaultCase=[_task("SET_VARIABLE", "for_few", inputParameters={"few": True})],
            ),
            _task(
                "DECISION",
                "old_decision",
                inputParameters={"case": "b"},
                caseValueParam="case",
                decisionCases={"b": [_task("NOOP", "decided")]},
            ),
            _task(
                "FORK_JOIN",
                "fork",
                forkTasks=[
                    [_simple("echo", "one_a"), _inline("one_b", "1")],
                    [_simple("echo", "two_a", startDelay=1)],
                ],
            ),
            _task("JOIN", "join", joinOn=["one_b", "two_a"]),
            _task(
                "FORK_JOIN_DYNAMIC",
                "dynamic_fork",
                inputParameters={
                    "names": [
                        {"name": "echo", "taskReferenceName": "forked_1", "type": "SIMPLE"},
                        {"name": "noop", "taskReferenceName": "forked_2", "type": "NOOP"},
                    ],
                    "inputs": {"forked_1": {"n": 1, "f": 1.0, "null": None}, "forked_2": {}},
                },
                dynamicForkTasksParam="names",
                dynamicForkTasksInputParamName="inputs",
            ),
            _task("JOIN", "dynamic_join"),
            _task(
                "DYNAMIC",
                "dynamic",
                inputParameters={"which": "chosen_at_run_time", "n": 10.0},
                dynamicTaskNameParam="which",
            ),
            _task("EXCLUSIVE_JOIN", "first_of_many", joinOn=["on_the_left"], defaultExclusiveJoinTask=["by_value"]),
            _task(
                "TERMINATE", "the_end", inputParameters={"terminationStatus": "COMPLETED", "workflowOutput": {"n": 1.0}}
            ),
            _task("NOOP", "never_reached"),
        ],
    ),
    Scenario(
        "loops",
        [
            _task(
                "DO_WHILE",
                "loop",
                inputParameters={"limit": 3},
                loopCondition="if ($.loop['iteration'] < $.limit) { true; } else { false; }",
                loopOver=[
                    _simple("echo", "in_loop", inputParameters={"round": "${loop.output.iteration}"}),
                    _inline("in_loop_too", "[1, 2.5]"),
                ],
            ),
            _task(
                "DO_WHILE",
                "over_items",
                inputParameters={"list": [1, 1.0, None, {"k": 1e10}]},
                items="${workflow.input.items}",
                loopCondition="false",
                loopOver=[_task("NOOP", "per_item")],
            ),
        ],
        input=b'{"items":[1,1.0,{"k":1e10}]}',
    ),
    Scenario(
        _CHILD,
        [_inline("child_task", "({n: 1.0})")],
        definition={"outputParameters": {"n": "${child_task.output.result}"}},
    ),
    Scenario("failing_child", [_simple("fails_always")], ends="FAILED"),
    Scenario(
        "children",
        [
            _task("SUB_WORKFLOW", "named", inputParameters=_VALUES, subWorkflowParam={"name": _CHILD, "version": 1}),
            _task(
                "SUB_WORKFLOW",
                "with_domains",
                inputParameters={"n": 1},
                subWorkflowParam={
                    "name": _CHILD,
                    "taskToDomain": {"*": "north"},
                    "priority": 3,
                    "idempotencyKey": "k",
                    "idempotencyStrategy": "RETURN_EXISTING",
                },
            ),
            _task(
                "SUB_WORKFLOW",
                "inline_definition",
                subWorkflowParam={
                    "name": "made_here",
                    "version": 1,
                    "workflowDefinition": {
                        "name": "made_here",
                        "version": 1,
                        "schemaVersion": 2,
                        "ownerEmail": OWNER,
                        "tasks": [_task("NOOP", "inside"), _inline("inside_too", "1")],
                        "inputTemplate": {"n": 1.0},
                    },
                },
            ),
            _task(
                "START_WORKFLOW",
                "started",
                inputParameters={"startWorkflow": {"name": _CHILD, "version": 1, "input": {"n": 1.0}}},
            ),
            _task(
                "SUB_WORKFLOW",
                "fails_inside",
                optional=True,
                subWorkflowParam={"name": "failing_child", "version": 1},
                retryCount=0,
            ),
        ],
        input=b'{"values":{"n":1,"f":1e10,"null":null}}',
    ),
    Scenario(
        "child_fails", [_task("SUB_WORKFLOW", "failing", subWorkflowParam={"name": "failing_child"})], ends="FAILED"
    ),
    Scenario("waits", [_task("WAIT", "a_second", inputParameters={"duration": "1 seconds"}), _task("NOOP", "after")]),
    Scenario(
        "waits_on",
        [_task("WAIT", "for_a_signal"), _task("NOOP", "never")],
        ends="RUNNING",
        waiting={"for_a_signal": "IN_PROGRESS"},
    ),
    Scenario(
        "waits_until",
        [_task("WAIT", "for_years", inputParameters={"until": "2126-01-01 00:00 UTC"})],
        ends="RUNNING",
        waiting={"for_years": "IN_PROGRESS"},
    ),
    Scenario("human", [_task("HUMAN", "person")], ends="RUNNING", waiting={"person": "IN_PROGRESS"}),
    Scenario(
        "defined",
        [
            _simple(
                "templated",
                description="what a workflow task can say \N{PARTY POPPER}",
                inputParameters={"x": {"y": [1, 1.0, None]}} | _VALUES,
                asyncComplete=False,
                retryCount=4,
                rateLimited=True,
                startDelay=0,
                permissive=True,
                cacheConfig={"key": "${x}", "ttlInSecond": 60},
                metadata={"n": 1, "f": 1.0, "null": None, "map": {}},
                onStateChange={"onScheduled": [{"type": "log", "payload": {"n": 1, "f": 1.0}}]},
            ),
            _simple(
                "echo",
                taskDefinition={"name": "echo", "ownerEmail": OWNER, "inputTemplate": {"t": 1.0}, "retryCount": 9},
            ),
        ],
        input=b'{"values":{"n":1}}',
    ),
    Scenario("retried", [_simple("fails_twice", inputParameters=_VALUES)], input=b'{"values":{"n":1,"f":1.0}}'),
    Scenario("fails_for_good", [_simple("fails_for_good")], ends="FAILED"),
    Scenario("fails_but_optional", [_simple("fails_always", optional=True), _task("NOOP", "after")]),
    Scenario("fails_permissively", [_simple("fails_always", permissive=True), _task("NOOP", "after")], ends="FAILED"),
    Scenario(
        "inline_fails",
        [_inline("throws", "(function () { throw new Error('" + "no \N{PARTY POPPER}" * 150 + "'); })()")],
        ends="FAILED",
    ),
    Scenario(
        "jq_fails",
        [_task("JSON_JQ_TRANSFORM", "bad_jq", inputParameters={"queryExpression": '.a | error("no")'})],
        ends="FAILED",
    ),
    Scenario(
        "terminates",
        [_task("TERMINATE", "stop", inputParameters={"terminationStatus": "FAILED", "terminationReason": LONG_REASON})],
        ends="FAILED",
    ),
    Scenario("times_out", [_simple("times_out")], ends="TIMED_OUT", decide=True),
    Scenario("backs_off", [_simple("backs_off")], ends="RUNNING", waiting={"backs_off": "SCHEDULED"}),
    Scenario("never_polled", [_simple("never_polled")], ends="RUNNING", waiting={"never_polled": "SCHEDULED"}),
    Scenario("polled_only", [_simple("polled_only")], ends="RUNNING", waiting={"polled_only": "IN_PROGRESS"}),
    Scenario("calls_back", [_simple("calls_back")], ends="RUNNING", waiting={"calls_back": "SCHEDULED"}),
    Scenario(
        "delayed", [_simple("never_polled", "later", startDelay=900)], ends="RUNNING", waiting={"later": "SCHEDULED"}
    ),
    Scenario("in_domain", [_simple("in_domain")], start={"taskToDomain": {"in_domain": "north"}}),
    Scenario("names_a_child", [_simple("names_a_child")]),
    Scenario(
        "terminated",
        [_simple("never_polled"), _task("NOOP", "after")],
        ends="TERMINATED",
        waiting={"never_polled": "SCHEDULED"},
        then=[("DELETE", "?reason=enough")],
    ),
    Scenario(
        "skipped",
        [_simple("echo"), _task("WAIT", "between"), _simple("never_polled", "left_out"), _task("NOOP", "after")],
        ends="RUNNING",
        waiting={"between": "IN_PROGRESS"},
        then=[("PUT", "/skiptask/left_out")],
    ),
    Scenario(
        "retried_by_hand",
        [_simple("fails_always")],
        ends="FAILED",
        waiting={"fails_always": "FAILED"},
        then=[("POST", "/retry")],
    ),
    Scenario(
        "large_input",
        [_simple("echo", inputParameters=_VALUES)],
        input=b'{"values":"' + _TEXT_KB.encode() * (PAYLOAD_THRESHOLD_KB + 4) + b'"}',
    ),
    Scenario("large_output", [_simple("large_output", inputParameters={"n": 1})]),
    Scenario("too_large_output", [_simple("too_large_output")], ends="FAILED"),
]
