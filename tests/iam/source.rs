//! Reads the sources, as far as it takes to tell which functions make which calls to AWS, and which functions they use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex_lite::Regex;

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

static HEAD: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?m)^([ \t]*)((?:pub(?:\([^)]*\))? )?)(?:const )?(?:async )?fn ([a-z_0-9]+)"));
static IMPL: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^impl[^{;]*"));
/// Methods that collections have: called on anything but `self`, they are the collection's.
const OF_COLLECTIONS: [&str; 2] = ["insert", "get"];

/// A method or a function that is called, or a function of a type that is handed on by its name.
static CALL: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(?:\b(self)\s*\.\s*|(\.)\s*|\b([A-Z][A-Za-z]*)::|\b)([a-z_][a-z_0-9]*)\b(?:::<[^()]*>)?\s*(\()?\s*(\))?")
});
static OPERATION: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\bclient(?:_waiting)?(?:\([a-z_.]*\))?\s*\.\s*([a-z_]+)\("));
static STATEMENT: LazyLock<Regex> = LazyLock::new(|| regex(r#""(INSERT|UPDATE|DELETE|SELECT) (?:INTO |FROM )?\S"#));

/// A function of the sources.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) file: String,
    /// The head of the `impl` block it stands in, such as `impl Queue for SqsQueue`; empty outside of one.
    pub(crate) of: String,
    pub(crate) name: String,
    /// Whether it is `pub`, not `pub(crate)` or less.
    pub(crate) public: bool,
    /// The SDK's operations that it calls, in `snake_case`, and the PartiQL statements that it writes, such as `INSERT`.
    pub(crate) operations: BTreeSet<String>,
    /// What it calls: by which type, if it says so, and by which name.
    calls: BTreeSet<(Via, String)>,
}

/// How a function is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    /// By its name alone.
    Name,
    /// On a value.
    Value,
    /// On `self` or by `Self::`, or by the name of a type.
    Type(String),
}

impl Function {
    /// The type whose `impl` block it stands in.
    fn of_type(&self) -> &str {
        let head = self.of.rsplit(" for ").next().unwrap_or_default();
        let head = head.strip_prefix("impl").unwrap_or(head).trim();
        head.split(['<', ' ']).next().unwrap_or_default()
    }
}

/// Every file under `folder`, or the file itself, without the tests in it and beside it.
pub(crate) fn files(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    collect(&root.join(folder), &mut paths);
    paths.sort();
    let files: Vec<_> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "rs") && !is_test(path))
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            let text = std::fs::read_to_string(&path).unwrap();
            // Unit tests stand at the end.
            let text = match text
                .find("#[cfg(test)]\n#[allow")
                .or_else(|| text.find("#[cfg(test)]\nmod"))
            {
                Some(tests) => text[..tests].to_owned(),
                None => text,
            };
            (name, text)
        })
        .collect();
    assert!(
        !files.is_empty(),
        "there is no source in {folder}: has it moved? This test reads it."
    );
    files
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    name == "tests" || name.ends_with("_tests")
}

fn collect(path: &Path, into: &mut Vec<PathBuf>) {
    if path.is_file() {
        into.push(path.to_owned());
        return;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return };
    for entry in entries {
        collect(&entry.unwrap().path(), into);
    }
}

/// The functions of these files. Fails where a call to AWS is made in a way that it cannot read.
pub(crate) fn functions(files: &[(String, String)]) -> Vec<Function> {
    let mut functions = Vec::new();
    for (file, text) in files {
        let code = blanked(text, false);
        let bare = blanked(text, true);
        let found = functions_of(file, &code, &bare);
        // Only the SDK's builders are sent without an argument.
        if code.contains("aws_sdk_") || !operations_in(&code).is_empty() {
            let sent = bare.matches(".send()").count();
            let read = operations_in(&code).len();
            assert_eq!(
                sent, read,
                "{file}: {sent} calls are sent (`.send()`), and {read} are read as `client.operation()`, `client().operation()` or \
                 `client_waiting(…).operation()`. Write the others that way, or teach tests/iam/source.rs to read them."
            );
        }
        let within: usize = found.iter().map(|function| function.operations.len()).sum();
        assert!(
            within > 0 || operations_in(&code).is_empty(),
            "{file}: its calls stand in no function that tests/iam/source.rs can read"
        );
        functions.extend(found);
    }
    functions
}

