import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.datatype.jdk8.Jdk8Module;
import com.netflix.conductor.client.exception.ConductorClientException;
import com.netflix.conductor.client.http.TaskClient;
import com.netflix.conductor.common.config.ObjectMapperProvider;
import io.orkes.conductor.client.ApiClient;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/**
 * The released SDK: makes a client, then asks for each task that a line of standard input names. It prints a line of JSON for
 * each: what the SDK returned, or how it failed. The first line is {} if there is a client, else how that failed. The SDK's
 * log goes to standard error.
 */
public final class Client {
    private static final ObjectMapper JSON = new ObjectMapperProvider().getObjectMapper().copy().registerModule(new Jdk8Module());
    private static final PrintStream OUTPUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    public static void main(String[] arguments) throws Exception {
        String url = arguments[0], keyId = arguments[1], keySecret = arguments[2];
        TaskClient tasks = new TaskClient(keyId.isEmpty() ? new ApiClient(url) : new ApiClient(url, keyId, keySecret));
        print(Map.of());
        var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String taskId; (taskId = input.readLine()) != null; ) {
            try {
                print(Map.of("task", tasks.getTaskDetails(taskId)));
            } catch (ConductorClientException error) {
                print(Map.of("error", error.getStatus() + ": " + error.getMessage()));
            } catch (RuntimeException error) { // it got no token
                print(Map.of("error", error.toString()));
            }
        }
        System.exit(0); // the SDK keeps threads
    }

    private static void print(Map<String, Object> result) throws Exception {
        OUTPUT.println(JSON.writeValueAsString(result));
    }
}
