//! `--edit` and `--edit-command`: what is changed in a body before it is sent.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::child::{self, Limits};

/// How long an edit command may take for one body.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// The most bytes that are read of what an edit command prints: the most a message may have.
const MAX_OUTPUT: usize = redrive::queue::MAX_BYTES;

/// How long one that took longer has to end before it is killed.
const GRACE: Duration = Duration::from_secs(1);

const FORMS: &str = "write /path=VALUE to set a field of the JSON body, or -/path to delete one";

/// One change of a JSON body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// Sets what a JSON pointer points at to this JSON text.
    Set { path: Vec<String>, value: String },
    /// Deletes what a JSON pointer points at, where it is there.
    Delete { path: Vec<String> },
}

impl FromStr for Edit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(pointer) = text.strip_prefix('-') {
            return Ok(Self::Delete {
                path: path_of(pointer)?,
            });
        }
        let (pointer, value) = text.split_once('=').ok_or_else(|| format!("it has no `=`; {FORMS}"))?;
        // What is no JSON is text, so that words need no quotes inside quotes.
        let value = match serde_json::from_str::<&RawValue>(value) {
            Ok(json) => json.get().to_owned(),
            Err(_) => serde_json::to_string(value).map_err(|error| error.to_string())?,
        };
        Ok(Self::Set {
            path: path_of(pointer)?,
            value,
        })
    }
}

/// It can be read back; job files hold it.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pointer = |path: &[String]| -> String {
            let escaped = path.iter().map(|part| part.replace('~', "~0").replace('/', "~1"));
            escaped.map(|part| format!("/{part}")).collect()
        };
        match self {
            Self::Set { path, value } => write!(f, "{}={value}", pointer(path)),
            Self::Delete { path } => write!(f, "-{}", pointer(path)),
        }
    }
}

fn path_of(pointer: &str) -> Result<Vec<String>, String> {
    let Some(parts) = pointer.strip_prefix('/') else {
        return Err(format!(
            "`{pointer}` is no JSON pointer, which begins with `/`; {FORMS}"
        ));
    };
    Ok(parts
        .split('/')
        .map(|part| part.replace("~1", "/").replace("~0", "~"))
        .collect())
}

impl Edit {
    /// The body with this change. All else stays as it was, to the digits of its numbers and the order of its fields.
    pub(crate) fn apply(&self, body: &str) -> Result<String, String> {
        let json: &RawValue = serde_json::from_str(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        match self {
            Self::Set { path, value } => changed(json.get(), path, Some(value), 0),
            Self::Delete { path } => changed(json.get(), path, None, 0),
        }
    }
}

/// `json` with what is at `path` (from `depth` on) set to `value`, or deleted.
fn changed(json: &str, path: &[String], value: Option<&str>, depth: usize) -> Result<String, String> {
    let Some(name) = path.get(depth) else {
        return Ok(value.unwrap_or(json).to_owned());
    };
    let last = depth + 1 == path.len();
    let nothing_there = || {
        let at: String = path.iter().take(depth + 1).map(|part| format!("/{part}")).collect();
        format!("the body has no {at}")
    };
    let kind = json.trim_start().as_bytes().first();
    if kind == Some(&b'{') {
        let mut members = members(json)?;
        let there = members.iter().any(|(key, _)| key == name);
        match (there, last, value) {
            (true, true, None) => members.retain(|(key, _)| key != name),
            (true, _, _) => {
                for (_, json) in members.iter_mut().filter(|(key, _)| key == name) {
                    *json = changed(json, path, value, depth + 1)?;
                }
            }
            (false, true, Some(value)) => members.push((name.clone(), value.to_owned())),
            (false, _, None) => return Ok(json.to_owned()),
            (false, false, Some(_)) => return Err(nothing_there()),
        }
        let written = members.iter().map(|(key, json)| {
            let key = serde_json::to_string(key).map_err(|error| error.to_string())?;
            Ok(format!("{key}:{json}"))
        });
        return Ok(format!(
            "{{{}}}",
            written.collect::<Result<Vec<_>, String>>()?.join(",")
        ));
    }
    if kind == Some(&b'[') {
        let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let mut items: Vec<String> = items.iter().map(|item| item.get().to_owned()).collect();
        if name == "-"
            && last
            && let Some(value) = value
        {
            items.push(value.to_owned());
        } else {
            let at = name.parse::<usize>().ok().filter(|&at| at < items.len());
            match (at, last, value) {
                (Some(at), true, None) => drop(items.remove(at)),
                (Some(at), _, _) => {
                    if let Some(item) = items.get_mut(at) {
                        *item = changed(item, path, value, depth + 1)?;
                    }
                }
                (None, _, None) => return Ok(json.to_owned()),
                (None, _, Some(_)) => return Err(nothing_there()),
            }
        }
        return Ok(format!("[{}]", items.join(",")));
    }
    match value {
        Some(_) => Err(nothing_there()),
        None => Ok(json.to_owned()),
    }
}

/// The members of a JSON object in their order, each value as it is written.
fn members(json: &str) -> Result<Vec<(String, String)>, String> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                members.push((key, value.get().to_owned()));
            }
            Ok(members)
        }
    }
    serde_json::Deserializer::from_str(json)
        .deserialize_map(Members)
        .map_err(|error| error.to_string())
}

