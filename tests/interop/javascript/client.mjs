// gRPC's JavaScript client against one address. Prints what it got as one JSON object: see test_other_languages.py.
//
//   node client.mjs <host:port> <descriptor set> <known task> <unknown task> <large task>

import * as grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";
import { readFileSync } from "node:fs";

const [target, descriptors, known, unknown, large] = process.argv.slice(2);
const CANCELLATIONS = 10_000;

const loaded = protoLoader.loadFileDescriptorSetFromBuffer(readFileSync(descriptors), { enums: String, longs: String });
const { TaskService } = grpc.loadPackageDefinition(loaded).taskgate.v1;
const limits = { "grpc.max_receive_message_length": 64 << 20 };
const credentials = grpc.credentials.createInsecure();
const client = new TaskService(target, credentials, limits);
const gzip = new TaskService(target, credentials, { ...limits, "grpc.default_compression_algorithm": 2 });

// Methods that the descriptor set does not have; both sides as bytes.
const bytes = (value) => value;
const raw = (path, stream) => ({
  path, requestStream: false, responseStream: stream,
  requestSerialize: bytes, requestDeserialize: bytes, responseSerialize: bytes, responseDeserialize: bytes,
});
const Other = grpc.makeGenericClientConstructor({
  watch: raw("/grpc.health.v1.Health/Watch", true),
  missing: raw("/taskgate.v1.TaskService/NoSuchMethod", false),
}, "Other");
const other = new Other(target, credentials);

const soon = (seconds) => ({ deadline: Date.now() + seconds * 1000 });

function ask(method, taskId, { on = client, metadata = new grpc.Metadata() } = {}) {
  return new Promise((resolve) => {
    const result = {};
    const call = on[method]({ task_id: taskId }, metadata, soon(30), (error, response) => { result.response = response; });
    call.on("status", (status) => resolve({ ...result, status }));
  });
}

function document({ status, response }) {
  return { code: status.code, text: response?.data.toString("utf8") };
}

async function notFound() {
  const { status } = await ask("getTaskJson", unknown);
  const details = status.metadata.get("grpc-status-details-bin")[0];
  return { code: status.code, message: status.details, details: details?.toString("base64") };
}

async function requestId() {
  const metadata = new grpc.Metadata();
  metadata.set("x-request-id", "interop-1");
  const { status } = await ask("getTaskJson", known, { metadata });
  return status.metadata.get("x-request-id")[0];
}

function watch() {
  return new Promise((resolve) => {
    const messages = [];
    const call = other.watch(Buffer.alloc(0), soon(0.5));
    call.on("data", (message) => messages.push(message.toString("hex")));
    call.on("error", () => {});
    call.on("status", (status) => resolve({ code: status.code, messages }));
  });
}

function missing() {
  return new Promise((resolve) => other.missing(Buffer.alloc(0), soon(5), (error) => resolve(error?.code ?? 0)));
}

// Each call is cancelled one turn of the event loop after it was made: before, while, or after it is answered.
async function cancelled() {
  const codes = {};
  for (let done = 0; done < CANCELLATIONS; done += 50) {
    await Promise.all(Array.from({ length: 50 }, () => new Promise((resolve) => {
      const call = client.getTaskJson({ task_id: known }, soon(30), () => {});
      call.on("status", (status) => { codes[status.code] = (codes[status.code] ?? 0) + 1; resolve(); });
      setImmediate(() => call.cancel());
    })));
  }
  return codes;
}

// A client on a connection of its own: Envoy may be about to close one that had too many calls cancelled.
function fresh() {
  return new TaskService(target, credentials, { ...limits, "grpc.use_local_subchannel_pool": 1 });
}

const typed = await ask("getTask", known);
const results = {
  document: document(await ask("getTaskJson", known)),
  compressed: document(await ask("getTaskJson", known, { on: gzip })),
  task: { code: typed.status.code, id: typed.response?.task.task_id, status: typed.response?.task.status },
  notFound: await notFound(),
  requestId: await requestId(),
  large: (await ask("getTaskJson", large)).response?.data.length,
  missing: await missing(),
  watch: await watch(),
  together: (await Promise.all(Array.from({ length: 500 }, () => ask("getTaskJson", known))))
    .filter(({ status }) => status.code === 0).length,
  cancelled: await cancelled(),
  afterwards: document(await ask("getTaskJson", known, { on: fresh() })),
};
console.log(JSON.stringify(results));
process.exit(0);
