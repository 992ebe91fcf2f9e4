# What it is, and what it works on.

variable "name" {
  description = "The service's name: of the ECS service, its roles, alarms and dashboard, and the value of the metrics' dimension `service`."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9_-]{0,39}$", var.name))
    error_message = "name: 1 to 40 letters, digits, `-` and `_`, a letter first: the names of roles are made from it, and IAM allows 64 characters."
  }
}

variable "queue" {
  description = "The queue to work on: hand over the module `queue` as a whole, `queue = module.queue`."
  type = object({
    name              = string
    arn               = string
    dlq_name          = string
    dlq_arn           = string
    fifo              = bool
    max_receive_count = number
    kms_key_arn       = optional(string)
  })
}

variable "inbox" {
  description = "The inbox table: hand over the module `inbox` as a whole, `inbox = module.inbox`. Null: a worker without an inbox, at least once."
  type = object({
    name        = string
    arn         = string
    kms_key_arn = optional(string)
  })
  default = null
}

variable "image" {
  description = "The container image, best by digest. Only the repository of an image in ECR is opened to the execution role."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][A-Za-z0-9._:/-]*(@sha256:[0-9a-f]{64})?$", var.image)) && can(regex("(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|@sha256:[0-9a-f]{64})$", var.image)) && !endswith(var.image, ":latest")
    error_message = "image: a repository with a tag other than `latest` or a digest (repository:1.4.2 or repository@sha256:…): without one a rollback starts whatever was pushed last."
  }
}

variable "entry_point" {
  description = "What is run, as a list (exec form); null: the image's ENTRYPOINT."
  type        = list(string)
  default     = null

  validation {
    condition     = var.entry_point == null || (length(coalesce(var.entry_point, ["-"])) > 0 && !can(regex("(^|/)(ba|da|a|z)?sh$", coalesce(var.entry_point, ["-"])[0])))
    error_message = "entry_point: the program and its arguments, one item or more and no shell: a shell as process 1 does not hand SIGTERM on, so that every deployment ends in a kill."
  }
}

variable "command" {
  description = "The arguments, as a list (exec form), such as [\"forward\", \"orders\", \"--to\", \"https://…\"]; null: the image's CMD."
  type        = list(string)
  default     = null

  validation {
    condition     = var.command == null || (length(coalesce(var.command, ["-"])) > 0 && !can(regex("(^|/)(ba|da|a|z)?sh$", coalesce(var.command, ["-"])[0])))
    error_message = "command: one item or more and no shell: a shell as process 1 does not hand SIGTERM on, so that every deployment ends in a kill."
  }
}

variable "environment" {
  description = "Variables of the container, besides those that the module sets. Secrets belong in `secrets`."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.environment), local.own_variables)) == 0
    error_message = "environment: none of ${join(", ", sort(local.own_variables))}: the module sets these from variables of its own, and alarms, scaling and deadlines would no longer fit."
  }

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name))])
    error_message = "environment: names of letters, digits and `_`, not a digit first, as programs can read them."
  }
}

variable "secrets" {
  description = "Variables of the container that ECS takes from Secrets Manager or the Parameter Store: name to ARN. The execution role may read these and no others."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.secrets) : can(regex("^arn:[a-z-]+:(secretsmanager:[a-z0-9-]+:[0-9]{12}:secret|ssm:[a-z0-9-]+:[0-9]{12}:parameter)", arn))])
    error_message = "secrets: full ARNs of secrets (arn:aws:secretsmanager:…:secret:…) or parameters (arn:aws:ssm:…:parameter/…): the policy names exactly these."
  }

  validation {
    condition     = length(setintersection(keys(var.secrets), concat(local.own_variables, keys(var.environment)))) == 0
    error_message = "secrets: no name that `environment` has too or that the module sets itself (${join(", ", sort(local.own_variables))}): a container cannot have a variable twice."
  }
}

variable "secrets_kms_key_arns" {
  description = "KMS keys that encrypt the secrets, where they are not AWS's own."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.secrets_kms_key_arns : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", arn))])
    error_message = "secrets_kms_key_arns: full ARNs of keys (arn:aws:kms:region:account:key/id): the policy names these keys, and IAM accepts no alias there."
  }
}

# How the worker works: each becomes a REDRIVE_* variable.

