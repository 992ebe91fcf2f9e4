data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  actions = jsondecode(file("${path.module}/actions.json"))

  account = data.aws_caller_identity.current.account_id
  region  = data.aws_region.current.id

  cluster_name = var.cluster == null ? one(aws_ecs_cluster.this[*].name) : var.cluster.name
  cluster_arn  = var.cluster == null ? one(aws_ecs_cluster.this[*].arn) : var.cluster.arn

  # What the module sets itself. A variable of `environment` with such a name is refused.
  own_variables = [
    "REDRIVE_CONCURRENCY",
    "REDRIVE_DRAIN_DEADLINE",
    "REDRIVE_EMF",
    "REDRIVE_HANDLER_TIMEOUT",
    "REDRIVE_HEALTH",
    "REDRIVE_INBOX_TABLE",
    "REDRIVE_MAX_ATTEMPTS",
    "REDRIVE_PROTECTION_MAX",
    "REDRIVE_SCALE_IN_PROTECTION",
    "REDRIVE_SERVICE",
    "REDRIVE_SHADOW",
  ]

  settings = merge(
    {
      REDRIVE_CONCURRENCY         = tostring(var.concurrency)
      REDRIVE_DRAIN_DEADLINE      = "${var.drain_deadline_seconds}s"
      REDRIVE_EMF                 = var.metrics_namespace
      REDRIVE_HEALTH              = "${var.health_on_all_interfaces ? "0.0.0.0" : "127.0.0.1"}:${var.health_port}"
      REDRIVE_MAX_ATTEMPTS        = tostring(var.max_attempts)
      REDRIVE_SCALE_IN_PROTECTION = var.scale_in_protection
      REDRIVE_SERVICE             = var.name
    },
    var.handler_timeout_seconds == null ? {} : { REDRIVE_HANDLER_TIMEOUT = "${var.handler_timeout_seconds}s" },
    var.inbox == null ? {} : { REDRIVE_INBOX_TABLE = var.inbox.name },
    var.inbox_mode == "observe" ? { REDRIVE_SHADOW = "true" } : {},
    var.scale_in_protection == "off" ? {} : { REDRIVE_PROTECTION_MAX = "${var.protection_max_seconds}s" },
  )

  fargate_memory = {
    "256"   = tolist([512, 1024, 2048])
    "512"   = range(1024, 4096 + 1, 1024)
    "1024"  = range(2048, 8192 + 1, 1024)
    "2048"  = range(4096, 16384 + 1, 1024)
    "4096"  = range(8192, 30720 + 1, 1024)
    "8192"  = range(16384, 61440 + 1, 4096)
    "16384" = range(32768, 122880 + 1, 8192)
  }

  # What a task works off within the acceptable delay: that many rounds of all its slots.
  backlog_per_task = max(1, floor(var.acceptable_delay_seconds / var.mean_handler_seconds * var.concurrency))
}
