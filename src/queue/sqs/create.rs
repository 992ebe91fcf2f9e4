//! Setting up a queue with its dead-letter queue.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::QueueAttributeName;
use serde_json::json;

use super::connect::Calls;
use super::probe::RedriveAllow;
use super::target::{Arn, Target};
use super::{SqsQueue, connect};
use crate::queue::rules::whole_seconds;
use crate::queue::{MAX_VISIBILITY, QueueAttributes, QueueError};

/// How long a queue keeps messages unless set: SQS's default.
const RETENTION: Duration = Duration::from_secs(4 * 24 * 3600);

/// The longest a queue can keep messages. So long dead letters wait for somebody to look.
const LONGEST_RETENTION: Duration = Duration::from_secs(14 * 24 * 3600);
const SHORTEST_RETENTION: Duration = Duration::from_secs(60);

const VISIBILITY: Duration = Duration::from_secs(30);

/// Three times the default of a worker's attempts, as the preflight wants.
const MAX_RECEIVE_COUNT: u32 = 15;
const LARGEST_RECEIVE_COUNT: u32 = 1_000;

/// The most queues that a redrive-allow policy can name.
const MOST_SOURCES: usize = 10;

/// How a queue and its dead-letter queue are to be. What is not set is made as the defaults say, and left as it is where the
/// queue is there already.
///
/// ```no_run
/// # async fn example() -> Result<(), redrive::queue::QueueError> {
/// use redrive::SqsQueue;
/// use redrive::queue::{Changes, QueuePlan};
///
/// let aws = aws_config::load_from_env().await;
/// for step in SqsQueue::set_up(&aws, &QueuePlan::new("orders"), Changes::Missing).await? {
///     println!("{} {}: {:?}", step.queue, step.setting, step.state);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "it is what `SqsQueue::set_up` takes"]
pub struct QueuePlan {
    name: String,
    dead_letter: Option<String>,
    visibility: Option<Duration>,
    retention: Option<Duration>,
    max_receive_count: Option<u32>,
}

impl QueuePlan {
    /// A queue of this name, FIFO if it ends in `.fifo`, with a dead-letter queue named after it (`-dlq`), 30 s visibility, 4
    /// days retention and a `maxReceiveCount` of 15 (of a FIFO queue, 50); and the dead-letter queue with 14 days.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            dead_letter: None,
            visibility: None,
            retention: None,
            max_receive_count: None,
        }
    }

    /// The dead-letter queue's name.
    pub fn dead_letter(mut self, name: impl Into<String>) -> Self {
        self.dead_letter = Some(name.into());
        self
    }

    /// How long a received message stays invisible: to 12 h, in whole seconds.
    pub fn visibility(mut self, time: Duration) -> Self {
        self.visibility = Some(time);
        self
    }

    /// How long the queue keeps messages: 1 min to 14 days, in whole seconds.
    pub fn retention(mut self, time: Duration) -> Self {
        self.retention = Some(time);
        self
    }

    /// After how many receives SQS moves a message by itself: 1 to 1,000.
    pub fn max_receive_count(mut self, count: u32) -> Self {
        self.max_receive_count = Some(count);
        self
    }

    fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    fn receives(&self) -> u32 {
        // Of a FIFO queue, failures of a group's head spend receives of its tail too.
        let unless_set = if self.is_fifo() { 50 } else { MAX_RECEIVE_COUNT };
        self.max_receive_count.unwrap_or(unless_set)
    }

    /// The dead-letter queue's name: the one asked for, else the one that is in use, else one made of the queue's.
    fn dead_letter_name(&self, source: Option<&QueueAttributes>) -> Result<String, QueueError> {
        let name = match (&self.dead_letter, source.and_then(|source| source.redrive.as_ref())) {
            (Some(name), _) => name.clone(),
            (None, Some(policy)) => Arn::parse(&policy.dead_letter_arn)?.name,
            (None, None) => match self.name.strip_suffix(".fifo") {
                Some(stem) => format!("{stem}-dlq.fifo"),
                None => format!("{}-dlq", self.name),
            },
        };
        let wrong = |why: &str| {
            Err(QueueError::Invalid {
                what: "dead-letter queue name",
                value: name.clone(),
                why: why.to_owned(),
            })
        };
        if name == self.name {
            return wrong("it is the queue's own; a message that fails would go round for ever");
        }
        if name.ends_with(".fifo") != self.is_fifo() {
            return wrong(
                "the dead-letter queue of a FIFO queue is a FIFO queue (`.fifo`), and of a standard queue a standard one",
            );
        }
        only_a_name(&name)?;
        Ok(name)
    }

    fn check(&self) -> Result<(), QueueError> {
        let wrong = |what, value: String, why: &str| {
            Err(QueueError::Invalid {
                what,
                value,
                why: why.to_owned(),
            })
        };
        only_a_name(&self.name)?;
        if let Some(time) = self.visibility
            && !(Duration::from_secs(1)..=MAX_VISIBILITY).contains(&time)
        {
            return wrong(
                "visibility timeout",
                format!("{time:?}"),
                "it is 1 s to 12 h; 30 s is the default",
            );
        }
        if let Some(time) = self.retention
            && !(SHORTEST_RETENTION..=LONGEST_RETENTION).contains(&time)
        {
            return wrong(
                "retention",
                format!("{time:?}"),
                "it is 1 min to 14 days; 4 days is the default",
            );
        }
        if !(1..=LARGEST_RECEIVE_COUNT).contains(&self.receives()) {
            return wrong(
                "maxReceiveCount",
                self.receives().to_string(),
                "it is 1 to 1000; 15 is the default",
            );
        }
        Ok(())
    }
}

