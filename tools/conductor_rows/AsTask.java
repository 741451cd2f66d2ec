import com.fasterxml.jackson.databind.ObjectMapper;
import com.netflix.conductor.common.config.ObjectMapperBuilderConfiguration;
import com.netflix.conductor.common.config.ObjectMapperConfiguration;
import com.netflix.conductor.common.jackson.JsonProtoModule;
import com.netflix.conductor.model.TaskModel;
import java.util.Base64;
import java.util.Scanner;
import org.springframework.boot.autoconfigure.jackson.JacksonAutoConfiguration;
import org.springframework.context.annotation.AnnotationConfigApplicationContext;

/** Answers rows as Conductor does: a base64 row a line in, "task " and its base64 Task or "refused" out. */
public class AsTask {
    public static void main(String[] arguments) {
        var context = new AnnotationConfigApplicationContext(
                JacksonAutoConfiguration.class,
                ObjectMapperBuilderConfiguration.class,
                ObjectMapperConfiguration.class,
                JsonProtoModule.class);
        var mapper = context.getBean(ObjectMapper.class);
        var lines = new Scanner(System.in);
        while (lines.hasNextLine()) {
            System.out.println("task " + answer(mapper, new String(Base64.getDecoder().decode(lines.nextLine()))));
        }
    }

    private static String answer(ObjectMapper mapper, String row) {
        try {
            var task = mapper.readValue(row, TaskModel.class).toTask();
            return Base64.getEncoder().encodeToString(mapper.writeValueAsBytes(task));
        } catch (Exception refused) {
            return "refused";
        }
    }
}
