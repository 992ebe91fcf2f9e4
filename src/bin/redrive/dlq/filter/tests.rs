#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use redrive::clock::Clock;
use redrive::dlq::{ENVELOPE_ATTRIBUTE, Envelope};
use redrive::key::KeySource;
use redrive::message::{Attribute, Delivery, Message, Receipt};

use super::*;

const NOW: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

const BODY: &str = r#"{"amount": 120, "price": 9.5, "id": 9007199254740993, "name": "Ann", "code": "0100", "paid": true,
    "coupon": null, "items": [{"sku": "a/b"}], "a/b": {"m~n": 1}, "two words": "x y"}"#;

fn letter_of(message: Message) -> DeadLetter {
    let delivery = Delivery::new(message, Receipt::new("r"), 1, Clock::system().now());
    DeadLetter::new(delivery, &KeySource::Attribute)
}

fn letter() -> DeadLetter {
    let mut envelope = Envelope::default();
    envelope.key = "order-17".into();
    envelope.reason = "attempts_exhausted".into();
    envelope.error = "gateway Timed out after 3000 ms".into();
    envelope.attempts = 5;
    envelope.message_id = "original-1".into();
    envelope.source = "arn:aws:sqs:eu-west-1:123456789012:orders".into();
    envelope.dead_at_ms = NOW - 2 * HOUR;
    let mut message = Message::new("dead-1", BODY);
    message.group_id = Some("customer-7".into());
    for (name, attribute) in [
        (
            ENVELOPE_ATTRIBUTE,
            Attribute::string(serde_json::to_string(&envelope).unwrap()),
        ),
        ("type", Attribute::string("order.created")),
        ("tenant", Attribute::string("acme")),
        ("tries", Attribute::number(12)),
        ("of two words", Attribute::string("yes")),
        ("raw", Attribute::binary(vec![0, 255])),
    ] {
        message.attributes.insert(name.into(), attribute);
    }
    letter_of(message)
}

fn matches(filter: &Filter, letter: &DeadLetter) -> bool {
    filter.root.holds(&Subject::new(letter, NOW))
}

fn holds(filter: &str) -> bool {
    let filter: Filter = filter.parse().unwrap_or_else(|error| panic!("{error}"));
    matches(&filter, &letter())
}

fn wrong(filter: &str) -> (usize, String) {
    let error = filter.parse::<Filter>().unwrap_err();
    (error.column(), error.to_string())
}

#[test]
fn what_holds_of_a_letter() {
    for filter in [
        "reason = attempts_exhausted",
        "reason == attempts_exhausted",
        "reason in (rejected, attempts_exhausted)",
        "reason != rejected",
        "error ~ 'timed out'",
        "error ~ timed.?out",
        r#"error ~ "after \d+ ms$""#,
        "error !~ refused",
        "type = order.created",
        "key = order-17",
        "key ~ ^order-",
        "group = customer-7",
        "id = dead-1",
        "id = original-1",
        "source = orders",
        "source ~ eu-west-1",
        "attempts >= 5",
        "attempts in (4, 5)",
        "replays = 0",
        "size > 100 and size < 64KiB",
        "age > 90s and age < 3d",
        "age >= 2h and not age > 2h",
        "attr.tenant = acme",
        "attr.tries > 9",
        "attr.tries = 12.0",
        "attr.\"of two words\" exists",
        "attr.raw exists",
        "attr.none not exists",
        "body ~ '\"amount\": 120'",
        "/amount > 100",
        "/amount>100",
        "/amount = 120.0",
        "/price < 10 and /price > 9",
        "/id = 9007199254740993",
        "/name = Ann",
        "/name < Bob",
        "/code = 0100",
        "/code > 99",
        "/paid = true",
        "/coupon = null and /coupon exists",
        "/nothing not exists",
        "/items/0/sku = a/b",
        "/items ~ sku",
        "/a~1b/m~0n = 1",
        "\"/two words\" = 'x y'",
        "not (reason = rejected or attempts > 5)",
        "reason = rejected or attempts = 5 and key = order-17",
        "/and_not EXISTS OR NOT reason = rejected",
        "not not reason exists",
    ] {
        assert!(holds(filter), "{filter}");
    }
}

