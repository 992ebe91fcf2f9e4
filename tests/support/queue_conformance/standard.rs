//! Delivery: visibility, waiting, deleting, delays, counts, dead letters.

use super::*;

pub(crate) async fn attributes_are_those_the_queue_was_made_with(lab: &dyn QueueLab) {
    let spec = Spec {
        content_based_deduplication: true,
        max_message_bytes: Some(2_048),
        ..Spec::fifo().visibility(7).dead_letter_after(3)
    };
    let queue = lab.queue(spec).await;
    let attributes = queue.attributes();
    assert!(attributes.fifo && attributes.name.ends_with(".fifo"));
    assert!(attributes.content_based_deduplication && !attributes.deduplication_by_group);
    assert_eq!(
        (attributes.visibility_timeout, attributes.max_message_bytes),
        (secs(7), 2_048)
    );
    assert_eq!(attributes.retention, secs(4 * 24 * 60 * 60));
    let dead = queue.dead_letter_queue().expect("it has a dead-letter queue");
    let policy = attributes.redrive.as_ref().expect("it has a redrive policy");
    assert_eq!(
        (policy.dead_letter_arn.as_str(), policy.max_receive_count),
        (dead.attributes().arn.as_str(), 3)
    );
    let plain = lab.queue(Spec::standard()).await;
    assert!(!plain.attributes().fifo && plain.attributes().redrive.is_none());
    assert!(plain.dead_letter_queue().is_none());
    assert_eq!(plain.attributes().visibility_timeout, secs(30));
}

pub(crate) async fn what_is_sent_is_received_with_all_its_parts(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let mut sent = Outgoing::new("{\"name\":\"Grüße 🦀\",\"lines\":\"a\\nb\"}\n\t<&>")
        .attribute("type", Attribute::string("order.created"))
        .attribute("count", Attribute::number(7))
        .attribute("raw", Attribute::binary(vec![0, 159, 255]));
    sent.trace_header = Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned());
    let asked = now();
    let id = send_one(&*queue, sent.clone()).await;
    let delivery = receive_one(&*queue).await;
    let message = &delivery.message;
    assert_eq!(
        (&message.id, &message.body, &message.attributes),
        (&id, &sent.body, &sent.attributes)
    );
    assert_eq!(message.trace_header, sent.trace_header);
    assert!(message.sent_at_ms.is_some());
    assert_eq!(delivery.receive_count, 1);
    assert!(delivery.received_at >= asked && delivery.received_at <= now());

    let fifo = lab.queue(Spec::fifo()).await;
    send_one(&*fifo, grouped("g", "a")).await;
    let message = receive_one(&*fifo).await.message;
    assert_eq!(
        (message.group_id.as_deref(), message.deduplication_id.as_deref()),
        (Some("g"), Some("g.a"))
    );
}

pub(crate) async fn a_received_message_stays_invisible_then_comes_back_with_a_higher_count(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let asked = now();
    let first = receive_one(&*queue).await;
    let answered = now();
    let second = receive_one(&*queue).await;
    assert!(
        now() - asked >= secs(2) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert!(
        now() - answered <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - answered
    );
    assert_eq!((first.receive_count, second.receive_count), (1, 2));
    assert_eq!(first.message.id, second.message.id);
    assert_ne!(first.receipt, second.receipt);
}

pub(crate) async fn a_receive_can_set_its_own_visibility(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let mut request = Receive::new(1, secs(5));
    request.visibility = Some(secs(1));
    assert_eq!(queue.receive(request).await.unwrap().len(), 1);
    let answered = now();
    receive_one(&*queue).await;
    assert!(now() - answered <= secs(1) + lab.late());
}

pub(crate) async fn a_long_poll_ends_when_a_message_arrives(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let started = now();
    let sender = async {
        tokio::time::sleep(secs(1)).await;
        send_one(&*queue, Outgoing::new("a")).await;
    };
    let ((), received) = tokio::join!(sender, receive(&*queue, 10, secs(20)));
    assert_eq!(bodies(&received), ["a"]);
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - started
    );
}

