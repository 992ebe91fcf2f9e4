# Single-region on purpose: in an eventually consistent global table two regions can both win a claim.
resource "aws_dynamodb_table" "this" {
  name                        = var.name
  billing_mode                = "PAY_PER_REQUEST"
  hash_key                    = "pk"
  deletion_protection_enabled = var.deletion_protection

  attribute {
    name = "pk"
    type = "S"
  }

  # Tidies up only. No claim rests on it: each read tests the expiry itself, as DynamoDB deletes late.
  ttl {
    attribute_name = "expires_at"
    enabled        = true
  }

  dynamic "on_demand_throughput" {
    for_each = var.max_read_request_units == null && var.max_write_request_units == null ? [] : [true]
    content {
      # -1 is DynamoDB's word for no cap.
      max_read_request_units  = var.max_read_request_units == null ? -1 : var.max_read_request_units
      max_write_request_units = var.max_write_request_units == null ? -1 : var.max_write_request_units
    }
  }

  point_in_time_recovery {
    enabled = var.point_in_time_recovery
  }

  # Without this block DynamoDB encrypts with a key that it owns.
  dynamic "server_side_encryption" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]
    content {
      enabled     = true
      kms_key_arn = server_side_encryption.value
    }
  }

  tags = var.tags
}
