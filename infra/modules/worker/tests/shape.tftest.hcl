mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "111122223333" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111122223333:role/mock" }
  }
  mock_resource "aws_ecs_cluster" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:111122223333:cluster/orders" }
  }
  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-west-1:111122223333:task-definition/orders:1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-west-1:111122223333:orders-alarms" }
  }
  mock_resource "aws_appautoscaling_policy" {
    defaults = { arn = "arn:aws:autoscaling:eu-west-1:111122223333:scalingPolicy:0:resource/ecs/service/orders/orders:policyName/mock" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-west-1:111122223333:log-group:/redrive/orders" }
  }
}

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
  inbox = {
    name = "orders-inbox"
    arn  = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders-inbox"
  }
  image      = "111122223333.dkr.ecr.eu-west-1.amazonaws.com/team/orders:1.0.0"
  command    = ["work"]
  vpc_id     = "vpc-0123456789abcdef0"
  subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
}

run "the_container_is_locked_down_and_gets_sigterm_in_time" {
  command = plan

  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout == 120
    error_message = "stopTimeout"
  }
  assert {
    condition     = { for v in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : v.name => v.value }["REDRIVE_DRAIN_DEADLINE"] == "110s"
    error_message = "the drain deadline is below it"
  }
  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem == true &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].user == "65532:65532" &&
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.capabilities.drop == ["ALL"]
    )
    error_message = "read-only root file system, no root, no capabilities"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.initProcessEnabled == false
    error_message = "the worker is process 1"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].command == ["work"] && !can(jsondecode(aws_ecs_task_definition.this.container_definitions)[0].entryPoint)
    error_message = "the command is a list, the entry point the image's"
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].healthCheck.command == ["CMD", "/usr/local/bin/redrive", "health"]
    error_message = "the health check needs no shell"
  }
  assert {
    condition = { for v in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : v.name => v.value } == {
      AWS_REGION                  = "eu-west-1"
      REDRIVE_CONCURRENCY         = "16"
      REDRIVE_DRAIN_DEADLINE      = "110s"
      REDRIVE_EMF                 = "redrive"
      REDRIVE_HEALTH              = "127.0.0.1:8080"
      REDRIVE_INBOX_TABLE         = "orders-inbox"
      REDRIVE_MAX_ATTEMPTS        = "5"
      REDRIVE_SCALE_IN_PROTECTION = "off"
      REDRIVE_SERVICE             = "orders"
    }
    error_message = "the variables that the worker reads"
  }
  assert {
    condition     = alltrue([for name, value in local.settings : contains(local.own_variables, name)])
    error_message = "what the module sets is refused in environment"
  }
  assert {
    condition     = aws_ecs_service.this.deployment_circuit_breaker[0].enable && aws_ecs_service.this.deployment_circuit_breaker[0].rollback
    error_message = "a deployment that fails is rolled back"
  }
  assert {
    condition     = aws_ecs_service.this.network_configuration[0].assign_public_ip == false
    error_message = "no public address"
  }
  assert {
    condition     = { for s in aws_ecs_service.this.capacity_provider_strategy : s.capacity_provider => s.weight } == { FARGATE = 1 } && aws_ecs_service.this.force_new_deployment
    error_message = "Fargate by a strategy, so that Spot can be switched on in place"
  }
  assert {
    condition     = aws_ecs_service.this.availability_zone_rebalancing == "DISABLED"
    error_message = "no task is stopped only to even out the zones"
  }
  assert {
    condition     = one([for s in aws_ecs_cluster.this[0].setting : s.value if s.name == "containerInsights"]) == "enabled"
    error_message = "Container Insights counts the tasks"
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.https[0].from_port == 443 && aws_vpc_security_group_egress_rule.https[0].to_port == 443 && length(aws_vpc_security_group_ingress_rule.endpoints) == 0
    error_message = "HTTPS out, nothing in"
  }
  assert {
    condition     = length(aws_vpc_endpoint.interface) == 0 && length(aws_vpc_endpoint.gateway) == 0
    error_message = "no endpoints unless asked for"
  }
  assert {
    condition     = length(aws_budgets_budget.this) == 0
    error_message = "no budget unless asked for"
  }
}

