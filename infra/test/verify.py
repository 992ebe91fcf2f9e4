"""Checks what the complete example made, as the emulator tells it: one line a check, their count at the end.

    verify.py EXAMPLE_FOLDER OUTPUTS_JSON [--scaled-to-zero]

What is expected stands here, in what the project promises. Only the roles' actions are read from the modules' files, which the
crate's own tests compare with the calls that it makes.
"""

import json
import sys
from pathlib import Path

import arithmetic
import boto3
from checks import Checks

ACCOUNT = "123456789012"
REGION = "eu-west-1"
NAME = "orders"
DAY = 86_400

example = Path(sys.argv[1])
outputs = {name: output["value"] for name, output in json.loads(Path(sys.argv[2]).read_text()).items()}
scaled_to_zero = "--scaled-to-zero" in sys.argv[3:]

check = Checks()
SOURCE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{NAME}"
DEAD = f"{SOURCE}-dlq"
TABLE = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{NAME}-inbox"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:{NAME}-alarms"


def client(service):
    return boto3.client(service, region_name=REGION)


def actions(module):
    return json.loads((example / f"../../modules/{module}/actions.json").read_text())


def queues():
    sqs = client("sqs")

    def attributes(name):
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        return sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]

    source, dead = attributes(NAME), attributes(f"{NAME}-dlq")
    redrive = json.loads(source["RedrivePolicy"])
    check.equal("queue: the redrive policy names the dead-letter queue", redrive["deadLetterTargetArn"], DEAD)
    check.equal("queue: a message is received 3 times as often as the worker attempts it (5)", redrive["maxReceiveCount"], 15)
    check.equal(
        "dead-letter queue: the redrive allow policy admits this queue only",
        json.loads(dead.get("RedriveAllowPolicy", "{}")),
        {"redrivePermission": "byQueue", "sourceQueueArns": [SOURCE]},
    )
    check.that("dead-letter queue: no redrive policy of its own", "RedrivePolicy" not in dead)
    check.equal("dead-letter queue: keeps messages for 14 days", int(dead["MessageRetentionPeriod"]), 14 * DAY)
    check.that(
        "dead-letter queue: keeps messages longer than the queue",
        int(dead["MessageRetentionPeriod"]) > int(source["MessageRetentionPeriod"]),
    )
    check.equal("queue: visible again after 60 s, the handler's 30 s and as much again", int(source["VisibilityTimeout"]), 60)
    check.equal("queue: long polls of 20 s", int(source["ReceiveMessageWaitTimeSeconds"]), 20)
    for what, arn, queue in (("queue", SOURCE, source), ("dead-letter queue", DEAD, dead)):
        check.equal(f"{what}: encrypted", queue["SqsManagedSseEnabled"], "true")
        check.equal(
            f"{what}: refuses what does not come over TLS, whoever asks",
            json.loads(queue.get("Policy", "{}")).get("Statement"),
            [
                {
                    "Sid": "TlsOnly",
                    "Effect": "Deny",
                    "Principal": "*",
                    "Action": "sqs:*",
                    "Resource": arn,
                    "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                }
            ],
        )
    check.equal("output: where producers send", outputs["queue_url"].rsplit("/", 1)[-1], NAME)


def inbox():
    dynamodb = client("dynamodb")
    table = dynamodb.describe_table(TableName=f"{NAME}-inbox")["Table"]
    check.equal("inbox: one key, `pk`", table["KeySchema"], [{"AttributeName": "pk", "KeyType": "HASH"}])
    check.equal("inbox: the key is text", table["AttributeDefinitions"], [{"AttributeName": "pk", "AttributeType": "S"}])
    check.equal("inbox: billed on demand", table["BillingModeSummary"]["BillingMode"], "PAY_PER_REQUEST")
    check.equal("inbox: writes are capped", table.get("OnDemandThroughput", {}).get("MaxWriteRequestUnits"), 2000)
    ttl = dynamodb.describe_time_to_live(TableName=f"{NAME}-inbox")["TimeToLiveDescription"]
    check.equal("inbox: time to live", (ttl["TimeToLiveStatus"], ttl.get("AttributeName")), ("ENABLED", "expires_at"))
    backups = dynamodb.describe_continuous_backups(TableName=f"{NAME}-inbox")["ContinuousBackupsDescription"]
    recovery = backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"]
    check.equal("inbox: point-in-time recovery", recovery, "ENABLED")
    if scaled_to_zero:
        check.equal("inbox: no longer protected from deletion", table["DeletionProtectionEnabled"], False)
        return
    check.equal("inbox: protected from deletion", table["DeletionProtectionEnabled"], True)
    refused = None
    try:
        dynamodb.delete_table(TableName=f"{NAME}-inbox")
    except dynamodb.exceptions.ClientError as error:
        refused = error.response["Error"]["Code"]
    check.equal("inbox: cannot be deleted as it is", refused, "ValidationException")


def worker():
    ecs = client("ecs")
    cluster = ecs.describe_clusters(clusters=[NAME], include=["SETTINGS"])["clusters"][0]
    insights = {setting["name"]: setting["value"] for setting in cluster["settings"]}
    check.equal("cluster: Container Insights count the tasks", insights.get("containerInsights"), "enabled")
    check.equal("cluster: Fargate and Fargate Spot", sorted(cluster["capacityProviders"]), ["FARGATE", "FARGATE_SPOT"])

    service = ecs.describe_services(cluster=NAME, services=[NAME])["services"][0]
    deployment = service["deploymentConfiguration"]
    breaker = deployment.get("deploymentCircuitBreaker")
    check.equal("service: a deployment that fails is rolled back", breaker, {"enable": True, "rollback": True})
    percent = (deployment["minimumHealthyPercent"], deployment["maximumPercent"])
    check.equal("service: a deployment starts new tasks first", percent, (100, 200))
    check.equal("service: two tasks to begin with", service["desiredCount"], 2)
    spot = [(s["capacityProvider"], s.get("base", 0), s.get("weight", 0)) for s in service.get("capacityProviderStrategy", [])]
    if scaled_to_zero:
        check.equal("service: all but one on Spot", sorted(spot), [("FARGATE", 1, 0), ("FARGATE_SPOT", 0, 1)])
    else:
        check.equal("service: all on Fargate", spot, [("FARGATE", 0, 1)])
    check.equal("service: zones are not evened out by stopping tasks", service.get("availabilityZoneRebalancing", "DISABLED"), "DISABLED")

    ec2 = client("ec2")
    network = service["networkConfiguration"]["awsvpcConfiguration"]
    check.equal("network: tasks have no public address", network["assignPublicIp"], "DISABLED")
    subnets = ec2.describe_subnets(SubnetIds=network["subnets"])["Subnets"]
    check.equal("network: two subnets, in two zones", len({subnet["AvailabilityZone"] for subnet in subnets}), 2)
    vpc = {"Name": "vpc-id", "Values": [subnets[0]["VpcId"]]}
    tables = ec2.describe_route_tables(Filters=[vpc])["RouteTables"]
    ways = [route.get("GatewayId", "?") for table in tables for route in table["Routes"]]
    check.that("network: no way to the internet", all(way == "local" or way.startswith("vpce-") for way in ways))
    groups = ec2.describe_security_groups(GroupIds=network["securityGroups"])["SecurityGroups"]
    rules = [(rule["IpProtocol"], rule.get("ToPort")) for group in groups for rule in group["IpPermissionsEgress"]]
    check.equal("network: HTTPS out, nothing else", rules, [("tcp", 443)])
    check.equal("network: nothing in", [rule for group in groups for rule in group["IpPermissions"]], [])
    default = ec2.describe_security_groups(Filters=[vpc, {"Name": "group-name", "Values": ["default"]}])["SecurityGroups"][0]
    check.equal("network: the default group admits nothing", default["IpPermissions"] + default["IpPermissionsEgress"], [])
    endpoints = ec2.describe_vpc_endpoints(Filters=[vpc])["VpcEndpoints"]
    check.equal(
        "network: endpoints for all that a task calls",
        sorted(endpoint["ServiceName"].removeprefix(f"com.amazonaws.{REGION}.") for endpoint in endpoints),
        ["dynamodb", "ecr.api", "ecr.dkr", "logs", "s3", "sqs"],
    )

    task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    check.equal("task: Fargate, its own address", (task["requiresCompatibilities"], task["networkMode"]), (["FARGATE"], "awsvpc"))
    roles = (task["taskRoleArn"].rsplit("/", 1)[-1], task["executionRoleArn"].rsplit("/", 1)[-1])
    check.equal("task: a role for the worker, another to start it", roles, ("orders-worker-task", "orders-worker-execution"))
    check.equal("task: one container", len(task["containerDefinitions"]), 1)
    container = task["containerDefinitions"][0]
    check.equal("container: has 120 s to stop, the most that Fargate gives", container["stopTimeout"], 120)
    check.equal("container: its root is read-only", container["readonlyRootFilesystem"], True)
    check.equal("container: not root", container["user"], "65532:65532")
    check.equal("container: no capabilities", container["linuxParameters"]["capabilities"]["drop"], ["ALL"])
    check.that("container: not privileged", not container.get("privileged"))
    check.equal(
        "container: healthy as the worker's own endpoint says",
        container["healthCheck"]["command"],
        ["CMD", "/usr/local/bin/redrive", "health"],
    )
    # As lists, ECS starts the program itself: no shell stands between it and SIGTERM.
    started = (container.get("entryPoint"), container.get("command"))
    check.equal("container: started without a shell, so that SIGTERM arrives", started, (["/usr/local/bin/orders"], ["work"]))
    environment = {variable["name"]: variable["value"] for variable in container["environment"]}
    for name, value in {
        "AWS_REGION": REGION,
        "ORDERS_QUEUE": NAME,
        "ORDERS_TABLE": f"{NAME}-inbox",
        "REDRIVE_CONCURRENCY": "16",
        "REDRIVE_EMF": "redrive",
        "REDRIVE_HEALTH": "127.0.0.1:8080",
        "REDRIVE_HANDLER_TIMEOUT": "30s",
        "REDRIVE_INBOX_TABLE": f"{NAME}-inbox",
        "REDRIVE_MAX_ATTEMPTS": "5",
        "REDRIVE_SCALE_IN_PROTECTION": "off",
        "REDRIVE_SERVICE": NAME,
    }.items():
        check.equal(f"container: {name}", environment.get(name), value)
    deadline = environment.get("REDRIVE_DRAIN_DEADLINE", "")
    check.equal("container: REDRIVE_DRAIN_DEADLINE, below the time to stop", deadline, "110s")
    check.that("container: no secret among the variables", not any("SECRET" in name or "KEY" in name for name in environment))
    log = container["logConfiguration"]
    check.equal("container: logs to CloudWatch", (log["logDriver"], log["options"]["awslogs-group"]), ("awslogs", f"/redrive/{NAME}"))
    check.equal("container: a log that does not take lines holds no worker up", log["options"].get("mode"), "non-blocking")
    group = client("logs").describe_log_groups(logGroupNamePrefix=f"/redrive/{NAME}")["logGroups"][0]
    check.equal("log: kept for 30 days", group.get("retentionInDays"), 30)


def roles():
    iam = client("iam")

    def statements(role, policy):
        check.equal(f"role {role}: one policy, no other", iam.list_role_policies(RoleName=role)["PolicyNames"], [policy])
        attached = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        check.equal(f"role {role}: none of AWS's own policies", attached, [])
        document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
        return [
            (statement["Effect"], sorted(listed(statement["Action"])), sorted(listed(statement["Resource"])), statement.get("Condition"))
            for statement in document["Statement"]
        ]

    def allowed(granted, *resources):
        return ("Allow", sorted(granted), sorted(resources), None)

    worker = actions("worker")
    check.equal(
        "role orders-worker-task: the worker's actions, on its queues and its table only",
        sorted(statements("orders-worker-task", "worker"), key=repr),
        sorted(
            [
                allowed(worker["source_queue"], SOURCE),
                allowed(worker["dead_letter_queue"], DEAD),
                allowed(worker["inbox"], TABLE),
            ],
            key=repr,
        ),
    )
    group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/redrive/{NAME}:*"
    image = "arn:aws:ecr:eu-west-1:111122223333:repository/orders"
    check.equal(
        "role orders-worker-execution: its log, its image and the registry's login",
        sorted(statements("orders-worker-execution", "execution"), key=repr),
        sorted(
            [
                allowed(["logs:CreateLogStream", "logs:PutLogEvents"], group),
                allowed(["ecr:GetAuthorizationToken"], "*"),
                allowed(["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], image),
            ],
            key=repr,
        ),
    )
    for role, part, who in (
        ("orders-redrive-operator", "operator", f"arn:aws:iam::{ACCOUNT}:role/oncall"),
        ("orders-redrive-read-only", "read_only", f"arn:aws:iam::{ACCOUNT}:root"),
    ):
        granted = actions("operator")[part]
        check.equal(
            f"role {role}: its actions, on these queues and this table only",
            sorted(statements(role, "redrive"), key=repr),
            sorted(
                [
                    allowed(granted["source_queue"], SOURCE),
                    allowed(granted["dead_letter_queue"], DEAD),
                    allowed(granted["no_resource"], "*"),
                    allowed(granted["inbox"], TABLE),
                ],
                key=repr,
            ),
        )
        trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
        check.equal(f"role {role}: for whom it is", [listed(one["Principal"]["AWS"]) for one in trust], [[who]])
    for role in ("orders-worker-task", "orders-worker-execution"):
        trust = iam.get_role(RoleName=role)["Role"]["AssumeRolePolicyDocument"]["Statement"]
        check.equal(
            f"role {role}: taken by ECS, for this account only",
            [(one["Principal"], one.get("Condition", {}).get("StringEquals")) for one in trust],
            [({"Service": "ecs-tasks.amazonaws.com"}, {"aws:SourceAccount": ACCOUNT})],
        )
    every = [role["RoleName"] for role in iam.list_roles()["Roles"] if not role["Path"].startswith("/aws-service-role/")]
    check.equal("roles: no others", len(every), 4)


def listed(value):
    return value if isinstance(value, list) else [value]


def scaling():
    autoscaling = client("application-autoscaling")
    targets = autoscaling.describe_scalable_targets(ServiceNamespace="ecs")["ScalableTargets"]
    bounds = [(one["ResourceId"], one["MinCapacity"], one["MaxCapacity"]) for one in targets]
    fewest = 0 if scaled_to_zero else 2
    check.equal(f"scaling: {fewest} to 10 tasks, never more", bounds, [(f"service/{NAME}/{NAME}", fewest, 10)])

    policies = {one["PolicyName"]: one for one in autoscaling.describe_scaling_policies(ServiceNamespace="ecs")["ScalingPolicies"]}
    expected = {f"{NAME}-backlog-per-task"} | ({f"{NAME}-wake", f"{NAME}-sleep"} if scaled_to_zero else set())
    check.equal("scaling: its policies", set(policies), expected)
    policy = policies[f"{NAME}-backlog-per-task"]
    check.equal("scaling: tracks a target", policy["PolicyType"], "TargetTrackingScaling")
    tracked = policy["TargetTrackingScalingPolicyConfiguration"]
    # 60 s of delay, handlers of 0.5 s, 16 at a time.
    check.equal("scaling: 1920 messages a task, as 60 s / 0.5 s * 16", tracked["TargetValue"], 1920)
    cooldowns = (tracked["ScaleOutCooldown"], tracked["ScaleInCooldown"])
    check.that(f"scaling: out fast, in slowly ({cooldowns[0]} s, {cooldowns[1]} s)", cooldowns[0] <= 60 and cooldowns[1] >= 300)
    check.equal("scaling: in, too", tracked.get("DisableScaleIn", False), False)
    metrics = tracked["CustomizedMetricSpecification"]["Metrics"]
    asked = {one["Id"]: one["MetricStat"]["Metric"] for one in metrics if "MetricStat" in one}
    visible = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": NAME})
    running = ("ECS/ContainerInsights", "RunningTaskCount", {"ClusterName": NAME, "ServiceName": NAME})
    check.equal("scaling: counts the visible messages", named(asked["visible"]), visible)
    check.equal("scaling: counts the running tasks", named(asked["running"]), running)
    formulas = {one["Id"]: one["Expression"] for one in metrics if "Expression" in one}
    answers = [one["Id"] for one in metrics if one.get("ReturnData", True)]
    check.equal("scaling: one figure is tracked", len(answers), 1)
    backlog = lambda **figures: arithmetic.result(formulas, answers[0], {"in_flight": None, **figures})
    check.equal("scaling: 4000 messages and 4 tasks are 1000 each", backlog(visible=4000, running=4), 1000)
    check.equal("scaling: at zero tasks the whole backlog is one task's", backlog(visible=4000, running=0), 4000)
    check.equal("scaling: so it is before Container Insights says a word", backlog(visible=4000, running=None), 4000)
    check.that("scaling: an empty queue is next to no backlog", backlog(visible=0, running=4) < 1)

    if scaled_to_zero:
        alarms = {alarm["AlarmName"]: alarm for alarm in client("cloudwatch").describe_alarms()["MetricAlarms"]}
        wake, sleep = alarms[f"{NAME}-scale-from-zero"], alarms[f"{NAME}-scale-to-zero"]
        check.equal("scale to zero: an alarm wakes the service", wake["AlarmActions"], [policies[f"{NAME}-wake"]["PolicyARN"]])
        check.equal("scale to zero: an alarm ends its last task", sleep["AlarmActions"], [policies[f"{NAME}-sleep"]["PolicyARN"]])
        rings = lambda alarm, **figures: arithmetic.rings(alarm, figures)
        check.that("scale to zero: a message and no task wake it", rings(wake, visible=1, in_flight=None, running=0))
        check.that("scale to zero: so they do where no task ever ran", rings(wake, visible=1, in_flight=None, running=None))
        check.that("scale to zero: a running task does not", not rings(wake, visible=1, in_flight=None, running=1))
        check.that("scale to zero: nor one that holds messages and is not counted yet", not rings(wake, visible=1, in_flight=1, running=None))
        check.that("scale to zero: an empty queue does not", not rings(wake, visible=0, in_flight=None, running=0))
        check.that("scale to zero: nothing left ends it", rings(sleep, visible=0, in_flight=0, delayed=0))
        check.that("scale to zero: a message in flight does not", not rings(sleep, visible=0, in_flight=1, delayed=0))
        check.that("scale to zero: a delayed message does not", not rings(sleep, visible=0, in_flight=0, delayed=1))
        check.that("scale to zero: target tracking never takes the last task", backlog(visible=0, running=1) > 0)
        check.equal("scale to zero: messages in flight count as work", backlog(visible=1, in_flight=7, running=2), 4)
        check.equal("scale to zero: after 15 minutes of nothing", (sleep["EvaluationPeriods"], {one["MetricStat"]["Period"] for one in sleep["Metrics"] if "MetricStat" in one}), (15, {60}))
        one_more = policies[f"{NAME}-wake"]["StepScalingPolicyConfiguration"]
        step = (one_more["AdjustmentType"], [one["ScalingAdjustment"] for one in one_more["StepAdjustments"]])
        check.equal("scale to zero: by one task", step, ("ChangeInCapacity", [1]))


def named(metric):
    return metric["Namespace"], metric["MetricName"], {one["Name"]: one["Value"] for one in metric.get("Dimensions", [])}


def alarms():
    cloudwatch = client("cloudwatch")
    every = {alarm["AlarmName"]: alarm for alarm in cloudwatch.describe_alarms()["MetricAlarms"]}
    # Target tracking keeps alarms of its own, and scaling to zero two that are no fault.
    ours = {
        name.removeprefix(f"{NAME}-"): alarm
        for name, alarm in every.items()
        if not name.startswith("TargetTracking-") and name not in (f"{NAME}-scale-from-zero", f"{NAME}-scale-to-zero")
    }
    promised = {
        "dlq-not-empty": {"ApproximateNumberOfMessagesVisible"},
        "oldest-message": {"ApproximateAgeOfOldestMessage"},
        "backlog-per-task": {"ApproximateNumberOfMessagesVisible", "RunningTaskCount"}
        | ({"ApproximateNumberOfMessagesNotVisible"} if scaled_to_zero else set()),
        "in-flight-near-limit": {"ApproximateNumberOfMessagesNotVisible"},
        "inbox-throttled": {"ReadThrottleEvents", "WriteThrottleEvents"},
        "breaker-open": {"redrive_breaker_state"},
        "lost-leases": {"redrive_lost_leases"},
        "duplicate-rate": {"redrive_duplicate_messages", "messaging_client_consumed_messages"},
        "handler-errors": {"redrive_retries", "redrive_dead_letters", "messaging_process_duration"},
        "handler-latency": {"messaging_process_duration"},
        "running-below-desired": {"RunningTaskCount", "DesiredTaskCount"},
    }
    check.equal("alarms: all that are promised, and no others", set(ours), set(promised))
    dimensions = {
        "AWS/SQS": [{"QueueName": NAME}, {"QueueName": f"{NAME}-dlq"}],
        "AWS/DynamoDB": [{"TableName": f"{NAME}-inbox"}],
        "ECS/ContainerInsights": [{"ClusterName": NAME, "ServiceName": NAME}],
        "redrive": [{"service": NAME}],
    }
    for name, metrics in sorted(promised.items()):
        alarm = ours.get(name)
        if alarm is None:
            continue
        used = [named(metric) for metric in arithmetic.metrics(alarm)]
        check.equal(f"alarm {name}: watches {', '.join(sorted(metrics))}", {metric for _, metric, _ in used}, metrics)
        check.that(f"alarm {name}: of this service", all(at in dimensions.get(space, []) for space, _, at in used))
        said = (alarm["AlarmActions"], alarm["OKActions"], alarm["ActionsEnabled"])
        check.equal(f"alarm {name}: tells the topic, and when it is over", said, ([TOPIC], [TOPIC], True))
        check.that(f"alarm {name}: says what to do", len(alarm.get("AlarmDescription", "")) > 40)
    queue_of = lambda name: {at["QueueName"] for _, _, at in map(named, arithmetic.metrics(ours[name]))}
    check.equal("alarm dlq-not-empty: of the dead-letter queue", queue_of("dlq-not-empty"), {f"{NAME}-dlq"})
    check.equal("alarm oldest-message: of the queue", queue_of("oldest-message"), {NAME})

    rings = lambda name, **figures: arithmetic.rings(ours[name], {"in_flight": None, **figures})
    for name, told, figures, expected in (
        ("dlq-not-empty", "one dead letter rings", {"value": 1}, True),
        ("dlq-not-empty", "none does not", {"value": 0}, False),
        ("breaker-open", "open (2) rings", {"value": 2}, True),
        ("breaker-open", "half open (1) does not", {"value": 1}, False),
        ("in-flight-near-limit", "110,000 of 120,000 ring", {"value": 110_000}, True),
        ("in-flight-near-limit", "10,000 do not", {"value": 10_000}, False),
        ("lost-leases", "one rings", {"value": 1}, True),
        ("backlog-per-task", "60,000 messages on 10 tasks ring", {"visible": 60_000, "running": 10}, True),
        ("backlog-per-task", "1,920 a task, where scaling is at rest, do not", {"visible": 19_200, "running": 10}, False),
        ("running-below-desired", "1 of 2 rings", {"running": 1, "desired": 2}, True),
        ("running-below-desired", "2 of 2 do not", {"running": 2, "desired": 2}, False),
        ("inbox-throttled", "one throttled write rings", {"reads": None, "writes": 1}, True),
        ("inbox-throttled", "no word does not", {"reads": None, "writes": None}, False),
        ("duplicate-rate", "50 of 100 ring", {"consumed": 100, "duplicates": 50}, True),
        ("duplicate-rate", "1 of 100 does not", {"consumed": 100, "duplicates": 1}, False),
        ("duplicate-rate", "2 of 2 do not: too few to tell", {"consumed": 2, "duplicates": 2}, False),
        ("duplicate-rate", "no word does not", {"consumed": None, "duplicates": None}, False),
        ("handler-errors", "50 of 100 ring", {"runs": 100, "retries": 50, "dead_lettered": None}, True),
        ("handler-errors", "50 of 100 without another attempt ring", {"runs": 100, "retries": None, "dead_lettered": 50}, True),
        ("handler-errors", "1 of 100 does not", {"runs": 100, "retries": 1, "dead_lettered": 0}, False),
        ("handler-errors", "no word does not", {"runs": None, "retries": None, "dead_lettered": None}, False),
    ):
        check.equal(f"alarm {name}: {told}", rings(name, **figures), expected)

    silent = {name: alarm.get("TreatMissingData", "missing") for name, alarm in ours.items()}
    gone = "notBreaching" if scaled_to_zero else "breaching"
    check.equal("alarm running-below-desired: what silence means", silent["running-below-desired"], gone)
    check.that(
        "alarms: of all others silence is no fault",
        all(means == "notBreaching" for name, means in silent.items() if name != "running-below-desired"),
    )
    check.equal("output: the alarms' names", sorted(outputs["alarm_names"]), sorted(f"{NAME}-{name}" for name in promised))

    sns = client("sns")
    topic = sns.get_topic_attributes(TopicArn=TOPIC)["Attributes"]
    admitted = {(one["Principal"]["Service"], one["Resource"], one["Condition"]["StringEquals"]["aws:SourceAccount"]) for one in json.loads(topic["Policy"])["Statement"]}
    check.equal(
        "topic: alarms and budgets of this account may publish",
        admitted,
        {(f"{service}.amazonaws.com", TOPIC, ACCOUNT) for service in ("cloudwatch", "budgets")},
    )
    told = [(one["Protocol"], one["Endpoint"]) for one in sns.list_subscriptions_by_topic(TopicArn=TOPIC)["Subscriptions"]]
    check.equal("topic: who is told", told, [("email", "oncall@example.com")])


def dashboard():
    cloudwatch = client("cloudwatch")
    body = json.loads(cloudwatch.get_dashboard(DashboardName=f"{NAME}-worker")["DashboardBody"])
    lines = [line for widget in body["widgets"] for line in widget["properties"]["metrics"]]
    # Namespace, name, then names and values of dimensions, then how it is drawn.
    drawn = {(line[0], line[1], tuple(sorted(zip(line[2:-1:2], line[3:-1:2])))) for line in lines if isinstance(line[0], str)}
    watched = {
        (space, metric, tuple(sorted(at.items())))
        for alarm in cloudwatch.describe_alarms()["MetricAlarms"]
        if not alarm["AlarmName"].startswith("TargetTracking-")
        for space, metric, at in map(named, arithmetic.metrics(alarm))
    }
    check.equal("dashboard: every figure that an alarm watches", watched - drawn, set())
    check.that("dashboard: every widget is of this region", all(one["properties"]["region"] == REGION for one in body["widgets"]))
    places = [(one["x"], one["y"]) for one in body["widgets"]]
    check.equal("dashboard: no widget lies over another", len(set(places)), len(places))


def budget():
    budgets = boto3.client("budgets", region_name="us-east-1")
    made = budgets.describe_budgets(AccountId=ACCOUNT)["Budgets"]
    check.equal("budget: one", [one["BudgetName"] for one in made], [f"{NAME}-monthly"])
    limit = (made[0]["TimeUnit"], made[0]["BudgetType"], float(made[0]["BudgetLimit"]["Amount"]), made[0]["BudgetLimit"]["Unit"])
    check.equal("budget: 100 USD a month", limit, ("MONTHLY", "COST", 100.0, "USD"))
    check.that("budget: of the whole account, as a tag counts nothing before it is activated", not made[0].get("CostFilters"))
    asked = {"AccountId": ACCOUNT, "BudgetName": f"{NAME}-monthly"}
    notifications = budgets.describe_notifications_for_budget(**asked)["Notifications"]
    levels = {(one["NotificationType"], one["Threshold"]) for one in notifications}
    check.equal("budget: told at 80 % and 100 %, and when 100 % are in sight", levels, {("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)})
    told = [
        {one["Address"] for one in budgets.describe_subscribers_for_notification(**asked, Notification=notification)["Subscribers"]}
        for notification in notifications
    ]
    check.that("budget: each tells the topic, and nobody a second time", bool(told) and all(addresses == {TOPIC} for addresses in told))


for part in (queues, inbox, worker, roles, scaling, alarms, dashboard, budget):
    check.part(part)
sys.exit(check.end())
