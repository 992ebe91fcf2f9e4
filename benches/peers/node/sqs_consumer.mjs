// Drains the queue with sqs-consumer: several consumers of batches of ten, each batch handled at once and deleted
// with one call. A consumer receives nothing while it handles and deletes, so there are more of them than the handlers
// asked for would fill, and the handler takes one of as many places as were asked for.

import { readFileSync } from "node:fs";
import { Agent } from "node:http";
import { SQSClient } from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";
import { handle, report, settings } from "./driver.mjs";

const BATCH = 10;

const { version } = JSON.parse(readFileSync(new URL("node_modules/sqs-consumer/package.json", import.meta.url)));

// In a FIFO queue a batch may be of one group, and then fills one place.
const chosen = Math.ceil(settings.fifo ? settings.concurrency : (1.5 * settings.concurrency) / BATCH);
const count = settings.extra.sources ?? Math.min(256, chosen);

// The SDK's default is 50 connections, which is fewer than there may be consumers.
const sqs = new SQSClient({
  endpoint: settings.endpoint,
  region: settings.region,
  requestHandler: { httpAgent: new Agent({ keepAlive: true, maxSockets: Math.max(50, 2 * count) }) },
});

// A batch of a FIFO queue: each group in its order, the groups beside one another.
async function inOrder(messages) {
  const groups = Map.groupBy(messages, (message) => message.Attributes?.MessageGroupId);
  const work = Array.from(groups.values(), async (group) => {
    for (const message of group) {
      await handle(message);
    }
  });
  await Promise.all(work);
  return messages;
}

async function atOnce(messages) {
  await Promise.all(messages.map(handle));
  return messages;
}

let stopping = false;
const consumers = Array.from({ length: count }, () => {
  const state = { busy: false };
  const work = settings.fifo ? inOrder : atOnce;
  state.consumer = Consumer.create({
    sqs,
    queueUrl: settings.queueUrl,
    batchSize: BATCH,
    messageSystemAttributeNames: settings.fifo ? ["MessageGroupId"] : [],
    suppressFifoWarning: true,
    handleMessageBatch: (messages) => {
      state.busy = true;
      return work(messages);
    },
  });
  state.consumer.on("response_processed", () => {
    state.busy = false;
    finish();
  });
  state.consumer.on("error", (error) => {
    if (!stopping) {
      process.stderr.write(`${error.message}\n`);
    }
  });
  return state;
});

function finish() {
  if (stopping && consumers.every(({ busy }) => !busy)) {
    report("sqs-consumer", version);
  }
}

process.once("SIGTERM", () => {
  stopping = true;
  for (const { busy, consumer } of consumers) {
    // Who waits for messages is cut short; who has some handles and deletes them.
    consumer.stop({ abort: !busy });
  }
  finish();
});

consumers.forEach(({ consumer }) => consumer.start());
