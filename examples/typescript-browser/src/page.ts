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
const NOT_IN_TIME = "Try again later: no answer in time";
const TRY_LATER = new Set([
  "ERROR_REASON_STORE_UNAVAILABLE",
  "ERROR_REASON_OVERLOADED",
  "ERROR_REASON_RATE_LIMITED",
  "ERROR_REASON_TOO_MANY_ATTEMPTS",
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
  const reason = error.findDetails(ErrorInfoSchema).find((info) => info.domain === "taskgate")?.reason;
  if (error.code === Code.NotFound) return `There is no task ${taskId}`;
  if (reason && TRY_LATER.has(reason)) return `Try again later: ${reason}`;
  if (error.code === Code.Unavailable) return `Try again later: the server is unavailable: ${error.rawMessage}`;
  if (error.code === Code.DeadlineExceeded) return NOT_IN_TIME;
  return `${reason ?? Code[error.code]}: ${error.rawMessage}`;
}

async function byRest(server: string, token: string, taskId: string): Promise<Answer> {
  const { answer, text } = await ask(`${server}/api/tasks/${encodeURIComponent(taskId)}`, token);
  let body;
  try {
    body = exactly(text);
  } catch {
    throw new Error(`The answer is no JSON: HTTP status ${answer.status}`); // a proxy's own page, for example
  }
  if (answer.ok) return { status: body.status, output: JSON.stringify(body.outputData ?? {}, null, 2) };
  if (answer.status === 404) throw new Error(`There is no task ${taskId}`);
  throw new Error(`${body.retryable ? "Try again later: " : ""}${answer.status} ${body.message}`);
}

// Returns an answer and its text, before the time is over. The signal also ends the reading of the text.
async function ask(url: string, token: string): Promise<{ answer: Response; text: string }> {
  const headers: HeadersInit = token ? { authorization: `Bearer ${token}` } : {};
  try {
    const answer = await fetch(url, { headers, signal: AbortSignal.timeout(TIMEOUT_MS) });
    return { answer, text: await answer.text() };
  } catch (cause) {
    throw new Error((cause as Error).name === "TimeoutError" ? NOT_IN_TIME : `The call fails: ${cause}`);
  }
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