variable "concurrency" {
  description = "Handlers that run at once in a task (REDRIVE_CONCURRENCY)."
  type        = number
  default     = 16

  validation {
    condition     = var.concurrency >= 1 && var.concurrency <= 100000 && floor(var.concurrency) == var.concurrency
    error_message = "concurrency: a whole number from 1 to 100000, as the worker takes."
  }
}

variable "max_attempts" {
  description = "Failed runs before the worker dead-letters a message (REDRIVE_MAX_ATTEMPTS)."
  type        = number
  default     = 5

  validation {
    condition     = var.max_attempts >= 1 && floor(var.max_attempts) == var.max_attempts && var.max_attempts * (var.queue.fifo ? 10 : 3) <= var.queue.max_receive_count
    error_message = "max_attempts: a whole number from 1 to a third (FIFO: a tenth) of the queue's max_receive_count: drains, crashes and delays spend receives too, and SQS would move healthy messages without a reason. Raise max_receive_count of the queue, or lower this."
  }
}

variable "handler_timeout_seconds" {
  description = "The limit of one handler run (REDRIVE_HANDLER_TIMEOUT); null: none. Hand the same to the module `queue`, which checks the visibility timeout against it."
  type        = number
  default     = null

  validation {
    condition     = var.handler_timeout_seconds == null || (coalesce(var.handler_timeout_seconds, 1) >= 1 && coalesce(var.handler_timeout_seconds, 1) <= 604800 && floor(coalesce(var.handler_timeout_seconds, 1)) == coalesce(var.handler_timeout_seconds, 1))
    error_message = "handler_timeout_seconds: a whole number from 1 to 604800 (7 days, the worker's longest), or null for none."
  }
}

variable "inbox_mode" {
  description = "`enforce`: duplicates are not run. `observe`: the inbox records and counts, and suppresses nothing (REDRIVE_SHADOW), to roll it out on a live system."
  type        = string
  default     = "enforce"

  validation {
    condition     = contains(["enforce", "observe"], var.inbox_mode)
    error_message = "inbox_mode: enforce or observe: an inbox either suppresses duplicates or only counts them. For none at all set inbox to null."
  }

  validation {
    condition     = var.inbox_mode == "enforce" || var.inbox != null
    error_message = "inbox_mode: observe needs an inbox, which does the observing."
  }
}

variable "stop_timeout_seconds" {
  description = "How long ECS waits between SIGTERM and SIGKILL."
  type        = number
  default     = 120

  validation {
    condition     = var.stop_timeout_seconds >= 10 && var.stop_timeout_seconds <= 120 && floor(var.stop_timeout_seconds) == var.stop_timeout_seconds
    error_message = "stop_timeout_seconds: a whole number from 10 to 120, Fargate's longest; below 10 no drain fits in."
  }
}

variable "drain_deadline_seconds" {
  description = "By when the worker has ended after SIGTERM (REDRIVE_DRAIN_DEADLINE)."
  type        = number
  default     = 110

  validation {
    condition     = var.drain_deadline_seconds >= 5 && var.drain_deadline_seconds <= var.stop_timeout_seconds - 5 && floor(var.drain_deadline_seconds) == var.drain_deadline_seconds
    error_message = "drain_deadline_seconds: a whole number from 5 to stop_timeout_seconds - 5 (at most 115): ECS kills the task at stop_timeout_seconds, and what was not settled by then is delivered again."
  }
}

variable "scale_in_protection" {
  description = "Whether busy tasks ask ECS not to be stopped (REDRIVE_SCALE_IN_PROTECTION): `off`; `auto`, while handlers run; `long-jobs`, while one has run for long. It holds back scale-in and deployments alike. For handlers that outlast the drain deadline."
  type        = string
  default     = "off"

  validation {
    condition     = contains(["off", "auto", "long-jobs"], var.scale_in_protection)
    error_message = "scale_in_protection: off, auto or long-jobs: the worker starts with none but these."
  }
}

variable "protection_max_seconds" {
  description = "How long a task may hold scale-in and deployments back at a time (REDRIVE_PROTECTION_MAX)."
  type        = number
  default     = 7200

  validation {
    condition     = var.protection_max_seconds >= 60 && var.protection_max_seconds <= 172800 && floor(var.protection_max_seconds) == var.protection_max_seconds
    error_message = "protection_max_seconds: a whole number from 60 (a minute) to 172800 (48 hours), as ECS allows."
  }
}

