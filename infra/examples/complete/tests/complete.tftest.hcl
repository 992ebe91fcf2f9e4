mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-west-1a", "eu-west-1b", "eu-west-1c"] }
  }
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
}

variables {
  image = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/orders:1.0.0"
}

run "an_image_alone_plans_everything_with_a_private_network" {
  command = plan

  assert {
    condition     = length(aws_vpc.this) == 1 && length(aws_subnet.private) == 2
    error_message = "a VPC with two subnets"
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.private : subnet.map_public_ip_on_launch != true])
    error_message = "no public addresses"
  }
  assert {
    condition     = output.operator_role_arn == null && output.read_only_role_arn == null
    error_message = "nobody may take a role unless named"
  }
  assert {
    condition = output.alarm_names == tolist([
      "orders-backlog-per-task", "orders-breaker-open", "orders-dlq-not-empty", "orders-duplicate-rate",
      "orders-handler-errors", "orders-handler-latency", "orders-in-flight-near-limit", "orders-inbox-throttled",
      "orders-lost-leases", "orders-oldest-message", "orders-running-below-desired",
    ])
    error_message = "all alarms"
  }
}

run "with_everything_on" {
  command = plan
  variables {
    fifo                 = true
    spot                 = true
    scale_to_zero        = true
    inbox_mode           = "observe"
    budget_monthly_usd   = 100
    alarm_emails         = ["oncall@example.com"]
    operator_principals  = ["arn:aws:iam::111122223333:role/oncall"]
    read_only_principals = ["arn:aws:iam::111122223333:root"]
  }
  assert {
    condition     = output.dlq_name == "orders-dlq.fifo"
    error_message = "FIFO"
  }
}

run "what_a_worker_needs_otherwise_is_set_by_variables" {
  command = plan
  variables {
    concurrency               = 4
    mean_handler_seconds      = 20
    acceptable_delay_seconds  = 600
    handler_timeout_seconds   = 120
    drain_deadline_seconds    = 60
    scale_in_protection       = "long-jobs"
    max_write_request_units   = 100
    kms_key_arn               = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d"
    secrets                   = { API_TOKEN = "arn:aws:ssm:eu-west-1:111122223333:parameter/orders/token" }
    secrets_kms_key_arns      = ["arn:aws:kms:eu-west-1:111122223333:key/secrets"]
    extra_egress              = [{ description = "Postgres", port = 5432, cidr = "10.0.0.0/16" }]
    extra_interface_endpoints = ["sns"]
    budget_monthly_usd        = 100
    budget_tag                = { key = "service", value = "orders" }
  }
  assert {
    condition     = local.visibility_timeout_seconds == 240
    error_message = "messages stay hidden for twice as long as a run may take"
  }
  assert {
    condition     = module.worker.backlog_per_task == 120
    error_message = "600 s / 20 s * 4"
  }
}

run "a_vpc_of_ones_own_makes_no_other" {
  command = plan
  variables {
    vpc_id             = "vpc-0123456789abcdef0"
    private_subnet_ids = ["subnet-0123456789abcdef0"]
  }
  assert {
    condition     = length(aws_vpc.this) == 0 && length(aws_subnet.private) == 0
    error_message = "no network"
  }
}

run "a_vpc_without_subnets_is_refused" {
  command = plan
  variables {
    vpc_id = "vpc-0123456789abcdef0"
  }
  expect_failures = [var.private_subnet_ids]
}

run "wrong_values_are_refused" {
  command = plan
  variables {
    image                   = ""
    name                    = "1orders"
    region                  = "eu-west-1a"
    handler_timeout_seconds = 43201
    vpc_cidr                = "10.0.0.0/28"
  }
  expect_failures = [var.image, var.name, var.region, var.handler_timeout_seconds, var.vpc_cidr]
}
