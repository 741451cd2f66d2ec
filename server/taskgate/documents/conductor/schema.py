"""List every field of Conductor's ``TaskModel`` and of its nested classes, with type, default and position.

Each class stands for a Java class and each line for a field, in the order in which Jackson writes them: fields of the
superclass, own fields as declared, then values that only getters compute. The order of these last is fixed here;
Conductor's depends on its JVM. The table was read from Conductor 3.32 and compared with the answers of its own classes
and settings (``docs/conductor-contract.md``).

- The type is what Jackson writes; ``coercion`` has the other types that Jackson reads.
- The default is the value for a missing key: the initialiser of the Java field. ``UNSET`` is Java's null; the property
  is then omitted.
- With ``| UnsetType`` a stored null is null. Without it a null becomes 0 or false (a Java primitive), or the default
  (``OrDefault`` and ``Map``, where a setter or getter does that).
- Other keys are unknown to Conductor and are dropped.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType


class Mark(Enum):
    """Annotations of a type for ``decoder``; msgspec ignores them."""

    NULL_IS_DEFAULT = "a stored null becomes the default"
    NO_NULLS = "a null among the values is refused"
    COMPUTED = "a getter computes it; the stored value is ignored"


Int: TypeAlias = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Long: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
IntOrDefault: TypeAlias = Annotated[Int, Mark.NULL_IS_DEFAULT]
LongOrDefault: TypeAlias = Annotated[Long, Mark.NULL_IS_DEFAULT]
Text: TypeAlias = str | UnsetType
Map: TypeAlias = Annotated[dict[str, Any], Mark.NULL_IS_DEFAULT]
NullableMap: TypeAlias = dict[str, Any] | UnsetType
if TYPE_CHECKING:
    Computed: TypeAlias = Any
else:
    Computed: TypeAlias = Annotated[Raw, Mark.COMPUTED]  # Raw, so that a stored value is skipped and not built

# Enum constants in the order of their declaration: a stored number is the position of a constant.
Status: TypeAlias = Literal[
    "IN_PROGRESS",
    "CANCELED",
    "FAILED",
    "FAILED_WITH_TERMINAL_ERROR",
    "COMPLETED",
    "COMPLETED_WITH_ERRORS",
    "SCHEDULED",
    "TIMED_OUT",
    "SKIPPED",
]
JoinMode: TypeAlias = Literal["SYNC", "ASYNC"]
IdempotencyStrategy: TypeAlias = Literal["FAIL", "RETURN_EXISTING", "FAIL_ON_RUNNING"]
TaskTimeoutPolicy: TypeAlias = Literal["RETRY", "TIME_OUT_WF", "ALERT_ONLY"]
RetryLogic: TypeAlias = Literal["FIXED", "EXPONENTIAL_BACKOFF", "LINEAR_BACKOFF"]
SchemaType: TypeAlias = Literal["JSON", "AVRO", "PROTOBUF"]
RateLimitPolicy: TypeAlias = Literal["QUEUE", "REJECT"]
WorkflowTimeoutPolicy: TypeAlias = Literal["TIME_OUT_WF", "ALERT_ONLY"]

# Base64 with full padding and no stray bits, which stays the same when Conductor decodes and encodes it.
Base64: TypeAlias = Annotated[
    str,
    Meta(pattern=r"\A(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?\Z"),
]
# setWorkflowDefinition refuses any other text.
Expression: TypeAlias = Annotated[str, Meta(pattern=r"(?s)\A\$\{.*\}\Z")]


class JavaObject(Struct, gc=False):
    """An object whose properties Jackson knows by name. ``gc=False``: it is in no cycle."""


class ProtoAny(JavaObject, rename={"type": "@type", "value": "@value"}):
    """A protobuf ``Any`` in Conductor's own JSON form (``JsonProtoModule``), not the canonical one."""

    type: str
    value: Base64


class StateChangeEvent(JavaObject):
    """An event that a workflow task publishes when its status changes."""

    type: Text = UNSET
    payload: NullableMap = UNSET


class CacheConfig(JavaObject):
    """How long results are cached."""

    key: Text = UNSET
    ttlInSecond: Int = 0


class Auditable(JavaObject):
    """Who created and changed a definition, and when; its getters return 0 for null times."""

    ownerApp: Text = UNSET
    createTime: LongOrDefault = 0
    updateTime: LongOrDefault = 0
    createdBy: Text = UNSET
    updatedBy: Text = UNSET


