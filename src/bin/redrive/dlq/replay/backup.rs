//! The file that keeps what a replay drops.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redrive::clock::Clock;
use redrive::dlq::DeadLetter;

use crate::dlq::drop::default_backup;
use crate::dlq::file::Safe;
use crate::failure::Failure;

/// Where letters are kept before they are dropped.
#[derive(Clone)]
pub(super) struct Backup {
    path: PathBuf,
    queue: String,
    file: Arc<Mutex<Option<Safe>>>,
}

impl Backup {
    /// In `named`, or in a file named after queue and time. One that is there already is refused now.
    pub(super) fn new(named: Option<&Path>, queue: &str) -> Result<Self, Failure> {
        let path = named.map_or_else(|| default_backup(queue, Clock::system().epoch_ms()), Path::to_path_buf);
        Ok(Self {
            file: Arc::new(Mutex::new(Some(Safe::create(&path)?))),
            path,
            queue: queue.to_owned(),
        })
    }

    /// Writes these letters and waits for the disk.
    pub(super) fn keep(&self, letters: &[&DeadLetter]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.as_mut() {
            Some(file) => file.write(letters.iter().copied(), &self.queue),
            None => Err(io::Error::other("the backup is closed")),
        }
    }

    /// Closes the file; its name, if there is something in it.
    pub(super) fn finish(&self) -> Option<&Path> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        file.finish().then_some(&self.path)
    }
}
