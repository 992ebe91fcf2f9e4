mock_provider "aws" {}

run "defaults_are_what_the_worker_expects" {
  command = plan

  assert {
    condition     = aws_dynamodb_table.this.name == "redrive-inbox" && aws_dynamodb_table.this.hash_key == "pk"
    error_message = "name and key"
  }
  assert {
    condition     = [for a in aws_dynamodb_table.this.attribute : "${a.name}:${a.type}"] == ["pk:S"] && aws_dynamodb_table.this.range_key == null
    error_message = "the key is a string, and there is no sort key"
  }
  assert {
    condition     = aws_dynamodb_table.this.ttl[0].enabled && aws_dynamodb_table.this.ttl[0].attribute_name == "expires_at"
    error_message = "time to live on expires_at"
  }
  assert {
    condition     = aws_dynamodb_table.this.billing_mode == "PAY_PER_REQUEST"
    error_message = "on demand"
  }
  assert {
    condition     = aws_dynamodb_table.this.on_demand_throughput[0].max_write_request_units == 4000 && aws_dynamodb_table.this.on_demand_throughput[0].max_read_request_units == -1
    error_message = "writes are capped, reads are not"
  }
  assert {
    condition     = aws_dynamodb_table.this.point_in_time_recovery[0].enabled && aws_dynamodb_table.this.deletion_protection_enabled
    error_message = "point-in-time recovery and deletion protection are on"
  }
}

run "no_cap_at_all" {
  command = plan
  variables {
    max_write_request_units = null
  }
  assert {
    condition     = length(aws_dynamodb_table.this.on_demand_throughput) == 0
    error_message = "no block without caps"
  }
}

run "a_customer_key_encrypts_the_table" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d"
  }
  assert {
    condition     = aws_dynamodb_table.this.server_side_encryption[0].enabled && aws_dynamodb_table.this.server_side_encryption[0].kms_key_arn == var.kms_key_arn
    error_message = "the key"
  }
}

run "a_name_of_two_letters_is_refused" {
  command = plan
  variables {
    name = "ab"
  }
  expect_failures = [var.name]
}

run "a_write_cap_below_one_message_is_refused" {
  command = plan
  variables {
    max_write_request_units = 1
  }
  expect_failures = [var.max_write_request_units]
}

run "a_read_cap_of_zero_is_refused" {
  command = plan
  variables {
    max_read_request_units = 0
  }
  expect_failures = [var.max_read_request_units]
}

run "a_key_by_alias_is_refused" {
  command = plan
  variables {
    kms_key_arn = "alias/inbox"
  }
  expect_failures = [var.kms_key_arn]
}
