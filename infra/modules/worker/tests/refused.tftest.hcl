mock_provider "aws" {}

variables {
  name = "orders"
  queue = {
    name              = "orders"
    arn               = "arn:aws:sqs:eu-west-1:111122223333:orders"
    dlq_name          = "orders-dlq"
    dlq_arn           = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq"
    fifo              = false
    max_receive_count = 15
  }
  image      = "orders:1.0.0"
  vpc_id     = "vpc-0123456789abcdef0"
  subnet_ids = ["subnet-0123456789abcdef0"]
}

run "drain_over_stop_timeout_is_refused" {
  command = plan
  variables {
    stop_timeout_seconds   = 60
    drain_deadline_seconds = 60
  }
  expect_failures = [var.drain_deadline_seconds]
}

run "max_tasks_below_min_tasks_is_refused" {
  command = plan
  variables {
    min_tasks = 5
    max_tasks = 4
  }
  expect_failures = [var.max_tasks]
}

run "attempts_over_a_third_of_the_receives_are_refused" {
  command = plan
  variables {
    max_attempts = 6
  }
  expect_failures = [var.max_attempts]
}

run "attempts_over_a_tenth_of_a_fifo_queues_receives_are_refused" {
  command = plan
  variables {
    queue = {
      name              = "orders.fifo"
      arn               = "arn:aws:sqs:eu-west-1:111122223333:orders.fifo"
      dlq_name          = "orders-dlq.fifo"
      dlq_arn           = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq.fifo"
      fifo              = true
      max_receive_count = 49
    }
  }
  expect_failures = [var.max_attempts]
}

run "what_the_module_sets_is_refused_in_environment" {
  command = plan
  variables {
    environment = { REDRIVE_CONCURRENCY = "4" }
  }
  expect_failures = [var.environment]
}

run "what_the_module_sets_is_refused_in_secrets" {
  command = plan
  variables {
    secrets = { REDRIVE_EMF = "arn:aws:ssm:eu-west-1:111122223333:parameter/namespace" }
  }
  expect_failures = [var.secrets]
}

run "a_variable_that_is_a_secret_too_is_refused" {
  command = plan
  variables {
    environment = { TOKEN = "x" }
    secrets     = { TOKEN = "arn:aws:ssm:eu-west-1:111122223333:parameter/token" }
  }
  expect_failures = [var.secrets]
}

run "observing_without_an_inbox_is_refused" {
  command = plan
  variables {
    inbox_mode = "observe"
  }
  expect_failures = [var.inbox_mode]
}

run "no_vpc_and_no_security_group_are_refused" {
  command = plan
  variables {
    vpc_id        = null
    vpc_endpoints = { route_table_ids = ["rtb-0123456789abcdef0"] }
  }
  expect_failures = [var.security_group_ids, var.vpc_endpoints]
}

run "a_delay_shorter_than_a_handler_is_refused" {
  command = plan
  variables {
    acceptable_delay_seconds      = 1
    mean_handler_seconds          = 60
    handler_latency_alarm_seconds = 60
  }
  expect_failures = [var.acceptable_delay_seconds]
}

run "alarms_below_what_is_normal_are_refused" {
  command = plan
  variables {
    oldest_message_alarm_seconds  = 59
    mean_handler_seconds          = 2
    handler_latency_alarm_seconds = 1
  }
  expect_failures = [var.oldest_message_alarm_seconds, var.handler_latency_alarm_seconds]
}

run "values_below_their_range_are_refused" {
  command = plan
  variables {
    name                        = "1orders"
    image                       = "orders:latest"
    secrets                     = { A = "plain" }
    secrets_kms_key_arns        = ["alias/a"]
    concurrency                 = 0
    handler_timeout_seconds     = 0
    inbox_mode                  = "on"
    scale_in_protection         = "on"
    protection_max_seconds      = 59
    health_port                 = 80
    health_grace_seconds        = -1
    metrics_namespace           = "AWS/Redrive"
    container_insights          = "disabled"
    subnet_ids                  = []
    security_group_ids          = []
    extra_egress                = [{ description = "db", port = 0, cidr = "10.0.0.0/16" }]
    cpu                         = 100
    cpu_architecture            = "arm"
    deployment_minimum_percent  = -1
    log_retention_days          = 2
    log_kms_key_arn             = "alias/a"
    min_tasks                   = 0
    mean_handler_seconds        = 0.0001
    scale_in_cooldown_seconds   = 59
    scale_out_cooldown_seconds  = 0
    scale_to_zero_after_minutes = 4
    alarm_emails                = ["nobody"]
    alarm_topic_kms_key_arn     = "alias/a"
    backlog_alarm_factor        = 1
    in_flight_alarm_messages    = 0
    breaker_open_alarm_minutes  = 1
    lost_leases_alarm_count     = 0
    duplicate_alarm_percent     = 0
    error_alarm_percent         = 0
    rate_alarm_minimum_messages = 0
    budget_monthly_usd          = 0
    stop_timeout_seconds        = 9
    max_attempts                = 0
  }
  expect_failures = [var.name, var.image, var.secrets, var.secrets_kms_key_arns, var.concurrency, var.handler_timeout_seconds, var.inbox_mode, var.scale_in_protection, var.protection_max_seconds, var.health_port, var.health_grace_seconds, var.metrics_namespace, var.container_insights, var.subnet_ids, var.security_group_ids, var.extra_egress, var.cpu, var.cpu_architecture, var.deployment_minimum_percent, var.log_retention_days, var.log_kms_key_arn, var.min_tasks, var.mean_handler_seconds, var.scale_in_cooldown_seconds, var.scale_to_zero_after_minutes, var.alarm_emails, var.alarm_topic_kms_key_arn, var.backlog_alarm_factor, var.in_flight_alarm_messages, var.breaker_open_alarm_minutes, var.lost_leases_alarm_count, var.duplicate_alarm_percent, var.error_alarm_percent, var.rate_alarm_minimum_messages, var.budget_monthly_usd, var.stop_timeout_seconds, var.max_attempts]
}


