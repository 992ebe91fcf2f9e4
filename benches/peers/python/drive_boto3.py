"""Drains the queue with boto3: threads that each receive ten messages, handle them one after another and delete them
with one call; with the inbox on, each message through Powertools' `idempotent_function`."""

import logging
import signal
import sys
import threading
import time

import boto3
from botocore.config import Config

import driver

BATCH = 10
# More threads than keep one interpreter busy only take turns, which costs it a quarter of its rate. It does some 4,000
# messages/s without the inbox and 500 with it, where a message also waits for two calls.
_ENOUGH = 1_200 * (driver.HANDLER_S + 0.02) if driver.INBOX else 6_000 * (driver.HANDLER_S + 0.005)
MOST_THREADS = int(driver.EXTRA.get("threads", min(256, _ENOUGH)))
# The message attribute that is the key of the inbox; without one, the message's id is.
KEY = driver.EXTRA.get("key_attribute")


class Deadline:
    """What Powertools asks of a Lambda context: how long the message stays ours, in ms."""

    @staticmethod
    def get_remaining_time_in_millis():
        return 30_000


def idempotent(session, config):
    """The handler behind Powertools' idempotency."""
    from aws_lambda_powertools.utilities.idempotency import (
        DynamoDBPersistenceLayer,
        IdempotencyConfig,
        idempotent_function,
    )

    store = DynamoDBPersistenceLayer(table_name=driver.TABLE, boto3_session=session, boto_config=config)
    settings = IdempotencyConfig(lambda_context=Deadline())

    @idempotent_function(data_keyword_argument="key", persistence_store=store, config=settings)
    def handle(message, *, key):
        driver.handle(message["MessageId"], message["Body"])

    def keyed(message):
        attribute = message.get("MessageAttributes", {}).get(KEY) if KEY else None
        handle(message, key=attribute["StringValue"] if attribute else message["MessageId"])

    return keyed


def plain(message):
    """The handler alone."""
    driver.handle(message["MessageId"], message["Body"])


def work(sqs, handle, stop, busy, first):
    """One thread's loop; `busy` is held while it has messages. The first call asks for `first`, as threads that all
    begin with as many would delete all at once ever after."""
    receive = {"QueueUrl": driver.QUEUE_URL, "MaxNumberOfMessages": first, "WaitTimeSeconds": 20}
    if KEY:
        receive["MessageAttributeNames"] = [KEY]
    while not stop.is_set():
        try:
            answer = sqs.receive_message(**receive)
        except Exception as error:  # the loop outlives whatever a call may raise
            if stop.is_set():
                return
            logging.warning("receive: %s", error)
            time.sleep(1)
            continue
        receive["MaxNumberOfMessages"] = BATCH
        with busy:
            done = []
            for message in answer.get("Messages", ()):
                if stop.is_set():
                    break
                try:
                    handle(message)
                except Exception as error:  # left to be received again
                    logging.warning("%s: %r", message["MessageId"], error)
                    if driver.FIFO:
                        break
                    continue
                done.append({"Id": str(len(done)), "ReceiptHandle": message["ReceiptHandle"]})
            if done:
                try:
                    sqs.delete_message_batch(QueueUrl=driver.QUEUE_URL, Entries=done)
                except Exception as error:
                    logging.warning("delete: %s", error)


def main():
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    threads = min(driver.CONCURRENCY, MOST_THREADS)
    config = Config(max_pool_connections=threads, parameter_validation=False, retries={"mode": "standard"})
    # boto3 itself reads AWS_DEFAULT_REGION only.
    session = boto3.session.Session(region_name=driver.REGION)
    sqs = session.client("sqs", endpoint_url=driver.ENDPOINT, config=config)
    handle = idempotent(session, config) if driver.INBOX else plain
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    busy = [threading.Lock() for _ in range(threads)]
    for index, mine in enumerate(busy):
        first = BATCH - index % BATCH
        threading.Thread(target=work, args=(sqs, handle, stop, mine, first), daemon=True).start()
    stop.wait()
    # Who waits for messages is left waiting; who has some ends the one it is at and deletes what is done.
    until = time.monotonic() + 4.5
    for lock in busy:
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
    driver.report("boto3-powertools" if driver.INBOX else "boto3", boto3.__version__)


if __name__ == "__main__":
    main()
