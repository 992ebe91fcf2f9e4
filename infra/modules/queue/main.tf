locals {
  suffix = var.fifo ? ".fifo" : ""

  # Receives are spent by more than attempts: drains, crashes, delays; in a FIFO group by every failed head before the message.
  max_receive_count = coalesce(var.max_receive_count, var.max_attempts * (var.fifo ? 10 : 3))

  deduplication_scope   = var.fifo ? (var.high_throughput_fifo ? "messageGroup" : "queue") : null
  fifo_throughput_limit = var.fifo ? (var.high_throughput_fifo ? "perMessageGroupId" : "perQueue") : null

  sender_statements = [
    for s in var.senders : {
      Sid       = "Sender${index(var.senders, s)}"
      Effect    = "Allow"
      Principal = { Service = s.service }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.source.arn
      Condition = { ArnLike = { "aws:SourceArn" = s.source_arns } }
    }
  ]
}

resource "aws_sqs_queue" "dead_letter" {
  name = "${var.name}-dlq${local.suffix}"

  fifo_queue            = var.fifo
  deduplication_scope   = local.deduplication_scope
  fifo_throughput_limit = local.fifo_throughput_limit

  message_retention_seconds  = var.dlq_message_retention_seconds
  visibility_timeout_seconds = var.visibility_timeout_seconds
  receive_wait_time_seconds  = var.receive_wait_time_seconds
  max_message_size           = var.max_message_size_bytes

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : var.kms_data_key_reuse_period_seconds

  tags = var.tags
}

resource "aws_sqs_queue" "source" {
  name = "${var.name}${local.suffix}"

  fifo_queue                  = var.fifo
  content_based_deduplication = var.content_based_deduplication
  deduplication_scope         = local.deduplication_scope
  fifo_throughput_limit       = local.fifo_throughput_limit

  visibility_timeout_seconds = var.visibility_timeout_seconds
  message_retention_seconds  = var.message_retention_seconds
  delay_seconds              = var.delay_seconds
  receive_wait_time_seconds  = var.receive_wait_time_seconds
  max_message_size           = var.max_message_size_bytes

  sqs_managed_sse_enabled           = var.kms_key_arn == null ? true : null
  kms_master_key_id                 = var.kms_key_arn
  kms_data_key_reuse_period_seconds = var.kms_key_arn == null ? null : var.kms_data_key_reuse_period_seconds

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letter.arn
    maxReceiveCount     = local.max_receive_count
  })

  tags = var.tags
}

# A resource of its own: the source names the dead-letter queue, and this names the source.
resource "aws_sqs_queue_redrive_allow_policy" "dead_letter" {
  queue_url = aws_sqs_queue.dead_letter.id

  redrive_allow_policy = jsonencode({
    redrivePermission = "byQueue"
    sourceQueueArns   = [aws_sqs_queue.source.arn]
  })
}

resource "aws_sqs_queue_policy" "source" {
  queue_url = aws_sqs_queue.source.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = aws_sqs_queue.source.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }], local.sender_statements)
  })
}

resource "aws_sqs_queue_policy" "dead_letter" {
  queue_url = aws_sqs_queue.dead_letter.id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = aws_sqs_queue.dead_letter.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