# A value that is checked against one that is itself refused is not looked at: so these have a run of their own.
run "values_below_their_range_that_depend_on_others_are_refused" {
  command = plan
  variables {
    environment              = { "a-b" = "x" }
    acceptable_delay_seconds = 0
    drain_deadline_seconds   = 4
    on_demand_base           = -1
    memory                   = 256
  }
  expect_failures = [var.environment, var.acceptable_delay_seconds, var.drain_deadline_seconds, var.on_demand_base, var.memory]
}

run "values_above_their_range_are_refused" {
  command = plan
  variables {
    concurrency                 = 100001
    handler_timeout_seconds     = 604801
    protection_max_seconds      = 172801
    health_port                 = 65536
    health_grace_seconds        = 301
    stop_timeout_seconds        = 121
    deployment_maximum_percent  = 201
    max_tasks                   = 5001
    mean_handler_seconds        = 604801
    scale_in_cooldown_seconds   = 3601
    scale_to_zero_after_minutes = 61
    backlog_alarm_factor        = 1001
    in_flight_alarm_messages    = 120000
    breaker_open_alarm_minutes  = 61
    duplicate_alarm_percent     = 101
    error_alarm_percent         = 101
  }
  expect_failures = [var.concurrency, var.handler_timeout_seconds, var.protection_max_seconds, var.health_port, var.health_grace_seconds, var.stop_timeout_seconds, var.deployment_maximum_percent, var.max_tasks, var.mean_handler_seconds, var.scale_in_cooldown_seconds, var.scale_to_zero_after_minutes, var.backlog_alarm_factor, var.in_flight_alarm_messages, var.breaker_open_alarm_minutes, var.duplicate_alarm_percent, var.error_alarm_percent]
}

run "values_at_their_bounds_are_taken" {
  command = plan
  variables {
    drain_deadline_seconds = 115
    min_tasks              = 4
    max_tasks              = 4
    on_demand_base         = 4
    max_attempts           = 5
    memory                 = 2048
  }
}

run "what_cannot_work_together_is_refused" {
  command = plan
  variables {
    entry_point                  = ["/bin/sh", "-c"]
    command                      = ["bash"]
    drain_deadline_seconds       = 116
    memory                       = 4096
    scale_out_cooldown_seconds   = 301
    deployment_minimum_percent   = 100
    deployment_maximum_percent   = 100
    on_demand_base               = 11
    oldest_message_alarm_seconds = 1209601
  }
  expect_failures = [
    var.entry_point, var.command, var.drain_deadline_seconds, var.memory, var.scale_out_cooldown_seconds,
    var.deployment_maximum_percent, var.on_demand_base, var.oldest_message_alarm_seconds,
  ]
}

run "a_delay_over_a_day_is_refused" {
  command = plan
  variables {
    acceptable_delay_seconds = 86401
  }
  expect_failures = [var.acceptable_delay_seconds]
}

run "names_where_arns_and_ids_belong_are_refused" {
  command = plan
  variables {
    vpc_id      = "orders"
    alarm_topic = { arn = "oncall" }
    cluster     = { name = "shared", arn = "shared" }
    budget_tag  = { key = "", value = "orders" }
  }
  expect_failures = [var.vpc_id, var.alarm_topic, var.cluster, var.budget_tag]
}

run "a_cluster_by_another_name_than_its_arn_is_refused" {
  command = plan
  variables {
    cluster = { name = "shared", arn = "arn:aws:ecs:eu-west-1:111122223333:cluster/other" }
  }
  expect_failures = [var.cluster]
}

run "addresses_that_nothing_would_write_to_are_refused" {
  command = plan
  variables {
    alarm_topic  = { arn = "arn:aws:sns:eu-west-1:111122223333:oncall" }
    alarm_emails = ["oncall@example.com"]
  }
  expect_failures = [var.alarm_emails]
}

run "endpoints_that_nobody_makes_are_refused" {
  command = plan
  variables {
    extra_interface_endpoints = ["states"]
  }
  expect_failures = [var.extra_interface_endpoints]
}

run "endpoints_by_their_full_names_and_of_gateways_are_refused" {
  command = plan
  variables {
    vpc_endpoints             = { route_table_ids = ["rtb-0123456789abcdef0"] }
    extra_interface_endpoints = ["com.amazonaws.eu-west-1.states", "s3"]
  }
  expect_failures = [var.extra_interface_endpoints]
}
