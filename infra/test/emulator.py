"""moto's server on a free port, which it writes to the file it is given, with what moto lacks for the example.

Each addition is what AWS does and moto does not, and only what Terraform's provider needs to create a resource and read it back.
"""

import json
import signal
import sys
import threading
from pathlib import Path

from moto.applicationautoscaling.responses import ApplicationAutoScalingResponse
from moto.budgets.responses import BudgetsResponse
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
from moto.sqs.models import Queue


def keep_queue_attributes():
    """moto drops a queue's policy whenever another attribute is set, knows no redrive allow policy, and respells a policy."""
    set_attributes = Queue._set_attributes

    def keeping(self, attributes, now=None):
        attributes = dict(attributes)
        if "Policy" not in attributes and hasattr(self, "policy"):
            attributes["Policy"] = self.policy
        if attributes.get("RedriveAllowPolicy") == "":
            attributes["RedriveAllowPolicy"] = None
        set_attributes(self, attributes, now)

    told = Queue.attributes

    def as_they_came(self):
        attributes = dict(told.fget(self))
        if attributes.get("RedrivePolicy"):
            attributes["RedrivePolicy"] = json.dumps(json.loads(attributes["RedrivePolicy"]), separators=(",", ":"))
        return attributes

    Queue.attributes = property(as_they_came)
    Queue.BASE_ATTRIBUTES = [*Queue.BASE_ATTRIBUTES, "RedriveAllowPolicy"]
    Queue.redrive_allow_policy = None
    Queue._set_attributes = keeping


def keep_caps():
    """moto keeps no caps of a table on demand."""
    caps = {}
    describe = Table.describe

    def describing(self, base_key="TableDescription"):
        told = describe(self, base_key)
        if self.table_arn in caps:
            told[base_key]["OnDemandThroughput"] = caps[self.table_arn]
        return told

    def noting(call):
        def noted(self):
            answer = call(self)
            if "OnDemandThroughput" in self.body:
                caps[self.dynamodb_backend.get_table(self.body["TableName"]).table_arn] = self.body["OnDemandThroughput"]
            return answer

        return noted

    Table.describe = describing
    DynamoHandler.create_table = noting(DynamoHandler.create_table)
    DynamoHandler.update_table = noting(DynamoHandler.update_table)


def keep_services():
    """moto forgets much of what a service is created with; what it is updated with it keeps."""
    create = EC2ContainerServiceResponse.create_service
    forgotten = {
        "availabilityZoneRebalancing": "availability_zone_rebalancing",
        "capacityProviderStrategy": "capacity_provider_strategy",
        "deploymentConfiguration": "deployment_configuration",
        "enableECSManagedTags": "enable_ecs_managed_tags",
    }

    def creating(self):
        answer = create(self)
        service = self.ecs_backend.describe_services(self._get_param("cluster", "default"), [self._get_param("serviceName")])[0][0]
        for name, attribute in forgotten.items():
            if self._get_param(name) is not None:
                setattr(service, attribute, self._get_param(name))
        return answer

    EC2ContainerServiceResponse.create_service = creating


def tell_subscribers():
    """moto keeps the subscribers of a budget's notification, and has no call that tells them."""

    def describe_subscribers_for_notification(self):
        budget = self.backend.budgets[self._get_param("AccountId")][self._get_param("BudgetName")]
        wanted = self._get_param("Notification")
        # What is asked for need not name the state.
        same = [
            notification
            for notification in budget.notifications
            if all(notification.details.get(name) == value for name, value in wanted.items() if name != "NotificationState")
        ]
        return json.dumps({"Subscribers": [subscriber for one in same for subscriber in one.subscribers]})

    BudgetsResponse.describe_subscribers_for_notification = describe_subscribers_for_notification


def keep_tags(responses, made_by, arn_of, given="Tags", asked_by="ResourceARN", told_as="Tags", as_map=False):
    """moto knows no tags of this service's resources: Terraform sets them at creation and asks for them."""
    tags = {}
    make = getattr(responses, made_by)

    def making(self):
        answer = make(self)
        tags[arn_of(self, answer)] = self._get_param(given) or ({} if as_map else [])
        return answer

    def list_tags_for_resource(self):
        return json.dumps({told_as: tags.get(self._get_param(asked_by), {} if as_map else [])})

    setattr(responses, made_by, making)
    responses.list_tags_for_resource = list_tags_for_resource


def main():
    ended = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: ended.set())
    keep_queue_attributes()
    keep_caps()
    keep_services()
    tell_subscribers()
    keep_tags(
        BudgetsResponse,
        "create_budget",
        lambda asked, _: f"arn:aws:budgets::{asked._get_param('AccountId')}:budget/{asked._get_param('Budget')['BudgetName']}",
        given="ResourceTags",
        told_as="ResourceTags",
    )
    keep_tags(
        ApplicationAutoScalingResponse,
        "register_scalable_target",
        lambda _, answer: json.loads(answer)["ScalableTargetARN"],
        as_map=True,
    )
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    Path(sys.argv[1]).write_text(str(port))
    ended.wait()
    server.stop()


if __name__ == "__main__":
    main()