fn only_a_name(name: &str) -> Result<(), QueueError> {
    match Target::parse(name)? {
        Target::Name(_) => Ok(()),
        _ => Err(QueueError::Invalid {
            what: "queue name",
            value: name.to_owned(),
            why: "a queue is set up by its name, in the account and region of the AWS configuration".to_owned(),
        }),
    }
}

/// What setting up may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changes {
    /// Nothing: it is looked at only.
    None,
    /// What is not there is made; what is there is left as it is.
    Missing,
    /// Settings that differ are changed, too.
    All,
}

/// One thing that was looked at, and made or changed where that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetUpStep {
    /// The queue's name.
    pub queue: String,
    /// The setting, as SQS calls it; `queue` for the queue itself.
    pub setting: &'static str,
    /// What it is to be.
    pub wanted: String,
    /// What became of it.
    pub state: SetUpState,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetUpState {
    /// It was so.
    AlreadySo,
    /// It is not there.
    Missing,
    /// It was made.
    Created,
    /// It is otherwise, and was left so.
    Differs {
        /// What it is.
        is: String,
    },
    /// It was otherwise, and was changed.
    Changed {
        /// What it was.
        was: String,
    },
}

impl SqsQueue {
    /// Makes a queue, its dead-letter queue, and the policies that join them: the queue's redrive policy, and the dead-letter
    /// queue's redrive-allow policy, which names the queues that may use it. A second run finds all so; a run that was broken
    /// off is ended by the next.
    ///
    /// Needs `sqs:CreateQueue`, `sqs:GetQueueUrl`, `sqs:GetQueueAttributes`, `sqs:SetQueueAttributes` and, where the
    /// dead-letter queue is there already, `sqs:ListDeadLetterSourceQueues`. A worker needs none but the second and third.
    ///
    /// # Errors
    /// When the plan cannot be right, and when the service cannot be reached or refuses. What was made before stands.
    pub async fn set_up(config: &SdkConfig, plan: &QueuePlan, changes: Changes) -> Result<Vec<SetUpStep>, QueueError> {
        plan.check()?;
        let calls = Self::builder(Client::new(config), plan.name.clone()).calls()?;
        let mut work = SetUp {
            calls,
            changes,
            steps: Vec::new(),
        };
        Box::pin(work.run(plan)).await?;
        Ok(work.steps)
    }
}

struct SetUp {
    calls: Calls,
    changes: Changes,
    steps: Vec<SetUpStep>,
}

/// A setting of a queue: its name at SQS, what is sent, and how both values read.
struct Setting {
    attribute: QueueAttributeName,
    value: String,
    wanted: String,
    /// How it reads now; `None` where it is as wanted.
    differs: Option<String>,
}

