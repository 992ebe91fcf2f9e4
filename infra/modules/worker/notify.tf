locals {
  topic_arn = var.alarm_topic == null ? one(aws_sns_topic.alarms[*].arn) : var.alarm_topic.arn
}

resource "aws_sns_topic" "alarms" {
  count = var.alarm_topic == null ? 1 : 0

  name              = "${var.name}-alarms"
  kms_master_key_id = var.alarm_topic_kms_key_arn
  tags              = var.tags
}

resource "aws_sns_topic_policy" "alarms" {
  count = var.alarm_topic == null ? 1 : 0

  arn = aws_sns_topic.alarms[0].arn

  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      for service in ["cloudwatch", "budgets"] : {
        Sid       = "Allow${title(service)}"
        Effect    = "Allow"
        Principal = { Service = "${service}.amazonaws.com" }
        Action    = "sns:Publish"
        Resource  = aws_sns_topic.alarms[0].arn
        Condition = { StringEquals = { "aws:SourceAccount" = local.account } }
      }
    ]
  })
}

resource "aws_sns_topic_subscription" "emails" {
  for_each = var.alarm_topic == null ? toset(var.alarm_emails) : toset([])

  topic_arn = aws_sns_topic.alarms[0].arn
  protocol  = "email"
  endpoint  = each.key
}

resource "aws_budgets_budget" "this" {
  count = var.budget_monthly_usd == null ? 0 : 1

  name         = "${var.name}-monthly"
  budget_type  = "COST"
  limit_amount = tostring(var.budget_monthly_usd)
  limit_unit   = "USD"
  time_unit    = "MONTHLY"

  dynamic "cost_filter" {
    for_each = var.budget_tag == null ? [] : [var.budget_tag]
    content {
      name   = "TagKeyValue"
      values = [join("$", ["user:${cost_filter.value.key}", cost_filter.value.value])]
    }
  }

  dynamic "notification" {
    for_each = [
      { type = "ACTUAL", percent = 80 },
      { type = "ACTUAL", percent = 100 },
      { type = "FORECASTED", percent = 100 },
    ]
    content {
      comparison_operator = "GREATER_THAN"
      notification_type   = notification.value.type
      threshold           = notification.value.percent
      threshold_type      = "PERCENTAGE"
      # The topic alone: its subscribers would get each notice twice if the budget wrote to them too.
      subscriber_sns_topic_arns = [local.topic_arn]
    }
  }

  tags = var.tags

  # Budgets refuses a topic that it may not publish to.
  depends_on = [aws_sns_topic_policy.alarms]
}
