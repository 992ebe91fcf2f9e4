resource "aws_ecs_cluster" "this" {
  count = var.cluster == null ? 1 : 0

  name = var.name

  # Scaling reads the number of running tasks from Container Insights.
  setting {
    name  = "containerInsights"
    value = var.container_insights
  }

  tags = var.tags
}

resource "aws_ecs_cluster_capacity_providers" "this" {
  count = var.cluster == null ? 1 : 0

  cluster_name       = aws_ecs_cluster.this[0].name
  capacity_providers = ["FARGATE", "FARGATE_SPOT"]
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/redrive/${var.name}"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_kms_key_arn
  tags              = var.tags
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = tostring(var.cpu)
  memory                   = tostring(var.memory)
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.cpu_architecture
  }

  container_definitions = jsonencode([merge(
    {
      name      = "worker"
      image     = var.image
      essential = true
      user      = "65532:65532"

      readonlyRootFilesystem = true

      # The worker is process 1 and takes SIGTERM itself: an init in between would add nothing but a process.
      linuxParameters = {
        initProcessEnabled = false
        capabilities       = { drop = ["ALL"] }
      }

      stopTimeout = var.stop_timeout_seconds

      # In the container, so that the image needs neither shell nor curl.
      healthCheck = {
        command     = ["CMD", "/usr/local/bin/redrive", "health"]
        interval    = 15
        timeout     = 5
        retries     = 3
        startPeriod = var.health_grace_seconds
      }

      portMappings = var.health_on_all_interfaces ? [{ containerPort = var.health_port, hostPort = var.health_port, protocol = "tcp" }] : []

      environment = [for name, value in merge({ AWS_REGION = local.region }, var.environment, local.settings) : { name = name, value = value }]
      secrets     = [for name, arn in var.secrets : { name = name, valueFrom = arn }]

      # Non-blocking: where CloudWatch does not take lines, they are dropped, and the worker goes on.
      logConfiguration = {
        logDriver = "awslogs"
        options = {
          awslogs-group         = aws_cloudwatch_log_group.this.name
          awslogs-region        = local.region
          awslogs-stream-prefix = "worker"
          mode                  = "non-blocking"
          max-buffer-size       = "10m"
        }
      }

      mountPoints    = []
      systemControls = []
      volumesFrom    = []
    },
    var.entry_point == null ? {} : { entryPoint = var.entry_point },
    var.command == null ? {} : { command = var.command },
  )])

  tags = var.tags
}

resource "aws_ecs_service" "this" {
  name            = var.name
  cluster         = local.cluster_arn
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = var.min_tasks

  # Always a strategy, without Spot too: between a launch type and a strategy a service cannot be changed, only be made anew.
  # And a strategy changes in place only with a deployment.
  force_new_deployment = true

  capacity_provider_strategy {
    capacity_provider = "FARGATE"
    base              = var.spot ? var.on_demand_base : 0
    weight            = var.spot ? 0 : 1
  }

  dynamic "capacity_provider_strategy" {
    for_each = var.spot ? [true] : []
    content {
      capacity_provider = "FARGATE_SPOT"
      weight            = 1
    }
  }

  # ECS's default evens the zones out by stopping tasks that run, and each drain hands messages back. Every deployment and every
  # scaling spreads tasks over the zones, and tasks of a zone that is lost are started in the others: that is enough.
  availability_zone_rebalancing = "DISABLED"

  deployment_minimum_healthy_percent = var.deployment_minimum_percent
  deployment_maximum_percent         = var.deployment_maximum_percent

  # Tasks that do not become healthy end the deployment, and the one before comes back.
  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = local.security_group_ids
    assign_public_ip = false
  }

  # The image has no shell to run.
  enable_execute_command  = false
  enable_ecs_managed_tags = true
  propagate_tags          = "SERVICE"
  tags                    = var.tags

  # Scaling's, from the first apply on.
  lifecycle {
    ignore_changes = [desired_count]
  }

  # Without its permissions a task fails its preflight, and the first deployment with it.
  depends_on = [
    aws_ecs_cluster_capacity_providers.this,
    aws_iam_role_policy.execution,
    aws_iam_role_policy.task,
    aws_vpc_endpoint.gateway,
    aws_vpc_endpoint.interface,
    aws_vpc_security_group_egress_rule.https,
  ]
}
