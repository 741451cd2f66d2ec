// Gets a task: `node dist/main.js get HOST:PORT TASK_ID`, with the token and the authority that variables name.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { createRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { StringValueSchema, ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { Task_Status, TaskSchema } from "./gen/taskgate/v1/task_pb.js";
import { GetTaskResponseSchema, TaskService } from "./gen/taskgate/v1/task_service_pb.js";

const TRY_LATER = new Set([
  "ERROR_REASON_STORE_UNAVAILABLE",
  "ERROR_REASON_OVERLOADED",
  "ERROR_REASON_RATE_LIMITED",
  "ERROR_REASON_TOO_MANY_ATTEMPTS",
  "ERROR_REASON_DEADLINE_EXCEEDED",
]);
const ATTEMPTS = 4;

async function get(target: string, taskId: string): Promise<void> {
  const authority = process.env.TASKGATE_CA;
  const client = createClient(
    TaskService,
    createGrpcTransport({
      baseUrl: `${authority ? "https" : "http"}://${target}`,
      nodeOptions: authority ? { ca: readFileSync(authority) } : {},
      readMaxBytes: 32 << 20,
    }),
  );
  const token = process.env.TASKGATE_TOKEN;
  const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
  const end = Date.now() + 10_000; // of all attempts together
  // Connect reads no service config, so the retries are here.
  for (let attempt = 1; ; attempt++) {
    try {
      const timeoutMs = Math.max(1, end - Date.now()); // 0 or less would be no deadline
      const { task } = await client.getTask({ taskId }, { headers, timeoutMs });
      const output = Object.entries(task!.outputData).map(([key, value]) => [key, toJson(ValueSchema, value)]);
      console.log(Task_Status[task!.status!]);
      console.log(JSON.stringify(Object.fromEntries(output)));
      return;
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable || attempt === ATTEMPTS) throw error;
      const pause = Math.min(Math.random() * 100 * 2 ** attempt, Math.max(0, end - Date.now()));
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

// Says what happened, by the reason in the error's details, and returns an exit code: 75 for an error that may pass.
function explain(cause: unknown, taskId: string): number {
  const error = ConnectError.from(cause);
  const reason = error.findDetails(ErrorInfoSchema).find((info) => info.domain === "taskgate")?.reason;
  let later: string;
  if (error.code === Code.NotFound) {
    console.error(`There is no task ${taskId}`);
    return 1;
  } else if (reason && TRY_LATER.has(reason)) {
    later = reason;
  } else if (error.code === Code.Unavailable) {
    later = `the server is unavailable: ${error.rawMessage}`; // or a proxy has no server: there is no reason
  } else if (error.code === Code.DeadlineExceeded) {
    later = "no answer in time"; // the client's own deadline, which has no reason
  } else {
    console.error(`${reason ?? Code[error.code]}: ${error.rawMessage}`);
    return 1;
  }
  console.error(`Try again later: ${later}`);
  return 75;
}

// Prints a line of JSON for each answer that was saved to the folder.
function read(folder: string): void {
  const registry = createRegistry(StringValueSchema); // lets JSON show a StringValue that is in an Any
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".binpb"))) {
    const { task } = fromBinary(GetTaskResponseSchema, readFileSync(join(folder, file)));
    const name = file.replace(/\.binpb$/, "");
    console.log(JSON.stringify({ name, task: toJson(TaskSchema, task!, { registry }) }));
  }
}

const [command, first, second] = process.argv.slice(2);
if (command === "get" && first && second) {
  await get(first, second).catch((error) => (process.exitCode = explain(error, second)));
} else if (command === "read" && first) {
  read(first);
} else {
  console.error("usage: main.js get HOST:PORT TASK_ID | read FOLDER");
  process.exitCode = 2;
}
