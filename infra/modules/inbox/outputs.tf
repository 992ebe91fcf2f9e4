output "name" {
  description = "The table's name."
  value       = aws_dynamodb_table.this.name
}

output "arn" {
  description = "The table's ARN."
  value       = aws_dynamodb_table.this.arn
}

output "kms_key_arn" {
  description = "The KMS key that encrypts the table; null with DynamoDB's own."
  value       = var.kms_key_arn
}
