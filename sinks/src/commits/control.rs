//! Numbered files of control records: requests to a job, in the order it applies them.
//!
//! Invariants: a number that a commit has consumed is never used again; a file is durable before
//! its author learns its number.

use schemas::control::{Author, Control, ControlError, decode, encode};
use schemas::manifest::COMMIT_MAX;
use thiserror::Error;

use super::files::{CommitError, newest};
use crate::storage::{Storage, StorageError, remove_if_exists, temporary};

/// The most records in one file: a job consumes whole files, and must not stall on a large one.
const RECORDS_MAX: usize = 10_000;
/// The most bytes of records in one file, unless it has only one record.
const BYTES_MAX: usize = 4 << 20;

/// Why control records could not be written or read.
#[derive(Debug, Error)]
pub enum QueueError {
    /// The state could not be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file is damaged.
    #[error("{file} is damaged: {error}. Remove it and submit its requests again")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        error: ControlError,
    },
}

fn name(number: u64) -> String {
    format!("control/{number:010}")
}

/// The numbers of the files from `from` on, in ascending order.
pub fn pending(storage: &dyn Storage, from: u64) -> Result<Vec<u64>, StorageError> {
    let names = storage.list("control")?;
    // A file whose name is the number in another form, such as `50`, is not ours.
    // Neither is one that no author reaches.
    let is_ours = |number: &u64, text: &String| {
        *number <= COMMIT_MAX && name(*number) == format!("control/{text}")
    };
    let numbers = names.iter().filter_map(|text| text.parse().ok().filter(|n| is_ours(n, text)));
    let mut numbers: Vec<u64> = numbers.filter(|number| *number >= from).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a file: who wrote it, and its records.
pub fn controls(storage: &dyn Storage, number: u64) -> Result<(Author, Vec<Control>), QueueError> {
    let name = name(number);
    let damaged = |error| QueueError::Damaged { file: storage.display(&name), error };
    decode(&storage.open(&name)?).map_err(damaged)
}

/// Submits records to the job of this state and returns the number of the last file, which is
/// durable. `owner` keeps concurrent authors apart. Without records this requests just a commit,
/// with which boards and the job's row are published again.
pub fn queue(
    storage: &dyn Storage,
    owner: &str,
    author: &Author,
    records: &[Control],
) -> Result<u64, QueueError> {
    let (first, mut rest) = records.split_at(first_file(records));
    let mut last = write(storage, owner, author, first)?;
    while !rest.is_empty() {
        let (next, more) = rest.split_at(first_file(rest));
        last = write(storage, owner, author, next)?;
        rest = more;
    }
    Ok(last)
}

/// How many of the records go into the next file.
fn first_file(records: &[Control]) -> usize {
    let mut bytes = 0;
    let fits = |(n, record): &(usize, &Control)| {
        bytes += record.bytes();
        *n == 0 || (*n < RECORDS_MAX && bytes <= BYTES_MAX)
    };
    records.iter().enumerate().take_while(fits).count()
}

fn write(
    storage: &dyn Storage,
    owner: &str,
    author: &Author,
    records: &[Control],
) -> Result<u64, QueueError> {
    debug_assert!(records.len() <= RECORDS_MAX, "cut up by `queue`");
    let file = |error| QueueError::Damaged { file: storage.display("control"), error };
    let bytes = encode(author, records).map_err(file)?;
    let temporary = format!("{}-{owner}", temporary("control/new"));
    remove_if_exists(storage, &temporary)?;
    storage.append(&temporary, &bytes)?;
    storage.sync(&temporary)?;
    let number = loop {
        // Consumed files may have been removed; the newest commit knows the next free number.
        let free = newest(storage)?.map_or(0, |newest| newest.body.control);
        let number = pending(storage, 0)?.last().map_or(1, |last| last + 1).max(free);
        if storage.link(&temporary, &name(number))? {
            break number;
        }
    };
    storage.unlink(&temporary)?;
    storage.sync_folder("control")?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn files_are_numbered_in_order_and_limited_in_size() {
        let storage = MemoryStorage::default();
        let (scope, key) = (String::new(), "sun".to_owned());
        let record = Control::Republish { scope, display: key.clone(), key };
        let author = Author { who: "ann".into(), ..Author::default() };
        assert_eq!(queue(&storage, "a", &author, std::slice::from_ref(&record)).unwrap(), 1);
        let many = vec![record.clone(); RECORDS_MAX + 1];
        assert_eq!(queue(&storage, "b", &author, &many).unwrap(), 3);
        let refused = "x".repeat(BYTES_MAX / 2);
        let (input, partition) = (String::new(), String::new());
        let large =
            Control::Redeliver { input, partition, position: 1, record: refused.clone(), refused };
        assert_eq!(queue(&storage, "b", &author, &vec![large.clone(); 3]).unwrap(), 6);
        assert_eq!(controls(&storage, 6).unwrap().1, [large]);
        (4..=6).for_each(|file| storage.unlink(&name(file)).unwrap());
        storage.append("control/2", b"another's").unwrap();
        assert_eq!(pending(&storage, 2).unwrap(), [2, 3]);
        assert_eq!(controls(&storage, 3).unwrap(), (author.clone(), vec![record]));
        assert_eq!(queue(&storage, "b", &author, &[]).unwrap(), 4);
        assert_eq!(controls(&storage, 4).unwrap(), (author, Vec::new()));
        storage.unlink("control/0000000002").unwrap();
        storage.append("control/0000000002", b"tagflow-control 1 00\n{}").unwrap();
        let error = controls(&storage, 2).unwrap_err().to_string();
        assert!(error.contains("0000000002") && error.contains("damaged"), "{error}");
    }
}
