mock_provider "aws" {}

variables {
  name = "orders"
}

run "defaults_are_a_standard_queue_with_a_dead_letter_queue" {
  command = plan

  assert {
    condition     = aws_sqs_queue.source.name == "orders" && aws_sqs_queue.dead_letter.name == "orders-dlq"
    error_message = "names"
  }
  assert {
    condition     = !aws_sqs_queue.source.fifo_queue && !aws_sqs_queue.dead_letter.fifo_queue
    error_message = "neither is FIFO"
  }
  assert {
    condition     = aws_sqs_queue.source.sqs_managed_sse_enabled == true && aws_sqs_queue.dead_letter.sqs_managed_sse_enabled == true
    error_message = "both are encrypted with SQS's own key"
  }
  assert {
    condition     = aws_sqs_queue.source.receive_wait_time_seconds == 20
    error_message = "long polling"
  }
  assert {
    condition     = aws_sqs_queue.source.message_retention_seconds == 345600 && aws_sqs_queue.dead_letter.message_retention_seconds == 1209600
    error_message = "the dead-letter queue keeps letters for longer"
  }
  assert {
    condition     = output.max_receive_count == 15 && output.longest_life_seconds == 1555200
    error_message = "three times the attempts"
  }
}

# Applied to the mock, so that ARNs are known and the policies can be read.
run "the_policies_name_each_other" {
  command = apply

  override_resource {
    target = aws_sqs_queue.source
    values = {
      arn = "arn:aws:sqs:eu-west-1:111122223333:orders"
      url = "https://sqs.eu-west-1.amazonaws.com/111122223333/orders"
    }
  }
  override_resource {
    target = aws_sqs_queue.dead_letter
    values = {
      arn = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq"
      url = "https://sqs.eu-west-1.amazonaws.com/111122223333/orders-dlq"
    }
  }

  variables {
    senders = [{ service = "sns.amazonaws.com", source_arns = ["arn:aws:sns:eu-west-1:111122223333:placed"] }]
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.source.redrive_policy) == { deadLetterTargetArn = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq", maxReceiveCount = 15 }
    error_message = "the redrive policy names the dead-letter queue"
  }
  assert {
    condition = jsondecode(aws_sqs_queue_redrive_allow_policy.dead_letter.redrive_allow_policy) == {
      redrivePermission = "byQueue", sourceQueueArns = ["arn:aws:sqs:eu-west-1:111122223333:orders"]
    }
    error_message = "the dead-letter queue takes letters of this queue only"
  }
  assert {
    condition = alltrue([
      for policy in [aws_sqs_queue_policy.source.policy, aws_sqs_queue_policy.dead_letter.policy] :
      jsondecode(policy).Statement[0].Effect == "Deny" &&
      jsondecode(policy).Statement[0].Action == "sqs:*" &&
      jsondecode(policy).Statement[0].Condition.Bool["aws:SecureTransport"] == "false"
    ])
    error_message = "both queues refuse plain HTTP"
  }
  assert {
    condition = (
      jsondecode(aws_sqs_queue_policy.source.policy).Statement[1].Action == "sqs:SendMessage" &&
      jsondecode(aws_sqs_queue_policy.source.policy).Statement[1].Condition.ArnLike["aws:SourceArn"] == ["arn:aws:sns:eu-west-1:111122223333:placed"]
    )
    error_message = "a service may send for its ARN only"
  }
  assert {
    condition     = length(jsondecode(aws_sqs_queue_policy.dead_letter.policy).Statement) == 1
    error_message = "nobody may send to the dead-letter queue by its policy"
  }
}

run "fifo_makes_both_fifo_and_ten_times_the_attempts" {
  command = plan
  variables {
    fifo = true
  }
  assert {
    condition     = aws_sqs_queue.source.name == "orders.fifo" && aws_sqs_queue.dead_letter.name == "orders-dlq.fifo"
    error_message = "names"
  }
  assert {
    condition     = aws_sqs_queue.source.fifo_queue && aws_sqs_queue.dead_letter.fifo_queue
    error_message = "both are FIFO"
  }
  assert {
    condition     = aws_sqs_queue.source.fifo_throughput_limit == "perQueue" && aws_sqs_queue.source.deduplication_scope == "queue"
    error_message = "no high throughput unless asked for"
  }
  assert {
    condition     = aws_sqs_queue.source.content_based_deduplication == false
    error_message = "no deduplication by content unless asked for"
  }
  assert {
    condition     = output.max_receive_count == 50
    error_message = "ten times the attempts"
  }
}

run "high_throughput_fifo_is_by_group" {
  command = plan
  variables {
    fifo                 = true
    high_throughput_fifo = true
  }
  assert {
    condition     = aws_sqs_queue.source.fifo_throughput_limit == "perMessageGroupId" && aws_sqs_queue.source.deduplication_scope == "messageGroup"
    error_message = "both settings that SQS wants"
  }
}