variable "health_port" {
  description = "The port of the worker's health endpoint (REDRIVE_HEALTH), which the container's health check asks."
  type        = number
  default     = 8080

  validation {
    condition     = var.health_port >= 1024 && var.health_port <= 65535 && floor(var.health_port) == var.health_port
    error_message = "health_port: a whole number from 1024 to 65535: the container does not run as root, which ports below 1024 are for."
  }
}

variable "health_on_all_interfaces" {
  description = "Whether the health endpoint answers other hosts too, such as Prometheus at /metrics. Off: only the container itself. /status and /metrics know no password: let in who may ask by security_group_ids."
  type        = bool
  default     = false
}

variable "health_grace_seconds" {
  description = "For how long after its start failed health checks do not count."
  type        = number
  default     = 60

  validation {
    condition     = var.health_grace_seconds >= 0 && var.health_grace_seconds <= 300
    error_message = "health_grace_seconds: from 0 to 300, as ECS allows; the preflight has to be over by then."
  }
}

variable "metrics_namespace" {
  description = "The CloudWatch namespace of the worker's own metrics (REDRIVE_EMF), which alarms and dashboard read."
  type        = string
  default     = "redrive"

  validation {
    condition     = can(regex("^[A-Za-z0-9._#:/-]{1,255}$", var.metrics_namespace)) && !startswith(var.metrics_namespace, "AWS/")
    error_message = "metrics_namespace: 1 to 255 letters, digits and `.-_/#:`, not beginning with AWS/, which CloudWatch keeps for AWS's services."
  }
}

# Where it runs.

variable "cluster" {
  description = "The ECS cluster, with Container Insights on and the capacity providers FARGATE and, for Spot, FARGATE_SPOT; null: one of its own."
  type = object({
    name = string
    arn  = string
  })
  default = null

  validation {
    condition     = var.cluster == null || try(can(regex("^arn:[a-z-]+:ecs:[a-z0-9-]+:[0-9]{12}:cluster/.+$", var.cluster.arn)) && endswith(var.cluster.arn, "/${var.cluster.name}"), false)
    error_message = "cluster: the name and the ARN (arn:aws:ecs:region:account:cluster/name) of one cluster, or null: the service is made by the ARN, and scaling and alarms count its tasks by the name."
  }
}

variable "container_insights" {
  description = "Of the module's own cluster: `enabled`, or `enhanced` for metrics of each task at a higher price. Scaling reads the running tasks from it."
  type        = string
  default     = "enabled"

  validation {
    condition     = contains(["enabled", "enhanced"], var.container_insights)
    error_message = "container_insights: enabled or enhanced: without it nobody counts the running tasks, and scaling stands still."
  }
}

variable "vpc_id" {
  description = "The VPC; needed where the module makes a security group or VPC endpoints."
  type        = string
  default     = null

  validation {
    condition     = var.vpc_id == null || can(regex("^vpc-[0-9a-f]{8,32}$", var.vpc_id))
    error_message = "vpc_id: the id of a VPC (vpc-0123456789abcdef0), or null: AWS finds a VPC by no other name."
  }
}

variable "subnet_ids" {
  description = "Private subnets, with a way to AWS's services: a NAT gateway or VPC endpoints. Tasks get no public address."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 1 && length(var.subnet_ids) <= 16
    error_message = "subnet_ids: 1 to 16 subnets, as ECS allows; with two or more in different zones, work goes on when a zone fails."
  }
}

variable "security_group_ids" {
  description = "Security groups of the tasks; null: one of its own, which lets nothing in and HTTPS out."
  type        = list(string)
  default     = null

  validation {
    condition     = var.security_group_ids == null || (length(coalesce(var.security_group_ids, ["-"])) >= 1 && length(coalesce(var.security_group_ids, ["-"])) <= 5)
    error_message = "security_group_ids: 1 to 5 groups, as ECS allows, or null for one of its own."
  }

  validation {
    condition     = var.security_group_ids != null || var.vpc_id != null
    error_message = "security_group_ids: give 1 to 5, or vpc_id, in which the module makes one."
  }
}