run "the_worker_may_do_what_it_does_and_nothing_else" {
  command = plan

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.task.policy).Statement : s.Sid => { effect = s.Effect, actions = s.Action, resource = s.Resource }
      } == {
      SourceQueue     = { effect = "Allow", actions = local.actions.source_queue, resource = var.queue.arn }
      DeadLetterQueue = { effect = "Allow", actions = local.actions.dead_letter_queue, resource = var.queue.dlq_arn }
      Inbox           = { effect = "Allow", actions = local.actions.inbox, resource = var.inbox.arn }
    }
    error_message = "each list on exactly its ARN"
  }
  assert {
    condition     = alltrue([for action in flatten(values(local.actions)) : !strcontains(action, "*")])
    error_message = "no wildcards among actions"
  }
  assert {
    condition     = jsondecode(aws_iam_role.task.assume_role_policy).Statement[0].Condition.StringEquals["aws:SourceAccount"] == "111122223333"
    error_message = "only tasks of this account"
  }
}

run "keys_and_protection_are_opened_where_they_are_used" {
  command = plan
  variables {
    queue = {
      name              = "orders"
      arn               = "arn:aws:sqs:eu-west-1:111122223333:orders"
      dlq_name          = "orders-dlq"
      dlq_arn           = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq"
      fifo              = false
      max_receive_count = 15
      kms_key_arn       = "arn:aws:kms:eu-west-1:111122223333:key/queues"
    }
    inbox = {
      name        = "orders-inbox"
      arn         = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders-inbox"
      kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/inbox"
    }
    scale_in_protection    = "long-jobs"
    protection_max_seconds = 3600
    inbox_mode             = "observe"
    cluster                = { name = "shared", arn = "arn:aws:ecs:eu-west-1:111122223333:cluster/shared" }
  }

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.task.policy).Statement : s.Sid => s.Resource if contains(["QueuesKey", "InboxKey", "TaskProtection"], s.Sid)
      } == {
      QueuesKey      = "arn:aws:kms:eu-west-1:111122223333:key/queues"
      InboxKey       = "arn:aws:kms:eu-west-1:111122223333:key/inbox"
      TaskProtection = "arn:aws:ecs:eu-west-1:111122223333:task/shared/*"
    }
    error_message = "exactly these"
  }
  assert {
    condition = alltrue([
      for s in jsondecode(aws_iam_role_policy.task.policy).Statement :
      s.Condition.StringEquals["kms:ViaService"] == (s.Sid == "QueuesKey" ? "sqs.eu-west-1.amazonaws.com" : "dynamodb.eu-west-1.amazonaws.com")
      if endswith(s.Sid, "Key")
    ])
    error_message = "keys only by way of the service"
  }
  assert {
    condition = {
      for v in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : v.name => v.value
      if contains(["REDRIVE_SCALE_IN_PROTECTION", "REDRIVE_PROTECTION_MAX", "REDRIVE_SHADOW"], v.name)
    } == { REDRIVE_SCALE_IN_PROTECTION = "long-jobs", REDRIVE_PROTECTION_MAX = "3600s", REDRIVE_SHADOW = "true" }
    error_message = "the worker is told"
  }
  assert {
    condition     = length(aws_ecs_cluster.this) == 0 && aws_appautoscaling_target.this.resource_id == "service/shared/orders"
    error_message = "the cluster that was given is used"
  }
}