impl SetUp {
    async fn run(&mut self, plan: &QueuePlan) -> Result<(), QueueError> {
        let source = self.found(&plan.name).await?;
        let dead_name = plan.dead_letter_name(source.as_ref())?;
        let mut dead = self.found(&dead_name).await?;
        let dead_is_new = dead.is_none();
        let retention =
            |is: Option<Duration>| duration_setting(QueueAttributeName::MessageRetentionPeriod, LONGEST_RETENTION, is);
        match &dead {
            None => dead = self.create(&dead_name, vec![retention(None)]).await?,
            Some(known) => {
                self.step(&dead_name, "queue", &dead_name, SetUpState::AlreadySo);
                self.settle(known, vec![retention(Some(known.retention))]).await?;
            }
        }
        // Before the source: a policy that admits a queue yet to come is no harm, the other way round SQS refuses.
        let arns = dead.as_ref().or(source.as_ref()).map(|known| {
            let arn = |name: &str| known.arn.strip_suffix(&known.name).map(|rest| format!("{rest}{name}"));
            (arn(&plan.name).unwrap_or_default(), arn(&dead_name).unwrap_or_default())
        });
        let (source_arn, dead_arn) = arns.unwrap_or_else(|| (plan.name.clone(), dead_name.clone()));
        self.admit(&dead_name, dead.as_ref(), dead_is_new, &source_arn).await?;

        let policy = redrive_setting(plan, &dead_arn, source.as_ref());
        match &source {
            None => {
                let visibility = plan.visibility.unwrap_or(VISIBILITY);
                let retention = plan.retention.unwrap_or(RETENTION);
                let settings = vec![
                    duration_setting(QueueAttributeName::VisibilityTimeout, visibility, None),
                    duration_setting(QueueAttributeName::MessageRetentionPeriod, retention, None),
                    policy,
                ];
                self.create(&plan.name, settings).await?;
            }
            Some(known) => {
                self.step(&plan.name, "queue", &plan.name, SetUpState::AlreadySo);
                let mut settings = Vec::new();
                if let Some(wanted) = plan.visibility {
                    let is = Some(known.visibility_timeout);
                    settings.push(duration_setting(QueueAttributeName::VisibilityTimeout, wanted, is));
                }
                if let Some(wanted) = plan.retention {
                    let is = Some(known.retention);
                    settings.push(duration_setting(QueueAttributeName::MessageRetentionPeriod, wanted, is));
                }
                settings.push(policy);
                self.settle(known, settings).await?;
            }
        }
        Ok(())
    }

