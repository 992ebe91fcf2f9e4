provider "aws" {
  region = var.region

  default_tags {
    tags = { service = var.name }
  }
}

locals {
  # What queue and worker have to agree on: each module checks its side of it.
  max_attempts            = 5
  handler_timeout_seconds = 30
}

module "queue" {
  source = "../../modules/queue"

  name                       = var.name
  fifo                       = var.fifo
  visibility_timeout_seconds = 60
  max_attempts               = local.max_attempts
  handler_timeout_seconds    = local.handler_timeout_seconds
}

module "inbox" {
  source = "../../modules/inbox"

  name                    = "${var.name}-inbox"
  max_write_request_units = 2000
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

  concurrency             = 16
  max_attempts            = local.max_attempts
  handler_timeout_seconds = local.handler_timeout_seconds
  inbox_mode              = var.inbox_mode

  # 16 handlers of half a second each: a task works off 1920 messages within the minute that they may wait.
  acceptable_delay_seconds = 60
  mean_handler_seconds     = 0.5
  min_tasks                = var.min_tasks
  max_tasks                = var.max_tasks
  scale_to_zero            = var.scale_to_zero
  spot                     = var.spot

  vpc_id        = local.vpc_id
  subnet_ids    = local.subnet_ids
  vpc_endpoints = var.vpc_id == null ? { route_table_ids = aws_route_table.private[*].id } : null

  alarm_emails = var.alarm_emails
  # The whole account's cost. With budget_tag it counts the tag `service` alone, once that is activated in Billing.
  budget_monthly_usd = var.budget_monthly_usd
}

module "operator" {
  source = "../../modules/operator"

  name  = var.name
  queue = module.queue
  inbox = module.inbox

  operator_principals  = var.operator_principals
  read_only_principals = var.read_only_principals
}
