import com.fasterxml.jackson.databind.ObjectMapper;
import com.netflix.conductor.client.grpc.TaskClient;
import com.netflix.conductor.common.config.ObjectMapperProvider;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/**
 * Conductor's released gRPC client: asks for each task that a line of standard input names. It prints a line of JSON for each:
 * what the client returned, or how it failed. The first line says that there is a client. It knows no tokens, but takes a
 * channel, which adds one to each call.
 */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapperProvider().getObjectMapper();
    private static final PrintStream OUTPUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private static final Metadata.Key<String> AUTHORIZATION = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    public static void main(String[] arguments) throws Exception {
        ManagedChannelBuilder<?> channel = ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext();
        if (arguments.length > 1) {
            Metadata headers = new Metadata();
            headers.put(AUTHORIZATION, "Bearer " + arguments[1]);
            channel.intercept(MetadataUtils.newAttachHeadersInterceptor(headers));
        }
        TaskClient tasks = new TaskClient(channel);
        print(Map.of());
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String taskId; (taskId = input.readLine()) != null; ) {
            try {
                print(Map.of("task", tasks.getTaskDetails(taskId)));
            } catch (StatusRuntimeException error) {
                print(Map.of("error", error.getMessage()));
            }
        }
        tasks.shutdown();
    }

    private static void print(Map<String, Object> result) throws Exception {
        OUTPUT.println(JSON.writeValueAsString(result));
    }
}
