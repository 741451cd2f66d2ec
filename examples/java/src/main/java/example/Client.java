package example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.StringValue;
import com.google.protobuf.Struct;
import com.google.protobuf.util.JsonFormat;
import com.google.rpc.ErrorInfo;
import com.taskgate.v1.ErrorReason;
import com.taskgate.v1.GetTaskRequest;
import com.taskgate.v1.GetTaskResponse;
import com.taskgate.v1.TaskServiceGrpc;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Set;
import java.util.concurrent.TimeUnit;

/** Gets a task: {@code get HOST:PORT TASK_ID}, with the token and the authority that variables name. */
public final class Client {
  private static final Map<String, ?> RETRIES =
      Map.of(
          "methodConfig",
          List.of(
              Map.of(
                  "name", List.of(Map.of("service", TaskServiceGrpc.SERVICE_NAME)),
                  "retryPolicy",
                      Map.of(
                          "maxAttempts", 4.0,
                          "initialBackoff", "0.1s",
                          "maxBackoff", "1s",
                          "backoffMultiplier", 2.0,
                          "retryableStatusCodes", List.of("UNAVAILABLE")))));

  private static final Set<String> TRY_LATER =
      Set.of(
          ErrorReason.ERROR_REASON_STORE_UNAVAILABLE.name(),
          ErrorReason.ERROR_REASON_OVERLOADED.name(),
          ErrorReason.ERROR_REASON_RATE_LIMITED.name(),
          ErrorReason.ERROR_REASON_TOO_MANY_ATTEMPTS.name(),
          ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED.name());

  // Knows StringValue, so that JSON can show one that is in an Any.
  private static final JsonFormat.Printer JSON =
      JsonFormat.printer()
          .omittingInsignificantWhitespace()
          .usingTypeRegistry(JsonFormat.TypeRegistry.newBuilder().add(StringValue.getDescriptor()).build());

  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private static String variable(String name) {
    return Objects.requireNonNullElse(System.getenv(name), "");
  }

  private static void get(String target, String taskId) throws IOException {
    String authority = variable("TASKGATE_CA");
    ChannelCredentials credentials =
        authority.isEmpty()
            ? InsecureChannelCredentials.create()
            : TlsChannelCredentials.newBuilder().trustManager(new File(authority)).build();
    ManagedChannel channel =
        Grpc.newChannelBuilder(target, credentials).defaultServiceConfig(RETRIES).maxInboundMessageSize(32 << 20).build();
    String token = variable("TASKGATE_TOKEN");
    var headers = new Metadata();
    if (!token.isEmpty()) {
      headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + token);
    }
    try {
      var task =
          TaskServiceGrpc.newBlockingStub(channel)
              .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers))
              .withDeadlineAfter(10, TimeUnit.SECONDS)
              .getTask(GetTaskRequest.newBuilder().setTaskId(taskId).build())
              .getTask();
      OUT.println(task.getStatus());
      OUT.println(JSON.print(Struct.newBuilder().putAllFields(task.getOutputDataMap())));
    } finally {
      channel.shutdownNow();
    }
  }

  /** Says what happened, by the reason in the error's details; the exit code is 75 for an error that may pass. */
  private static int explain(StatusRuntimeException error, String taskId) throws InvalidProtocolBufferException {
    String reason = reasonOf(error);
    Status status = error.getStatus();
    String later;
    if (status.getCode() == Status.Code.NOT_FOUND) {
      System.err.println("There is no task " + taskId);
      return 1;
    } else if (TRY_LATER.contains(reason)) {
      later = reason;
    } else if (status.getCode() == Status.Code.UNAVAILABLE) {
      // No connection, or a proxy without a server: it has no reason. What went wrong is in the cause, if there is one.
      later = "the server is unavailable: " + Objects.requireNonNullElse(status.getCause(), status.getDescription());
    } else if (status.getCode() == Status.Code.DEADLINE_EXCEEDED) {
      later = "no answer in time"; // the client's own deadline, which has no reason
    } else {
      System.err.println((reason.isEmpty() ? status.getCode() : reason) + ": " + status.getDescription());
      return 1;
    }
    System.err.println("Try again later: " + later);
    return 75;
  }

  /** Returns taskgate's reason for an error, or "" if it has none. */
  private static String reasonOf(StatusRuntimeException error) throws InvalidProtocolBufferException {
    for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class) && detail.unpack(ErrorInfo.class).getDomain().equals("taskgate")) {
        return detail.unpack(ErrorInfo.class).getReason();
      }
    }
    return "";
  }

  /** Prints a line of JSON for each answer that was saved to the folder. */
  private static void read(String folder) throws IOException {
    try (var paths = Files.newDirectoryStream(Path.of(folder), "*.binpb")) {
      for (var path : paths) {
        var task = GetTaskResponse.parseFrom(Files.readAllBytes(path)).getTask();
        String name = path.getFileName().toString().replace(".binpb", "");
        OUT.println("{\"name\": \"" + name + "\", \"task\": " + JSON.print(task) + "}");
      }
    }
  }

  public static void main(String[] arguments) throws IOException {
    if (arguments.length == 3 && arguments[0].equals("get")) {
      try {
        get(arguments[1], arguments[2]);
      } catch (StatusRuntimeException error) {
        System.exit(explain(error, arguments[2]));
      }
    } else if (arguments.length == 2 && arguments[0].equals("read")) {
      read(arguments[1]);
    } else {
      System.err.println("usage: client get HOST:PORT TASK_ID | read FOLDER");
      System.exit(2);
    }
  }
}
