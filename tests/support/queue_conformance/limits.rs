//! Batches and limits: what is refused, and that it is refused alone.

use super::*;

pub(crate) async fn inv11_an_unknown_handle_fails_alone(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard().visibility(2)).await;
    send_bodies(&*queue, ["a", "b"]).await;
    let mut received = receive_all(&*queue, 2).await;
    received[1].receipt = Receipt::new("no-such-handle");
    let good = received.remove(0);
    let bad = received.remove(0);
    let answers = delete(&*queue, &[&bad, &good]).await;
    assert!(answers[1].is_ok());
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!(error.code.rsplit('.').next(), Some("ReceiptHandleIsInvalid"));
    assert!(error.is_stale_receipt());
    assert!(change(&*queue, &bad, secs(5)).await.unwrap_err().is_stale_receipt());
    assert_eq!(
        receive_one(&*queue).await.message.body,
        bad.message.body,
        "only that one is left"
    );
}

pub(crate) async fn inv11_one_bad_message_leaves_the_others_in_its_batch(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let batch = ["a", "bad \u{1} char", "b"].map(Outgoing::new);
    let answers = queue.send(batch.into()).await.unwrap();
    assert_eq!(answers.len(), 3);
    let error = answers[1].as_ref().unwrap_err();
    assert_eq!(error.code.rsplit('.').next(), Some("InvalidMessageContents"));
    assert!(error.sender_fault || lab.deviates(Deviation::SenderFaultUnset));
    let received = receive_all(&*queue, 2).await;
    assert_eq!(sorted(&received), ["a", "b"]);
    for delivery in &received {
        let position = if delivery.message.body == "a" { 0 } else { 2 };
        assert_eq!(
            answers[position].as_ref().unwrap(),
            &delivery.message.id,
            "answers are by position"
        );
    }
}

pub(crate) async fn what_sqs_does_not_take_is_the_senders_fault(lab: &dyn QueueLab) {
    let queue = lab
        .queue(Spec {
            max_message_bytes: Some(1_024),
            ..Spec::standard()
        })
        .await;
    let with = |name: &str, attribute| Outgoing::new("a").attribute(name, attribute);
    let mut odd_type = Attribute::string("x");
    odd_type.data_type = "Text".to_owned();
    let cases = [
        ("an empty body", Outgoing::new("")),
        ("a NUL", Outgoing::new("\u{0}")),
        ("no character at all", Outgoing::new("\u{FFFF}")),
        ("more bytes than the queue takes", Outgoing::new("x".repeat(1_025))),
        (
            "more bytes with attributes",
            Outgoing::new("x".repeat(1_000)).attribute("a", Attribute::string("x".repeat(24))),
        ),
        ("a reserved attribute name", with("AWS.x", Attribute::string("x"))),
        ("an attribute name with a space", with("a b", Attribute::string("x"))),
        ("an empty attribute", with("a", Attribute::string(""))),
        ("an unknown data type", with("a", odd_type)),
        (
            "a deduplication id on a standard queue",
            Outgoing::new("a").deduplication_id("d"),
        ),
        (
            "a group id of 129 characters",
            Outgoing::new("a").group("g".repeat(129)),
        ),
    ];
    for (what, message) in cases {
        let error = refusal(queue.send(vec![message]).await).unwrap_or_else(|| panic!("{what} was taken"));
        assert!(
            error.sender_fault || lab.deviates(Deviation::SenderFaultUnset),
            "{what}: {error}"
        );
    }
    assert_nothing_comes(&*queue, secs(1), "all were refused").await;
    send_one(&*queue, Outgoing::new("x".repeat(1_024))).await;
}

pub(crate) async fn ten_attributes_are_the_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let with = |count: usize| {
        (0..count).fold(Outgoing::new(count.to_string()), |message, n| {
            message.attribute(format!("a{n}"), Attribute::string("x"))
        })
    };
    send_one(&*queue, with(10)).await;
    let eleven = refusal(queue.send(vec![with(11)]).await);
    assert_eq!(eleven.is_none(), lab.deviates(Deviation::ElevenAttributesPass));
    assert!(eleven.is_none_or(|error| error.sender_fault));
    let received = receive_all(&*queue, 1).await;
    assert!(received.iter().any(|delivery| delivery.message.attributes.len() >= 10));
}

pub(crate) async fn a_message_has_a_mebibyte_at_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let body = "x".repeat(1_024 * 1_024);
    send_one(&*queue, Outgoing::new(body.clone())).await;
    assert_eq!(receive_one(&*queue).await.message.body.len(), body.len());
    let one_more = Outgoing::new(body).attribute("a", Attribute::string("x"));
    assert!(refusal(queue.send(vec![one_more]).await).is_some());
    assert_nothing_comes(&*queue, secs(1), "it was too large").await;
}

pub(crate) async fn a_batch_has_ten_entries_and_a_mebibyte_at_most(lab: &dyn QueueLab) {
    let queue = lab.queue(Spec::standard()).await;
    let eleven: Vec<Outgoing> = (0..11).map(|n| Outgoing::new(n.to_string())).collect();
    let large = vec![Outgoing::new("x".repeat(700_000)), Outgoing::new("y".repeat(700_000))];
    if lab.deviates(Deviation::BatchesAreCut) {
        for batch in [eleven, large] {
            let expected = batch.len();
            assert!(queue.send(batch).await.unwrap().iter().all(Result::is_ok));
            let received = receive_all(&*queue, expected).await;
            delete_surely(&*queue, &received.iter().collect::<Vec<_>>()).await;
        }
        assert_eq!(queue.delete(Vec::new()).await.unwrap(), []);
        return;
    }
    let code = |error| match error {
        QueueError::Refused { code, .. } => code,
        other => panic!("not refused: {other}"),
    };
    let receipts = vec![Receipt::new("r"); 11];
    let changes: Vec<_> = receipts.iter().map(|receipt| (receipt.clone(), secs(1))).collect();
    assert_eq!(
        code(queue.send(eleven).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(
        code(queue.delete(receipts).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(
        code(queue.change_visibility(changes).await.unwrap_err()),
        "TooManyEntriesInBatchRequest"
    );
    assert_eq!(code(queue.send(Vec::new()).await.unwrap_err()), "EmptyBatchRequest");
    assert_eq!(code(queue.delete(Vec::new()).await.unwrap_err()), "EmptyBatchRequest");
    assert_eq!(
        code(queue.change_visibility(Vec::new()).await.unwrap_err()),
        "EmptyBatchRequest"
    );
    assert_eq!(code(queue.send(large).await.unwrap_err()), "BatchRequestTooLong");
    assert_nothing_comes(&*queue, secs(1), "all were refused").await;
}
