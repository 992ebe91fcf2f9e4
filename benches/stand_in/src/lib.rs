//! A stand-in for SQS and DynamoDB, in memory and with a set latency, that counts what it is asked