run "starting_it_needs_its_image_its_secrets_and_its_log_only" {
  command = apply
  variables {
    secrets = {
      DB_PASSWORD = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf:password::"
      API_TOKEN   = "arn:aws:ssm:eu-west-1:111122223333:parameter/orders/token"
    }
    secrets_kms_key_arns = ["arn:aws:kms:eu-west-1:111122223333:key/secrets"]
    vpc_endpoints        = { route_table_ids = ["rtb-0123456789abcdef0"] }
    scale_in_protection  = "auto"

    extra_interface_endpoints = ["states", "sqs"]
    alarm_emails              = ["oncall@example.com"]
    budget_monthly_usd        = 50
    budget_tag                = { key = "service", value = "orders" }
  }

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Sid => s.Resource
      } == {
      Logs        = "arn:aws:logs:eu-west-1:111122223333:log-group:/redrive/orders:*"
      ImageLogin  = "*"
      Image       = "arn:aws:ecr:eu-west-1:111122223333:repository/team/orders"
      Secrets     = ["arn:aws:secretsmanager:eu-west-1:111122223333:secret:db-AbCdEf"]
      Parameters  = ["arn:aws:ssm:eu-west-1:111122223333:parameter/orders/token"]
      SecretsKeys = ["arn:aws:kms:eu-west-1:111122223333:key/secrets"]
    }
    error_message = "exactly these"
  }
  assert {
    condition     = one([for s in jsondecode(aws_iam_role_policy.execution.policy).Statement : s.Action if s.Resource == "*"]) == ["ecr:GetAuthorizationToken"]
    error_message = "`*` only for the action that has no resource"
  }
  assert {
    condition     = { for s in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].secrets : s.name => s.valueFrom } == { for name, arn in var.secrets : name => arn }
    error_message = "secrets come by reference"
  }
  assert {
    condition     = sort(keys(aws_vpc_endpoint.interface)) == sort(["ecr.api", "ecr.dkr", "ecs", "logs", "secretsmanager", "sqs", "ssm", "states"]) && sort(keys(aws_vpc_endpoint.gateway)) == sort(["dynamodb", "s3"])
    error_message = "endpoints of all that is called"
  }
  assert {
    condition     = [for s in jsondecode(aws_sns_topic_policy.alarms[0].policy).Statement : s.Principal.Service] == ["cloudwatch.amazonaws.com", "budgets.amazonaws.com"]
    error_message = "alarms and budget may publish"
  }
  assert {
    condition = alltrue(concat(
      [for alarm in aws_cloudwatch_metric_alarm.metric : alarm.alarm_actions == toset([output.alarm_topic_arn])],
      [for alarm in aws_cloudwatch_metric_alarm.math : alarm.alarm_actions == toset([output.alarm_topic_arn])],
      [for n in aws_budgets_budget.this[0].notification : n.subscriber_sns_topic_arns == toset([output.alarm_topic_arn]) && length(coalesce(n.subscriber_email_addresses, [])) == 0],
    ))
    error_message = "all to one topic"
  }
  assert {
    condition     = tolist(tolist(aws_budgets_budget.this[0].cost_filter)[0].values) == tolist([join("$", ["user:service", "orders"])])
    error_message = "the budget counts what carries the tag, as Budgets writes it: user:key$value"
  }

  assert {
    condition     = sort([for n in aws_budgets_budget.this[0].notification : "${n.notification_type} ${n.threshold}"]) == sort(["ACTUAL 80", "ACTUAL 100", "FORECASTED 100"])
    error_message = "the budget notifies in time"
  }
  assert {
    condition     = aws_sns_topic_subscription.emails["oncall@example.com"].protocol == "email"
    error_message = "somebody reads it"
  }
}

run "tasks_follow_the_backlog" {
  command = plan
  variables {
    acceptable_delay_seconds = 60
    mean_handler_seconds     = 0.5
    concurrency              = 16
    min_tasks                = 2
    max_tasks                = 20
  }

  assert {
    condition     = aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].target_value == 1920
    error_message = "60 s / 0.5 s * 16"
  }
  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 2 && aws_appautoscaling_target.this.max_capacity == 20
    error_message = "between the bounds"
  }
  assert {
    condition = (
      aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].scale_out_cooldown <
      aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].scale_in_cooldown
    )
    error_message = "out fast, in slowly"
  }
  assert {
    condition = {
      for m in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics :
      m.id => m.expression if length(m.metric_stat) == 0
      } == {
      work    = "visible"
      backlog = "work / IF(FILL(FILL(running, REPEAT), 0) > 1, FILL(FILL(running, REPEAT), 0), 1)"
    }
    error_message = "visible messages over running tasks, of which there is at least one"
  }
  assert {
    condition     = [for m in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : m.id if m.return_data] == ["backlog"]
    error_message = "one series is returned"
  }
  assert {
    condition     = length(aws_appautoscaling_policy.wake) == 0 && length(aws_appautoscaling_policy.sleep) == 0
    error_message = "no scaling to zero unless asked for"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.math["backlog-per-task"].threshold == 5760
    error_message = "three times what scaling aims at"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.math["running-below-desired"].treat_missing_data == "breaching"
    error_message = "a service without any task reports nothing: that alarms"
  }
}