run "a_customer_key_takes_the_place_of_sqs_own" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/0a1b2c3d"
  }
  assert {
    condition     = aws_sqs_queue.source.kms_master_key_id == var.kms_key_arn && aws_sqs_queue.dead_letter.kms_master_key_id == var.kms_key_arn
    error_message = "both queues use the key"
  }
}

run "both_retentions_may_be_the_longest" {
  command = plan
  variables {
    message_retention_seconds = 1209600
  }
}

run "visibility_below_handler_timeout_is_refused" {
  command = plan
  variables {
    visibility_timeout_seconds = 60
    handler_timeout_seconds    = 90
  }
  expect_failures = [var.visibility_timeout_seconds]
}

run "visibility_of_handler_timeout_is_taken" {
  command = plan
  variables {
    visibility_timeout_seconds = 90
    handler_timeout_seconds    = 90
  }
}

run "dlq_retention_below_source_retention_is_refused" {
  command = plan
  variables {
    message_retention_seconds     = 345600
    dlq_message_retention_seconds = 345599
  }
  expect_failures = [var.dlq_message_retention_seconds]
}

run "dlq_retention_of_source_retention_is_refused" {
  command = plan
  variables {
    message_retention_seconds     = 345600
    dlq_message_retention_seconds = 345600
  }
  expect_failures = [var.dlq_message_retention_seconds]
}

run "receive_count_below_three_times_the_attempts_is_refused" {
  command = plan
  variables {
    max_attempts      = 5
    max_receive_count = 14
  }
  expect_failures = [var.max_receive_count]
}

run "receive_count_of_three_times_the_attempts_is_taken" {
  command = plan
  variables {
    max_attempts      = 4
    max_receive_count = 12
  }
}

run "fifo_receive_count_below_ten_times_the_attempts_is_refused" {
  command = plan
  variables {
    fifo              = true
    max_attempts      = 5
    max_receive_count = 49
  }
  expect_failures = [var.max_receive_count]
}

run "attempts_that_need_too_many_receives_are_refused" {
  command = plan
  variables {
    fifo         = true
    max_attempts = 101
  }
  expect_failures = [var.max_attempts]
}

run "fifo_settings_of_a_standard_queue_are_refused" {
  command = plan
  variables {
    name                        = "orders.fifo"
    high_throughput_fifo        = true
    content_based_deduplication = true
  }
  expect_failures = [var.name, var.high_throughput_fifo, var.content_based_deduplication]
}

run "values_below_their_range_are_refused" {
  command = plan
  variables {
    visibility_timeout_seconds        = 9
    message_retention_seconds         = 59
    max_attempts                      = 0
    delay_seconds                     = -1
    receive_wait_time_seconds         = 0
    max_message_size_bytes            = 1023
    kms_key_arn                       = "alias/orders"
    kms_data_key_reuse_period_seconds = 59
    senders                           = [{ service = "sns.amazonaws.com", source_arns = [] }]
  }
  expect_failures = [
    var.visibility_timeout_seconds, var.message_retention_seconds, var.max_attempts, var.delay_seconds, var.receive_wait_time_seconds,
    var.max_message_size_bytes, var.kms_key_arn, var.kms_data_key_reuse_period_seconds, var.senders,
  ]
}

# A value that is checked against one that is itself refused is not looked at: so these have a run of their own.
run "values_below_their_range_that_others_are_checked_against_are_refused" {
  command = plan
  variables {
    handler_timeout_seconds       = 0
    dlq_message_retention_seconds = 59
    max_receive_count             = 0
  }
  expect_failures = [var.handler_timeout_seconds, var.dlq_message_retention_seconds, var.max_receive_count]
}

run "values_above_their_range_are_refused" {
  command = plan
  variables {
    visibility_timeout_seconds        = 43201
    dlq_message_retention_seconds     = 1209601
    max_receive_count                 = 1001
    delay_seconds                     = 901
    receive_wait_time_seconds         = 21
    max_message_size_bytes            = 262145
    kms_data_key_reuse_period_seconds = 86401
  }
  expect_failures = [
    var.visibility_timeout_seconds, var.dlq_message_retention_seconds, var.max_receive_count, var.delay_seconds,
    var.receive_wait_time_seconds, var.max_message_size_bytes, var.kms_data_key_reuse_period_seconds,
  ]
}

run "more_values_above_their_range_are_refused" {
  command = plan
  variables {
    message_retention_seconds = 1209601
    handler_timeout_seconds   = 604801
  }
  expect_failures = [var.message_retention_seconds, var.handler_timeout_seconds]
}
