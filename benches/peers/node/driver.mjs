// What a driver under Node shares with the others: the settings, the handler, and the one line of the report.

const MOST_LATENCIES = 200_000;

function text(name, otherwise) {
  const value = process.env[name] ?? otherwise;
  if (value === undefined) {
    process.stderr.write(`${name} is not set\n`);
    process.exit(2);
  }
  return value;
}

export const settings = {
  endpoint: text("BENCH_ENDPOINT"),
  region: text("AWS_REGION", "eu-west-1"),
  queueUrl: text("BENCH_QUEUE_URL"),
  handlerMs: Number(text("BENCH_HANDLER_MS", "20")),
  concurrency: Math.max(1, Number(text("BENCH_CONCURRENCY", "64"))),
  fifo: text("BENCH_FIFO", "0") !== "0",
  groups: Math.max(1, Number(text("BENCH_FIFO_GROUPS", "1"))),
  extra: JSON.parse(text("BENCH_EXTRA", "") || "{}"),
};

const latencies = [];
const seen = new Map();
let handled = 0;
let violations = 0;

// Bounds the handlers: the batches of all consumers may hold more messages than may be handled at once.
let free = settings.concurrency;
const waiting = [];

function started(messageId) {
  const number = parseInt(messageId.slice(messageId.lastIndexOf("-") + 1), 16);
  const group = number % settings.groups;
  let state = seen.get(group);
  if (state === undefined) {
    state = { last: 0, running: 0 };
    seen.set(group, state);
  }
  if (state.running > 0 || number <= state.last) {
    violations += 1;
  }
  state.last = number;
  state.running += 1;
  return state;
}

// The handler: parses the body, notes when it started, sleeps and counts.
export async function handle(message) {
  const body = JSON.parse(message.Body);
  if (free > 0) {
    free -= 1;
  } else {
    await new Promise((resolve) => waiting.push(resolve));
  }
  if (body.sent > 0 && latencies.length < MOST_LATENCIES) {
    const now = (performance.timeOrigin + performance.now()) * 1000;
    latencies.push(Math.max(0, Math.round(now - body.sent)));
  }
  const state = settings.fifo ? started(message.MessageId) : undefined;
  if (settings.handlerMs > 0) {
    await new Promise((resolve) => setTimeout(resolve, settings.handlerMs));
  }
  if (state !== undefined) {
    state.running -= 1;
  }
  handled += 1;
  const next = waiting.shift();
  if (next === undefined) {
    free += 1;
  } else {
    next();
  }
}

// Writes the report and ends the process.
export function report(driver, version) {
  const line = { driver, version, handled, order_violations: violations, latencies_us: latencies };
  process.stdout.write(`${JSON.stringify(line)}\n`, () => process.exit(0));
}