/// Runs a body through a shell command: its standard input, its standard output.
pub(crate) async fn through(command: &str, body: &str) -> Result<String, String> {
    let limits = Limits {
        timeout: COMMAND_TIME,
        grace: GRACE,
        output: MAX_OUTPUT,
        hear_out: true,
    };
    // Nobody calls it off but by dropping it.
    let ended = child::run(shell(command), body.as_bytes(), limits, &CancellationToken::new())
        .await
        .map_err(|error| format!("the edit command cannot be run: {error}"))?;
    if ended.stopped.is_some() {
        return Err(format!(
            "the edit command took longer than {} s",
            COMMAND_TIME.as_secs()
        ));
    }
    if !ended.status.success() {
        let complaint = String::from_utf8_lossy(&ended.error);
        let said = complaint
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        let colon = if said.is_empty() { "" } else { ": " };
        return Err(format!("the edit command ended with {}{colon}{said}", ended.status));
    }
    if !ended.whole {
        return Err(format!(
            "the edit command printed more than the {MAX_OUTPUT} bytes of a message"
        ));
    }
    let mut output = String::from_utf8(ended.output).map_err(|_| "the edit command printed what is no UTF-8 text")?;
    // Commands end what they print with a line end, which is no part of the body.
    if !body.ends_with('\n') && output.ends_with('\n') {
        output.pop();
    }
    if output.is_empty() {
        return Err("the edit command printed nothing".to_owned());
    }
    Ok(output)
}

#[cfg(unix)]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command);
    shell
}

