output "operator_role_arn" {
  description = "The operator's role; null where nobody may take it."
  value       = one([for role in aws_iam_role.this : role.arn if endswith(role.name, "-operator")])
}

output "read_only_role_arn" {
  description = "The read-only role; null where nobody may take it."
  value       = one([for role in aws_iam_role.this : role.arn if endswith(role.name, "-read-only")])
}