variable "extra_egress" {
  description = "With the module's own security group: what else handlers may reach, such as a database."
  type = list(object({
    description = string
    port        = number
    cidr        = string
  }))
  default = []

  validation {
    condition     = alltrue([for rule in var.extra_egress : rule.port >= 1 && rule.port <= 65535 && can(cidrhost(rule.cidr, 0))])
    error_message = "extra_egress: each a port from 1 to 65535 and an address range such as 10.0.0.0/16."
  }
}

variable "vpc_endpoints" {
  description = "Endpoints in the VPC for the services that the worker calls, so that it needs no NAT gateway: the gateways of S3 and DynamoDB in these route tables, and interfaces for the rest. Null: none. One VPC can have them once."
  type = object({
    route_table_ids = list(string)
  })
  default = null

  validation {
    condition     = var.vpc_endpoints == null || var.vpc_id != null
    error_message = "vpc_endpoints: needs vpc_id, in which they are made."
  }
}

variable "extra_interface_endpoints" {
  description = "With vpc_endpoints: AWS services that handlers call besides, by the last part of their endpoints' names, such as [\"sns\", \"states\"]. Without an endpoint such a call finds nobody, until it times out."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for service in var.extra_interface_endpoints : can(regex("^[a-z0-9][a-z0-9.-]*$", service)) && !startswith(service, "com.amazonaws") && !contains(["dynamodb", "s3"], service)])
    error_message = "extra_interface_endpoints: services such as sns or states, without com.amazonaws and the region, which the module adds, and without dynamodb and s3, which have gateways already."
  }

  validation {
    condition     = length(var.extra_interface_endpoints) == 0 || var.vpc_endpoints != null
    error_message = "extra_interface_endpoints: only together with vpc_endpoints: where the module makes no endpoints, these would be missing without a word."
  }
}

variable "cpu" {
  description = "CPU units of a task; 1024 are one vCPU."
  type        = number
  default     = 256

  validation {
    condition     = contains([256, 512, 1024, 2048, 4096, 8192, 16384], var.cpu)
    error_message = "cpu: 256, 512, 1024, 2048, 4096, 8192 or 16384, as Fargate allows."
  }
}

variable "memory" {
  description = "Memory of a task in MiB."
  type        = number
  default     = 512

  validation {
    condition     = contains(lookup(local.fargate_memory, tostring(var.cpu), [var.memory]), var.memory)
    error_message = "memory: as Fargate allows with this cpu: 256: 512, 1024 or 2048; 512: 1024 to 4096; 1024: 2048 to 8192; 2048: 4096 to 16384; 4096: 8192 to 30720, each by 1024; 8192: 16384 to 61440 by 4096; 16384: 32768 to 122880 by 8192."
  }
}

variable "cpu_architecture" {
  description = "ARM64 or X86_64, as the image is built. ARM64 costs a fifth less."
  type        = string
  default     = "X86_64"

  validation {
    condition     = contains(["ARM64", "X86_64"], var.cpu_architecture)
    error_message = "cpu_architecture: ARM64 or X86_64, as the image is built: another one does not start."
  }
}

variable "spot" {
  description = "Whether tasks beyond on_demand_base run on Fargate Spot: about 70 % cheaper, ended with two minutes' notice by the same SIGTERM as a deployment."
  type        = bool
  default     = false
}

variable "on_demand_base" {
  description = "With spot: how many tasks run on demand before Spot is used."
  type        = number
  default     = 1

  validation {
    condition     = var.on_demand_base >= 0 && var.on_demand_base <= var.max_tasks && floor(var.on_demand_base) == var.on_demand_base
    error_message = "on_demand_base: a whole number from 0 to max_tasks; at 0 a shortage of Spot stops all work."
  }
}

variable "deployment_minimum_percent" {
  description = "The share of tasks that keep running in a deployment."
  type        = number
  default     = 100

  validation {
    condition     = var.deployment_minimum_percent >= 0 && var.deployment_minimum_percent <= 100
    error_message = "deployment_minimum_percent: from 0 (old tasks end before new ones start) to 100."
  }
}

variable "deployment_maximum_percent" {
  description = "How many tasks, old and new, may run in a deployment, as a share of the desired ones."
  type        = number
  default     = 200

  validation {
    condition     = var.deployment_maximum_percent > var.deployment_minimum_percent && var.deployment_maximum_percent >= 100 && var.deployment_maximum_percent <= 200
    error_message = "deployment_maximum_percent: from 100 to 200, and above deployment_minimum_percent: else no task can be replaced, and the deployment never ends."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288 or 3653, as CloudWatch allows; for ever is not among them, as it only grows."
  }
}

