variable "name" {
  description = "What the roles are of, usually the service's name: they are called `<name>-redrive-operator` and `<name>-redrive-read-only`."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,40}$", var.name))
    error_message = "name: 1 to 40 letters, digits, `-` and `_`: the names of roles are made from it, and IAM allows 64 characters."
  }
}

variable "queue" {
  description = "The queue that is looked after: hand over the module `queue` as a whole, `queue = module.queue`."
  type = object({
    arn         = string
    dlq_arn     = string
    kms_key_arn = optional(string)
  })
}

variable "inbox" {
  description = "The inbox table: hand over the module `inbox` as a whole, `inbox = module.inbox`. Null: none."
  type = object({
    arn         = string
    kms_key_arn = optional(string)
  })
  default = null
}

variable "operator_principals" {
  description = "The ARNs of who may take the operator's role: users, roles or accounts. None: no such role is made."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.operator_principals : can(regex("^arn:[a-z-]+:(iam::[0-9]{12}:(root|user/.+|role/.+)|sts::[0-9]{12}:assumed-role/.+)$", arn))])
    error_message = "operator_principals: ARNs of users, roles or accounts (arn:aws:iam::account:role/name, arn:aws:iam::account:root), none of them `*`: whoever takes this role can replay and delete messages."
  }
}

variable "read_only_principals" {
  description = "The ARNs of who may take the read-only role: users, roles or accounts. None: no such role is made."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.read_only_principals : can(regex("^arn:[a-z-]+:(iam::[0-9]{12}:(root|user/.+|role/.+)|sts::[0-9]{12}:assumed-role/.+)$", arn))])
    error_message = "read_only_principals: ARNs of users, roles or accounts (arn:aws:iam::account:role/name, arn:aws:iam::account:root), none of them `*`: whoever takes this role can read every message."
  }
}

variable "require_mfa" {
  description = "Whether only sessions with a second factor may take the roles. Roles of single sign-on carry none: there the identity provider asks for it."
  type        = bool
  default     = false
}

variable "max_session_seconds" {
  description = "How long a session of these roles may last. A long replay needs it."
  type        = number
  default     = 14400

  validation {
    condition     = var.max_session_seconds >= 3600 && var.max_session_seconds <= 43200
    error_message = "max_session_seconds: from 3600 (an hour) to 43200 (12 hours), as IAM allows: a replay that outlasts its session stops in the middle."
  }
}

variable "allow_purge" {
  description = "Whether the operator may delete all messages of a queue at once (`redrive queue purge`). `redrive dlq drop` needs no such right, and writes what it deletes to a file."
  type        = bool
  default     = false
}

variable "allow_set_up" {
  description = "Whether the operator may make and change these queues and this table (`redrive init`). Terraform does that here."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Tags of the roles."
  type        = map(string)
  default     = {}
}
