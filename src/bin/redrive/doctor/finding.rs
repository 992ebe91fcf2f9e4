//! What the doctor says.

use std::fmt;

use console::Style;
use redrive::worker;
use serde::Serialize;

/// How bad a finding is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    Problem,
    Warning,
    Info,
    Ok,
}

/// One line: what it is, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    /// What kind of finding it is; it stays the same.
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl Finding {
    fn new(severity: Severity, code: &'static str, text: impl fmt::Display) -> Self {
        Self {
            severity,
            code,
            text: text.to_string(),
        }
    }

    pub(crate) fn problem(code: &'static str, text: impl fmt::Display) -> Self {
        Self::new(Severity::Problem, code, text)
    }

    pub(crate) fn warning(code: &'static str, text: impl fmt::Display) -> Self {
        Self::new(Severity::Warning, code, text)
    }

    pub(crate) fn info(code: &'static str, text: impl fmt::Display) -> Self {
        Self::new(Severity::Info, code, text)
    }

    /// It was looked at and is as it should be.
    pub(crate) fn ok(code: &'static str, text: impl fmt::Display) -> Self {
        Self::new(Severity::Ok, code, text)
    }

    /// Its line.
    pub(crate) fn shown(&self) -> String {
        let (word, style) = match self.severity {
            Severity::Problem => ("problem", Style::new().red().bold()),
            Severity::Warning => ("warning", Style::new().yellow().bold()),
            Severity::Info => ("info", Style::new().cyan()),
            Severity::Ok => ("fine", Style::new().green()),
        };
        format!("{}: {}", style.apply_to(word), crate::ui::safe(&self.text))
    }
}

impl From<worker::Finding> for Finding {
    fn from(found: worker::Finding) -> Self {
        match found.severity {
            worker::Severity::Warning => Self::warning(found.code, found.text),
            worker::Severity::Problem => Self::problem(found.code, found.text),
        }
    }
}