#[test]
fn what_does_not_hold_of_it() {
    for filter in [
        "reason = ATTEMPTS_EXHAUSTED",
        "reason = attempts",
        "error ~ '(?-i)timed out'",
        "attempts > 5",
        "/amount = '120'",
        "/amount > '100'",
        "/id = 9007199254740992",
        "/name > 5",
        "/code = 100",
        "/paid = 'true'",
        "/coupon = 'null'",
        "/items = a",
        "/nothing = x or /nothing > 1 or /nothing ~ x",
        "attr.raw = x or attr.raw ~ x",
        "attr.tenant in (globex)",
        "id != original-1",
        "reason = rejected and attempts = 5 or key = x",
        "(reason = attempts_exhausted or attempts = 5) and key = x",
    ] {
        assert!(!holds(filter), "{filter}");
    }
    assert!(
        holds("/nothing != x and /nothing !~ x and /nothing not in (x)"),
        "what is not there equals nothing"
    );
}

#[test]
fn a_letter_that_sqs_moved_and_whose_body_is_no_json() {
    let letter = letter_of(Message::new("dead-2", "{broken"));
    let holds = |filter: &str| matches(&filter.parse().unwrap(), &letter);
    assert!(holds(
        "reason = redrive_policy and not error exists and not attempts exists and not source exists"
    ));
    assert!(holds(
        "key = dead-2 and not /amount exists and /amount != 1 and body ~ brok"
    ));
    assert!(holds("not age > 0s and not age <= 0s"), "nobody knows when it died");
}

#[test]
fn every_where_must_hold() {
    let filters = |texts: &[&str]| Where {
        filters: texts.iter().map(|text| text.parse().unwrap()).collect(),
    };
    assert!(filters(&[]).is_everything() && filters(&[]).matches(&letter(), NOW));
    assert!(filters(&["attempts = 5", "/amount = 120"]).matches(&letter(), NOW));
    assert!(!filters(&["attempts = 5", "/amount = 121"]).matches(&letter(), NOW));
}

#[test]
fn inv12_an_error_points_at_the_place_and_says_what_was_expected() {
    for (filter, column, said) in [
        ("", 0, "expected a field"),
        ("reason", 6, "expected an operator after `reason`"),
        ("reason = ", 9, "expected a value after `=`"),
        ("reason = and", 9, "quote it: \"and\""),
        ("reson = x", 0, "did you mean `reason`?"),
        ("Reason = x", 0, "did you mean `reason`?"),
        ("amount > 100", 0, "in the body's JSON it is /amount"),
        ("body.items.0 = x", 0, "that is /items/0"),
        ("attribute.tenant = x", 0, "a message attribute is attr.tenant"),
        ("error ~ timed out", 14, "quoted"),
        ("error ~ (a|b)", 8, "quote one that has ( ) in it"),
        ("error ~ '(a'", 8, "not a regular expression"),
        ("error = 'open", 8, "never closed"),
        ("error =~ x", 6, "write `~` instead of `=~`"),
        ("error <> x", 6, "write `!=` instead of `<>`"),
        ("reason = x && key = y", 11, "write `and` instead of `&&`"),
        ("!reason = x", 0, "write `not` instead of `!`"),
        ("(reason = x", 11, "the `(` in column 1"),
        ("reason = x)", 10, "no `(` belongs to this"),
        ("reason in x", 10, "expected `(`"),
        ("reason in (x y)", 13, "expected `,` or the `)`"),
        ("reason in ()", 11, "expected a value after `(`"),
        ("reason not = x", 11, "expected `in` or `exists` after `not`"),
        ("attempts > many", 11, "expected a number to compare `attempts` with"),
        ("attempts ~ 5", 9, "`attempts` is a number"),
        ("age > 90", 6, "expected a duration, such as 90s"),
        ("age = 2h", 4, "`age` is a duration: use < <= > >="),
        ("size > 1 furlong", 9, "expected `and`"),
        ("size > 1x", 7, "expected a size"),
        ("attr. = x", 5, "expected the attribute's name"),
        ("/a~2b = x", 6, "expected `and`"),
        ("'/a~2b' = x", 0, "`~` is written ~0"),
        (
            "\"reason\" = x",
            0,
            "expected a field; in quotes that is a JSON pointer",
        ),
        ("größe = \u{1b}[31m", 0, "there is no field `größe`"),
        ("日本 = x", 0, "there is no field"),
        ("key = '日本' x", 13, "expected `and`"),
    ] {
        let (at, text) = wrong(filter);
        assert!(text.contains(said), "{filter}: {text}");
        assert_eq!(at, column, "{filter}: {text}");
        assert!(!text.contains('\u{1b}'));
    }
}

