data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  actions = jsondecode(file("${path.module}/actions.json"))

  # What each role may do, statement by statement: actions on exactly these resources.
  roles = {
    operator = {
      principals  = var.operator_principals
      description = "The redrive command line: looks at, replays, drops and sends messages of ${var.name}, frees and forgets keys."
      grants = concat(
        local.common_grants.operator,
        var.allow_purge ? [{ sid = "Purge", actions = local.actions.operator.purge, resources = [var.queue.arn, var.queue.dlq_arn], via = null }] : [],
        var.allow_set_up ? [{ sid = "SetUpQueues", actions = local.actions.operator.set_up_queues, resources = [var.queue.arn, var.queue.dlq_arn], via = null }] : [],
        [for inbox in var.allow_set_up && var.inbox != null ? [var.inbox] : [] : { sid = "SetUpInbox", actions = local.actions.operator.set_up_inbox, resources = [inbox.arn], via = null }],
      )
    }
    # To look at a message is to receive it and to give it back, so that this role does that too. It deletes and sends nothing.
    read-only = {
      principals  = var.read_only_principals
      description = "The redrive command line: looks at messages and keys of ${var.name}, and changes nothing."
      grants      = local.common_grants.read_only
    }
  }

  common_grants = {
    for role, actions in { operator = local.actions.operator, read_only = local.actions.read_only } : role => concat(
      [
        { sid = "SourceQueue", actions = actions.source_queue, resources = [var.queue.arn], via = null },
        { sid = "DeadLetterQueue", actions = actions.dead_letter_queue, resources = [var.queue.dlq_arn], via = null },
        # These actions have no resource: IAM takes `*` only.
        { sid = "NoResource", actions = actions.no_resource, resources = ["*"], via = null },
      ],
      [for inbox in var.inbox == null ? [] : [var.inbox] : { sid = "Inbox", actions = actions.inbox, resources = [inbox.arn], via = null }],
      [for key in compact([var.queue.kms_key_arn]) : { sid = "QueuesKey", actions = actions.queues_key, resources = [key], via = "sqs" }],
      [for key in compact([try(var.inbox.kms_key_arn, null)]) : { sid = "InboxKey", actions = actions.inbox_key, resources = [key], via = "dynamodb" }],
    )
  }

  # A role that nobody may take is not made.
  made = { for role, it in local.roles : role => it if length(it.principals) > 0 }
}

resource "aws_iam_role" "this" {
  for_each = local.made

  name                 = "${var.name}-redrive-${each.key}"
  description          = each.value.description
  max_session_duration = var.max_session_seconds

  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [merge(
      {
        Effect    = "Allow"
        Principal = { AWS = each.value.principals }
        Action    = "sts:AssumeRole"
      },
      var.require_mfa ? { Condition = { Bool = { "aws:MultiFactorAuthPresent" = "true" } } } : {},
    )]
  })

  tags = var.tags
}

resource "aws_iam_role_policy" "this" {
  for_each = local.made

  name = "redrive"
  role = aws_iam_role.this[each.key].id

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for grant in each.value.grants : merge(
        {
          Sid      = grant.sid
          Effect   = "Allow"
          Action   = grant.actions
          Resource = grant.resources
        },
        grant.via == null ? {} : {
          Condition = { StringEquals = { "kms:ViaService" = "${grant.via}.${data.aws_region.current.id}.${data.aws_partition.current.dns_suffix}" } }
        },
      )
    ]
  })
}
