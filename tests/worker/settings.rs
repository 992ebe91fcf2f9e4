//! Settings that change what a worker does: by code, by variables, shadow mode, keys and fingerprints.

use redrive::flow::{AdaptiveConcurrency, BreakerState, RateLimit};
use redrive::inbox::{Record, Status};
use redrive::key::{Key, RecordKey};
use redrive::message::Message;
use redrive::worker::{BuildError, Fate};
use redrive::{Failure, Worker};

use crate::support::{Rig, keyed, ms, secs, sleep, start};

fn variables<'a>(set: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
    |name| {
        set.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn variables_override_what_the_code_sets() {
    let rig = Rig::new();
    rig.send_many(40).await;
    let set = [
        ("REDRIVE_CONCURRENCY", "3"),
        ("REDRIVE_MAX_ATTEMPTS", "2"),
        ("REDRIVE_HANDLER_TIMEOUT", "2s"),
        ("REDRIVE_BACKOFF", "10s"),
        ("REDRIVE_BACKOFF_CAP", "10s"),
        ("REDRIVE_MAX_RECEIVES", "1"),
        ("REDRIVE_LONG_POLL", "1s"),
        ("REDRIVE_DRAIN_DEADLINE", "5s"),
        ("REDRIVE_INBOX_RETENTION", "40d"),
    ];
    let worker = rig
        .worker()
        .concurrency(64)
        .max_attempts(9)
        .without_breaker()
        .from_variables(variables(&set));
    let running = start(worker.handler(rig.takes(secs(60))).build().unwrap());
    assert_eq!(running.status().concurrency, 3);
    rig.emptied(&running).await;
    assert_eq!(rig.log.peak(), 3);
    assert_eq!(rig.reasons(), vec!["attempts_exhausted"; 40]);
    assert!(
        rig.letters()
            .iter()
            .all(|letter| letter.attempts == 2 && letter.error.contains("2000 ms"))
    );
    let kept = rig.record("k0").unwrap().expires_at - rig.clock.epoch_ms() / 1000;
    assert!(kept > 39 * 86_400, "{kept}");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn rate_and_burst_come_from_variables() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let set = [("REDRIVE_RATE", "2"), ("REDRIVE_BURST", "5")];
    let running = start(
        rig.worker()
            .from_variables(variables(&set))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    sleep(ms(100)).await;
    assert_eq!(rig.log.len(), 5);
    sleep(secs(5)).await;
    assert_eq!(rig.log.len(), 15);
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_alone_belongs_to_the_codes_rate() {
    let rig = Rig::new();
    rig.send_many(30).await;
    let rate = RateLimit::per_second(1.0).unwrap();
    let worker = rig
        .worker()
        .rate(rate)
        .from_variables(variables(&[("REDRIVE_BURST", "7")]));
    let running = start(worker.handler(rig.succeeds()).build().unwrap());
    sleep(ms(100)).await;
    assert_eq!(rig.log.len(), 7);
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv12_a_wrong_variable_is_an_error_that_names_it_and_its_value() {
    let rig = Rig::new();
    let cases = [
        ("REDRIVE_CONCURRENCY", "many"),
        ("REDRIVE_CONCURRENCY", "0"),
        ("REDRIVE_RATE", "-1"),
        ("REDRIVE_BURST", "3"),
        ("REDRIVE_MAX_ATTEMPTS", "1.5"),
        ("REDRIVE_HANDLER_TIMEOUT", "90"),
        ("REDRIVE_BACKOFF", "5 parsecs"),
        ("REDRIVE_BACKOFF_CAP", "13h"),
        ("REDRIVE_DRAIN_DEADLINE", "soon"),
        ("REDRIVE_LONG_POLL", "20"),
        ("REDRIVE_INBOX_RETENTION", "a month"),
        ("REDRIVE_MAX_RECEIVES", "0"),
        ("REDRIVE_SHADOW", "yes"),
    ];
    for (variable, value) in cases {
        let built = rig
            .worker()
            .from_variables(variables(&[(variable, value)]))
            .handler(rig.succeeds())
            .build();
        let error = built.unwrap_err();
        assert!(matches!(error, BuildError::Variable { .. }), "{error:?}");
        let text = error.to_string();
        let shown = if variable == "REDRIVE_BACKOFF_CAP" {
            "46800s"
        } else {
            value
        };
        assert!(text.contains(variable) && text.contains(shown), "{text}");
        assert!(
            text.len() > variable.len() + value.len() + 10,
            "says what to do: {text}"
        );
    }
    let worker: Result<Worker, _> = rig
        .worker()
        .from_variables(variables(&[("REDRIVE_RATE", " "), ("REDRIVE_BURST", "")]))
        .handler(rig.succeeds())
        .build();
    assert!(worker.is_ok(), "an empty variable is none");
}

#[tokio::test(start_paused = true)]
async fn variables_say_where_dead_letters_go_and_whose_keys_these_are() {
    let rig = Rig::new();
    rig.send_many(3).await;
    let set = [
        ("REDRIVE_DEAD_LETTERS", "discard"),
        ("REDRIVE_CONSUMER", "billing"),
        ("REDRIVE_NAME", "charges"),
        ("REDRIVE_MAX_ATTEMPTS", "1"),
        ("REDRIVE_BREAKER", "false"),
    ];
    let worker = rig.worker().consumer("orders").from_variables(variables(&set));
    let fails = async || Err::<(), _>(Failure::retry("no"));
    let running = start(worker.handler(fails).build().unwrap());
    assert_eq!(running.status().name, "charges");
    rig.emptied(&running).await;
    assert!(rig.letters().is_empty());
    assert_eq!(running.status().totals.given_up, 3);
    assert_eq!(running.status().breaker, None);
    let key = RecordKey::new("billing", &Key::new("k0"));
    assert!(rig.inbox.record(&key).is_some());
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_breaker_is_tuned_by_variables() {
    let rig = Rig::new();
    rig.send_many(10).await;
    let set = [
        ("REDRIVE_BREAKER_FAILURES", "2"),
        ("REDRIVE_BREAKER_KEYS", "2"),
        ("REDRIVE_BREAKER_OPEN_FOR", "10m"),
        ("REDRIVE_CONCURRENCY", "1"),
    ];
    let worker = rig.worker().from_variables(variables(&set));
    let fails = async || Err::<(), _>(Failure::retry("no"));
    let running = start(worker.handler(fails).build().unwrap());
    sleep(secs(240)).await;
    let status = running.status();
    assert!(matches!(status.breaker, Some(BreakerState::Open { .. })), "{status:?}");
    assert_eq!(status.totals.breaker_opened, 1);
    assert_eq!(status.totals.retried, 1, "the failure that opens it is no attempt");
    running.crash().await;
}

#[tokio::test(start_paused = true)]
async fn inv12_a_breaker_that_is_off_cannot_be_tuned() {
    let rig = Rig::new();
    for (set, told) in [
        (
            &[("REDRIVE_BREAKER", "false"), ("REDRIVE_BREAKER_PROBES", "2")][..],
            "REDRIVE_BREAKER_PROBES=`2`: there is no breaker",
        ),
        (
            &[("REDRIVE_BREAKER_PROBES", "0")],
            "REDRIVE_BREAKER_PROBES=`0`: breaker",
        ),
        (
            &[("REDRIVE_BREAKER_OPEN_FOR_MOST", "1s")],
            "REDRIVE_BREAKER_OPEN_FOR, REDRIVE_BREAKER_OPEN_FOR_MOST=`30s, 1s`",
        ),
        (
            &[("REDRIVE_BREAKER_SHARE", "0")],
            "REDRIVE_BREAKER_SHARE, REDRIVE_BREAKER_SHARE_OF=`0, 20`",
        ),
        (
            &[("REDRIVE_DEAD_LETTERS", "burn")],
            "REDRIVE_DEAD_LETTERS=`burn`: give send, policy",
        ),
    ] {
        let built = rig
            .worker()
            .from_variables(variables(set))
            .handler(rig.succeeds())
            .build();
        let error = built.err().unwrap().to_string();
        assert!(error.starts_with(told), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_records_and_counts_and_suppresses_nothing() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(rig.worker().shadow(true).handler(rig.takes(ms(500))).build().unwrap());
    rig.emptied(&running).await;
    rig.send("k", "1").await;
    rig.send("k", "another payload").await;
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!(
        (rig.log.len(), status.totals.completed, status.totals.shadowed),
        (3, 3, 2)
    );
    assert!(rig.dead.is_empty());
    assert_eq!(rig.record("k").unwrap().status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_suppresses_no_twins_in_flight_either() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    rig.send("k", "2").await;
    rig.send("k", "1").await;
    let running = start(rig.worker().shadow(true).handler(rig.takes(secs(5))).build().unwrap());
    running.until("all run at once", |status| status.running == 3).await;
    rig.send("k", "3").await;
    running.until("a later one too", |status| status.running == 4).await;
    rig.emptied(&running).await;
    let status = running.drain().await;
    assert_eq!((status.totals.completed, status.totals.shadowed), (4, 3));
    assert_eq!((rig.dead.len(), status.totals.in_flight_duplicates), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_still_retries_and_dead_letters() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(
        rig.worker()
            .shadow(true)
            .max_attempts(3)
            .handler(rig.fails())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(
        (rig.log.len(), rig.reasons()),
        (3, vec!["attempts_exhausted".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn shadow_mode_goes_on_without_the_inbox() {
    let rig = Rig::new();
    rig.send_many(10).await;
    rig.inbox.faults().set_unreachable(true);
    let running = start(rig.worker().shadow(true).handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 10, "an inbox that only records holds nothing up");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_consumers_name_keeps_two_consumers_of_one_event_apart() {
    let rig = Rig::new();
    rig.send("k", "1").await;
    let running = start(
        rig.worker()
            .consumer("billing")
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    running.drain().await;
    rig.send("k", "1").await;
    let running = start(
        rig.worker()
            .consumer("mailing")
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(rig.log.len(), 2);
    assert!(rig.inbox.record(&RecordKey::new("billing", &Key::new("k"))).is_some());
}

#[tokio::test(start_paused = true)]
async fn keys_come_from_the_function_then_the_attribute_then_the_message_id() {
    let rig = Rig::new();
    let by_body = |message: &Message| message.body.strip_prefix("order ").map(str::to_owned);
    rig.send("attribute", "order 7").await;
    rig.send("attribute", "mail").await;
    let id = rig.put(redrive::message::Outgoing::new("bare")).await;
    let running = start(rig.worker().key(by_body).handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    let mut keys: Vec<_> = rig.log.runs().into_iter().map(|run| run.key).collect();
    keys.sort();
    let mut expected = vec!["7".to_owned(), "attribute".to_owned(), id];
    expected.sort();
    assert_eq!(keys, expected);
}

#[tokio::test(start_paused = true)]
async fn a_key_over_the_limit_of_the_table_is_hashed_and_deduplicates() {
    let rig = Rig::new();
    let key = "k".repeat(5_000);
    rig.send(&key, "1").await;
    rig.send(&key, "1").await;
    let running = start(rig.worker().handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!(
        (rig.log.len(), rig.log.runs()[0].key.len()),
        (1, 5_000),
        "handlers see the whole key"
    );
    assert!(rig.inbox.records()[0].key.as_str().len() < 200);
}

#[tokio::test(start_paused = true)]
async fn what_a_payload_is_recognised_by_can_be_said_or_turned_off() {
    let first_word = |message: &Message| message.body.split(' ').next().unwrap_or_default().as_bytes().to_vec();
    let rig = Rig::new();
    let running = start(
        rig.worker()
            .fingerprint(first_word)
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    for body in ["12 euros", "12 dollars", "13 euros"] {
        rig.send("k", body).await;
        rig.emptied(&running).await;
    }
    running.drain().await;
    assert_eq!(
        (rig.log.len(), rig.reasons()),
        (1, vec!["fingerprint_mismatch".to_owned()])
    );

    let rig = Rig::new();
    let running = start(
        rig.worker()
            .without_fingerprint()
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    for body in ["12", "13"] {
        rig.send("k", body).await;
        rig.emptied(&running).await;
    }
    assert_eq!(
        (rig.log.len(), running.drain().await.totals.duplicates, rig.dead.len()),
        (1, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_record_past_its_retention_suppresses_nothing() {
    let rig = Rig::new();
    let running = start(
        rig.worker()
            .inbox_retention(secs(3_600))
            .handler(rig.succeeds())
            .build()
            .unwrap(),
    );
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    sleep(secs(3_500)).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 1);
    sleep(secs(4_000)).await;
    rig.send("k", "1").await;
    rig.emptied(&running).await;
    assert_eq!(rig.log.len(), 2);
    assert!(rig.log.runs()[1].token > rig.log.runs()[0].token);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_its_own_is_shorter_than_the_visibility_timeout() {
    let rig = Rig::with(|queue| queue.visibility_timeout(secs(600)));
    rig.send("k", "1").await;
    let running = start(
        rig.worker()
            .lease(secs(20))
            .handler(rig.takes(secs(120)))
            .build()
            .unwrap(),
    );
    running.until("it runs", |status| status.running == 1).await;
    assert!(rig.record("k").unwrap().lease_until - rig.clock.epoch_ms() <= 20_000);
    rig.emptied(&running).await;
    assert_eq!((rig.log.len(), running.drain().await.totals.lost), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_workers_name_is_the_queues_unless_set() {
    let rig = Rig::new();
    let named = rig.worker().name("charges").handler(rig.succeeds()).build().unwrap();
    assert_eq!(
        (named.name(), named.handle().status().name.as_str()),
        ("charges", "charges")
    );
    assert_eq!(rig.worker().handler(rig.succeeds()).build().unwrap().name(), "orders");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_retried_at_once_is_hidden_for_no_time() {
    let rig = Rig::new();
    rig.put(keyed("k", "1")).await;
    let handler = rig.runs(|context: redrive::Context| async move {
        if context.attempt() == 1 {
            Err(Failure::retry_after("again", secs(0)))
        } else {
            Ok(())
        }
    });
    let running = start(rig.worker().handler(handler).build().unwrap());
    rig.emptied(&running).await;
    let runs = rig.log.runs();
    assert!(runs[1].began - runs[0].began < ms(100));
    assert_eq!(rig.fates.of("1"), [Fate::Retried, Fate::Completed]);
    running.drain().await;
}

/// What the inbox says of deaths and attempts suppresses nothing in shadow mode either.
#[tokio::test(start_paused = true)]
async fn shadow_mode_runs_what_has_spent_its_attempts_or_killed_processes() {
    let rig = Rig::new();
    for (key, attempts, deaths) in [("spent", 50, 0), ("deadly", 0, 7)] {
        let id = rig.send(key, key).await;
        let mut record = Record::new(RecordKey::new("orders", &Key::new(key)));
        record.message_id = id;
        record.attempts = attempts;
        record.deaths = deaths;
        rig.inbox.insert(record);
    }
    let running = start(rig.worker().shadow(true).handler(rig.succeeds()).build().unwrap());
    rig.emptied(&running).await;
    running.drain().await;
    assert_eq!((rig.log.done(), rig.dead.len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn variables_choose_between_a_number_and_one_that_finds_itself() {
    let bounds = [
        ("REDRIVE_CONCURRENCY_MIN", "2"),
        ("REDRIVE_CONCURRENCY_MAX", "40"),
        ("REDRIVE_CONCURRENCY_START", "7"),
    ];
    let number = [("REDRIVE_CONCURRENCY", "5")];
    let build = |set: &[(&str, &str)], fixed: Option<usize>| {
        let rig = Rig::new();
        let worker = match fixed {
            Some(fixed) => rig.worker().concurrency(fixed),
            None => rig
                .worker()
                .adaptive_concurrency(AdaptiveConcurrency::between(4, 64).start_at(9)),
        };
        worker
            .from_variables(variables(set))
            .handler(rig.takes(secs(1)))
            .build()
    };
    let slots = |set: &[(&str, &str)], fixed| build(set, fixed).unwrap().handle().status().concurrency;
    assert_eq!(slots(&[], None), 9);
    assert_eq!(slots(&number, None), 5, "a number takes the place of bounds");
    assert_eq!(slots(&bounds, Some(64)), 7, "and bounds that of a number");
    assert_eq!(slots(&bounds[..1], None), 9, "one bound of those in code is changed");
    assert_eq!(slots(&bounds[2..], None), 7);
    let wrong = |set: &[(&str, &str)], fixed| build(set, fixed).unwrap_err().to_string();
    let both = wrong(&[bounds[0], number[0], bounds[1]], None);
    assert!(
        both.contains("REDRIVE_CONCURRENCY_MIN=`2`") && both.contains("either"),
        "{both}"
    );
    let one = wrong(&bounds[1..2], Some(64));
    assert!(
        one.contains("REDRIVE_CONCURRENCY_MAX=`40`") && one.contains("REDRIVE_CONCURRENCY_MIN"),
        "{one}"
    );
    let zero = wrong(&[("REDRIVE_CONCURRENCY_MIN", "0")], None);
    assert!(zero.contains("whole number above 0"), "{zero}");
    let crossed = wrong(&[("REDRIVE_CONCURRENCY_MIN", "65")], None);
    assert!(crossed.contains("adaptive_concurrency"), "{crossed}");
}
