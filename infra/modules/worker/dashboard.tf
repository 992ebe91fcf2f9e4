locals {
  alarm_periods = tomap(merge(
    { for name, alarm in local.metric_alarms : name => alarm.period },
    { for name, alarm in local.math_alarms : name => alarm.period },
  ))

  # A widget's line: namespace, name, dimensions one after the other, and how it is drawn.
  widgets = concat(
    [
      {
        alarm   = "in-flight-near-limit"
        title   = "Messages"
        metrics = { visible = local.visible, in_flight = local.in_flight, delayed = local.delayed }
        limit   = var.in_flight_alarm_messages
      },
      {
        alarm   = "dlq-not-empty"
        title   = "Dead letters"
        metrics = { dead_letters = local.dead_letters }
        limit   = 1
      },
      {
        alarm   = "oldest-message"
        title   = "Age of the oldest message, s"
        metrics = { oldest = local.oldest }
        limit   = local.oldest_seconds
      },
      {
        alarm       = "backlog-per-task"
        title       = "Backlog per task (scaling aims at ${local.backlog_per_task})"
        metrics     = local.backlog_metrics
        expressions = { work = local.work_expression, backlog = local.backlog_expression }
        limit       = var.backlog_alarm_factor * local.backlog_per_task
      },
      {
        alarm   = "running-below-desired"
        title   = "Tasks"
        metrics = { running = local.running, desired = local.desired }
        limit   = var.max_tasks
      },
      {
        alarm   = "handler-latency"
        title   = "Handlers' run time, s"
        metrics = { p99 = local.latency_p99, p50 = merge(local.latency_p99, { stat = "p50" }) }
        limit   = local.latency_seconds
      },
      {
        alarm       = "handler-errors"
        title       = "Failed runs, %"
        metrics     = local.math_alarms["handler-errors"].metrics
        expressions = local.math_alarms["handler-errors"].expressions
        limit       = var.error_alarm_percent
      },
      {
        alarm       = "duplicate-rate"
        title       = "Duplicates, %"
        metrics     = local.math_alarms["duplicate-rate"].metrics
        expressions = local.math_alarms["duplicate-rate"].expressions
        limit       = var.duplicate_alarm_percent
      },
      {
        alarm   = "breaker-open"
        title   = "Breakers: 0 closed, 1 half open, 2 open"
        metrics = { breaker = local.breaker }
        limit   = 2
      },
      {
        alarm   = "lost-leases"
        title   = "Lost leases"
        metrics = { lost_leases = local.lost_leases }
        limit   = var.lost_leases_alarm_count
      },
    ],
    [
      for table in var.inbox == null ? [] : [var.inbox.name] : {
        alarm   = "inbox-throttled"
        title   = "Throttled by DynamoDB (${table})"
        metrics = { reads = local.read_throttles, writes = local.write_throttles }
        limit   = 1
      }
    ],
  )
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.name}-worker"

  dashboard_body = jsonencode({
    widgets = [
      for number, widget in local.widgets : {
        type   = "metric"
        x      = number % 3 * 8
        y      = floor(number / 3) * 6
        width  = 8
        height = 6
        properties = {
          title  = widget.title
          region = local.region
          view   = "timeSeries"
          # The alarm's: over another one a sum or a share is another figure than the one that is drawn as its limit.
          period = local.alarm_periods[widget.alarm]
          yAxis  = { left = { min = 0 } }
          metrics = concat(
            [
              for id, metric in widget.metrics : concat(
                [metric.namespace, metric.metric_name],
                flatten([for name, value in metric.dimensions : [name, value]]),
                [{ id = id, label = id, stat = metric.stat, visible = !can(widget.expressions) }],
              )
            ],
            [
              for id, expression in try(widget.expressions, {}) :
              [{ id = id, expression = expression, label = id, visible = contains(["result", "backlog"], id) }]
            ],
          )
          annotations = { horizontal = [{ label = widget.title == "Tasks" ? "max_tasks" : "alarm", value = widget.limit }] }
        }
      }
    ]
  })
}