#[cfg(not(unix))]
fn shell(command: &str) -> Command {
    let mut shell = Command::new("cmd");
    shell.arg("/C").arg(command);
    shell
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn edit(text: &str, body: &str) -> Result<String, String> {
        text.parse::<Edit>()?.apply(body)
    }

    #[test]
    fn an_edit_sets_and_deletes_and_leaves_all_else_as_it_is_written() {
        let body = r#" {"z": 1.10, "a": {"deep": [1, 2.000], "b~/": 98765432109876543210}, "z2": "\u00e9"} "#;
        for (text, expected) in [
            (
                "/z=2",
                r#"{"z":2,"a":{"deep": [1, 2.000], "b~/": 98765432109876543210},"z2":"\u00e9"}"#,
            ),
            (
                "/z=EUR",
                r#"{"z":"EUR","a":{"deep": [1, 2.000], "b~/": 98765432109876543210},"z2":"\u00e9"}"#,
            ),
            (
                "/new={\"x\":[]}",
                r#"{"z":1.10,"a":{"deep": [1, 2.000], "b~/": 98765432109876543210},"z2":"\u00e9","new":{"x":[]}}"#,
            ),
            (
                "/a/deep/0=7",
                r#"{"z":1.10,"a":{"deep":[7,2.000],"b~/":98765432109876543210},"z2":"\u00e9"}"#,
            ),
            (
                "/a/deep/-=a=b",
                r#"{"z":1.10,"a":{"deep":[1,2.000,"a=b"],"b~/":98765432109876543210},"z2":"\u00e9"}"#,
            ),
            ("-/a/b~0~1", r#"{"z":1.10,"a":{"deep":[1, 2.000]},"z2":"\u00e9"}"#),
            ("-/a", r#"{"z":1.10,"z2":"\u00e9"}"#),
        ] {
            assert_eq!(edit(text, body).unwrap(), expected, "{text}");
        }
        for absent in ["-/none", "-/none/deeper", "-/a/deep/9", "-/z/deeper"] {
            let same: serde_json::Value = serde_json::from_str(&edit(absent, body).unwrap()).unwrap();
            assert_eq!(
                same,
                serde_json::from_str::<serde_json::Value>(body).unwrap(),
                "{absent}"
            );
        }
    }

    #[test]
    fn inv12_what_cannot_be_edited_says_why() {
        for (text, body, says) in [
            ("/a/b=1", r#"{"c":1}"#, "no /a"),
            ("/a/b=1", r#"{"a":1}"#, "no /a/b"),
            ("/a/9=1", r#"{"a":[1]}"#, "no /a/9"),
            ("/a=1", "a: 1", "no JSON"),
            ("/a=1", "", "no JSON"),
            ("/a", "{}", "no `=`"),
            ("a=1", "{}", "begins with `/`"),
            ("-a", "{}", "begins with `/`"),
        ] {
            let error = edit(text, body).unwrap_err();
            assert!(error.contains(says), "{text} on {body}: {error}");
        }
    }

    #[test]
    fn an_edit_is_written_as_it_is_read() {
        for text in ["/a~1b=1", "-/x/0", r#"/t="two words""#] {
            assert_eq!(text.parse::<Edit>().unwrap().to_string(), text);
        }
        assert_eq!("/t=two words".parse::<Edit>().unwrap().to_string(), r#"/t="two words""#);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_body_goes_through_a_command_and_its_failure_says_why() {
        assert_eq!(through("tr a-z A-Z", "body").await.unwrap(), "BODY");
        assert_eq!(through("cat", "line\n").await.unwrap(), "line\n");
        // What goes on after the command itself may say the rest of the body.
        assert_eq!(
            through("exec 3<&0; (sleep 0.2; cat <&3) & printf begun-", "body")
                .await
                .unwrap(),
            "begun-body"
        );
        for (command, says) in [
            ("echo no such order >&2; exit 3", "exit status: 3: no such order"),
            ("true", "printed nothing"),
            ("printf '\\377'", "no UTF-8"),
            ("head -c 2000000 /dev/zero", "more than the 1048576 bytes"),
        ] {
            let error = through(command, "body").await.unwrap_err();
            assert!(error.contains(says), "{command}: {error}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_command_that_is_given_up_is_killed_with_what_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("started");
        let command = format!("(echo $$ > {0}.new; mv {0}.new {0}; sleep 300) & wait", mark.display());
        let group = tokio::select! {
            biased;
            _ = through(&command, "body") => panic!("it goes on for minutes"),
            group = async {
                loop {
                    match std::fs::read_to_string(&mark) {
                        Ok(text) => break text.trim().parse::<i32>().unwrap(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            } => rustix::process::Pid::from_raw(group).unwrap(),
        };
        while rustix::process::test_kill_process_group(group).is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