    async fn found(&self, name: &str) -> Result<Option<QueueAttributes>, QueueError> {
        match self.calls.find(&Target::parse(name)?).await {
            Ok(attributes) => Ok(Some(attributes)),
            Err(QueueError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a queue, unless it is only looked at.
    async fn create(&mut self, name: &str, settings: Vec<Setting>) -> Result<Option<QueueAttributes>, QueueError> {
        let state = || match self.changes {
            Changes::None => SetUpState::Missing,
            Changes::Missing | Changes::All => SetUpState::Created,
        };
        let state = state();
        let mut made = None;
        if state == SetUpState::Created {
            let mut attributes: HashMap<_, _> = settings
                .iter()
                .map(|setting| (setting.attribute.clone(), setting.value.clone()))
                .collect();
            if name.ends_with(".fifo") {
                attributes.insert(QueueAttributeName::FifoQueue, "true".to_owned());
            }
            let call = self
                .calls
                .client
                .create_queue()
                .queue_name(name)
                .set_attributes(Some(attributes));
            let answer = self.calls.answer(name, "CreateQueue", call.send()).await?;
            let url = answer
                .queue_url
                .filter(|url| !url.is_empty())
                .ok_or_else(|| connect::unreadable(name, "CreateQueue", "it holds no queue URL".to_owned()))?;
            made = Some(self.calls.attributes(name, &url).await?);
        }
        self.step(name, "queue", name, state.clone());
        for setting in settings {
            self.step(name, label(&setting.attribute), &setting.wanted, state.clone());
        }
        Ok(made)
    }

    /// Compares settings of a queue that is there, and changes those that differ if that is asked for.
    async fn settle(&mut self, queue: &QueueAttributes, settings: Vec<Setting>) -> Result<(), QueueError> {
        let differing: HashMap<_, _> = settings
            .iter()
            .filter(|setting| setting.differs.is_some())
            .map(|setting| (setting.attribute.clone(), setting.value.clone()))
            .collect();
        let changed = self.changes == Changes::All && !differing.is_empty();
        if changed {
            self.set(&queue.name, &queue.url, differing).await?;
        }
        for setting in settings {
            let state = match setting.differs {
                None => SetUpState::AlreadySo,
                Some(was) if changed => SetUpState::Changed { was },
                Some(is) => SetUpState::Differs { is },
            };
            self.step(&queue.name, label(&setting.attribute), &setting.wanted, state);
        }
        Ok(())
    }

    /// Lets the source name the dead-letter queue, and no queues but those that do already.
    async fn admit(
        &mut self,
        dead_name: &str,
        dead: Option<&QueueAttributes>,
        is_new: bool,
        source_arn: &str,
    ) -> Result<(), QueueError> {
        let attribute = QueueAttributeName::RedriveAllowPolicy;
        let allow = |arns: &[String]| json!({"redrivePermission": "byQueue", "sourceQueueArns": arns}).to_string();
        let Some(dead) = dead else {
            self.step(
                dead_name,
                label(&attribute),
                &names(&[source_arn.to_owned()]),
                SetUpState::Missing,
            );
            return Ok(());
        };
        if is_new {
            let arns = [source_arn.to_owned()];
            self.set(dead_name, &dead.url, HashMap::from([(attribute.clone(), allow(&arns))]))
                .await?;
            self.step(dead_name, label(&attribute), &names(&arns), SetUpState::Created);
            return Ok(());
        }
        let is = self.redrive_allow(dead).await?;
        let (mut arns, differs) = match is {
            RedriveAllow::Queues(arns) if arns.iter().any(|arn| arn == source_arn) => {
                self.step(dead_name, label(&attribute), &names(&arns), SetUpState::AlreadySo);
                return Ok(());
            }
            RedriveAllow::Queues(arns) => (arns.clone(), names(&arns)),
            RedriveAllow::Everyone => (self.sources(dead).await?, "every queue".to_owned()),
            RedriveAllow::Nobody => (Vec::new(), "no queue".to_owned()),
        };
        if !arns.iter().any(|arn| arn == source_arn) {
            arns.push(source_arn.to_owned());
        }
        if arns.len() > MOST_SOURCES {
            let is = format!(
                "{differs}; SQS can name {MOST_SOURCES} queues at most, and {} use it",
                arns.len()
            );
            self.step(dead_name, label(&attribute), "every queue", SetUpState::Differs { is });
            return Ok(());
        }
        let setting = Setting {
            attribute,
            value: allow(&arns),
            wanted: names(&arns),
            differs: Some(differs),
        };
        self.settle(dead, vec![setting]).await
    }

    async fn redrive_allow(&self, dead: &QueueAttributes) -> Result<RedriveAllow, QueueError> {
        const OPERATION: &str = "GetQueueAttributes";
        let call = self
            .calls
            .client
            .get_queue_attributes()
            .queue_url(&dead.url)
            .attribute_names(QueueAttributeName::RedriveAllowPolicy);
        let answer = self.calls.answer(&dead.name, OPERATION, call.send()).await?;
        let given = answer.attributes.unwrap_or_default();
        let policy = given.get(&QueueAttributeName::RedriveAllowPolicy).map(String::as_str);
        RedriveAllow::parse(policy).map_err(|why| connect::unreadable(&dead.name, OPERATION, why))
    }

    /// The ARNs of the queues that have this one for their dead-letter queue.
    async fn sources(&self, dead: &QueueAttributes) -> Result<Vec<String>, QueueError> {
        let mut arns = Vec::new();
        let mut page = None;
        loop {
            let call = self
                .calls
                .client
                .list_dead_letter_source_queues()
                .queue_url(&dead.url)
                .max_results(1_000)
                .set_next_token(page);
            let answer = self
                .calls
                .answer(&dead.name, "ListDeadLetterSourceQueues", call.send())
                .await?;
            // Sources are in the account and region of their dead-letter queue.
            let prefix = dead.arn.strip_suffix(&dead.name).unwrap_or_default();
            let names = answer.queue_urls.iter().filter_map(|url| url.rsplit('/').next());
            arns.extend(names.map(|name| format!("{prefix}{name}")));
            page = answer.next_token.filter(|token| !token.is_empty());
            if page.is_none() {
                arns.sort();
                return Ok(arns);
            }
        }
    }

    async fn set(
        &self,
        name: &str,
        url: &str,
        attributes: HashMap<QueueAttributeName, String>,
    ) -> Result<(), QueueError> {
        let call = self
            .calls
            .client
            .set_queue_attributes()
            .queue_url(url)
            .set_attributes(Some(attributes));
        self.calls
            .answer(name, "SetQueueAttributes", call.send())
            .await
            .map(drop)
    }

    fn step(&mut self, queue: &str, setting: &'static str, wanted: &str, state: SetUpState) {
        self.steps.push(SetUpStep {
            queue: queue.to_owned(),
            setting,
            wanted: wanted.to_owned(),
            state,
        });
    }
}

fn duration_setting(attribute: QueueAttributeName, wanted: Duration, is: Option<Duration>) -> Setting {
    let wanted = whole_seconds(wanted);
    Setting {
        attribute,
        value: wanted.as_secs().to_string(),
        wanted: span(wanted),
        differs: is.filter(|is| *is != wanted).map(span),
    }
}

/// The redrive policy to `dead_arn`. A count that was not asked for is left as it is.
fn redrive_setting(plan: &QueuePlan, dead_arn: &str, source: Option<&QueueAttributes>) -> Setting {
    let is = source.and_then(|source| source.redrive.as_ref());
    let kept = is.filter(|_| plan.max_receive_count.is_none());
    let count = kept.map_or(plan.receives(), |policy| policy.max_receive_count);
    let reads = |arn: &str, count| format!("to {} after {count} receives", name_of(arn));
    let differs = match is {
        None => Some("none".to_owned()),
        Some(policy) if policy.dead_letter_arn == dead_arn && policy.max_receive_count == count => None,
        Some(policy) => Some(reads(&policy.dead_letter_arn, policy.max_receive_count)),
    };
    Setting {
        attribute: QueueAttributeName::RedrivePolicy,
        value: json!({"deadLetterTargetArn": dead_arn, "maxReceiveCount": count}).to_string(),
        wanted: reads(dead_arn, count),
        differs,
    }
}

fn label(attribute: &QueueAttributeName) -> &'static str {
    match attribute {
        QueueAttributeName::VisibilityTimeout => "visibility timeout",
        QueueAttributeName::MessageRetentionPeriod => "retention",
        QueueAttributeName::RedrivePolicy => "redrive policy",
        QueueAttributeName::RedriveAllowPolicy => "redrive-allow policy",
        _ => "setting",
    }
}

fn name_of(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

fn names(arns: &[String]) -> String {
    let names: Vec<&str> = arns.iter().map(|arn| name_of(arn)).collect();
    format!("only {}", names.join(", "))
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    for (size, unit) in [(86_400, "d"), (3_600, "h"), (60, "min")] {
        if seconds >= size && seconds.is_multiple_of(size) {
            return format!("{} {unit}", seconds / size);
        }
    }
    format!("{seconds} s")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;
    use crate::queue::RedrivePolicy;

    #[test]
    fn the_dead_letter_queue_is_named_after_the_queue_unless_one_is_in_use() {
        let name = |plan: &str| QueuePlan::new(plan).dead_letter_name(None).unwrap();
        assert_eq!(name("orders"), "orders-dlq");
        assert_eq!(name("orders.fifo"), "orders-dlq.fifo");
        let mut source = QueueAttributes::new("orders");
        source.redrive = Some(RedrivePolicy::new("arn:aws:sqs:eu-west-1:123456789012:orders-dead", 5));
        assert_eq!(
            QueuePlan::new("orders").dead_letter_name(Some(&source)).unwrap(),
            "orders-dead"
        );
        let plan = QueuePlan::new("orders").dead_letter("given");
        assert_eq!(plan.dead_letter_name(Some(&source)).unwrap(), "given");
    }

    #[test]
    fn inv12_a_plan_that_cannot_be_is_refused_before_any_call() {
        let refused = |plan: QueuePlan| match plan.check().and_then(|()| plan.dead_letter_name(None).map(drop)) {
            Err(error @ QueueError::Invalid { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        };
        let orders = || QueuePlan::new("orders");
        assert!(refused(QueuePlan::new("or ders")).contains("not allowed"));
        assert!(refused(QueuePlan::new("arn:aws:sqs:eu-west-1:123456789012:orders")).contains("by its name"));
        assert!(refused(orders().dead_letter("orders")).contains("round for ever"));
        assert!(refused(orders().dead_letter("dead.fifo")).contains("FIFO"));
        assert!(refused(QueuePlan::new("orders.fifo").dead_letter("dead")).contains("FIFO"));
        assert!(refused(orders().visibility(Duration::from_secs(50_000))).contains("12 h"));
        assert!(refused(orders().retention(Duration::from_secs(59))).contains("14 days"));
        assert!(refused(orders().max_receive_count(0)).contains("1000"));
    }

    #[test]
    fn a_redrive_policy_keeps_a_count_that_was_not_asked_for() {
        let dead = "arn:aws:sqs:eu-west-1:123456789012:orders-dlq";
        let mut source = QueueAttributes::new("orders");
        let setting = redrive_setting(&QueuePlan::new("orders"), dead, Some(&source));
        assert_eq!(
            (setting.differs.as_deref(), &*setting.wanted),
            (Some("none"), "to orders-dlq after 15 receives")
        );
        source.redrive = Some(RedrivePolicy::new(dead, 7));
        assert_eq!(
            redrive_setting(&QueuePlan::new("orders"), dead, Some(&source)).differs,
            None
        );
        let asked = QueuePlan::new("orders").max_receive_count(9);
        let setting = redrive_setting(&asked, dead, Some(&source));
        assert_eq!(setting.differs.as_deref(), Some("to orders-dlq after 7 receives"));
        assert_eq!(
            setting.value,
            json!({"deadLetterTargetArn": dead, "maxReceiveCount": 9}).to_string()
        );
    }
}
