//! What the help pages and the documentation tell people to type is understood.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use clap::{Command, CommandFactory as _, Parser as _};

use crate::Arguments;

#[test]
fn the_command_line_is_described_without_contradictions() {
    Arguments::command().debug_assert();
}

#[test]
fn every_example_of_the_help_is_understood() {
    fn walk(command: &Command, name: &str, found: &mut Vec<(String, String)>) {
        if let Some(help) = command.get_after_help() {
            for line in help.to_string().lines() {
                found.extend(invocations(line.trim_start()).map(|line| (name.to_owned(), line)));
            }
        }
        for sub in command.get_subcommands() {
            walk(sub, &format!("{name} {}", sub.get_name()), found);
        }
    }
    let mut examples = Vec::new();
    walk(&Arguments::command(), "redrive", &mut examples);
    assert!(examples.len() > 5, "{examples:?}");
    for (name, example) in &examples {
        understood(example).unwrap_or_else(|error| panic!("in the help of `{name}`: {example}\n{error}"));
    }
}

#[test]
fn what_is_laid_out_in_the_help_fits_a_terminal_of_80_columns() {
    for text in [crate::dlq::filter::LANGUAGE, crate::dlq::look::COST] {
        for line in text.lines() {
            assert!(line.chars().count() < 78, "{line}");
        }
    }
}

#[test]
fn every_command_has_examples_in_its_help() {
    fn walk(command: &Command, name: &str, without: &mut Vec<String>) {
        let shown = command
            .get_after_help()
            .is_some_and(|help| help.to_string().contains("redrive "));
        if !command.has_subcommands() && !shown {
            without.push(name.to_owned());
        }
        for sub in command.get_subcommands() {
            walk(sub, &format!("{name} {}", sub.get_name()), without);
        }
    }
    let mut without = Vec::new();
    walk(&Arguments::command(), "redrive", &mut without);
    assert!(without.is_empty(), "{without:?}");
}

/// Lines that begin a command of ours on the pages, in fenced blocks of `sh`; sessions are run by `tests/cli/pages.rs`.
#[test]
fn every_command_on_the_pages_is_understood() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md")];
    for entry in std::fs::read_dir(root.join("docs")).unwrap() {
        pages.push(entry.unwrap().path());
    }
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        for block in text
            .split("```sh\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
        {
            for line in block.replace("\\\n", " ").lines() {
                for invocation in invocations(line) {
                    understood(&invocation).unwrap_or_else(|error| panic!("{}: {invocation}\n{error}", page.display()));
                }
            }
        }
    }
}

/// The invocations of the tool in a shell's line.
fn invocations(line: &str) -> impl Iterator<Item = String> {
    let line = line.replacen("cargo redrive ", "redrive ", 1);
    // Of a pipe, what comes before and after; of a redirection, what comes before.
    let parts: Vec<String> = split_unquoted(&line);
    parts
        .into_iter()
        .map(|part| part.trim().to_owned())
        .filter(|part| part.starts_with("redrive "))
}

fn split_unquoted(line: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('|' | '>' | '<' | '&' | ';', None) => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts
}

fn understood(invocation: &str) -> Result<(), clap::Error> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quote, mut begun) = (None, false);
    for c in invocation.chars() {
        match (c, quote) {
            ('\'' | '"', None) => (quote, begun) = (Some(c), true),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (c, _) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    Arguments::try_parse_from(words).map(|_| ())
}
