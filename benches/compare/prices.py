"""What AWS asks for, in US dollars, us-east-1, without free tiers and volume discounts (as of 2026).

https://aws.amazon.com/sqs/pricing/ and https://aws.amazon.com/dynamodb/pricing/on-demand/
"""

# For a million requests; each 64 KiB of payload in a request is one.
SQS_STANDARD = 0.40
SQS_FIFO = 0.50
# For a million units on demand: a write of up to 1 KiB is one, a consistent read of up to 4 KiB is one.
DYNAMODB_WRITE = 0.625
DYNAMODB_READ = 0.125


def per_million(sqs_requests, write_units, read_units, fifo):
    """Dollars for a million messages, from what one message takes."""
    sqs = SQS_FIFO if fifo else SQS_STANDARD
    return sqs_requests * sqs + write_units * DYNAMODB_WRITE + read_units * DYNAMODB_READ
