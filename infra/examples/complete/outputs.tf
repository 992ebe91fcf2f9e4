output "queue_url" {
  description = "Where producers send."
  value       = module.queue.url
}

output "queue_arn" {
  description = "What producers' policies name."
  value       = module.queue.arn
}

output "dlq_name" {
  description = "The dead-letter queue."
  value       = module.queue.dlq_name
}

output "inbox_table" {
  description = "The inbox table, as for REDRIVE_INBOX_TABLE."
  value       = module.inbox.name
}

output "cluster_name" {
  description = "The ECS cluster."
  value       = module.worker.cluster_name
}

output "service_name" {
  description = "The ECS service."
  value       = module.worker.service_name
}

output "log_group_name" {
  description = "The worker's log."
  value       = module.worker.log_group_name
}

output "dashboard_name" {
  description = "The CloudWatch dashboard."
  value       = module.worker.dashboard_name
}

output "alarm_topic_arn" {
  description = "The SNS topic of the alarms."
  value       = module.worker.alarm_topic_arn
}

output "alarm_names" {
  description = "The alarms."
  value       = module.worker.alarm_names
}

output "task_role_name" {
  description = "The worker's role, for policies that handlers need besides."
  value       = module.worker.task_role_name
}

output "operator_role_arn" {
  description = "The role for the command line; null without operator_principals."
  value       = module.operator.operator_role_arn
}

output "read_only_role_arn" {
  description = "The role for looking; null without read_only_principals."
  value       = module.operator.read_only_role_arn
}
