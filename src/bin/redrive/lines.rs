//! Files of lines, of any size: read line by line, checked as a whole before anything is done with them.

pub(crate) mod ranges;
pub(crate) mod send;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::failure::Failure;

/// The most bytes of a line. A body is at most 1 MiB, and JSON may take six bytes for one of it.
const MAX_LINE: u64 = 16 * 1024 * 1024;

/// How many lines are read ahead.
const AHEAD: usize = 4;

/// A line, counted from 1. Empty lines are counted and left out.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    /// Its text, or why it cannot be one.
    pub(crate) text: Result<String, String>,
}

/// Where lines come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// `-` is standard input.
    pub(crate) fn named(path: &Path) -> Self {
        if path.as_os_str() == "-" {
            Self::Stdin
        } else {
            Self::File(path.to_owned())
        }
    }

    pub(crate) fn open(&self) -> Result<Box<dyn Read + Send>, Failure> {
        match self {
            Self::Stdin => Ok(Box::new(io::stdin())),
            Self::File(path) => Ok(Box::new(File::open(path).map_err(|error| self.unreadable(&error))?)),
        }
    }

    pub(crate) fn unreadable(&self, error: &io::Error) -> Failure {
        Failure::new(format_args!("{self} cannot be read: {error}"))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdin => f.write_str("standard input"),
            Self::File(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// Lines as they are read.
#[derive(Debug)]
pub(crate) struct Lines {
    lines: mpsc::Receiver<io::Result<Line>>,
}

impl Lines {
    /// Reads in a thread of its own: a read of a pipe or terminal cannot be called off, and Ctrl-C must not wait for it. The
    /// thread ends with the process, or at the next line when nobody wants more.
    pub(crate) fn of(source: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel(AHEAD);
        std::thread::spawn(move || {
            let mut source = BufReader::with_capacity(64 * 1024, source);
            let mut number = 0;
            loop {
                number += 1;
                let read = match read_line(&mut source) {
                    Ok(None) => return,
                    Ok(Some(Ok(text))) if text.trim().is_empty() => continue,
                    Ok(Some(text)) => Ok(Line { number, text }),
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        });
        Self { lines }
    }

    /// The next line; may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Line>> {
        self.lines.recv().await
    }
}

/// One line without its end; `None` at the end of the source.
fn read_line(source: &mut impl BufRead) -> io::Result<Option<Result<String, String>>> {
    let mut bytes = Vec::new();
    source.by_ref().take(MAX_LINE + 1).read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    } else if bytes.len() as u64 > MAX_LINE {
        source.skip_until(b'\n')?;
        let most = MAX_LINE / (1024 * 1024);
        return Ok(Some(Err(format!("longer than {most} MiB, which no message is"))));
    }
    Ok(Some(match String::from_utf8(bytes) {
        // Some editors begin a file with the mark.
        Ok(text) => Ok(text
            .strip_prefix('\u{feff}')
            .map_or_else(|| text.clone(), ToOwned::to_owned)),
        Err(error) => Err(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to() + 1)),
    }))
}

/// A source that can be read twice: the file itself, or a copy of what can be read once.
pub(crate) struct Twice {
    file: File,
    copying: bool,
}

impl Twice {
    pub(crate) fn of(source: &Source) -> Result<Self, Failure> {
        if let Source::File(path) = source {
            let file = File::open(path).map_err(|error| source.unreadable(&error))?;
            let about = file.metadata().map_err(|error| source.unreadable(&error))?;
            if about.is_dir() {
                return Err(Failure::new(format_args!("{source} is a folder, not a file")));
            }
            if about.is_file() {
                return Ok(Self { file, copying: false });
            }
        }
        let file = tempfile::tempfile()
            .map_err(|error| Failure::new(format_args!("a temporary file for {source} cannot be made: {error}")))?;
        Ok(Self { file, copying: true })
    }

    /// The first time. What can be read once is copied on its way.
    pub(crate) fn first(&self, source: &Source) -> Result<Lines, Failure> {
        let file = self.file.try_clone().map_err(|error| source.unreadable(&error))?;
        Ok(if self.copying {
            Lines::of(Copying {
                from: source.open()?,
                to: file,
            })
        } else {
            Lines::of(file)
        })
    }

    /// The second time.
    pub(crate) fn second(mut self, source: &Source) -> Result<Lines, Failure> {
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(|error| source.unreadable(&error))?;
        Ok(Lines::of(self.file))
    }
}

/// Reads, and keeps what it read.
struct Copying {
    from: Box<dyn Read + Send>,
    to: File,
}

impl Read for Copying {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.to.write_all(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    async fn read(bytes: impl AsRef<[u8]> + Send + 'static) -> Vec<(u64, Result<String, String>)> {
        let mut lines = Lines::of(io::Cursor::new(bytes));
        let mut read = Vec::new();
        while let Some(line) = lines.next().await {
            let line = line.unwrap();
            read.push((line.number, line.text));
        }
        read
    }

    #[tokio::test]
    async fn lines_keep_their_numbers_and_bad_ones_do_not_end_the_file() {
        let read = read(b"\xef\xbb\xbfone\n\n  \r\ntw\xffo\nthree".as_slice()).await;
        assert_eq!(
            read,
            [
                (1, Ok("one".to_owned())),
                (4, Err("not UTF-8 at byte 3".to_owned())),
                (5, Ok("three".to_owned())),
            ]
        );
        assert!(self::read("").await.is_empty());
    }

    #[tokio::test]
    async fn inv05_a_line_without_end_is_not_kept() {
        let most = usize::try_from(MAX_LINE).unwrap();
        let text = format!("{}\n{}\nok\n", "x".repeat(most), "y".repeat(3 * most));
        let read = read(text).await;
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].1.as_ref().unwrap().len(), most);
        assert!(read[1].1.as_ref().unwrap_err().contains("longer than 16 MiB"));
        assert_eq!(read[2], (3, Ok("ok".to_owned())));
    }
}
