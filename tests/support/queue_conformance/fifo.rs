//! FIFO queues: groups, order, deduplication.

use super::*;

pub(crate) async fn an_expired_handle_is_an_error_on_a_fifo_queue(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo().visibility(1)).await;
    send_one(&*queue, grouped("g", "a")).await;
    let expired = receive_one(&*queue).await;
    eventually("the message is visible again", async || {
        queue.describe().await.unwrap().visible == 1
    })
    .await;
    let error = delete(&*queue, &[&expired]).await.remove(0).unwrap_err();
    assert!(error.is_stale_receipt(), "{error}");
    let again = receive_one(&*queue).await;
    assert_eq!(again.receive_count, 2, "it is still there");
}

pub(crate) async fn inv07_a_group_is_in_order_and_locked_while_in_flight(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for (group, body) in [("a", "1"), ("a", "2"), ("b", "1"), ("a", "3"), ("b", "2"), ("a", "4")] {
        send_one(&*queue, grouped(group, body)).await;
    }
    let mut seen: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut several = false;
    let deadline = now() + secs(30);
    while seen.values().map(Vec::len).sum::<usize>() < 6 {
        assert!(now() < deadline, "only {seen:?} came");
        let first = receive(&*queue, 2, secs(5)).await;
        let second = receive(&*queue, 2, Duration::ZERO).await;
        for group in ["a", "b"] {
            let (one, other) = (of_group(&first, group), of_group(&second, group));
            assert!(
                one.is_empty() || other.is_empty(),
                "{group} was handed out while it was in flight"
            );
            several |= one.len() > 1 || other.len() > 1;
            seen.entry(group)
                .or_default()
                .extend(one.iter().chain(&other).map(ToString::to_string));
        }
        let all: Vec<&Delivery> = first.iter().chain(&second).collect();
        if !all.is_empty() {
            delete_surely(&*queue, &all).await;
        }
    }
    assert_eq!(
        (seen["a"].concat(), seen["b"].concat()),
        ("1234".to_owned(), "12".to_owned())
    );
    assert!(several, "one receive can bring several of a group");
}

pub(crate) async fn inv07_a_group_given_back_comes_again_in_order(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for body in ["1", "2", "3"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let received = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&received), ["1", "2", "3"]);
    let changes = received
        .iter()
        .map(|delivery| (delivery.receipt.clone(), Duration::ZERO))
        .collect();
    assert!(
        queue
            .change_visibility(changes)
            .await
            .unwrap()
            .iter()
            .all(Result::is_ok)
    );
    let again = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&again), ["1", "2", "3"]);
    assert!(again.iter().all(|delivery| delivery.receive_count == 2));
}