#[test]
fn an_error_reads_well() {
    insta::assert_snapshot!(wrong("reason = x and attemps > 3").1, @r"

        reason = x and attemps > 3
                       ^ there is no field `attemps`; did you mean `attempts`?
    ");
    let long = format!("reason in ({}) nor", "aaaa, ".repeat(40) + "a");
    insta::assert_snapshot!(wrong(&long).1, @r#"

        …a, aaaa, aaaa, aaaa, aaaa, aaaa, aaaa, aaaa, aaaa, aaaa, a) nor
                                                                     ^ expected `and`, `or` or the end; a value with spaces or ( ) , in it is "quoted"
    "#);
}

#[test]
fn inv12_depth_length_and_regular_expressions_are_bounded() {
    for deep in ["(", "not ", "not ("] {
        let text = deep.repeat(100_000 / deep.len());
        assert!(wrong(&text).1.contains("at most"), "{deep}");
        let text = deep.repeat(200);
        assert!(wrong(&text).1.contains("nest at most"), "{deep}");
    }
    for name in [
        format!("{} = x", "n\u{1}".repeat(5_000)),
        format!("attr.{} >", "n".repeat(10_000)),
    ] {
        assert!(wrong(&name).1.len() < 2_000, "{}", wrong(&name).1.len());
    }
    let many = vec!["reason = x"; 1_000].join(" or ");
    assert!(many.parse::<Filter>().is_ok(), "{}", many.len());
    assert!(
        wrong("error ~ '(((a{1000}){1000}){1000})'")
            .1
            .contains("not a regular expression")
    );
    let nested = format!("error ~ '{}a{}'", "(".repeat(5_000), ")".repeat(5_000));
    assert!(wrong(&nested).1.contains("not a regular expression"));
    let deep_body = letter_of(Message::new("m", "[".repeat(200_000)));
    assert!(!matches(&"/0/0 exists".parse().unwrap(), &deep_body));
}

/// Texts that are nearly filters.
fn scraps() -> impl Strategy<Value = String> {
    let scrap = prop_oneof![
        Just("reason"),
        Just("error"),
        Just("age"),
        Just("size"),
        Just("attr."),
        Just("attr.x"),
        Just("/a/0"),
        Just("/"),
        Just("="),
        Just("!="),
        Just("~"),
        Just("!~"),
        Just("<"),
        Just(">="),
        Just("in"),
        Just("exists"),
        Just("not"),
        Just("and"),
        Just("or"),
        Just("("),
        Just(")"),
        Just(","),
        Just("'"),
        Just("\""),
        Just("\\"),
        Just("x"),
        Just("5"),
        Just("-1e9"),
        Just("2h"),
        Just("日"),
        Just("\u{1b}"),
        Just(" "),
        Just("~1"),
        Just("[a"),
        Just("nan"),
    ];
    prop::collection::vec(scrap, 0..20).prop_map(|scraps| scraps.join(" "))
}

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9_.:-]{1,8}x",
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?",
        any::<String>().prop_map(|text| compare::quote(&text)),
    ]
}

fn filters() -> impl Strategy<Value = String> {
    let field = prop_oneof![
        Just("reason".to_owned()),
        Just("key".to_owned()),
        "attr\\.[a-zA-Z0-9_.-]{1,8}",
        "(/[a-z0-9]{0,3}(~0|~1)?){1,3}",
        any::<String>().prop_map(|name| format!("attr.{}", compare::quote(&format!("x{name}")))),
    ];
    let operator = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">="]);
    let test = prop_oneof![
        (field.clone(), operator, literal()).prop_map(|(field, operator, value)| format!("{field} {operator} {value}")),
        (field.clone(), any::<bool>())
            .prop_map(|(field, not)| format!("{field} {}exists", if not { "not " } else { "" })),
        (field.clone(), prop::collection::vec(literal(), 1..4))
            .prop_map(|(field, values)| format!("{field} in ({})", values.join(", "))),
        (field, "[a-z.*?^$]{1,3}")
            .prop_map(|(field, regex)| format!("{field} !~ \"a{}\"", regex.replace(['*', '?'], "."))),
        Just("age > 90s".to_owned()),
        Just("size <= 2MiB".to_owned()),
    ];
    test.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" and "))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("({})", parts.join(" or "))),
            inner.prop_map(|part| format!("not {part}")),
        ]
    })
}

proptest! {
    #[test]
    fn inv12_no_text_makes_it_panic(text in any::<String>(), scraps in scraps()) {
        for text in [text, scraps] {
            match text.parse::<Filter>() {
                Ok(filter) => { matches(&filter, &letter()); }
                Err(error) => prop_assert!(error.to_string().contains('^')),
            }
        }
    }

    #[test]
    fn a_filter_is_read_back_from_how_it_is_shown(text in filters()) {
        let filter: Filter = text.parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        let shown = filter.to_string();
        let again: Filter = shown.parse().map_err(|error| TestCaseError::fail(format!("{error}")))?;
        prop_assert_eq!(&again, &filter, "{}", shown);
        prop_assert_eq!(matches(&again, &letter()), matches(&filter, &letter()));
    }
}
