output "name" {
  description = "The source queue's name."
  value       = aws_sqs_queue.source.name
}

output "url" {
  description = "The source queue's URL."
  value       = aws_sqs_queue.source.url
}

output "arn" {
  description = "The source queue's ARN."
  value       = aws_sqs_queue.source.arn
}

output "dlq_name" {
  description = "The dead-letter queue's name."
  value       = aws_sqs_queue.dead_letter.name
}

output "dlq_url" {
  description = "The dead-letter queue's URL."
  value       = aws_sqs_queue.dead_letter.url
}

output "dlq_arn" {
  description = "The dead-letter queue's ARN."
  value       = aws_sqs_queue.dead_letter.arn
}

output "fifo" {
  description = "Whether the queues are FIFO."
  value       = var.fifo
}

output "kms_key_arn" {
  description = "The KMS key that encrypts both queues; null with SQS's own encryption."
  value       = var.kms_key_arn
}

output "visibility_timeout_seconds" {
  description = "The source queue's visibility timeout."
  value       = aws_sqs_queue.source.visibility_timeout_seconds
}

output "max_receive_count" {
  description = "The receives after which SQS moves a message by itself."
  value       = local.max_receive_count
}

output "longest_life_seconds" {
  description = "How long a message can live in both queues: what the inbox has to remember keys for, at least."
  value       = var.message_retention_seconds + var.dlq_message_retention_seconds
}
