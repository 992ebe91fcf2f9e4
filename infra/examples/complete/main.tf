provider "aws" {
  region = var.region

  default_tags {
    tags = { service = var.name }
  }
}

locals {
  # What queue and worker have to agree on: each module checks its side of it.
  max_attempts = 5
  # A run ends well before its message becomes visible again.
  visibility_timeout_seconds = max(60, min(2 * var.handler_timeout_seconds, 43200))
}

module "queue" {
  source = "../../modules/queue"

  name                       = var.name
  fifo                       = var.fifo
  visibility_timeout_seconds = local.visibility_timeout_seconds
  max_attempts               = local.max_attempts
  handler_timeout_seconds    = var.handler_timeout_seconds
  kms_key_arn                = var.kms_key_arn
}

module "inbox" {
  source = "../../modules/inbox"

  name                    = "${var.name}-inbox"
  max_write_request_units = var.max_write_request_units
  kms_key_arn             = var.kms_key_arn
  deletion_protection     = var.deletion_protection
}

module "worker" {
  source = "../../modules/worker"

  name  = var.name
  queue = module.queue
  inbox = module.inbox

  image            = var.image
  entry_point      = var.entry_point
  command          = var.command
  cpu_architecture = var.cpu_architecture
  environment = merge(
    {
      ORDERS_QUEUE = module.queue.name
      ORDERS_TABLE = module.inbox.name
    },
    var.environment,
  )
  secrets              = var.secrets
  secrets_kms_key_arns = var.secrets_kms_key_arns

  concurrency             = var.concurrency
  max_attempts            = local.max_attempts
  handler_timeout_seconds = var.handler_timeout_seconds
  drain_deadline_seconds  = var.drain_deadline_seconds
  scale_in_protection     = var.scale_in_protection
  inbox_mode              = var.inbox_mode

  # As they stand, 16 handlers of half a second each: a task works off 1920 messages within the minute that they may wait.
  acceptable_delay_seconds = var.acceptable_delay_seconds
  mean_handler_seconds     = var.mean_handler_seconds
  min_tasks                = var.min_tasks
  max_tasks                = var.max_tasks
  scale_to_zero            = var.scale_to_zero
  spot                     = var.spot

  vpc_id        = local.vpc_id
  subnet_ids    = local.subnet_ids
  vpc_endpoints = var.vpc_id == null ? { route_table_ids = aws_route_table.private[*].id } : null

  extra_interface_endpoints = var.extra_interface_endpoints
  extra_egress              = var.extra_egress

  alarm_emails       = var.alarm_emails
  budget_monthly_usd = var.budget_monthly_usd
  budget_tag         = var.budget_tag
}

module "operator" {
  source = "../../modules/operator"

  name  = var.name
  queue = module.queue
  inbox = module.inbox

  operator_principals  = var.operator_principals
  read_only_principals = var.read_only_principals
}
