// A web page that gets a task, by gRPC-Web or by REST. The server lets it: `taskgate up --cors-origins ORIGIN`.
import { toJson } from "@bufbuild/protobuf";
import { ValueSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { Task_Status } from "./gen/taskgate/v1/task_pb.js";
import { TaskService } from "./gen/taskgate/v1/task_service_pb.js";
import { exactly } from "./numbers.js";

const TIMEOUT_MS = 10_000;
const TRY_LATER = new Set([
  "ERROR_REASON_STORE_UNAVAILABLE",
  "ERROR_REASON_OVERLOADED",
  "ERROR_REASON_DEADLINE_EXCEEDED",
]);

type Answer = { status: string; output: string };

async function byGrpcWeb(server: string, token: string, taskId: string): Promise<Answer> {
  const client = createClient(TaskService, createGrpcWebTransport({ baseUrl: server }));
  const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
  try {
    const { task } = await client.getTask({ taskId }, { headers, timeoutMs: TIMEOUT_MS });
    const output = Object.entries(task!.outputData).map(([key, value]) => [key, toJson(ValueSchema, value)]);
    return { status: Task_Status[task!.status!], output: JSON.stringify(Object.fromEntries(output), null, 2) };
  } catch (cause) {
    throw new Error(explain(ConnectError.from(cause), taskId));
  }
}

// Says what happened, by the reason in the error's details. An error of the browser or the network has none.
function explain(error: ConnectError, taskId: string): string {
  const reason = error.findDetails(ErrorInfoSchema)[0]?.reason ?? "";
  if (error.code === Code.NotFound) return `There is no task ${taskId}`;
  if (TRY_LATER.has(reason)) return `Try again later: ${reason}`;
  if (!reason && error.code === Code.DeadlineExceeded) return "Try again later: no answer in time";
  return `${Code[error.code]} ${reason}: ${error.rawMessage}`;
}

async function byRest(server: string, token: string, taskId: string): Promise<Answer> {
  const answer = await fetch(`${server}/api/tasks/${encodeURIComponent(taskId)}`, {
    headers: token ? { authorization: `Bearer ${token}` } : {},
    signal: AbortSignal.timeout(TIMEOUT_MS),
  }).catch((cause) => {
    throw new Error(cause.name === "TimeoutError" ? "Try again later: no answer in time" : String(cause));
  });
  const body = exactly(await answer.text());
  if (answer.ok) return { status: body.status, output: JSON.stringify(body.outputData, null, 2) };
  if (answer.status === 404) throw new Error(`There is no task ${taskId}`);
  throw new Error(`${body.retryable ? "Try again later: " : ""}${answer.status} ${body.message}`);
}

const form = document.querySelector("form")!;
const status = document.querySelector("[role=status]")!;
const output = document.querySelector("pre")!;

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const by = (event.submitter as HTMLButtonElement).value === "grpc" ? byGrpcWeb : byRest;
  const [server, token, task] = ["server", "token", "task"].map((name) => String(new FormData(form).get(name)).trim());
  status.textContent = "…";
  output.textContent = "";
  try {
    const answer = await by(server, token, task);
    status.textContent = answer.status;
    output.textContent = answer.output;
  } catch (error) {
    status.textContent = (error as Error).message;
  }
});
