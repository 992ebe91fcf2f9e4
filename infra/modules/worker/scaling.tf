locals {
  # The metrics that scaling, alarms and dashboard share.
  visible = {
    namespace   = "AWS/SQS"
    metric_name = "ApproximateNumberOfMessagesVisible"
    dimensions  = { QueueName = var.queue.name }
    stat        = "Maximum"
  }
  in_flight = merge(local.visible, { metric_name = "ApproximateNumberOfMessagesNotVisible" })
  delayed   = merge(local.visible, { metric_name = "ApproximateNumberOfMessagesDelayed" })
  running = {
    namespace   = "ECS/ContainerInsights"
    metric_name = "RunningTaskCount"
    dimensions  = { ClusterName = local.cluster_name, ServiceName = var.name }
    stat        = "Average"
  }
  desired = merge(local.running, { metric_name = "DesiredTaskCount" })

  # Container Insights reports a minute or two late, and may say nothing of a service without running tasks. So the last figure
  # counts on, and where there is none at all, it is 0. How far back CloudWatch looks for that last figure is not written
  # anywhere: a service that has just gone to zero may count as one task for some minutes, which for a ratio is the same.
  running_filled = "FILL(FILL(running, REPEAT), 0)"

  # Nothing is divided by zero: without a task the whole backlog is one task's. Visible messages are not filled: where SQS says
  # nothing, nothing is known, and scaling stays as it is.
  backlog_expression = "work / IF(${local.running_filled} > 1, ${local.running_filled}, 1)"

  # With scaling to zero, target tracking may not take the last task: it would do so at the first figure of 0 after a quarter of an
  # hour of little work, whatever is in flight or delayed. So it never sees less than one message, which one task can do. The
  # last task is ended by the alarm `sleep` alone, after scale_to_zero_after_minutes of nothing at all.
  open_expression = "visible + FILL(in_flight, 0)"
  work_expression = var.scale_to_zero ? "IF(${local.open_expression} > 1, ${local.open_expression}, 1)" : "visible"

  # Messages wait, none is in flight, and no task runs. Not by the last figure, which would hold the start back after a rest just
  # begun. That none is in flight tells a late figure of running tasks from none: SQS reports both of its figures at once.
  wake_expression = "IF(visible > 0 AND FILL(in_flight, 0) < 1 AND FILL(running, 0) < 1, 1, 0)"

  backlog_metrics = merge(
    { visible = local.visible, running = local.running },
    var.scale_to_zero ? { in_flight = local.in_flight } : {},
  )
  backlog_expressions = {
    work    = { expression = local.work_expression, label = "Messages to work on", return = false }
    backlog = { expression = local.backlog_expression, label = "Backlog per task", return = true }
  }
}

resource "aws_appautoscaling_target" "this" {
  service_namespace  = "ecs"
  resource_id        = "service/${local.cluster_name}/${aws_ecs_service.this.name}"
  scalable_dimension = "ecs:service:DesiredCount"
  min_capacity       = var.scale_to_zero ? 0 : var.min_tasks
  max_capacity       = var.max_tasks
  tags               = var.tags
}

# Tasks follow the backlog: what waits, over what a task works off within the acceptable delay.
resource "aws_appautoscaling_policy" "backlog" {
  name               = "${var.name}-backlog-per-task"
  policy_type        = "TargetTrackingScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  target_tracking_scaling_policy_configuration {
    target_value       = local.backlog_per_task
    scale_out_cooldown = var.scale_out_cooldown_seconds
    scale_in_cooldown  = var.scale_in_cooldown_seconds

    customized_metric_specification {
      dynamic "metrics" {
        for_each = local.backlog_metrics
        content {
          id          = metrics.key
          return_data = false
          metric_stat {
            stat = metrics.value.stat
            metric {
              namespace   = metrics.value.namespace
              metric_name = metrics.value.metric_name
              dynamic "dimensions" {
                for_each = metrics.value.dimensions
                content {
                  name  = dimensions.key
                  value = dimensions.value
                }
              }
            }
          }
        }
      }

      dynamic "metrics" {
        for_each = local.backlog_expressions
        content {
          id          = metrics.key
          expression  = metrics.value.expression
          label       = metrics.value.label
          return_data = metrics.value.return
        }
      }
    }
  }
}

# Target tracking looks for three minutes before it acts, and takes a short backlog of no task for nothing to do. So the first
# task of an empty service has an alarm of its own.
resource "aws_appautoscaling_policy" "wake" {
  count = var.scale_to_zero ? 1 : 0

  name               = "${var.name}-wake"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  step_scaling_policy_configuration {
    # One more, not exactly one: a late figure must not stop tasks that run.
    adjustment_type         = "ChangeInCapacity"
    cooldown                = 120
    metric_aggregation_type = "Maximum"

    step_adjustment {
      metric_interval_lower_bound = 0
      scaling_adjustment          = 1
    }
  }
}

resource "aws_appautoscaling_policy" "sleep" {
  count = var.scale_to_zero ? 1 : 0

  name               = "${var.name}-sleep"
  policy_type        = "StepScaling"
  service_namespace  = aws_appautoscaling_target.this.service_namespace
  resource_id        = aws_appautoscaling_target.this.resource_id
  scalable_dimension = aws_appautoscaling_target.this.scalable_dimension

  step_scaling_policy_configuration {
    adjustment_type         = "ExactCapacity"
    cooldown                = 120
    metric_aggregation_type = "Maximum"

    step_adjustment {
      metric_interval_upper_bound = 0
      scaling_adjustment          = 0
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "wake" {
  count = var.scale_to_zero ? 1 : 0

  alarm_name          = "${var.name}-scale-from-zero"
  alarm_description   = "Messages wait and no task runs: starts one. No fault."
  comparison_operator = "GreaterThanOrEqualToThreshold"
  threshold           = 1
  evaluation_periods  = 1
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.wake[0].arn]
  tags                = var.tags

  metric_query {
    id          = "asleep"
    expression  = local.wake_expression
    label       = "Messages wait and no task runs"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { visible = local.visible, in_flight = local.in_flight, running = local.running }
    content {
      id          = metric_query.key
      return_data = false
      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric_name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = 60
      }
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "sleep" {
  count = var.scale_to_zero ? 1 : 0

  alarm_name          = "${var.name}-scale-to-zero"
  alarm_description   = "Nothing is visible, in flight or delayed: ends the last task. No fault."
  comparison_operator = "LessThanOrEqualToThreshold"
  threshold           = 0
  evaluation_periods  = var.scale_to_zero_after_minutes
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_appautoscaling_policy.sleep[0].arn]
  tags                = var.tags

  metric_query {
    id = "work"
    # SQS reports what is in flight and what is delayed only while there is any; what is visible, as long as somebody polls.
    expression  = "visible + FILL(in_flight, 0) + FILL(delayed, 0)"
    label       = "Messages in the queue"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { visible = local.visible, in_flight = local.in_flight, delayed = local.delayed }
    content {
      id          = metric_query.key
      return_data = false
      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric_name
        dimensions  = metric_query.value.dimensions
        stat        = metric_query.value.stat
        period      = 60
      }
    }
  }
}
