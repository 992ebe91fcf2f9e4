variable "name" {
  description = "The queue's name, without `.fifo`: the module adds it to FIFO queues, and `-dlq` to the dead-letter queue."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,71}$", var.name))
    error_message = "name: 1 to 71 letters, digits, `-` and `_`, without `.fifo`: SQS allows 80 characters, and the dead-letter queue's name ends in `-dlq.fifo`."
  }
}

variable "fifo" {
  description = "Whether source and dead-letter queue are FIFO. SQS wants both of one kind."
  type        = bool
  default     = false
}

variable "high_throughput_fifo" {
  description = "FIFO only: counts SQS's limits of calls, and deduplicates, by message group instead of by queue."
  type        = bool
  default     = false

  validation {
    condition     = !var.high_throughput_fifo || var.fifo
    error_message = "high_throughput_fifo: true only with fifo = true, as standard queues have neither groups nor that limit."
  }
}

variable "content_based_deduplication" {
  # Off: two messages with equal bodies within five minutes would be one, whatever their attributes and keys say.
  description = "FIFO only: SQS takes the hash of the body for the deduplication id where the producer gives none."
  type        = bool
  default     = false

  validation {
    condition     = !var.content_based_deduplication || var.fifo
    error_message = "content_based_deduplication: true only with fifo = true, as standard queues do not deduplicate."
  }
}

variable "visibility_timeout_seconds" {
  description = "How long a received message is hidden. The worker takes its lease from it, and extends both while it holds the message."
  type        = number
  default     = 60

  validation {
    condition     = var.visibility_timeout_seconds >= 10 && var.visibility_timeout_seconds <= 43200 && floor(var.visibility_timeout_seconds) == var.visibility_timeout_seconds
    error_message = "visibility_timeout_seconds: a whole number from 10 to 43200 (12 hours, SQS's longest): below 10 a single missed heartbeat makes a second delivery."
  }

  validation {
    condition     = var.handler_timeout_seconds == null || var.visibility_timeout_seconds >= coalesce(var.handler_timeout_seconds, 1)
    error_message = "visibility_timeout_seconds: from handler_timeout_seconds to 43200: a message whose handler still runs when it becomes visible is delivered a second time, and only heartbeats stand between. Where handlers may run longer and heartbeats are on, leave handler_timeout_seconds of this module unset."
  }
}

variable "handler_timeout_seconds" {
  description = "The worker's limit of one handler run (REDRIVE_HANDLER_TIMEOUT), to check the visibility timeout against; null checks nothing."
  type        = number
  default     = null

  validation {
    condition     = var.handler_timeout_seconds == null || (coalesce(var.handler_timeout_seconds, 1) > 0 && coalesce(var.handler_timeout_seconds, 1) <= 604800)
    error_message = "handler_timeout_seconds: above 0 and at most 604800 (7 days, the worker's longest), or null for none."
  }
}

variable "max_attempts" {
  description = "The worker's failed runs before it dead-letters a message itself (REDRIVE_MAX_ATTEMPTS), to work out and check max_receive_count."
  type        = number
  default     = 5

  validation {
    condition     = var.max_attempts >= 1 && floor(var.max_attempts) == var.max_attempts && var.max_attempts * (var.fifo ? 10 : 3) <= 1000
    error_message = "max_attempts: a whole number from 1 to 333 (FIFO: 100): max_receive_count must be 3 times as large (FIFO: 10 times), and SQS allows 1000."
  }
}

variable "max_receive_count" {
  description = "Receives after which SQS itself moves a message to the dead-letter queue: the backstop. Null: 3 times max_attempts (FIFO: 10 times)."
  type        = number
  default     = null

  validation {
    condition = var.max_receive_count == null || (
      coalesce(var.max_receive_count, 1) >= var.max_attempts * (var.fifo ? 10 : 3) &&
      coalesce(var.max_receive_count, 1) <= 1000 &&
      floor(coalesce(var.max_receive_count, 1)) == coalesce(var.max_receive_count, 1)
    )
    error_message = "max_receive_count: a whole number from 3 times max_attempts (FIFO: 10 times) to 1000: drains, crashes, delays and, in FIFO groups, a failed head before it spend receives too, and SQS would move healthy messages without a reason."
  }
}

