//! What the roles are granted, and what an operation needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Actions by what they are granted on: the parts of a role's file.
pub(crate) type Grants = BTreeMap<String, BTreeSet<String>>;

/// What a call to AWS needs: actions, and where they are needed unless that is where the call goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    Action(&'static str),
    /// An action that IAM grants on no resource.
    NoResource(&'static str),
    /// On the queue that a call names besides.
    OnSource(&'static str),
}

use Need::{Action, NoResource, OnSource};

/// Every operation that the sources may call, and what IAM asks for it. Batches need the action of their entries, and a PartiQL
/// statement has an action of its own, whichever call brings it: see the service authorization reference of each service.
const OPERATIONS: &[(&str, &[Need])] = &[
    ("receive_message", &[Action("sqs:ReceiveMessage")]),
    ("delete_message_batch", &[Action("sqs:DeleteMessage")]),
    (
        "change_message_visibility_batch",
        &[Action("sqs:ChangeMessageVisibility")],
    ),
    ("send_message_batch", &[Action("sqs:SendMessage")]),
    ("get_queue_url", &[Action("sqs:GetQueueUrl")]),
    ("get_queue_attributes", &[Action("sqs:GetQueueAttributes")]),
    ("set_queue_attributes", &[Action("sqs:SetQueueAttributes")]),
    ("create_queue", &[Action("sqs:CreateQueue")]),
    ("purge_queue", &[Action("sqs:PurgeQueue")]),
    ("list_queues", &[NoResource("sqs:ListQueues")]),
    (
        "list_dead_letter_source_queues",
        &[Action("sqs:ListDeadLetterSourceQueues")],
    ),
    // SQS moves with the rights of whoever asks for it.
    (
        "start_message_move_task",
        &[
            Action("sqs:StartMessageMoveTask"),
            Action("sqs:ReceiveMessage"),
            Action("sqs:DeleteMessage"),
            Action("sqs:GetQueueAttributes"),
            OnSource("sqs:SendMessage"),
        ],
    ),
    ("list_message_move_tasks", &[Action("sqs:ListMessageMoveTasks")]),
    ("cancel_message_move_task", &[Action("sqs:CancelMessageMoveTask")]),
    ("get_item", &[Action("dynamodb:GetItem")]),
    ("put_item", &[Action("dynamodb:PutItem")]),
    ("update_item", &[Action("dynamodb:UpdateItem")]),
    ("delete_item", &[Action("dynamodb:DeleteItem")]),
    ("scan", &[Action("dynamodb:Scan")]),
    ("batch_execute_statement", &[]),
    ("INSERT", &[Action("dynamodb:PartiQLInsert")]),
    ("UPDATE", &[Action("dynamodb:PartiQLUpdate")]),
    ("DELETE", &[Action("dynamodb:PartiQLDelete")]),
    ("SELECT", &[Action("dynamodb:PartiQLSelect")]),
    ("describe_table", &[Action("dynamodb:DescribeTable")]),
    ("describe_time_to_live", &[Action("dynamodb:DescribeTimeToLive")]),
    ("create_table", &[Action("dynamodb:CreateTable")]),
    ("update_time_to_live", &[Action("dynamodb:UpdateTimeToLive")]),
    ("get_metric_data", &[NoResource("cloudwatch:GetMetricData")]),
];

/// What this operation needs.
pub(crate) fn needs(operation: &str, file: &str) -> &'static [Need] {
    let known = OPERATIONS.iter().find(|(name, _)| *name == operation);
    let Some((_, needs)) = known else {
        panic!(
            "{file} calls `{operation}`, and tests/iam/policy.rs does not know what that needs. Add a line to OPERATIONS with its \
             IAM action (the service authorization reference has it), and the action to infra/modules/worker/actions.json or \
             infra/modules/operator/actions.json, whoever makes the call."
        )
    };
    needs
}

/// The parts of `infra/modules/…/actions.json`.
pub(crate) fn granted(module: &str, role: Option<&str>) -> Grants {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("infra/modules/{module}/actions.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    if let Some(role) = role {
        json = json[role].take();
    }
    let grants: BTreeMap<String, Vec<String>> = serde_json::from_value(json).unwrap();
    grants
        .into_iter()
        .map(|(part, actions)| {
            let set: BTreeSet<String> = actions.iter().cloned().collect();
            assert_eq!(
                set.len(),
                actions.len(),
                "{module}: an action of {part} stands there twice"
            );
            assert!(
                set.iter().all(|action| !action.contains('*')),
                "{module}: {part} grants by a pattern, not by name: {actions:?}"
            );
            (part, set)
        })
        .collect()
}

/// Says what is granted and not needed, and what is needed and not granted.
pub(crate) fn compare(module: &str, needed: &Grants, granted: &Grants) {
    let none = BTreeSet::new();
    let parts: BTreeSet<_> = needed.keys().chain(granted.keys()).collect();
    let mut wrong = Vec::new();
    for part in parts {
        let needed = needed.get(part).unwrap_or(&none);
        let granted = granted.get(part).unwrap_or(&none);
        for missing in needed.difference(granted) {
            wrong.push(format!("{part}: the code needs {missing}, and it is not granted"));
        }
        for excess in granted.difference(needed) {
            wrong.push(format!("{part}: {excess} is granted, and no code needs it"));
        }
    }
    assert!(
        wrong.is_empty(),
        "infra/modules/{module}/actions.json and the code disagree:\n  {}",
        wrong.join("\n  ")
    );
}