class SchemaDef(Auditable):
    """The shape of inputs or outputs."""

    name: Text = UNSET
    version: Int = 1
    type: SchemaType | UnsetType = UNSET
    data: NullableMap = UNSET
    externalRef: Text = UNSET


class TaskDef(Auditable):
    """A registered task definition, as it was when the workflow started."""

    name: Text = UNSET
    description: Text = UNSET
    retryCount: Int = 3
    timeoutSeconds: Long = 0
    inputKeys: list[str] | UnsetType = []
    outputKeys: list[str] | UnsetType = []
    runtimeMetadata: list[str] | UnsetType = []
    timeoutPolicy: TaskTimeoutPolicy | UnsetType = "TIME_OUT_WF"
    retryLogic: RetryLogic | UnsetType = "FIXED"
    retryDelaySeconds: Int = 60
    responseTimeoutSeconds: Long = 3600
    concurrentExecLimit: Int | UnsetType = UNSET
    inputTemplate: NullableMap = {}
    rateLimitPerFrequency: IntOrDefault = 0  # its getter makes null 0,
    rateLimitFrequencyInSeconds: IntOrDefault = 1  # and this one's makes it 1
    isolationGroupId: Text = UNSET
    executionNameSpace: Text = UNSET
    ownerEmail: Text = UNSET
    pollTimeoutSeconds: Int | UnsetType = UNSET
    backoffScaleFactor: Int | UnsetType = 1
    maxRetryDelaySeconds: Int = 0
    backoffJitterMs: Int = 0
    baseType: Text = UNSET
    totalTimeoutSeconds: Long = 0
    taskStatusListenerEnabled: bool = True
    inputSchema: SchemaDef | UnsetType = UNSET
    outputSchema: SchemaDef | UnsetType = UNSET
    enforceSchema: bool = False


