variable "image" {
  description = "The worker's image, in ECR unless you give a VPC with a way out: repository:tag or repository@sha256:…"
  type        = string

  validation {
    condition     = length(var.image) > 0
    error_message = "image: a repository with a tag or a digest, such as 111122223333.dkr.ecr.eu-west-1.amazonaws.com/orders:1.0.0."
  }
}

variable "name" {
  description = "The name of everything: queue, service, roles, alarms."
  type        = string
  default     = "orders"

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]{0,31}$", var.name))
    error_message = "name: 1 to 32 letters, digits, `-` and `_`, a letter first: the names of roles and queues are made from it."
  }
}

variable "region" {
  description = "The region; null: as AWS_REGION or the profile says."
  type        = string
  default     = null

  validation {
    condition     = var.region == null || can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region: such as eu-west-1, or null for that of AWS_REGION or the profile: a zone (eu-west-1a) is none, and nothing answers for it."
  }
}

variable "fifo" {
  description = "Whether the queue is FIFO."
  type        = bool
  default     = false
}

variable "entry_point" {
  description = "The worker's program in the image; null: the image's ENTRYPOINT, the redrive command line."
  type        = list(string)
  default     = ["/usr/local/bin/orders"]
}

variable "command" {
  description = "Its arguments; with the command line, such as [\"forward\", \"orders\", \"--to\", \"https://…\"]."
  type        = list(string)
  default     = ["work"]
}

variable "environment" {
  description = "More variables of the worker."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Variables of the worker that come from Secrets Manager or the Parameter Store: name to ARN."
  type        = map(string)
  default     = {}
}

variable "secrets_kms_key_arns" {
  description = "KMS keys that encrypt the secrets, where they are not AWS's own."
  type        = list(string)
  default     = []
}

variable "concurrency" {
  description = "Handlers that run at once in a task."
  type        = number
  default     = 16
}

variable "mean_handler_seconds" {
  description = "How long a handler runs on average."
  type        = number
  default     = 0.5
}

variable "acceptable_delay_seconds" {
  description = "How long a message may wait before its handler starts. Scaling aims at it."
  type        = number
  default     = 60
}

variable "handler_timeout_seconds" {
  description = "The limit of one handler run. The queue hides a message for twice as long, and for a minute at least."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.handler_timeout_seconds >= 1 && var.handler_timeout_seconds <= 43200 && floor(var.handler_timeout_seconds) == var.handler_timeout_seconds
    error_message = "handler_timeout_seconds: a whole number from 1 to 43200 (12 hours, SQS's longest visibility timeout): a message whose handler still runs when it becomes visible is delivered a second time."
  }
}

variable "drain_deadline_seconds" {
  description = "By when the worker has ended after SIGTERM; at most 115."
  type        = number
  default     = 110
}

variable "scale_in_protection" {
  description = "Whether busy tasks ask ECS not to be stopped: off, auto (while handlers run) or long-jobs (while one has run for long)."
  type        = string
  default     = "off"
}

variable "max_write_request_units" {
  description = "The cap of the inbox table's writes, in units per second; a message takes 2 or more. Null: none but the account's."
  type        = number
  default     = 2000
}

variable "kms_key_arn" {
  description = "A KMS key of yours that encrypts queues and inbox; null: those of SQS and DynamoDB, which cost nothing."
  type        = string
  default     = null
}

variable "cpu_architecture" {
  description = "ARM64 or X86_64, as the image is built."
  type        = string
  default     = "X86_64"
}

variable "inbox_mode" {
  description = "enforce, or observe to roll the inbox out on a live system."
  type        = string
  default     = "enforce"
}

variable "min_tasks" {
  description = "The fewest tasks."
  type        = number
  default     = 2
}

variable "max_tasks" {
  description = "The most tasks."
  type        = number
  default     = 10
}

variable "scale_to_zero" {
  description = "Whether no task runs while the queue is empty."
  type        = bool
  default     = false
}

variable "spot" {
  description = "Whether all tasks but the first run on Fargate Spot."
  type        = bool
  default     = false
}

variable "vpc_id" {
  description = "Your VPC; null: a small one is made, with private subnets and endpoints and without a way to the internet."
  type        = string
  default     = null
}

variable "private_subnet_ids" {
  description = "With vpc_id: private subnets with a way to AWS's services."
  type        = list(string)
  default     = []

  validation {
    condition     = (var.vpc_id == null) == (length(var.private_subnet_ids) == 0)
    error_message = "private_subnet_ids: one or more together with vpc_id, or neither of them, for a VPC of its own."
  }
}

variable "vpc_cidr" {
  description = "The addresses of the VPC that is made where vpc_id is null."
  type        = string
  default     = "10.80.0.0/24"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 2, 3)) && can(regex("/(1[6-9]|2[0-4])$", var.vpc_cidr))
    error_message = "vpc_cidr: an address range from /16 (AWS's largest) to /24, such as 10.80.0.0/24: two subnets of it hold tasks and endpoints."
  }
}

variable "extra_egress" {
  description = "What handlers may reach besides HTTPS, such as a database."
  type = list(object({
    description = string
    port        = number
    cidr        = string
  }))
  default = []
}

variable "extra_interface_endpoints" {
  description = "Without vpc_id: AWS services that handlers call besides, such as [\"sns\", \"states\"]. They get endpoints in the VPC that is made."
  type        = list(string)
  default     = []
}

variable "operator_principals" {
  description = "The ARNs of who may use the command line on queue and inbox."
  type        = list(string)
  default     = []
}

variable "read_only_principals" {
  description = "The ARNs of who may look at them by the command line."
  type        = list(string)
  default     = []
}

variable "alarm_emails" {
  description = "Who gets the alarms."
  type        = list(string)
  default     = []
}

variable "budget_monthly_usd" {
  description = "A monthly budget in US dollars, of the whole account unless budget_tag is set; null: none."
  type        = number
  default     = null
}

variable "budget_tag" {
  description = "The tag that the budget counts, such as { key = \"service\", value = \"orders\" }, once it is activated as a cost allocation tag in Billing: until then it counts nothing. Null: the whole account."
  type = object({
    key   = string
    value = string
  })
  default = null
}

variable "deletion_protection" {
  description = "Whether the inbox table is protected from deletion. Off only for what is thrown away again."
  type        = bool
  default     = true
}