run "scaling_to_zero_wakes_by_an_alarm_and_sleeps_when_all_is_done" {
  command = plan
  variables {
    scale_to_zero = true
  }

  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 0
    error_message = "down to none"
  }
  assert {
    condition     = aws_appautoscaling_policy.wake[0].step_scaling_policy_configuration[0].adjustment_type == "ChangeInCapacity" && aws_appautoscaling_policy.sleep[0].step_scaling_policy_configuration[0].adjustment_type == "ExactCapacity"
    error_message = "one more to wake, none to sleep"
  }
  assert {
    condition     = one([for q in aws_cloudwatch_metric_alarm.wake[0].metric_query : q.expression if q.return_data]) == "IF(visible > 0 AND FILL(in_flight, 0) < 1 AND FILL(running, 0) < 1, 1, 0)"
    error_message = "messages, and nobody who has any"
  }
  assert {
    condition     = one([for q in aws_cloudwatch_metric_alarm.sleep[0].metric_query : q.expression if q.return_data]) == "visible + FILL(in_flight, 0) + FILL(delayed, 0)" && aws_cloudwatch_metric_alarm.sleep[0].evaluation_periods == 15
    error_message = "nothing at all for a while"
  }
  assert {
    condition = one([
      for m in aws_appautoscaling_policy.backlog.target_tracking_scaling_policy_configuration[0].customized_metric_specification[0].metrics : m.expression if m.id == "work"
    ]) == "IF(visible + FILL(in_flight, 0) > 1, visible + FILL(in_flight, 0), 1)"
    error_message = "target tracking always sees work for one task, so that it never takes the last"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.math["running-below-desired"].treat_missing_data == "notBreaching"
    error_message = "no task is no fault"
  }
}

run "alarms_read_the_metrics_that_exist" {
  command = plan
  variables {
    metrics_namespace = "shop"
  }

  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.metric : name => "${alarm.namespace} ${alarm.metric_name} ${coalesce(alarm.statistic, alarm.extended_statistic)}"
      } == {
      dlq-not-empty        = "AWS/SQS ApproximateNumberOfMessagesVisible Maximum"
      oldest-message       = "AWS/SQS ApproximateAgeOfOldestMessage Maximum"
      in-flight-near-limit = "AWS/SQS ApproximateNumberOfMessagesNotVisible Maximum"
      breaker-open         = "shop redrive_breaker_state Maximum"
      lost-leases          = "shop redrive_lost_leases Sum"
      handler-latency      = "shop messaging_process_duration p99"
    }
    error_message = "single metrics"
  }
  assert {
    condition = {
      for name, alarm in aws_cloudwatch_metric_alarm.math : name => sort(flatten([
        for q in alarm.metric_query : [for m in q.metric : "${m.namespace} ${m.metric_name} ${m.stat}"]
      ]))
      } == {
      backlog-per-task      = sort(["AWS/SQS ApproximateNumberOfMessagesVisible Maximum", "ECS/ContainerInsights RunningTaskCount Average"])
      duplicate-rate        = sort(["shop messaging_client_consumed_messages Sum", "shop redrive_duplicate_messages Sum"])
      handler-errors        = sort(["shop messaging_process_duration SampleCount", "shop redrive_dead_letters Sum", "shop redrive_retries Sum"])
      running-below-desired = sort(["ECS/ContainerInsights DesiredTaskCount Average", "ECS/ContainerInsights RunningTaskCount Average"])
      inbox-throttled       = sort(["AWS/DynamoDB ReadThrottleEvents Sum", "AWS/DynamoDB WriteThrottleEvents Sum"])
    }
    error_message = "metrics of expressions"
  }
  assert {
    condition     = alltrue([for name in ["breaker-open", "lost-leases", "handler-latency"] : aws_cloudwatch_metric_alarm.metric[name].dimensions == tomap({ service = "orders" })])
    error_message = "the worker's own are by service"
  }
  assert {
    condition = alltrue([
      for title in ["Messages", "Dead letters", "Tasks", "Failed runs, %", "Duplicates, %", "Lost leases"] :
      contains([for w in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : w.properties.title], title)
    ]) && length(jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets) == length(output.alarm_names)
    error_message = "the dashboard has a figure for each alarm"
  }
  assert {
    condition = { for w in jsondecode(aws_cloudwatch_dashboard.this.dashboard_body).widgets : w.properties.title => w.properties.period } == merge(
      {
        for title, alarm in {
          "Messages"                                = "in-flight-near-limit"
          "Dead letters"                            = "dlq-not-empty"
          "Age of the oldest message, s"            = "oldest-message"
          "Handlers' run time, s"                   = "handler-latency"
          "Breakers: 0 closed, 1 half open, 2 open" = "breaker-open"
          "Lost leases"                             = "lost-leases"
        } : title => aws_cloudwatch_metric_alarm.metric[alarm].period
      },
      {
        for title, alarm in {
          "Backlog per task (scaling aims at 960)" = "backlog-per-task"
          "Tasks"                                  = "running-below-desired"
          "Failed runs, %"                         = "handler-errors"
          "Duplicates, %"                          = "duplicate-rate"
          "Throttled by DynamoDB (orders-inbox)"   = "inbox-throttled"
        } : title => one(distinct(flatten([for q in aws_cloudwatch_metric_alarm.math[alarm].metric_query : [for m in q.metric : m.period]])))
      },
    )
    error_message = "each widget sums up over its alarm's period, so that its line can be read against the alarm's"
  }
}

