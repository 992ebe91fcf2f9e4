//! The job file: what a replay has sent and was about to send, so that a rerun goes on where the one before was ended.
//!
//! JSON, a line each: first what the job is, then `sending` before each batch and `sent` after it, at last `finished`. Lines
//! are only added, and each is on the disk before the replay goes on. A last line that a crash cut off is taken off.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redrive::dlq::{Intent, Journal};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

/// The format's version.
const VERSION: u32 = 1;

/// How every job file begins.
const BEGINNING: &[u8] = br#"{"job":{"version":1,"id":""#;

/// What a job is: a rerun must be of the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    version: u32,
    /// Its id, part of the deduplication ids and keys that the replay makes.
    pub(super) id: String,
    pub(super) started_at_ms: u64,
    /// The dead-letter queue's ARN.
    from: String,
    /// The ARNs of the queues it sends to.
    to: Vec<String>,
    /// The edits, as they were written.
    edits: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Job(Job),
    Sending(Vec<Sending>),
    Sent(Vec<String>),
    Finished { at_ms: u64 },
}

#[derive(Debug, Serialize, Deserialize)]
struct Sending {
    id: String,
    work: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    forced: bool,
}

/// A job file that is open and locked.
#[derive(Debug)]
pub(super) struct JobFile {
    path: PathBuf,
    job: Job,
    state: Mutex<State>,
    /// How many messages earlier runs of the job sent.
    pub(super) sent_before: u64,
    /// Whether there were earlier runs.
    pub(super) resumed: bool,
    /// When the job was finished, if it is.
    pub(super) finished_at_ms: Option<u64>,
}

#[derive(Debug)]
struct State {
    file: File,
    known: Known,
    /// A line could not be written whole: what follows it could not be read.
    broken: bool,
}

/// MessageIds and works as 16 bytes each, so that a hundred thousand are few.
#[derive(Debug, Default)]
struct Known {
    sent: BTreeSet<u128>,
    works: BTreeSet<u128>,
    open: BTreeMap<u128, (u128, bool)>,
}

impl Known {
    fn take(&mut self, line: Line) -> Option<u64> {
        match line {
            Line::Job(_) => {}
            Line::Sending(batch) => {
                for one in batch {
                    self.open.insert(digest(&one.id), (digest(&one.work), one.forced));
                }
            }
            Line::Sent(ids) => {
                for id in ids {
                    let id = digest(&id);
                    self.sent.insert(id);
                    self.works.extend(self.open.remove(&id).map(|(work, _)| work));
                }
            }
            Line::Finished { at_ms } => return Some(at_ms),
        }
        None
    }
}

fn digest(text: &str) -> u128 {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    hash.iter()
        .take(16)
        .fold(0, |number, &byte| number << 8 | u128::from(byte))
}

impl Job {
    pub(super) fn new(id: String, started_at_ms: u64, from: &str, mut to: Vec<String>, edits: Vec<String>) -> Self {
        to.sort();
        Self {
            version: VERSION,
            id,
            started_at_ms,
            from: from.to_owned(),
            to,
            edits,
        }
    }

    /// Why `self`, which a file holds, is not the job that is asked for.
    fn differs_from(&self, asked: &Self) -> Option<String> {
        let queues = |job: &Self| format!("from `{}` to {}", job.from, job.to.join(", "));
        let edits = |job: &Self| match job.edits.as_slice() {
            [] => "without edits".to_owned(),
            edits => format!("with the edits {}", edits.join(" ")),
        };
        if self.version != asked.version {
            return Some(format!("it has format {}, and this is {}", self.version, asked.version));
        }
        if (&self.from, &self.to) != (&asked.from, &asked.to) {
            return Some(format!("its job goes {}, and this one {}", queues(self), queues(asked)));
        }
        (self.edits != asked.edits).then(|| format!("its job is {}, and this one {}", edits(self), edits(asked)))
    }
}

