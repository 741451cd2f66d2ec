// The released SDK: makes a client, then asks for each task that a line of standard input names. It prints a line of JSON for
// each: what the SDK returned, or how it failed. The first line is {} if there is a client, else how that failed.
import { createInterface } from "node:readline";
import { createConductorClient, TaskClient } from "@io-orkes/conductor-javascript";

const [serverUrl, keyId, keySecret] = process.argv.slice(2);

// The SDK tries 8 times to get its first token, with pauses of 123 s in all, which no test waits: they are reported instead.
const { setTimeout } = globalThis;
const pauses = [];
globalThis.setTimeout = (callback, milliseconds, ...rest) => {
  const [, , caller] = new Error().stack.split("\n");
  if (!caller.includes("conductor-javascript")) return setTimeout(callback, milliseconds, ...rest); // the HTTP client's
  pauses.push(milliseconds);
  return setTimeout(callback, 1, ...rest);
};

const print = (result) => console.log(JSON.stringify(result));
try {
  const tasks = new TaskClient(await createConductorClient({ serverUrl, keyId, keySecret }));
  print({});
  for await (const taskId of createInterface({ input: process.stdin })) {
    try {
      print({ task: await tasks.getTask(taskId) });
    } catch (error) {
      print({ error: error.message });
    }
  }
} catch (error) {
  print({ error: error.message, pauses });
}
process.exit(0); // the SDK keeps a timer