class SubWorkflowParams(JavaObject):
    """Which workflow a SUB_WORKFLOW task starts."""

    name: Text = UNSET
    version: Int | UnsetType = UNSET
    taskToDomain: dict[str, str] | UnsetType = UNSET
    idempotencyKey: Text = UNSET
    idempotencyStrategy: IdempotencyStrategy | UnsetType = UNSET
    priority: str | int | UnsetType = UNSET  # any JSON value; these two are what people write
    # Jackson writes a property with an explicit name (@JsonGetter("workflowDefinition")) after the others.
    workflowDefinition: WorkflowDef | Expression | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Take name and version from an inline definition, as their getters do."""
        if isinstance(self.workflowDefinition, WorkflowDef):
            self.name = self.workflowDefinition.name
            self.version = self.workflowDefinition.version


class WorkflowTask(JavaObject):
    """The step of the workflow definition that the task came from."""

    name: Text = UNSET
    taskReferenceName: Text = UNSET
    description: Text = UNSET
    inputParameters: NullableMap = {}
    type: Text = "SIMPLE"
    dynamicTaskNameParam: Text = UNSET
    caseValueParam: Text = UNSET
    caseExpression: Text = UNSET
    scriptExpression: Text = UNSET
    decisionCases: dict[str, list[WorkflowTask]] | UnsetType = {}
    dynamicForkJoinTasksParam: Text = UNSET
    dynamicForkTasksParam: Text = UNSET
    dynamicForkTasksInputParamName: Text = UNSET
    defaultCase: list[WorkflowTask] | UnsetType = []
    forkTasks: list[list[WorkflowTask]] | UnsetType = []
    startDelay: Int = 0
    subWorkflowParam: SubWorkflowParams | UnsetType = UNSET
    joinOn: list[str] | UnsetType = []
    sink: Text = UNSET
    optional: bool = False
    taskDefinition: TaskDef | UnsetType = UNSET
    rateLimited: bool | UnsetType = UNSET
    defaultExclusiveJoinTask: list[str] | UnsetType = []
    asyncComplete: bool | UnsetType = False
    loopCondition: Text = UNSET
    loopOver: list[WorkflowTask] | UnsetType = []
    items: Text = UNSET
    retryCount: Int | UnsetType = UNSET
    evaluatorType: Text = UNSET
    expression: Text = UNSET
    onStateChange: dict[str, list[StateChangeEvent]] | UnsetType = {}
    joinStatus: Text = UNSET
    cacheConfig: CacheConfig | UnsetType = UNSET
    permissive: bool = False
    joinMode: JoinMode | UnsetType = UNSET
    metadata: Map = {}


class RateLimitConfig(JavaObject):
    """How many executions of a workflow may run at once."""

    rateLimitKey: Text = UNSET
    concurrentExecLimit: Int = 0
    policy: RateLimitPolicy | UnsetType = "QUEUE"


class WorkflowDef(Auditable):
    """A workflow definition inside a SUB_WORKFLOW task."""

    name: Text = UNSET
    description: Text = UNSET
    version: Int = 1
    tasks: list[WorkflowTask] | UnsetType = []
    inputParameters: list[str] | UnsetType = []
    outputParameters: NullableMap = {}
    failureWorkflow: Text = UNSET
    schemaVersion: Int = 2
    restartable: bool = True
    workflowStatusListenerEnabled: bool = False
    ownerEmail: Text = UNSET
    timeoutPolicy: WorkflowTimeoutPolicy | UnsetType = "ALERT_ONLY"
    timeoutSeconds: Long = 0
    variables: NullableMap = {}
    inputTemplate: NullableMap = {}
    failureWorkflowVersion: Int | UnsetType = UNSET
    workflowStatusListenerSink: Text = UNSET
    rateLimitConfig: RateLimitConfig | UnsetType = UNSET
    inputSchema: SchemaDef | UnsetType = UNSET
    outputSchema: SchemaDef | UnsetType = UNSET
    enforceSchema: bool = True
    metadata: NullableMap = {}
    cacheConfig: CacheConfig | UnsetType = UNSET
    maskedFields: list[str] | UnsetType = []


class WorkflowNotifications(JavaObject):
    """A client that waits for a workflow."""

    requestId: Text = UNSET
    hostIp: Text = UNSET
    waitUntilTasks: Text = UNSET
    monitorParentOnly: bool = False


class TaskModel(JavaObject):
    """A stored row. Its first part has the fields of the REST Task, in the order of that class."""

    taskType: Text = UNSET
    status: Status | UnsetType = UNSET
    inputData: Map = {}
    referenceTaskName: Text = UNSET
    retryCount: Int = 0
    seq: Int = 0
    correlationId: Text = UNSET
    pollCount: Int = 0
    taskDefName: Text = UNSET
    scheduledTime: Long = 0
    startTime: Long = 0
    endTime: Long = 0
    updateTime: Long = 0
    startDelayInSeconds: Int = 0
    retriedTaskId: Text = UNSET
    retried: bool = False
    executed: bool = False
    callbackFromWorker: bool = True
    responseTimeoutSeconds: Long = 0
    workflowInstanceId: Text = UNSET
    workflowType: Text = UNSET
    taskId: Text = UNSET
    reasonForIncompletion: Text = UNSET
    callbackAfterSeconds: Long = 0
    workerId: Text = UNSET
    outputData: Map = {}
    workflowTask: WorkflowTask | UnsetType = UNSET
    domain: Text = UNSET
    inputMessage: ProtoAny | UnsetType = UNSET
    outputMessage: ProtoAny | UnsetType = UNSET
    rateLimitPerFrequency: Int = 0
    rateLimitFrequencyInSeconds: Int = 0
    externalInputPayloadStoragePath: Text = UNSET
    externalOutputPayloadStoragePath: Text = UNSET
    workflowPriority: Int = 0
    executionNameSpace: Text = UNSET
    isolationGroupId: Text = UNSET
    iteration: Int = 0
    subWorkflowId: Text = UNSET
    subworkflowChanged: bool = False
    firstStartTime: Computed = UNSET
    executionMetadata: Computed = UNSET
    parentTaskId: Text = UNSET
    # Getters only. A JVM guarantees no order of methods, and some starts of Conductor have another; this is the order
    # of all recorded answers.
    taskDefinition: Computed = UNSET
    loopOverTask: Computed = UNSET
    queueWaitTime: Computed = UNSET

    # Not in a Task, but decoded: Conductor cannot answer a row with a value here that Jackson cannot read.
    callbackAfterMs: Long = 0
    firstScheduledTime: Long = 0
    waitTimeout: Long = 0
    loopTaskId: Text = UNSET
    onStateChange: dict[str, list[StateChangeEvent]] | UnsetType = UNSET
    idempotent: bool = False
    parentTaskReferenceName: Text = UNSET
    cachedOutput: bool = False
    notifications: Annotated[dict[str, WorkflowNotifications], Mark.NO_NULLS] | UnsetType = {}
    nonWorkflowEventTask: bool = False


NOT_IN_TASK = TaskModel.__struct_fields__[TaskModel.__struct_fields__.index("callbackAfterMs") :]
"""The fields of the second part."""
