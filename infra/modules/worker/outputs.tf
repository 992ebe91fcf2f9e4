output "service_name" {
  description = "The ECS service's name."
  value       = aws_ecs_service.this.name
}

output "cluster_name" {
  description = "The ECS cluster's name."
  value       = local.cluster_name
}

output "task_definition_arn" {
  description = "The task definition's ARN."
  value       = aws_ecs_task_definition.this.arn
}

output "task_role_arn" {
  description = "The role of the worker itself, for policies that handlers need besides."
  value       = aws_iam_role.task.arn
}

output "task_role_name" {
  description = "The name of that role."
  value       = aws_iam_role.task.name
}

output "execution_role_arn" {
  description = "The role by which ECS starts tasks."
  value       = aws_iam_role.execution.arn
}

output "security_group_ids" {
  description = "The tasks' security groups, for rules of what they may reach."
  value       = local.security_group_ids
}

output "log_group_name" {
  description = "The log group."
  value       = aws_cloudwatch_log_group.this.name
}

output "alarm_topic_arn" {
  description = "The SNS topic of all alarms and the budget."
  value       = local.topic_arn
}

output "alarm_names" {
  description = "The names of all alarms that notify."
  value       = sort(concat([for alarm in aws_cloudwatch_metric_alarm.metric : alarm.alarm_name], [for alarm in aws_cloudwatch_metric_alarm.math : alarm.alarm_name]))
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = aws_cloudwatch_dashboard.this.dashboard_name
}

output "backlog_per_task" {
  description = "The backlog per task that scaling aims at: acceptable_delay_seconds / mean_handler_seconds * concurrency."
  value       = local.backlog_per_task
}