variable "log_kms_key_arn" {
  description = "A KMS key that encrypts the log group; its policy must allow CloudWatch Logs. Null: CloudWatch's own."
  type        = string
  default     = null

  validation {
    condition     = var.log_kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.log_kms_key_arn))
    error_message = "log_kms_key_arn: the full ARN of a key (arn:aws:kms:region:account:key/id), or null: CloudWatch Logs takes no alias."
  }
}

# How it scales.

variable "min_tasks" {
  description = "The fewest tasks, unless scale_to_zero. With two or more in different zones, work goes on when a zone fails."
  type        = number
  default     = 1

  validation {
    condition     = var.min_tasks >= 1 && floor(var.min_tasks) == var.min_tasks
    error_message = "min_tasks: a whole number from 1 to max_tasks; for none at rest set scale_to_zero, as a service of none scales out by an alarm of its own."
  }
}

variable "max_tasks" {
  description = "The most tasks: the cap against runaway cost, and what the downstream has to bear (max_tasks times concurrency calls at once)."
  type        = number
  default     = 10

  validation {
    condition     = var.max_tasks >= var.min_tasks && var.max_tasks <= 5000 && floor(var.max_tasks) == var.max_tasks
    error_message = "max_tasks: a whole number from min_tasks to 5000 (a service's quota): below min_tasks there is no number of tasks that would fit both."
  }
}

variable "acceptable_delay_seconds" {
  description = "How long a message may wait before its handler starts. With mean_handler_seconds and concurrency it makes the backlog that a task may have."
  type        = number
  default     = 60

  validation {
    condition     = var.acceptable_delay_seconds >= 1 && var.acceptable_delay_seconds <= 86400 && var.acceptable_delay_seconds * var.concurrency >= var.mean_handler_seconds
    error_message = "acceptable_delay_seconds: from 1 to 86400 (a day), and mean_handler_seconds / concurrency or more: a task cannot work off even one message sooner. Scaling itself takes some minutes, so that less than 60 asks for more than it can hold."
  }
}

variable "mean_handler_seconds" {
  description = "How long a handler runs on average: messaging_process_duration on the dashboard."
  type        = number
  default     = 1

  validation {
    condition     = var.mean_handler_seconds >= 0.001 && var.mean_handler_seconds <= 604800
    error_message = "mean_handler_seconds: from 0.001 (a millisecond) to 604800 (7 days, the worker's longest): scaling divides by it, and receiving a message takes longer than a millisecond."
  }
}

variable "scale_out_cooldown_seconds" {
  description = "How long after a scale-out the next waits."
  type        = number
  default     = 60

  validation {
    condition     = var.scale_out_cooldown_seconds >= 0 && var.scale_out_cooldown_seconds <= var.scale_in_cooldown_seconds
    error_message = "scale_out_cooldown_seconds: from 0 to scale_in_cooldown_seconds: out fast, in slowly, or the number of tasks swings."
  }
}

variable "scale_in_cooldown_seconds" {
  description = "How long after a scale-in the next waits."
  type        = number
  default     = 300

  validation {
    condition     = var.scale_in_cooldown_seconds >= 60 && var.scale_in_cooldown_seconds <= 3600
    error_message = "scale_in_cooldown_seconds: from 60 to 3600 (an hour): each scale-in drains tasks, which hand messages back and spend their receives."
  }
}

variable "scale_to_zero" {
  description = "Whether no task runs while the queue is empty. The first message then waits for an alarm and a start: two to four minutes, and up to 15 more where the queue was idle for six hours, as SQS then reports no metrics."
  type        = bool
  default     = false
}

variable "scale_to_zero_after_minutes" {
  description = "With scale_to_zero: for how long nothing must be visible, in flight or delayed before the last task ends. Target tracking, which ends the others, never ends the last one."
  type        = number
  default     = 15

  validation {
    condition     = var.scale_to_zero_after_minutes >= 5 && var.scale_to_zero_after_minutes <= 60 && floor(var.scale_to_zero_after_minutes) == var.scale_to_zero_after_minutes
    error_message = "scale_to_zero_after_minutes: a whole number from 5 to 60: SQS's figures are minutes late, and every start costs a minute of each message that waits for it."
  }
}