pub(crate) async fn inv07_a_group_stays_locked_until_the_last_of_it_is_back(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    for body in ["1", "2"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let received = receive(&*queue, 10, secs(5)).await;
    assert_eq!(bodies(&received), ["1", "2"]);
    change(&*queue, &received[0], Duration::ZERO).await.unwrap();
    let meanwhile = receive(&*queue, 10, secs(1)).await;
    if lab.deviates(Deviation::ReleasedHeadOpensGroup) {
        assert_eq!(bodies(&meanwhile), ["1"]);
        return;
    }
    assert!(meanwhile.is_empty(), "the second is still in flight");
    change(&*queue, &received[1], Duration::ZERO).await.unwrap();
    assert_eq!(bodies(&receive(&*queue, 10, secs(5)).await), ["1", "2"]);
}

pub(crate) async fn a_delayed_head_holds_back_its_group_only(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    send_one(&*queue, grouped("a", "1")).await;
    let head = receive_one(&*queue).await;
    send_one(&*queue, grouped("a", "2")).await;
    send_one(&*queue, grouped("b", "1")).await;
    let asked = now();
    change(&*queue, &head, secs(3)).await.unwrap();
    let other = receive_one(&*queue).await;
    assert_eq!(other.message.group_id.as_deref(), Some("b"));
    delete_surely(&*queue, &[&other]).await;
    let again = receive_all(&*queue, 2).await;
    assert!(
        now() - asked >= secs(3) - lab.early(),
        "{:?} is too soon",
        now() - asked
    );
    assert_eq!(of_group(&again, "a"), ["1", "2"]);
}

pub(crate) async fn a_deduplication_id_is_swallowed_even_after_deletion(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    let original = send_one(&*queue, Outgoing::new("first").group("g").deduplication_id("d")).await;
    let repeat = || Outgoing::new("repeat").group("h").deduplication_id("d");
    assert_eq!(send_one(&*queue, repeat()).await, original);
    let delivery = receive_one(&*queue).await;
    assert_eq!(delivery.message.body, "first");
    delete_surely(&*queue, &[&delivery]).await;
    assert_eq!(
        send_one(&*queue, repeat()).await,
        original,
        "it answers with the deleted message's id"
    );
    assert_nothing_comes(&*queue, secs(2), "both repeats were swallowed").await;
}

pub(crate) async fn bodies_deduplicate_where_the_queue_says_so(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            content_based_deduplication: true,
            ..Spec::fifo()
        })
        .await;
    let message = |body: &str| Outgoing::new(body).group("g");
    let original = send_one(&*queue, message("a")).await;
    assert_eq!(
        send_one(&*queue, message("a").attribute("n", Attribute::number(1))).await,
        original
    );
    send_one(&*queue, message("b")).await;
    send_one(
        &*queue,
        message("a").deduplication_id("an id of its own".replace(' ', "-")),
    )
    .await;
    assert_eq!(bodies(&receive(&*queue, 10, secs(5)).await), ["a", "b", "a"]);
}

pub(crate) async fn deduplication_by_group_leaves_other_groups_alone(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            deduplication_by_group: true,
            ..Spec::fifo()
        })
        .await;
    assert!(queue.attributes().deduplication_by_group);
    let message = |group: &str| Outgoing::new("x").group(group).deduplication_id("d");
    let original = send_one(&*queue, message("a")).await;
    assert_eq!(send_one(&*queue, message("a")).await, original);
    assert_ne!(send_one(&*queue, message("b")).await, original);
    let received = receive_all(&*queue, 2).await;
    assert_eq!((of_group(&received, "a").len(), of_group(&received, "b").len()), (1, 1));
}

pub(crate) async fn a_fifo_queue_needs_group_and_deduplication_id_and_takes_no_delay(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo()).await;
    let batch = vec![
        grouped("g", "good"),
        Outgoing::new("no group").deduplication_id("1"),
        Outgoing::new("no deduplication id").group("g"),
        grouped("g", "delayed").delay(secs(1)),
        grouped("a group", "bad-group"),
    ];
    let answers = queue.send(batch).await.unwrap();
    assert!(answers[0].is_ok());
    for answer in &answers[1..] {
        assert!(answer.as_ref().unwrap_err().sender_fault);
    }
    assert_eq!(receive_one(&*queue).await.message.body, "good");
    assert_nothing_comes(&*queue, secs(1), "the others were refused").await;
}

pub(crate) async fn a_fifo_head_received_too_often_moves_and_its_group_goes_on(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::fifo().dead_letter_after(1)).await;
    let dead = queue.dead_letter_queue().unwrap();
    for body in ["poison", "next"] {
        send_one(&*queue, grouped("g", body)).await;
    }
    let head = receive(&*queue, 1, secs(5)).await.remove(0);
    assert_eq!(head.message.body, "poison");
    change(&*queue, &head, Duration::ZERO).await.unwrap();
    assert_eq!(receive_one(&*queue).await.message.body, "next");
    let moved = receive_one(&*dead).await.message;
    assert_eq!((moved.body.as_str(), moved.group_id.as_deref()), ("poison", Some("g")));
}
