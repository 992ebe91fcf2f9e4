mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { id = "eu-west-1", name = "eu-west-1" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws", dns_suffix = "amazonaws.com" }
  }
}

variables {
  name = "orders"
  queue = {
    arn     = "arn:aws:sqs:eu-west-1:111122223333:orders"
    dlq_arn = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq"
  }
  inbox = {
    arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders-inbox"
  }
  operator_principals  = ["arn:aws:iam::111122223333:role/oncall"]
  read_only_principals = ["arn:aws:iam::111122223333:root"]
}

run "each_role_may_do_its_actions_on_exactly_these_resources" {
  command = plan

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.this["operator"].policy).Statement : s.Sid => { actions = s.Action, resources = s.Resource }
      } == {
      SourceQueue     = { actions = local.actions.operator.source_queue, resources = [var.queue.arn] }
      DeadLetterQueue = { actions = local.actions.operator.dead_letter_queue, resources = [var.queue.dlq_arn] }
      NoResource      = { actions = local.actions.operator.no_resource, resources = ["*"] }
      Inbox           = { actions = local.actions.operator.inbox, resources = [var.inbox.arn] }
    }
    error_message = "the operator"
  }
  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.this["read-only"].policy).Statement : s.Sid => { actions = s.Action, resources = s.Resource }
      } == {
      SourceQueue     = { actions = local.actions.read_only.source_queue, resources = [var.queue.arn] }
      DeadLetterQueue = { actions = local.actions.read_only.dead_letter_queue, resources = [var.queue.dlq_arn] }
      NoResource      = { actions = local.actions.read_only.no_resource, resources = ["*"] }
      Inbox           = { actions = local.actions.read_only.inbox, resources = [var.inbox.arn] }
    }
    error_message = "who looks only"
  }
  assert {
    condition = length([
      for action in flatten(values(local.actions.read_only)) : action
      if can(regex(":(Delete|Send|Put|Update|Create|Purge|Start|Cancel|Set|PartiQL)", action))
    ]) == 0
    error_message = "looking deletes, sends and writes nothing"
  }
  assert {
    condition = length([
      for list in [local.actions.operator, local.actions.read_only] : list
      if length(setsubtract(list.no_resource, ["cloudwatch:GetMetricData", "sqs:ListQueues"])) > 0
    ]) == 0
    error_message = "`*` only for actions that have no resource"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["operator"].assume_role_policy).Statement[0].Principal.AWS == ["arn:aws:iam::111122223333:role/oncall"]
    error_message = "only who was named"
  }
}

run "purge_set_up_keys_and_a_second_factor_by_choice" {
  command = plan
  variables {
    allow_purge  = true
    allow_set_up = true
    require_mfa  = true
    queue = {
      arn         = "arn:aws:sqs:eu-west-1:111122223333:orders"
      dlq_arn     = "arn:aws:sqs:eu-west-1:111122223333:orders-dlq"
      kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/queues"
    }
    inbox = {
      arn         = "arn:aws:dynamodb:eu-west-1:111122223333:table/orders-inbox"
      kms_key_arn = "arn:aws:kms:eu-west-1:111122223333:key/inbox"
    }
  }

  assert {
    condition = {
      for s in jsondecode(aws_iam_role_policy.this["operator"].policy).Statement : s.Sid => s.Resource
      if contains(["Purge", "SetUpQueues", "SetUpInbox", "QueuesKey", "InboxKey"], s.Sid)
      } == {
      Purge       = [var.queue.arn, var.queue.dlq_arn]
      SetUpQueues = [var.queue.arn, var.queue.dlq_arn]
      SetUpInbox  = [var.inbox.arn]
      QueuesKey   = [var.queue.kms_key_arn]
      InboxKey    = [var.inbox.kms_key_arn]
    }
    error_message = "each on exactly its resources"
  }
  assert {
    condition     = !strcontains(aws_iam_role_policy.this["read-only"].policy, "Purge") && strcontains(aws_iam_role_policy.this["read-only"].policy, "kms:Decrypt") && !strcontains(aws_iam_role_policy.this["read-only"].policy, "GenerateDataKey")
    error_message = "who looks only reads with the keys"
  }
  assert {
    condition     = jsondecode(aws_iam_role.this["operator"].assume_role_policy).Statement[0].Condition.Bool["aws:MultiFactorAuthPresent"] == "true"
    error_message = "a second factor"
  }
}

run "nobody_named_makes_no_role" {
  command = plan
  variables {
    operator_principals  = []
    read_only_principals = []
    inbox                = null
  }
  assert {
    condition     = length(aws_iam_role.this) == 0 && output.operator_role_arn == null && output.read_only_role_arn == null
    error_message = "no role"
  }
}

run "wrong_values_are_refused" {
  command = plan
  variables {
    name                 = "orders!"
    operator_principals  = ["*"]
    read_only_principals = ["oncall"]
    max_session_seconds  = 3599
  }
  expect_failures = [var.name, var.operator_principals, var.read_only_principals, var.max_session_seconds]
}

run "a_session_over_12_hours_is_refused" {
  command = plan
  variables {
    max_session_seconds = 43201
  }
  expect_failures = [var.max_session_seconds]
}