impl JobFile {
    /// Opens the file, or makes it, for `asked`.
    pub(super) fn open(path: &Path, asked: Job) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::new(format_args!("job file {}: {error}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(format_args!(
                    "job file {} is in use: another replay runs with it",
                    path.display()
                ))
                .remedy("wait until it ends, or end it with Ctrl-C"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let Read {
            job,
            known,
            finished_at_ms,
            end,
        } = read(path, &file)?;
        if let Some(why) = job.as_ref().and_then(|job| job.differs_from(&asked)) {
            return Err(Failure::usage(format_args!("job file {}: {why}", path.display()))
                .remedy("give what the job was begun with, or another file for another job"));
        }
        let mut file = file;
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        let resumed = job.is_some();
        let this = Self {
            path: path.to_owned(),
            sent_before: known.sent.len() as u64,
            job: job.unwrap_or(asked),
            state: Mutex::new(State {
                file,
                known,
                broken: false,
            }),
            resumed,
            finished_at_ms,
        };
        if !resumed {
            this.write(&Line::Job(this.job.clone())).map_err(failed)?;
            this.keep_name();
        }
        Ok(this)
    }

    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes that nothing is left to be done.
    pub(super) fn finish(&self, at_ms: u64) -> Result<(), Failure> {
        self.write(&Line::Finished { at_ms })
            .map_err(|error| Failure::new(format_args!("job file {}: {error}", self.path.display())))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut state = self.lock();
        if state.broken {
            return Err(io::Error::other("an earlier line could not be written"));
        }
        let done = state.file.write_all(&text).and_then(|()| state.file.sync_data());
        state.broken = done.is_err();
        done
    }

    /// A new file's name is only kept through a crash of the machine once its folder is written.
    fn keep_name(&self) {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // Not every system lets a folder be opened; the file itself is written in any case.
        let _ = File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all());
    }
}

impl Journal for JobFile {
    fn was_sent(&self, message_id: &str) -> bool {
        self.lock().known.sent.contains(&digest(message_id))
    }

    fn is_resumed(&self) -> bool {
        self.resumed
    }

    fn record(&self, message_ids: &[String]) -> io::Result<()> {
        let line = Line::Sent(message_ids.to_vec());
        self.write(&line)?;
        self.lock().known.take(line);
        Ok(())
    }

    fn intend(&self, about_to_send: &[Intent]) -> io::Result<()> {
        let sending = about_to_send.iter().map(|intent| Sending {
            id: intent.message_id.clone(),
            work: intent.work.clone(),
            forced: intent.forced,
        });
        let line = Line::Sending(sending.collect());
        self.write(&line)?;
        self.lock().known.take(line);
        Ok(())
    }

    fn intended(&self, message_id: &str) -> Option<Intent> {
        let &(_, forced) = self.lock().known.open.get(&digest(message_id))?;
        Some(Intent::new(message_id, "", forced))
    }

    fn knows_work(&self, work: &str) -> bool {
        self.lock().known.works.contains(&digest(work))
    }
}

/// What a file holds.
struct Read {
    job: Option<Job>,
    known: Known,
    finished_at_ms: Option<u64>,
    /// Where its last whole line ends.
    end: u64,
}

fn read(path: &Path, file: &File) -> Result<Read, Failure> {
    let mut found = Read {
        job: None,
        known: Known::default(),
        finished_at_ms: None,
        end: 0,
    };
    let mut reader = BufReader::new(file);
    let mut text = Vec::new();
    let mut number = 0_u64;
    loop {
        text.clear();
        let length = reader
            .read_until(b'\n', &mut text)
            .map_err(|error| Failure::new(format_args!("job file {}: {error}", path.display())))?;
        if length == 0 {
            return Ok(found);
        }
        number += 1;
        if text.last() != Some(&b'\n') && (found.job.is_some() || is_cut_header(&text)) {
            // A crash cut it off: what it would have said was not yet relied upon.
            return Ok(found);
        }
        let line = serde_json::from_slice::<Line>(&text);
        match (line, &found.job) {
            (Ok(Line::Job(job)), None) => found.job = Some(job),
            (Ok(line), Some(_)) if !matches!(line, Line::Job(_)) => {
                found.finished_at_ms = found.known.take(line).or(found.finished_at_ms);
            }
            (Ok(_), None) | (Err(_), None) => {
                return Err(Failure::new(format_args!(
                    "{} is no job file: its first line does not say what job it is of; it is left as it is",
                    path.display()
                ))
                .remedy("give the file of a job, or a name that is not taken yet to begin one"));
            }
            (Ok(_), Some(_)) => return Err(broken(path, number, "it begins another job")),
            (Err(error), Some(_)) => return Err(broken(path, number, &error.to_string())),
        }
        found.end += length as u64;
    }
}

