locals {
  # A widget's line: namespace, name, dimensions one after the other, and how it is drawn.
  widgets = concat(
    [
      {
        title   = "Messages"
        metrics = { visible = local.visible, in_flight = local.in_flight, delayed = local.delayed }
        limit   = var.in_flight_alarm_messages
      },
      {
        title   = "Dead letters"
        metrics = { dead_letters = local.dead_letters }
        limit   = 1
      },
      {
        title   = "Age of the oldest message, s"
        metrics = { oldest = local.oldest }
        limit   = local.oldest_seconds
      },
      {
        title       = "Backlog per task (scaling aims at ${local.backlog_per_task})"
        metrics     = local.backlog_metrics
        expressions = { work = local.work_expression, backlog = local.backlog_expression }
        limit       = var.backlog_alarm_factor * local.backlog_per_task
      },
      {
        title   = "Tasks"
        metrics = { running = local.running, desired = local.desired }
        limit   = var.max_tasks
      },
      {
        title   = "Handlers' run time, s"
        metrics = { p99 = local.latency_p99, p50 = merge(local.latency_p99, { stat = "p50" }) }
        limit   = local.latency_seconds
      },
      {
        title       = "Failed runs, %"
        metrics     = local.math_alarms["handler-errors"].metrics
        expressions = local.math_alarms["handler-errors"].expressions
        limit       = var.error_alarm_percent
      },
      {
        title       = "Duplicates, %"
        metrics     = local.math_alarms["duplicate-rate"].metrics
        expressions = local.math_alarms["duplicate-rate"].expressions
        limit       = var.duplicate_alarm_percent
      },
      {
        title   = "Breakers: 0 closed, 1 half open, 2 open"
        metrics = { breaker = local.breaker }
        limit   = 2
      },
      {
        title   = "Lost leases"
        metrics = { lost_leases = local.lost_leases }
        limit   = var.lost_leases_alarm_count
      },
    ],
    [
      for table in var.inbox == null ? [] : [var.inbox.name] : {
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
          period = 60
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
