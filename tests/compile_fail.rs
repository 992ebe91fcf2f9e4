//! A wrong handler gives a compile error that says what is wrong with it: each file in `tests/compile_fail` is compiled
//! against this crate as just built, must fail, and its errors must be those of the `.stderr` file beside it.
//!
//! The files use nothing but this crate, so that one run of the compiler each is enough: no second build of the crate and
//! its dependencies. `UPDATE_EXPECTED=1 cargo test --test compile_fail` writes the `.stderr` files anew.
//!
//! Compilers word things differently. Errors are compared as a whole with the compiler they were written by, which is named
//! in each `.stderr` file's first line; with others, this crate's own messages and notes must be there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

#[test]
fn a_wrong_handler_gives_a_readable_compile_error() {
    let compiler = Compiler::found();
    let cases = cases();
    assert!(cases.len() >= 10, "the cases are missing: {cases:?}");
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let failures = Mutex::new(Vec::new());
    let next = Mutex::new(cases.iter());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let Some(case) = next.lock().unwrap().next() else { break };
                    if let Err(failure) = compiler.check(case, update) {
                        failures.lock().unwrap().push(failure);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut cases: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    cases.sort();
    cases
}

/// The compiler leaves a type's path out where no other crate at hand has a type of that name, which depends on features.
fn without_paths(text: &str) -> String {
    let mut short = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("::") {
        let module = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        short.push_str(rest[..at].trim_end_matches(module));
        rest = &rest[at + 2..];
    }
    short + rest
}

struct Compiler {
    rustc: OsString,
    version: String,
    dependencies: PathBuf,
    library: PathBuf,
}

impl Compiler {
    /// The compiler that Cargo would run, and the library that it built for this test.
    fn found() -> Self {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = Command::new(&rustc)
            .arg("--version")
            .output()
            .expect("rustc runs")
            .stdout;
        let version = String::from_utf8(version).unwrap();
        let dependencies = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
        // Features give the library different names; whichever was built last was built from the sources as they are.
        let library = fs::read_dir(&dependencies)
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.starts_with("libredrive-") && name.ends_with(".rlib")
            })
            .max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).unwrap())
            .unwrap_or_else(|| panic!("no libredrive-*.rlib in {}", dependencies.display()))
            .path();
        Self {
            rustc,
            version: version.split_whitespace().take(2).collect::<Vec<_>>().join(" "),
            dependencies,
            library,
        }
    }

    fn check(&self, case: &Path, update: bool) -> Result<(), String> {
        let name = case.file_stem().unwrap().to_string_lossy();
        let errors = self.errors(case, &name)?;
        let expected_in = case.with_extension("stderr");
        if update {
            fs::write(&expected_in, format!("{}\n{errors}", self.version)).unwrap();
            return Ok(());
        }
        let expected =
            fs::read_to_string(&expected_in).map_err(|error| format!("{}: {error}", expected_in.display()))?;
        let (written_by, expected) = expected.split_once('\n').unwrap_or_default();
        if written_by == self.version {
            let same = without_paths(expected) == without_paths(&errors);
            return same.then_some(()).ok_or_else(|| {
                format!("== {name}: the errors have changed; expected:\n{expected}\nbut they are:\n{errors}")
            });
        }
        eprintln!(
            "{name}: written by {written_by}, this is {}: only our own words are compared",
            self.version
        );
        let ours = expected.lines().filter(|line| {
            let said = line.starts_with("error[E0277]: ") || line.starts_with("= note: ");
            said && !line.contains("required for") && !line.contains("redundant requirement")
        });
        let errors = without_paths(&errors);
        let missing: Vec<_> = ours.filter(|line| !errors.contains(&without_paths(line))).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("== {name}: {missing:?} are missing in:\n{errors}"))
        }
    }

    /// The errors of compiling it, without what differs from place to place.
    fn errors(&self, case: &Path, name: &str) -> Result<String, String> {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.rmeta"));
        let mut library = OsString::from("redrive=");
        library.push(&self.library);
        let mut dependencies = OsString::from("dependency=");
        dependencies.push(&self.dependencies);
        let run = Command::new(&self.rustc)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([
                "--edition",
                "2024",
                "--emit=metadata",
                "--color",
                "never",
                "--diagnostic-width",
                "200",
            ])
            .arg("-o")
            .arg(&out)
            .arg("--extern")
            .arg(library)
            .arg("-L")
            .arg(dependencies)
            .arg(case)
            .output()
            .map_err(|error| format!("rustc: {error}"))?;
        if run.status.success() {
            return Err(format!("== {name}: compiles, but must not"));
        }
        Ok(normal(&String::from_utf8_lossy(&run.stderr)))
    }
}

/// The errors, without line numbers, what other files hold, and what the compiler always says at its end.
fn normal(errors: &str) -> String {
    let mut lines = Vec::new();
    let mut elsewhere = false;
    for line in errors.lines() {
        let line = line
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .trim_end();
        let end = line.starts_with("error: aborting") || line.starts_with("For more information");
        if end || line.starts_with("--> ") || line.starts_with("::: ") {
            continue;
        }
        if ["error", "= ", "note:", "help:"]
            .iter()
            .any(|start| line.starts_with(start))
        {
            // Lists of implementations, and the crate's own lines: they change with every edit.
            elsewhere = line.contains("other types implement")
                || line.contains("is implemented for")
                || line.contains("by a bound in");
            lines.push(line);
        } else if !elsewhere {
            lines.push(line);
        }
    }
    format!("{}\n", lines.join("\n").trim())
}
