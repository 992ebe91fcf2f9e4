//! `redrive completions` and `redrive man`.

use crate::tool::Tool;

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
