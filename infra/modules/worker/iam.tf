locals {
  # Who may take the roles: ECS, for tasks of this account and region.
  trust = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "ecs-tasks.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${data.aws_partition.current.partition}:ecs:${local.region}:${local.account}:*" }
      }
    }]
  })

  dns_suffix = data.aws_partition.current.dns_suffix

  inbox_statements = [
    for inbox in var.inbox == null ? [] : [var.inbox] : {
      Sid      = "Inbox"
      Effect   = "Allow"
      Action   = local.actions.inbox
      Resource = inbox.arn
    }
  ]

  # Keys only by way of the service whose data they encrypt.
  key_statements = concat(
    [
      for key in compact([var.queue.kms_key_arn]) : {
        Sid       = "QueuesKey"
        Effect    = "Allow"
        Action    = local.actions.queues_key
        Resource  = key
        Condition = { StringEquals = { "kms:ViaService" = "sqs.${local.region}.${local.dns_suffix}" } }
      }
    ],
    [
      for key in compact([try(var.inbox.kms_key_arn, null)]) : {
        Sid       = "InboxKey"
        Effect    = "Allow"
        Action    = local.actions.inbox_key
        Resource  = key
        Condition = { StringEquals = { "kms:ViaService" = "dynamodb.${local.region}.${local.dns_suffix}" } }
      }
    ],
  )

  # A task's ARN names its cluster and not its service: IAM knows no finer resource.
  protection_statements = var.scale_in_protection == "off" ? [] : [{
    Sid      = "TaskProtection"
    Effect   = "Allow"
    Action   = local.actions.task_protection
    Resource = "arn:${data.aws_partition.current.partition}:ecs:${local.region}:${local.account}:task/${local.cluster_name}/*"
  }]

  task_statements = concat(
    [
      {
        Sid      = "SourceQueue"
        Effect   = "Allow"
        Action   = local.actions.source_queue
        Resource = var.queue.arn
      },
      {
        Sid      = "DeadLetterQueue"
        Effect   = "Allow"
        Action   = local.actions.dead_letter_queue
        Resource = var.queue.dlq_arn
      },
    ],
    local.inbox_statements,
    local.key_statements,
    local.protection_statements,
  )

  ecr = try(regex("^(?P<account>[0-9]{12})\\.dkr\\.ecr(?:-fips)?\\.(?P<region>[a-z0-9-]+)\\.[a-z.]+/(?P<repository>[^:@]+)", var.image), null)

  image_statements = local.ecr == null ? [] : [
    {
      Sid    = "ImageLogin"
      Effect = "Allow"
      Action = ["ecr:GetAuthorizationToken"]
      # This action has no resource.
      Resource = "*"
    },
    {
      Sid      = "Image"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = "arn:${data.aws_partition.current.partition}:ecr:${local.ecr.region}:${local.ecr.account}:repository/${local.ecr.repository}"
    },
  ]

  # A secret's ARN may be followed by a JSON key, a version and a stage, which are no part of the resource.
  secret_arns    = distinct([for arn in values(var.secrets) : join(":", slice(split(":", arn), 0, 7)) if can(regex(":secretsmanager:", arn))])
  parameter_arns = distinct([for arn in values(var.secrets) : arn if can(regex(":ssm:", arn))])

  secret_statements = concat(
    length(local.secret_arns) == 0 ? [] : [{
      Sid      = "Secrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:GetSecretValue"]
      Resource = local.secret_arns
    }],
    length(local.parameter_arns) == 0 ? [] : [{
      Sid      = "Parameters"
      Effect   = "Allow"
      Action   = ["ssm:GetParameters"]
      Resource = local.parameter_arns
    }],
    length(var.secrets_kms_key_arns) == 0 ? [] : [{
      Sid      = "SecretsKeys"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = var.secrets_kms_key_arns
    }],
  )

  execution_statements = concat(
    [{
      Sid      = "Logs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = "${aws_cloudwatch_log_group.this.arn}:*"
    }],
    local.image_statements,
    local.secret_statements,
  )
}

# What the worker itself may do.
resource "aws_iam_role" "task" {
  name               = "${var.name}-worker-task"
  description        = "The redrive worker ${var.name}: its queues and its inbox."
  assume_role_policy = local.trust
  tags               = var.tags
}

resource "aws_iam_role_policy" "task" {
  name   = "worker"
  role   = aws_iam_role.task.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.task_statements })
}

# What ECS may do to start it: pull the image, read the secrets, write the log.
resource "aws_iam_role" "execution" {
  name               = "${var.name}-worker-execution"
  description        = "Starts the redrive worker ${var.name}."
  assume_role_policy = local.trust
  tags               = var.tags
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.id
  policy = jsonencode({ Version = "2012-10-17", Statement = local.execution_statements })
}