run "without_an_inbox_nothing_of_dynamodb_is_left" {
  command = plan
  variables {
    inbox = null
  }

  assert {
    condition     = !strcontains(aws_iam_role_policy.task.policy, "dynamodb")
    error_message = "no permission"
  }
  assert {
    condition     = !contains(output.alarm_names, "orders-inbox-throttled")
    error_message = "no alarm"
  }
}

run "spot_runs_what_is_beyond_the_base" {
  command = plan
  variables {
    spot           = true
    on_demand_base = 2
  }

  assert {
    condition = {
      for s in aws_ecs_service.this.capacity_provider_strategy : s.capacity_provider => "${coalesce(s.base, 0)} then ${s.weight}"
    } == { FARGATE = "2 then 0", FARGATE_SPOT = "0 then 1" }
    error_message = "two on demand, then Spot"
  }
  assert {
    condition     = toset(aws_ecs_cluster_capacity_providers.this[0].capacity_providers) == toset(["FARGATE", "FARGATE_SPOT"])
    error_message = "the cluster has both"
  }
}

run "security_groups_and_topic_that_were_given_are_used" {
  command = plan
  variables {
    vpc_id                   = null
    security_group_ids       = ["sg-0123456789abcdef0"]
    alarm_topic              = { arn = "arn:aws:sns:eu-west-1:111122223333:oncall" }
    health_on_all_interfaces = true
    health_port              = 9090
    environment              = { LOG_LEVEL = "info" }
  }

  assert {
    condition     = length(aws_security_group.worker) == 0 && aws_ecs_service.this.network_configuration[0].security_groups == toset(["sg-0123456789abcdef0"])
    error_message = "the group"
  }
  assert {
    condition     = length(aws_sns_topic.alarms) == 0 && output.alarm_topic_arn == "arn:aws:sns:eu-west-1:111122223333:oncall"
    error_message = "the topic"
  }
  assert {
    condition = (
      jsondecode(aws_ecs_task_definition.this.container_definitions)[0].portMappings[0].containerPort == 9090 &&
      contains(jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment, { name = "REDRIVE_HEALTH", value = "0.0.0.0:9090" })
    )
    error_message = "the health endpoint answers others"
  }
  assert {
    condition     = contains(jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment, { name = "LOG_LEVEL", value = "info" })
    error_message = "the variable"
  }
}