/// Whether this is what is left of a first line of ours that a crash cut off.
fn is_cut_header(text: &[u8]) -> bool {
    if !text.starts_with(BEGINNING) {
        return BEGINNING.starts_with(text);
    }
    match serde_json::from_slice::<Line>(text) {
        Ok(line) => matches!(line, Line::Job(_)),
        Err(error) => error.is_eof(),
    }
}

fn broken(path: &Path, number: u64, why: &str) -> Failure {
    Failure::new(format_args!(
        "job file {}, line {number}: {why}; it was changed by something else, and what was sent is not known from it",
        path.display()
    ))
    .remedy(
        "begin another job with another file: what is in both queues is still recognised by its key, if the workers have an \
         inbox",
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn job(id: &str) -> Job {
        Job::new(id.into(), 1, "arn:dlq", vec!["arn:b".into(), "arn:a".into()], vec![])
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn a_rerun_knows_what_was_sent_and_what_was_about_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        let first = JobFile::open(&path, job("one")).unwrap();
        assert!(!first.resumed);
        first
            .intend(&[
                Intent::new("1", "w1", false),
                Intent::new("2", "w2", true),
                Intent::new("3", "w3", false),
            ])
            .unwrap();
        first.record(&ids(&["1"])).unwrap();
        drop(first);
        let again = JobFile::open(&path, job("another id")).unwrap();
        assert_eq!(
            (again.job().id.as_str(), again.resumed, again.sent_before),
            ("one", true, 1)
        );
        assert!(again.was_sent("1") && !again.was_sent("2"));
        assert!(again.knows_work("w1") && !again.knows_work("w2"));
        assert_eq!(again.intended("1"), None);
        assert!(again.intended("2").unwrap().forced && !again.intended("3").unwrap().forced);
        again.finish(7).unwrap();
        drop(again);
        assert_eq!(JobFile::open(&path, job("x")).unwrap().finished_at_ms, Some(7));
    }

    #[test]
    fn a_line_that_a_crash_cut_off_at_any_byte_is_taken_off_and_the_job_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        let file = JobFile::open(&path, job("one")).unwrap();
        let header = std::fs::metadata(&path).unwrap().len() as usize;
        file.record(&ids(&["1", "2"])).unwrap();
        drop(file);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let file = JobFile::open(&path, job("new")).unwrap();
            assert_eq!(file.resumed, length >= header, "cut at {length}");
            assert!(!file.was_sent("1"));
            file.record(&ids(&["3"])).unwrap();
            drop(file);
            let file = JobFile::open(&path, job("x")).unwrap();
            assert!(file.was_sent("3") && !file.was_sent("1"), "cut at {length}");
        }
    }

    #[test]
    fn inv12_a_file_of_another_job_or_of_none_or_in_use_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job");
        let refused = |path: &Path, job: Job| JobFile::open(path, job).unwrap_err().to_string();
        let file = JobFile::open(&path, job("one")).unwrap();
        assert!(refused(&path, job("two")).contains("in use"));
        drop(file);
        let elsewhere = Job::new("x".into(), 1, "arn:dlq", vec!["arn:c".into()], vec![]);
        assert!(refused(&path, elsewhere).contains("arn:c"));
        let edited = Job::new(
            "x".into(),
            1,
            "arn:dlq",
            vec!["arn:a".into(), "arn:b".into()],
            ids(&["/a=1"]),
        );
        assert!(refused(&path, edited).contains("/a=1"));
        let header = std::fs::read_to_string(&path).unwrap();
        for (text, says) in [
            ("my notes".to_owned(), "no job file"),
            ("my notes\n".to_owned(), "no job file"),
            ("{\"job\": \"of mine\"}\n".to_owned(), "no job file"),
            ("{\"job\": \"of mine\"}".to_owned(), "no job file"),
            ("{\"job\":{\"version\":2,\"id\":\"mine\"}}".to_owned(), "no job file"),
            ("{\"job\":{\"version\":1,\"id\":\"a\"}} {}".to_owned(), "no job file"),
            (
                "{\"job\":{\"version\":1,\"id\":\"a\",\"mine\":{}}}".to_owned(),
                "no job file",
            ),
            (format!("{header}{{\"sent\":[\"1\"]}}\nrubbish\n"), "line 3"),
            (format!("{header}{header}"), "line 2"),
        ] {
            std::fs::write(&path, &text).unwrap();
            assert!(refused(&path, job("x")).contains(says), "{text}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
