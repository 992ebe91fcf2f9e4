//! `redrive completions` and `redrive man`.

use crate::tool::{Ran, Tool};

#[test]
fn completions_know_every_command() {
    let tool = Tool::alone();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = tool.run(&["completions", shell]);
        assert!(ran.exits(0).contains("doctor"), "{shell}");
    }
    tool.run(&["completions", "cobol"]).exits(2);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    Tool::alone().run(&["man", pages.to_str().unwrap()]).exits(0);
    for page in ["redrive.1", "redrive-doctor.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "{page}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure_and_a_reader_that_has_seen_enough_is_none() {
    let mut command = Tool::alone().command(&["completions", "bash"]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ran = Ran::of(command.stdout(full).spawn().unwrap());
    ran.exits(1);
    assert!(
        ran.stderr
            .contains("error: standard output cannot be written: No space left on device"),
        "{}",
        ran.stderr
    );
    let mut child = Tool::alone().command(&["completions", "bash"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child);
    assert_eq!((ran.exits(0), ran.stderr.as_str()), ("", ""));
}
