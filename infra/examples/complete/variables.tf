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
  description = "Its arguments; with the command line, such as [\"forward\", \"orders\", \"https://…\"]."
  type        = list(string)
  default     = ["work"]
}

variable "environment" {
  description = "More variables of the worker."
  type        = map(string)
  default     = {}
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
  description = "A monthly budget in US dollars; null: none."
  type        = number
  default     = null
}

variable "deletion_protection" {
  description = "Whether the inbox table is protected from deletion. Off only for what is thrown away again."
  type        = bool
  default     = true
}