/// The functions that one of these is, or uses, directly or by others. What is called on a value is taken for each function of
/// that name, whatever the value's type: this may find too many, and none too few.
pub(crate) fn reached<'a>(all: &'a [Function], from: impl IntoIterator<Item = &'a Function>) -> Vec<&'a Function> {
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, function) in all.iter().enumerate() {
        by_name.entry(&function.name).or_default().push(at);
    }
    let at = |function: &Function| all.iter().position(|one| std::ptr::eq(one, function)).unwrap();
    let mut open: Vec<usize> = from.into_iter().map(at).collect();
    let mut seen: BTreeSet<usize> = open.iter().copied().collect();
    while let Some(at) = open.pop() {
        for (via, name) in &all[at].calls {
            let named = by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            let own = |of: &str| named.iter().any(|&next| all[next].of_type() == of);
            for &next in named {
                let of = all[next].of_type();
                let may_be = match via {
                    Via::Name => of.is_empty(),
                    Via::Value => !of.is_empty(),
                    // A type that has none of that name may have it by what it stands for.
                    Via::Type(by) => of == by || (!of.is_empty() && !own(by) && by == all[at].of_type()),
                };
                if may_be && seen.insert(next) {
                    open.push(next);
                }
            }
        }
    }
    seen.into_iter().map(|at| &all[at]).collect()
}

fn functions_of(file: &str, code: &str, bare: &str) -> Vec<Function> {
    let impls: Vec<_> = IMPL
        .find_iter(bare)
        .map(|found| {
            (
                found.start()..end_of_block(bare, found.end()),
                found.as_str().trim().to_owned(),
            )
        })
        .collect();
    HEAD.captures_iter(bare)
        .filter_map(|found| {
            let whole = found.get(0).unwrap();
            // A trait's function may have no body.
            let open = whole.end() + bare[whole.end()..].find(['{', ';'])?;
            if bare[open..].starts_with(';') {
                return None;
            }
            let body = open..end_of_block(bare, open);
            let of = impls.iter().find(|(range, _)| range.contains(&whole.start()));
            let mut operations = operations_in(&code[body.clone()]);
            operations.extend(statements_in(&code[body.clone()]));
            Some(Function {
                file: file.to_owned(),
                of: of.map(|(_, head)| head.clone()).unwrap_or_default(),
                name: found[3].to_owned(),
                public: &found[2] == "pub ",
                operations: operations.into_iter().collect(),
                calls: calls_in(&bare[body], of.map(|(_, head)| head.as_str()).unwrap_or_default()),
            })
        })
        .collect()
}

fn calls_in(bare: &str, within: &str) -> BTreeSet<(Via, String)> {
    let own = within.rsplit(" for ").next().unwrap_or_default();
    let own = own.strip_prefix("impl").unwrap_or(own).trim().to_owned();
    CALL.captures_iter(bare)
        .filter_map(|found| {
            let name = found[4].to_owned();
            let called = found.get(5).is_some();
            // The SDK's builders are sent so, and nothing of ours.
            if name == "send" && found.get(6).is_some() {
                return None;
            }
            let via = match (found.get(1), found.get(2), found.get(3)) {
                (Some(_), ..) => Via::Type(own.clone()),
                (_, Some(_), _) if OF_COLLECTIONS.contains(&name.as_str()) => return None,
                (_, Some(_), _) => Via::Value,
                (.., Some(of)) if of.as_str() == "Self" => Via::Type(own.clone()),
                (.., Some(of)) => Via::Type(of.as_str().to_owned()),
                _ => Via::Name,
            };
            // A function of a type may be handed on by its name.
            (called || matches!(via, Via::Type(_))).then_some((via, name))
        })
        .collect()
}

/// What is called on something named `client`, but for what every client has.
fn operations_in(code: &str) -> Vec<String> {
    OPERATION
        .captures_iter(code)
        .map(|found| found[1].to_owned())
        .filter(|name| !["config", "clone", "client_waiting"].contains(&name.as_str()))
        .collect()
}

/// PartiQL, by its first word.
fn statements_in(code: &str) -> Vec<String> {
    STATEMENT.captures_iter(code).map(|found| found[1].to_owned()).collect()
}

/// Where the block ends that opens at the first brace from here on.
fn end_of_block(bare: &str, from: usize) -> usize {
    let mut depth = 0_u32;
    for (at, byte) in bare.bytes().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    bare.len()
}

/// The text with its comments, and if asked what stands in quotes too, as spaces: every place stays where it is.
fn blanked(text: &str, quotes: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut blank = |range: std::ops::Range<usize>| {
        for byte in &mut out[range] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    };
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            let end = at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
            blank(at..end);
            at = end;
        } else if rest.starts_with(b"r#\"") {
            let end = at + text[at..].find("\"#").map_or(rest.len(), |end| end + 2);
            if quotes {
                blank(at..end);
            }
            at = end;
        } else if rest[0] == b'"' {
            let mut end = at + 1;
            while end < bytes.len() && bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            if quotes {
                blank(at + 1..end.min(bytes.len()));
            }
            at = end + 1;
        } else if rest[0] == b'\'' && rest.len() > 2 && (rest[1] == b'\\' || rest[2] == b'\'') {
            // A character, and no lifetime.
            let from = at + if rest[1] == b'\\' { 3 } else { 2 };
            let end = from + bytes[from..].iter().position(|&byte| byte == b'\'').unwrap_or(0);
            blank(at..end + 1);
            at = end + 1;
        } else {
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}
