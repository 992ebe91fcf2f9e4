//! Finding the command before the first message is taken.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The program that `name` means: a path as it is, else the first of this name in the folders of `path`.
pub(super) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let shown = name.to_string_lossy();
    let shown = crate::ui::safe(&shown);
    if Path::new(name).components().count() > 1 || name.as_encoded_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return match runnable(&file) {
            Ok(()) => Ok(file),
            Err(why) => Err(Failure::new(format_args!("the command `{shown}` cannot be run: {why}"))
                .remedy("check the path; it is taken from the folder that redrive runs in")),
        };
    }
    let mut found = std::env::split_paths(path.unwrap_or_default())
        .map(|folder| folder.join(name))
        .filter(|file| file.exists());
    let mut why = None;
    for file in &mut found {
        match runnable(&file) {
            Ok(()) => return Ok(file),
            Err(reason) => why = Some(format!("{} {reason}", file.display())),
        }
    }
    Err(match why {
        Some(why) => Failure::new(format_args!("the command `{shown}` cannot be run: {why}")),
        None => Failure::new(format_args!("the command `{shown}` is not found"))
            .remedy("install it, or give its path; a pipeline or a built-in needs a shell: -- sh -c '…'"),
    })
}

fn runnable(file: &Path) -> Result<(), String> {
    let metadata = std::fs::metadata(file).map_err(|error| error.to_string())?;
    if metadata.is_dir() {
        return Err("is a folder".to_owned());
    }
    if !is_executable(&metadata) {
        return Err("is not executable".to_owned());
    }
    Ok(())
}

#[cfg(unix)]
fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(_: &std::fs::Metadata) -> bool {
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_path_or_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("plain.txt");
        std::fs::write(&plain, "x").unwrap();
        let path = Some(folder.path().as_os_str());
        assert!(find(OsStr::new("/bin/sh"), None).is_ok());
        assert!(find(OsStr::new("sh"), Some(OsStr::new("/nowhere:/bin"))).is_ok());
        for (name, why) in [
            ("sh", "not found"),
            ("plain.txt", "not executable"),
            ("./no/such/file", "No such file"),
            ("/tmp", "folder"),
        ] {
            let error = find(OsStr::new(name), path).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(name), "{error}");
        }
    }
}
