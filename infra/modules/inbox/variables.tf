variable "name" {
  description = "The table's name. One table serves any number of queues."
  type        = string
  default     = "redrive-inbox"

  validation {
    condition     = can(regex("^[A-Za-z0-9_.-]{3,255}$", var.name))
    error_message = "name: 3 to 255 letters, digits, `_`, `-` and `.`, as DynamoDB allows."
  }
}

variable "max_read_request_units" {
  description = "The cap of on-demand reads, in read units per second; null: none but the account's. Reads are rare: redeliveries and the operator's scans."
  type        = number
  default     = null

  validation {
    condition     = var.max_read_request_units == null || (coalesce(var.max_read_request_units, 1) >= 1 && coalesce(var.max_read_request_units, 1) <= 40000 && floor(coalesce(var.max_read_request_units, 1)) == coalesce(var.max_read_request_units, 1))
    error_message = "max_read_request_units: a whole number from 1 to 40000 (a table's quota unless AWS raised it), or null for no cap; what is over the cap is throttled, and waits."
  }
}

variable "max_write_request_units" {
  description = "The cap of on-demand writes, in write units per second, against runaway cost; null: none but the account's. A message takes 2 units or more: claim and outcome, each of a record of up to 1 KiB."
  type        = number
  default     = 4000

  validation {
    condition     = var.max_write_request_units == null || (coalesce(var.max_write_request_units, 2) >= 2 && coalesce(var.max_write_request_units, 2) <= 40000 && floor(coalesce(var.max_write_request_units, 2)) == coalesce(var.max_write_request_units, 2))
    error_message = "max_write_request_units: a whole number from 2 (one message a second) to 40000 (a table's quota unless AWS raised it), or null for no cap; what is over the cap is throttled, and messages wait."
  }
}

variable "point_in_time_recovery" {
  description = "Whether the table can be restored to any second of the last 35 days. A table restored to the past has forgotten what was done since."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "Whether DynamoDB refuses to delete the table: without its records every redelivery and replay runs again."
  type        = bool
  default     = true
}

variable "kms_key_arn" {
  description = "The ARN of a KMS key that encrypts the table; null: DynamoDB's own key, which costs nothing."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn: the full ARN of a key (arn:aws:kms:region:account:key/id), or null: the roles' policies name this key, and IAM accepts no alias there."
  }
}

variable "tags" {
  description = "Tags of the table."
  type        = map(string)
  default     = {}
}
