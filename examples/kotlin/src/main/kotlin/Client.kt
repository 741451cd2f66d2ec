// Gets a task: `get HOST:PORT TASK_ID`, with the token and the authority that variables name.
import com.google.protobuf.StringValue
import com.google.protobuf.struct
import com.google.protobuf.util.JsonFormat
import com.google.rpc.ErrorInfo
import com.taskgate.v1.ErrorReason
import com.taskgate.v1.GetTaskResponse
import com.taskgate.v1.TaskServiceGrpcKt.TaskServiceCoroutineStub
import com.taskgate.v1.getTaskRequest
import io.grpc.Grpc
import io.grpc.InsecureChannelCredentials
import io.grpc.Metadata
import io.grpc.Status
import io.grpc.StatusException
import io.grpc.TlsChannelCredentials
import io.grpc.protobuf.StatusProto
import java.io.File
import java.io.PrintStream
import java.util.concurrent.TimeUnit
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking

val retries =
    mapOf(
        "methodConfig" to
            listOf(
                mapOf(
                    "name" to listOf(mapOf("service" to "taskgate.v1.TaskService")),
                    "retryPolicy" to
                        mapOf(
                            "maxAttempts" to 4.0,
                            "initialBackoff" to "0.1s",
                            "maxBackoff" to "1s",
                            "backoffMultiplier" to 2.0,
                            "retryableStatusCodes" to listOf("UNAVAILABLE"),
                        ),
                ),
            ),
    )

val tryLater =
    setOf(
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE.name,
        ErrorReason.ERROR_REASON_OVERLOADED.name,
        ErrorReason.ERROR_REASON_RATE_LIMITED.name,
        ErrorReason.ERROR_REASON_TOO_MANY_ATTEMPTS.name,
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED.name,
    )

// Knows StringValue, so that JSON can show one that is in an Any.
val json: JsonFormat.Printer =
    JsonFormat.printer()
        .omittingInsignificantWhitespace()
        .usingTypeRegistry(JsonFormat.TypeRegistry.newBuilder().add(StringValue.getDescriptor()).build())

val out = PrintStream(System.out, true, Charsets.UTF_8)

suspend fun get(target: String, id: String) {
    val authority = System.getenv("TASKGATE_CA").orEmpty()
    val credentials =
        if (authority.isEmpty()) InsecureChannelCredentials.create()
        else TlsChannelCredentials.newBuilder().trustManager(File(authority)).build()
    val channel =
        Grpc.newChannelBuilder(target, credentials).defaultServiceConfig(retries).maxInboundMessageSize(32 shl 20).build()
    val token = System.getenv("TASKGATE_TOKEN").orEmpty()
    val headers = Metadata()
    if (token.isNotEmpty()) {
        headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer $token")
    }
    try {
        val stub = TaskServiceCoroutineStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS)
        val task = stub.getTask(getTaskRequest { taskId = id }, headers).task
        out.println(task.status)
        out.println(json.print(struct { fields.putAll(task.outputDataMap) }))
    } finally {
        channel.shutdownNow()
    }
}

// Says what happened, by the reason in the error's details; the exit code is 75 for an error that may pass.
fun explain(error: StatusException, id: String): Int {
    val reason = reasonOf(error)
    val status = error.status
    val later =
        when {
            status.code == Status.Code.NOT_FOUND -> {
                System.err.println("There is no task $id")
                return 1
            }
            reason in tryLater -> reason
            // No connection, or a proxy without a server: it has no reason. What went wrong is in the cause, if any.
            status.code == Status.Code.UNAVAILABLE -> "the server is unavailable: ${status.cause ?: status.description}"
            status.code == Status.Code.DEADLINE_EXCEEDED -> "no answer in time" // the client's own, without a reason
            else -> {
                System.err.println("${reason ?: status.code}: ${status.description}")
                return 1
            }
        }
    System.err.println("Try again later: $later")
    return 75
}

// Returns taskgate's reason for an error, or null if it has none.
fun reasonOf(error: StatusException): String? =
    StatusProto.fromThrowable(error)
        ?.detailsList
        ?.filter { it.`is`(ErrorInfo::class.java) }
        ?.map { it.unpack(ErrorInfo::class.java) }
        ?.find { it.domain == "taskgate" }
        ?.reason

// Prints a line of JSON for each answer that was saved to the folder.
fun read(folder: String) {
    for (file in File(folder).listFiles { file -> file.extension == "binpb" }.orEmpty()) {
        val task = GetTaskResponse.parseFrom(file.readBytes()).task
        out.println("""{"name": "${file.nameWithoutExtension}", "task": ${json.print(task)}}""")
    }
}

fun main(arguments: Array<String>) = runBlocking {
    if (arguments.size == 3 && arguments[0] == "get") {
        try {
            get(arguments[1], arguments[2])
        } catch (error: StatusException) {
            exitProcess(explain(error, arguments[2]))
        }
    } else if (arguments.size == 2 && arguments[0] == "read") {
        read(arguments[1])
    } else {
        System.err.println("usage: client get HOST:PORT TASK_ID | read FOLDER")
        exitProcess(2)
    }
}