variable "message_retention_seconds" {
  description = "How long the source queue keeps a message."
  type        = number
  default     = 345600

  validation {
    condition     = var.message_retention_seconds >= 60 && var.message_retention_seconds <= 1209600 && floor(var.message_retention_seconds) == var.message_retention_seconds
    error_message = "message_retention_seconds: a whole number from 60 (a minute) to 1209600 (14 days), as SQS allows; an outage that lasts longer loses messages."
  }
}

variable "dlq_message_retention_seconds" {
  description = "How long the dead-letter queue keeps a message."
  type        = number
  default     = 1209600

  validation {
    condition     = var.dlq_message_retention_seconds >= 60 && var.dlq_message_retention_seconds <= 1209600 && floor(var.dlq_message_retention_seconds) == var.dlq_message_retention_seconds
    error_message = "dlq_message_retention_seconds: a whole number from 60 (a minute) to 1209600 (14 days), as SQS allows."
  }

  validation {
    condition     = var.dlq_message_retention_seconds > var.message_retention_seconds || var.dlq_message_retention_seconds == 1209600
    error_message = "dlq_message_retention_seconds: above message_retention_seconds, or 1209600 (14 days, SQS's longest): of a standard queue's letter that SQS moves, the age counts from when it was first sent, so that it would be gone soon after it arrives, or at once."
  }
}

variable "delay_seconds" {
  description = "How long a message that was just sent is hidden."
  type        = number
  default     = 0

  validation {
    condition     = var.delay_seconds >= 0 && var.delay_seconds <= 900 && floor(var.delay_seconds) == var.delay_seconds
    error_message = "delay_seconds: a whole number from 0 to 900 (15 minutes), as SQS allows: what has to wait for longer must be sent later."
  }
}

variable "receive_wait_time_seconds" {
  description = "The queue's own long poll, for receives that do not say how long they wait. The worker's do."
  type        = number
  default     = 20

  validation {
    condition     = var.receive_wait_time_seconds >= 1 && var.receive_wait_time_seconds <= 20 && floor(var.receive_wait_time_seconds) == var.receive_wait_time_seconds
    error_message = "receive_wait_time_seconds: a whole number from 1 to 20, SQS's longest: 0 is short polling, which asks a part of the servers only and bills a call for each empty answer."
  }
}

variable "max_message_size_bytes" {
  description = "The largest message that both queues take, attributes included."
  type        = number
  default     = 262144

  validation {
    condition     = var.max_message_size_bytes >= 1024 && var.max_message_size_bytes <= 262144 && floor(var.max_message_size_bytes) == var.max_message_size_bytes
    error_message = "max_message_size_bytes: a whole number from 1024 (1 KiB) to 262144 (256 KiB): SQS takes 1 MiB, but the AWS provider of these modules refuses to set more than this."
  }
}

variable "kms_key_arn" {
  description = "The ARN of a KMS key that encrypts both queues; null: SQS's own encryption, which costs nothing. AWS services that send, as in `senders`, need the key's policy too."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn: the full ARN of a key (arn:aws:kms:region:account:key/id), or null: the roles' policies name this key, and IAM accepts no alias there."
  }
}

variable "kms_data_key_reuse_period_seconds" {
  description = "With kms_key_arn: how long SQS uses a data key before it asks KMS again. Longer is cheaper."
  type        = number
  default     = 300

  validation {
    condition     = var.kms_data_key_reuse_period_seconds >= 60 && var.kms_data_key_reuse_period_seconds <= 86400 && floor(var.kms_data_key_reuse_period_seconds) == var.kms_data_key_reuse_period_seconds
    error_message = "kms_data_key_reuse_period_seconds: a whole number from 60 (a minute) to 86400 (a day), as SQS allows: shorter would cost a call to KMS for nearly every message, longer would read messages long after the key was disabled."
  }
}

variable "senders" {
  description = "AWS services that may send to the source queue, each only for the ARNs given: SNS topics (sns.amazonaws.com), EventBridge rules (events.amazonaws.com), S3 buckets (s3.amazonaws.com)."
  type = list(object({
    service     = string
    source_arns = list(string)
  }))
  default = []

  validation {
    condition     = alltrue([for s in var.senders : can(regex("^[a-z0-9.-]+\\.amazonaws\\.com$", s.service)) && length(s.source_arns) > 0 && alltrue([for arn in s.source_arns : startswith(arn, "arn:")])])
    error_message = "senders: each a service (such as sns.amazonaws.com) and one ARN or more: without an ARN every account could have that service send here."
  }
}

variable "tags" {
  description = "Tags of both queues."
  type        = map(string)
  default     = {}
}
