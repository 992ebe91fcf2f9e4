locals {
  # The worker's own metrics, as it writes them to its log (Embedded Metric Format).
  own = {
    namespace  = var.metrics_namespace
    dimensions = { service = var.name }
  }
  breaker       = merge(local.own, { metric_name = "redrive_breaker_state", stat = "Maximum" })
  lost_leases   = merge(local.own, { metric_name = "redrive_lost_leases", stat = "Sum" })
  duplicates    = merge(local.own, { metric_name = "redrive_duplicate_messages", stat = "Sum" })
  consumed      = merge(local.own, { metric_name = "messaging_client_consumed_messages", stat = "Sum" })
  retries       = merge(local.own, { metric_name = "redrive_retries", stat = "Sum" })
  dead_lettered = merge(local.own, { metric_name = "redrive_dead_letters", stat = "Sum" })
  runs          = merge(local.own, { metric_name = "messaging_process_duration", stat = "SampleCount" })
  latency_p99   = merge(local.own, { metric_name = "messaging_process_duration", stat = "p99" })

  dead_letters = {
    namespace   = "AWS/SQS"
    metric_name = "ApproximateNumberOfMessagesVisible"
    dimensions  = { QueueName = var.queue.dlq_name }
    stat        = "Maximum"
  }
  oldest = merge(local.visible, { metric_name = "ApproximateAgeOfOldestMessage" })

  read_throttles = {
    namespace   = "AWS/DynamoDB"
    metric_name = "ReadThrottleEvents"
    dimensions  = { TableName = try(var.inbox.name, "") }
    stat        = "Sum"
  }
  write_throttles = merge(local.read_throttles, { metric_name = "WriteThrottleEvents" })

  oldest_seconds  = var.oldest_message_alarm_seconds == null ? max(300, 5 * var.acceptable_delay_seconds) : var.oldest_message_alarm_seconds
  latency_seconds = var.handler_latency_alarm_seconds != null ? var.handler_latency_alarm_seconds : (var.handler_timeout_seconds == null ? 10 * var.mean_handler_seconds : 0.9 * var.handler_timeout_seconds)

  metric_alarms = {
    dlq-not-empty = {
      description = "Messages died. See why: redrive dlq ls ${var.queue.name}."
      metric      = local.dead_letters
      at_least    = 1
      period      = 60
      periods     = 1
      of          = 1
    }
    oldest-message = {
      description = "A message has waited for ${local.oldest_seconds} s or longer: too few tasks, an open breaker, or a stall. See: redrive queue stats ${var.queue.name}."
      metric      = local.oldest
      at_least    = local.oldest_seconds
      period      = 60
      periods     = 5
      of          = 5
    }
    in-flight-near-limit = {
      description = "SQS hands out no more than 120000 messages of a queue at a time: look for consumers that hold messages and do not settle them. See: redrive queue stats ${var.queue.name}."
      metric      = local.in_flight
      at_least    = var.in_flight_alarm_messages
      period      = 60
      periods     = 2
      of          = 2
    }
    breaker-open = {
      description = "What the handler calls, or the inbox, has been failing: the worker waits, and no message loses an attempt. Look at the downstream."
      metric      = local.breaker
      at_least    = 2
      period      = 60
      # Probes half-open it now and then.
      periods = max(2, floor(0.8 * var.breaker_open_alarm_minutes))
      of      = var.breaker_open_alarm_minutes
    }
    lost-leases = {
      description = "Runs were cut off, as another worker may have taken their key: tasks short of CPU, or a lease that is too short. See: redrive inbox stats."
      metric      = local.lost_leases
      at_least    = var.lost_leases_alarm_count
      period      = 300
      periods     = 1
      of          = 1
    }
    handler-latency = {
      description = "The slowest hundredth of handlers ran for ${local.latency_seconds} s or longer: look at what they call."
      metric      = local.latency_p99
      at_least    = local.latency_seconds
      period      = 300
      periods     = 3
      of          = 3
    }
  }

  math_alarms = merge(
    {
      backlog-per-task = {
        description = "More than ${var.backlog_alarm_factor} times the backlog that tasks work off in time, for 15 minutes: at max_tasks, or tasks do not start. See: redrive queue stats ${var.queue.name}."
        expressions = {
          work   = local.work_expression
          result = local.backlog_expression
        }
        metrics  = local.backlog_metrics
        at_least = var.backlog_alarm_factor * local.backlog_per_task
        period   = 60
        periods  = 15
        of       = 15
        missing  = "notBreaching"
      }
      duplicate-rate = {
        description = "More messages than usual are duplicates: a producer that sends twice, a visibility timeout that is too short, or a replay. See redrive_duplicate_messages by kind in the log."
        expressions = {
          received = "FILL(consumed, 0)"
          result   = "IF(received >= ${var.rate_alarm_minimum_messages}, 100 * FILL(duplicates, 0) / IF(received > 0, received, 1), 0)"
        }
        metrics  = { consumed = local.consumed, duplicates = local.duplicates }
        at_least = var.duplicate_alarm_percent
        period   = 300
        periods  = 2
        of       = 3
        missing  = "notBreaching"
      }
      handler-errors = {
        description = "More runs than usual failed, to be tried again or for good: look at the log, and at what handlers call."
        expressions = {
          ran = "FILL(runs, 0)"
          # A run that fails for good, as rejected or at its last attempt, is no retry.
          failed = "FILL(retries, 0) + FILL(dead_lettered, 0)"
          result = "IF(ran >= ${var.rate_alarm_minimum_messages}, 100 * failed / IF(ran > 0, ran, 1), 0)"
        }
        metrics  = { runs = local.runs, retries = local.retries, dead_lettered = local.dead_lettered }
        at_least = var.error_alarm_percent
        period   = 300
        periods  = 2
        of       = 3
        missing  = "notBreaching"
      }
      running-below-desired = {
        description = "Fewer tasks run than should: look at the service's events, for images that cannot be pulled, tasks that fail their health check, no capacity."
        expressions = { result = "desired - running" }
        metrics     = { running = local.running, desired = local.desired }
        at_least    = 1
        period      = 60
        periods     = 10
        of          = 10
        # Container Insights says nothing of a service without running tasks. That is a fault unless there may be none.
        missing = var.scale_to_zero ? "notBreaching" : "breaching"
      }
    },
    var.inbox == null ? {} : {
      inbox-throttled = {
        description = "DynamoDB throttled the inbox: over its cap (max_write_request_units), or faster than it grows. Messages wait, and none is lost."
        expressions = { result = "FILL(reads, 0) + FILL(writes, 0)" }
        metrics     = { reads = local.read_throttles, writes = local.write_throttles }
        at_least    = 1
        period      = 300
        periods     = 1
        of          = 1
        missing     = "notBreaching"
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "metric" {
  for_each = local.metric_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.at_least

  namespace          = each.value.metric.namespace
  metric_name        = each.value.metric.metric_name
  dimensions         = each.value.metric.dimensions
  statistic          = startswith(each.value.metric.stat, "p") ? null : each.value.metric.stat
  extended_statistic = startswith(each.value.metric.stat, "p") ? each.value.metric.stat : null
  period             = each.value.period

  datapoints_to_alarm = each.value.periods
  evaluation_periods  = each.value.of

  # SQS says nothing of a queue that nobody uses, and the worker nothing of what did not happen.
  treat_missing_data = "notBreaching"

  alarm_actions = [local.topic_arn]
  ok_actions    = [local.topic_arn]
  tags          = var.tags
}

resource "aws_cloudwatch_metric_alarm" "math" {
  for_each = local.math_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = each.value.at_least
  datapoints_to_alarm = each.value.periods
  evaluation_periods  = each.value.of
  treat_missing_data  = each.value.missing

  dynamic "metric_query" {
    for_each = each.value.expressions
    content {
      id          = metric_query.key
      expression  = metric_query.value
      label       = metric_query.key == "result" ? each.key : metric_query.key
      return_data = metric_query.key == "result"
    }
  }

  dynamic "metric_query" {
    for_each = each.value.metrics
    content {
      id          = metric_query.key
      return_data = false
      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric_name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = each.value.period
      }
    }
  }

  alarm_actions = [local.topic_arn]
  ok_actions    = [local.topic_arn]
  tags          = var.tags

  # Where silence is a fault, an alarm that is there before the service would ring, and one that outlives it too.
  depends_on = [aws_ecs_service.this]
}
