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
    image    = ""
    name     = "1orders"
    vpc_cidr = "10.0.0.0/28"
  }
  expect_failures = [var.image, var.name, var.vpc_cidr]
}
