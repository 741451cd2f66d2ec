// Asks for one task with the released SDK and prints what it returned, or how it failed, as one line of JSON.
import { createConductorClient, TaskClient } from "@io-orkes/conductor-javascript";

const [serverUrl, taskId, keyId, keySecret] = process.argv.slice(2);
try {
  const client = await createConductorClient({ serverUrl, keyId, keySecret });
  console.log(JSON.stringify({ task: await new TaskClient(client).getTask(taskId) }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message }));
}
process.exit(0); // the SDK keeps a timer
