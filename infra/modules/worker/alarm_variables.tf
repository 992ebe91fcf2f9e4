# When somebody is told, and who.

variable "alarm_topic" {
  description = "The SNS topic for all alarms and the budget; its policy must allow CloudWatch and Budgets. Null: one of its own."
  type = object({
    arn = string
  })
  default = null

  validation {
    condition     = var.alarm_topic == null || can(regex("^arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}$", var.alarm_topic.arn))
    error_message = "alarm_topic: the ARN of a standard topic (arn:aws:sns:region:account:name), or null for one of its own: alarms that name anything else reach nobody."
  }
}

variable "alarm_emails" {
  description = "Addresses that the module's own topic writes to, for alarms and the budget. Each gets a mail first and has to confirm."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for address in var.alarm_emails : can(regex("^[^@ ]+@[^@ ]+\\.[^@ ]+$", address))])
    error_message = "alarm_emails: addresses such as oncall@example.com: each gets a mail to confirm, and nothing before it has."
  }

  validation {
    condition     = length(var.alarm_emails) == 0 || var.alarm_topic == null
    error_message = "alarm_emails: none with alarm_topic: who reads a topic of yours is subscribed there, and these would get nothing."
  }
}

variable "alarm_topic_kms_key_arn" {
  description = "A KMS key that encrypts the module's own topic; its policy must allow CloudWatch and Budgets. Null: not encrypted. AWS's own key for SNS does not help: CloudWatch may not use it."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_topic_kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.alarm_topic_kms_key_arn))
    error_message = "alarm_topic_kms_key_arn: the full ARN of a key (arn:aws:kms:region:account:key/id), or null: with an alias it could be AWS's own key, with which every alarm is lost."
  }
}

variable "oldest_message_alarm_seconds" {
  description = "The age of the oldest message that alarms; null: five times acceptable_delay_seconds, and five minutes at least. SQS leaves out what was received three times or more."
  type        = number
  default     = null

  validation {
    condition     = var.oldest_message_alarm_seconds == null || (coalesce(var.oldest_message_alarm_seconds, 0) >= var.acceptable_delay_seconds && coalesce(var.oldest_message_alarm_seconds, 0) <= 1209600)
    error_message = "oldest_message_alarm_seconds: from acceptable_delay_seconds to 1209600 (14 days, SQS's longest retention), or null: below the acceptable delay it alarms while all is well."
  }
}

variable "backlog_alarm_factor" {
  description = "How many times the backlog per task that scaling aims at alarms, after 15 minutes: scaling is at its maximum, or does not keep up."
  type        = number
  default     = 3

  validation {
    condition     = var.backlog_alarm_factor > 1 && var.backlog_alarm_factor <= 1000
    error_message = "backlog_alarm_factor: above 1 and at most 1000: at 1 it alarms whenever scaling does its work."
  }
}

variable "in_flight_alarm_messages" {
  description = "The messages in flight that alarm: at 120000 SQS hands out no more."
  type        = number
  default     = 96000

  validation {
    condition     = var.in_flight_alarm_messages >= 1 && var.in_flight_alarm_messages < 120000
    error_message = "in_flight_alarm_messages: from 1 to 119999: SQS's limit is 120000, and a FIFO queue there answers nothing and no error."
  }
}

variable "breaker_open_alarm_minutes" {
  description = "How long a circuit breaker may be open before it alarms."
  type        = number
  default     = 15

  validation {
    condition     = var.breaker_open_alarm_minutes >= 2 && var.breaker_open_alarm_minutes <= 60 && floor(var.breaker_open_alarm_minutes) == var.breaker_open_alarm_minutes
    error_message = "breaker_open_alarm_minutes: a whole number from 2 to 60: a breaker that opens for a minute does what it is for, and after an hour messages have waited for long."
  }
}

variable "lost_leases_alarm_count" {
  description = "Lost leases in five minutes that alarm: each is a run that was cut off."
  type        = number
  default     = 1

  validation {
    condition     = var.lost_leases_alarm_count >= 1
    error_message = "lost_leases_alarm_count: 1 or more: at 0 it alarms for ever."
  }
}

variable "duplicate_alarm_percent" {
  description = "The share of received messages that are duplicates, in percent over five minutes, that alarms."
  type        = number
  default     = 5

  validation {
    condition     = var.duplicate_alarm_percent > 0 && var.duplicate_alarm_percent <= 100
    error_message = "duplicate_alarm_percent: above 0 and at most 100: some duplicates are SQS's own."
  }
}

variable "error_alarm_percent" {
  description = "The share of handler runs that failed, to be tried again or for good, in percent over five minutes, that alarms. Messages that become dead letters without a run count too."
  type        = number
  default     = 10

  validation {
    condition     = var.error_alarm_percent > 0 && var.error_alarm_percent <= 100
    error_message = "error_alarm_percent: above 0 and at most 100: some failures are what retries are for."
  }
}

variable "rate_alarm_minimum_messages" {
  description = "The alarms of duplicates and errors say nothing of five minutes with fewer messages than this: one of three is a third, and nothing."
  type        = number
  default     = 20

  validation {
    condition     = var.rate_alarm_minimum_messages >= 1 && floor(var.rate_alarm_minimum_messages) == var.rate_alarm_minimum_messages
    error_message = "rate_alarm_minimum_messages: a whole number of 1 or more: a share of nothing is none."
  }
}

variable "handler_latency_alarm_seconds" {
  description = "The 99th percentile of handlers' run time that alarms; null: nine tenths of handler_timeout_seconds, or ten times mean_handler_seconds where that is unset."
  type        = number
  default     = null

  validation {
    condition     = var.handler_latency_alarm_seconds == null || coalesce(var.handler_latency_alarm_seconds, 0) >= var.mean_handler_seconds
    error_message = "handler_latency_alarm_seconds: mean_handler_seconds or more, or null: below the mean it alarms while all is well."
  }
}

variable "budget_monthly_usd" {
  description = "A monthly budget in US dollars, of the account unless budget_tag is set, that notifies at 80 and 100 % and where 100 % is foreseen; null: none."
  type        = number
  default     = null

  validation {
    condition     = var.budget_monthly_usd == null || coalesce(var.budget_monthly_usd, 0) > 0
    error_message = "budget_monthly_usd: above 0, or null for no budget: at 0 every cent notifies."
  }
}

variable "budget_tag" {
  description = "The tag that the budget counts, once it is activated as a cost allocation tag in Billing: until then the budget counts nothing. Null: the whole account."
  type = object({
    key   = string
    value = string
  })
  default = null

  validation {
    condition     = var.budget_tag == null || try(length(var.budget_tag.key) >= 1 && length(var.budget_tag.key) <= 128 && length(var.budget_tag.value) >= 1 && length(var.budget_tag.value) <= 256, false)
    error_message = "budget_tag: a key of 1 to 128 and a value of 1 to 256 characters, as tags have them, or null: a budget of an empty tag counts nothing and never notifies."
  }
}

variable "tags" {
  description = "Tags of everything that takes tags."
  type        = map(string)
  default     = {}
}