pub(crate) async fn a_long_poll_ends_when_a_message_becomes_visible(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    receive_one(&*queue).await;
    let started = now();
    assert_eq!(receive(&*queue, 10, secs(20)).await.len(), 1);
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too late",
        now() - started
    );
}

pub(crate) async fn an_empty_receive_lasts_as_long_as_it_was_told(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let started = now();
    assert!(receive(&*queue, 10, Duration::ZERO).await.is_empty());
    assert!(now() - started < secs(1));
    let started = now();
    assert!(receive(&*queue, 10, secs(2)).await.is_empty());
    assert!(
        now() - started >= secs(2) - lab.early(),
        "{:?} is too short",
        now() - started
    );
    assert!(
        now() - started <= secs(2) + lab.late(),
        "{:?} is too long",
        now() - started
    );
}

pub(crate) async fn a_receive_hands_out_no_more_than_asked_for(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let mut ids = send_bodies(&*queue, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]).await;
    let mut seen = Vec::new();
    let deadline = now() + secs(20);
    while seen.len() < 10 {
        assert!(now() < deadline, "only {} of 10 came", seen.len());
        let received = receive(&*queue, 3, secs(2)).await;
        assert!(received.len() <= 3);
        seen.extend(received.into_iter().map(|delivery| delivery.message.id));
    }
    ids.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, ids, "each once");
    assert_nothing_comes(&*queue, Duration::ZERO, "all are in flight").await;
}

pub(crate) async fn a_deleted_message_does_not_come_back(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_bodies(&*queue, ["a", "b"]).await;
    let received = receive_all(&*queue, 2).await;
    delete_surely(&*queue, &received.iter().collect::<Vec<_>>()).await;
    assert_nothing_comes(&*queue, secs(1) + lab.late().max(secs(1)), "both are deleted").await;
}

pub(crate) async fn deleting_twice_is_no_error(lab: &dyn QueueLab) {
    for spec in [Spec::standard(), Spec::fifo()] {
        let queue = lab.queue(spec.clone()).await;
        let message = if spec.fifo {
            grouped("g", "a")
        } else {
            Outgoing::new("a")
        };
        send_one(&*queue, message).await;
        let delivery = receive_one(&*queue).await;
        delete_surely(&*queue, &[&delivery, &delivery]).await;
        delete_surely(&*queue, &[&delivery]).await;
    }
}

pub(crate) async fn a_stale_handle_deletes_nothing_and_is_no_error_on_a_standard_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let stale = receive_one(&*queue).await;
    let mut request = Receive::new(1, secs(10));
    request.visibility = Some(secs(3));
    let fresh = queue.receive(request).await.unwrap().remove(0);
    delete_surely(&*queue, &[&stale]).await;
    if lab.deviates(Deviation::StaleHandleDeletes) {
        assert_nothing_comes(&*queue, secs(3) + lab.late(), "the stale handle deleted it").await;
    } else {
        let again = receive_one(&*queue).await;
        assert_eq!((again.message.id, again.receive_count), (fresh.message.id, 3));
    }
}

pub(crate) async fn a_handle_is_good_until_the_next_receive_on_a_standard_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(1)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    eventually("the message is visible again", async || {
        queue.describe().await.unwrap().visible == 1
    })
    .await;
    delete_surely(&*queue, &[&delivery]).await;
    assert_nothing_comes(&*queue, secs(2), "it was deleted while it was visible").await;
}

