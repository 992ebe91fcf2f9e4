locals {
  own_security_group = var.security_group_ids == null
  security_group_ids = local.own_security_group ? aws_security_group.worker[*].id : var.security_group_ids

  interface_services = var.vpc_endpoints == null ? toset([]) : toset(concat(
    ["sqs", "ecr.api", "ecr.dkr", "logs"],
    # Services that decrypt by a key ask KMS themselves: it needs none.
    length(var.secrets) == 0 ? [] : ["secretsmanager", "ssm"],
    # A task asks for its protection from within the VPC.
    var.scale_in_protection == "off" ? [] : ["ecs"],
    var.extra_interface_endpoints,
  ))

  # Layers of images in ECR lie in S3.
  gateway_services = var.vpc_endpoints == null ? toset([]) : toset(["dynamodb", "s3"])
}

# Nothing comes in: a worker asks, and is not asked.
resource "aws_security_group" "worker" {
  count = local.own_security_group ? 1 : 0

  name        = "${var.name}-worker"
  description = "The redrive worker ${var.name}: nothing in, HTTPS out"
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_egress_rule" "https" {
  count = local.own_security_group ? 1 : 0

  security_group_id = aws_security_group.worker[0].id
  description       = "HTTPS, to AWS and to what handlers call"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  tags              = var.tags
}

resource "aws_vpc_security_group_egress_rule" "extra" {
  count = local.own_security_group ? length(var.extra_egress) : 0

  security_group_id = aws_security_group.worker[0].id
  description       = var.extra_egress[count.index].description
  cidr_ipv4         = var.extra_egress[count.index].cidr
  ip_protocol       = "tcp"
  from_port         = var.extra_egress[count.index].port
  to_port           = var.extra_egress[count.index].port
  tags              = var.tags
}

resource "aws_security_group" "endpoints" {
  count = var.vpc_endpoints == null ? 0 : 1

  name        = "${var.name}-endpoints"
  description = "The VPC endpoints of the redrive worker ${var.name}"
  vpc_id      = var.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  count = var.vpc_endpoints == null ? 0 : length(local.security_group_ids)

  security_group_id            = aws_security_group.endpoints[0].id
  description                  = "HTTPS from the worker"
  referenced_security_group_id = local.security_group_ids[count.index]
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
  tags                         = var.tags
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_services

  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = var.subnet_ids
  security_group_ids  = aws_security_group.endpoints[*].id
  private_dns_enabled = true
  tags                = merge(var.tags, { Name = "${var.name}-${each.key}" })
}

resource "aws_vpc_endpoint" "gateway" {
  for_each = local.gateway_services

  vpc_id            = var.vpc_id
  service_name      = "com.amazonaws.${local.region}.${each.key}"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = var.vpc_endpoints.route_table_ids
  tags              = merge(var.tags, { Name = "${var.name}-${each.key}" })
}
