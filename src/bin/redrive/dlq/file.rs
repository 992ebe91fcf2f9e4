//! Files that dead letters are written to.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use redrive::dlq::DeadLetter;
use tempfile::NamedTempFile;

use crate::failure::Failure;
use crate::record::Written;

/// A file that has its name only when it is whole. What is written can be read by its owner alone.
pub(super) struct Whole {
    path: PathBuf,
    overwrite: bool,
    temporary: BufWriter<NamedTempFile>,
}

impl Whole {
    /// `overwrite` is what lets it take the place of a file that is there.
    pub(super) fn create(path: &Path, overwrite: bool) -> Result<Self, Failure> {
        if !overwrite && path.exists() {
            return Err(Failure::new(format_args!("`{}` is there already", path.display()))
                .remedy("give another name, or --overwrite"));
        }
        let temporary = NamedTempFile::new_in(folder_of(path)).map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            overwrite,
            temporary: BufWriter::with_capacity(64 * 1024, temporary),
        })
    }

    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.temporary.write_all(line)
    }

    /// Gives it its name, once everything is on the disk.
    pub(super) fn finish(self) -> Result<(), Failure> {
        let failed = |error: io::Error| unwritable(&self.path, &error);
        let temporary = self
            .temporary
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        temporary.as_file().sync_all().map_err(failed)?;
        let named = if self.overwrite {
            temporary.persist(&self.path)
        } else {
            temporary.persist_noclobber(&self.path)
        };
        named.map_err(|error| failed(error.error))?;
        sync_folder(&self.path).map_err(failed)
    }
}

/// A file in which everything is safe when a write has returned: for what is deleted next.
pub(super) struct Safe {
    path: PathBuf,
    file: File,
    lines: u64,
    /// How long it is, in bytes, without what could not be written whole.
    length: u64,
}

impl Safe {
    /// A new file; one that is there is never touched.
    pub(super) fn create(path: &Path) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(format_args!(
                "the backup `{}` is there already, and a backup is never written over",
                path.display()
            ))
            .remedy("give another name with --backup"),
            _ => unwritable(path, &error)
                .remedy("give a place for the backup with --backup, or --no-backup to have none"),
        })?;
        sync_folder(path).map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            lines: 0,
            length: 0,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes these letters and waits for the disk. Where that fails, what was written of them is taken away again, as far
    /// as the disk lets it: what is not deleted then does not stand in the file.
    pub(super) fn write<'a>(&mut self, letters: impl Iterator<Item = &'a DeadLetter>, queue: &str) -> io::Result<()> {
        let mut lines = Vec::new();
        let mut count = 0;
        for letter in letters {
            lines.extend(Written::of(letter, queue).line()?);
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        if let Err(error) = self.file.write_all(&lines).and_then(|()| self.file.sync_data()) {
            // The first error is the one to tell.
            let _ = self.file.set_len(self.length);
            let _ = self.file.seek(SeekFrom::Start(self.length));
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.lines += count;
        Ok(())
    }

    /// Takes the file away again if nothing was written to it; whether it is kept.
    pub(super) fn finish(self) -> bool {
        // A page that could not be written whole has left something, and nothing of it was deleted.
        let empty = self.lines == 0 && self.file.metadata().is_ok_and(|about| about.len() == 0);
        if empty {
            let _ = fs::remove_file(&self.path);
        }
        !empty
    }
}

pub(super) fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format_args!("`{}` cannot be written: {error}", path.display()))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name is on the disk only when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder_of(path))?.sync_all()?;
    }
    Ok(())
}