pub(crate) async fn a_heartbeat_extends_visibility(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    tokio::time::sleep(secs(1)).await;
    let asked = now();
    // Half a second counts as a whole one.
    change(&*queue, &delivery, ms(3_500)).await.unwrap();
    let answered = now();
    let again = receive_one(&*queue).await;
    assert!(
        now() - asked >= secs(4) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert!(
        now() - answered <= secs(4) + lab.late(),
        "{:?} is too late",
        now() - answered
    );
    delete_surely(&*queue, &[&again]).await;
}

pub(crate) async fn visibility_zero_gives_a_message_back_at_once(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    let started = now();
    change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    assert_eq!(receive_one(&*queue).await.receive_count, 2);
    assert!(now() - started <= secs(1) + lab.late());
}

pub(crate) async fn the_visibility_of_what_is_not_in_flight_cannot_be_changed(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    let changed = change(&*queue, &delivery, secs(30)).await;
    if lab.deviates(Deviation::ChangeOfVisibleSucceeds) {
        changed.unwrap();
    } else {
        let error = changed.unwrap_err();
        assert!(error.is_stale_receipt(), "{error}");
    }
    assert_eq!(receive_one(&*queue).await.receive_count, 2, "it stayed visible");
}

pub(crate) async fn the_visibility_of_a_deleted_message_cannot_be_changed(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    send_one(&*queue, Outgoing::new("a")).await;
    let delivery = receive_one(&*queue).await;
    delete_surely(&*queue, &[&delivery]).await;
    let error = change(&*queue, &delivery, Duration::ZERO).await.unwrap_err();
    assert!(error.is_stale_receipt(), "{error}");
    assert_nothing_comes(&*queue, secs(1), "it is deleted").await;
}

pub(crate) async fn a_delayed_message_stays_hidden(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let asked = now();
    send_one(&*queue, Outgoing::new("late").delay(secs(3))).await;
    let answered = now();
    send_one(&*queue, Outgoing::new("soon")).await;
    let first = receive_one(&*queue).await;
    assert_eq!(first.message.body, "soon");
    let second = receive_one(&*queue).await;
    assert_eq!((second.message.body.as_str(), second.receive_count), ("late", 1));
    assert!(now() - asked >= secs(3) - lab.early());
    assert!(now() - answered <= secs(3) + lab.late());
}

pub(crate) async fn a_queue_can_delay_every_message(lab: &dyn QueueLab) {
    for spec in [Spec::standard(), Spec::fifo()] {
        let fifo = spec.fifo;
        let queue = lab
            .queue(Spec {
                delay: Some(secs(2)),
                ..spec
            })
            .await;
        let asked = now();
        send_one(&*queue, if fifo { grouped("g", "a") } else { Outgoing::new("a") }).await;
        receive_one(&*queue).await;
        assert!(now() - asked >= secs(2) - lab.early());
    }
}

pub(crate) async fn counts_follow_what_waits_and_what_is_in_flight(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let counts = async || {
        let attributes = queue.describe().await.unwrap();
        (attributes.visible, attributes.in_flight, attributes.delayed)
    };
    send_bodies(&*queue, ["a", "b", "c"]).await;
    send_one(&*queue, Outgoing::new("d").delay(secs(60))).await;
    eventually("three are visible and one is delayed", async || {
        counts().await == (3, 0, 1)
    })
    .await;
    let received = receive_all(&*queue, 2).await;
    eventually("two are in flight", async || counts().await == (1, 2, 1)).await;
    delete_surely(&*queue, &[&received[0]]).await;
    change(&*queue, &received[1], Duration::ZERO).await.unwrap();
    eventually("one is deleted and one is back", async || counts().await == (2, 0, 1)).await;
}

pub(crate) async fn a_message_received_too_often_moves_to_the_dead_letter_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().dead_letter_after(2)).await;
    let dead = queue.dead_letter_queue().unwrap();
    send_one(
        &*queue,
        Outgoing::new("poison").attribute("type", Attribute::string("t")),
    )
    .await;
    for count in 1..=2 {
        let delivery = receive_one(&*queue).await;
        assert_eq!(delivery.receive_count, count);
        change(&*queue, &delivery, Duration::ZERO).await.unwrap();
    }
    assert_nothing_comes(&*queue, secs(1), "the third receive moves it").await;
    let moved = receive_one(&*dead).await;
    assert_eq!(
        (moved.message.body.as_str(), moved.message.attribute("type")),
        ("poison", Some("t"))
    );
    eventually("the source is empty", async || {
        let attributes = queue.describe().await.unwrap();
        attributes.visible + attributes.in_flight == 0
    })
    .await;
}
