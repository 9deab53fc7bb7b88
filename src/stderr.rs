//! Standard error, written by a thread of its own.
//!
//! Invariants: a reader who takes nothing holds up whoever writes for a moment once, and never for
//! longer; what is written keeps its order; what could not be written is counted and told once
//! something can.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How many pieces wait at most to be written.
const PIECES_MAX: usize = 1000;
/// How long to wait for a piece to be written. So lines keep their order with those of standard
/// output, and are written before a crash, as long as somebody reads them.
const WAIT: Duration = Duration::from_millis(200);
/// Clears the line that a terminal shows.
pub(crate) const CLEAR: &str = "\r\x1b[2K";

/// What is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole lines, or nothing.
    Lines,
    /// A line that takes the live line before it away itself, and that the next lines take away.
    Live,
}

/// What waits to be written.
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// What to write of so many lines that were not written.
    lost: fn(u64) -> String,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<(Kind, Vec<u8>)>,
    /// How many pieces were added, and how many of them are done with.
    added: u64,
    done: u64,
    /// Whether somebody has waited in vain since a piece was last written.
    stalls: bool,
    /// The lines that were not written.
    lost: u64,
}

impl Queue {
    fn new(lost: fn(u64) -> String) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), lost }
    }

    /// The queue of this process, or none if there is no thread for it.
    pub(crate) fn start(lost: fn(u64) -> String) -> Option<Arc<Self>> {
        let queue = Arc::new(Self::new(lost));
        let thread = std::thread::Builder::new().name("stderr".to_owned());
        let of_thread = Arc::clone(&queue);
        // It writes until the process ends.
        thread.spawn(move || of_thread.write_to(io::stderr())).ok().map(|_| queue)
    }

    /// Has a piece written.
    fn add(&self, kind: Kind, piece: &[u8]) {
        let mut state = self.state.lock();
        if state.pieces.len() == PIECES_MAX {
            state.lost += lines(kind, piece);
            return;
        }
        state.pieces.push_back((kind, piece.to_owned()));
        state.added += 1;
        let number = state.added;
        self.changed.notify_all();
        if !state.stalls {
            self.changed.wait_while_for(&mut state, |state| state.done < number, WAIT);
            state.stalls = state.done < number;
        }
    }

    /// Waits a moment until all is written.
    fn flush(&self) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| state.done < state.added, WAIT);
    }

    /// Writes what is added, for ever.
    fn write_to(&self, mut sink: impl Write) {
        let mut live = false;
        loop {
            let mut state = self.state.lock();
            self.changed.wait_while(&mut state, |state| state.pieces.is_empty());
            let Some((kind, piece)) = state.pieces.pop_front() else { continue };
            drop(state);
            let mut text = Vec::new();
            if std::mem::replace(&mut live, kind == Kind::Live) && kind == Kind::Lines {
                text.extend_from_slice(CLEAR.as_bytes());
            }
            text.extend_from_slice(&piece);
            // Nobody may be there to read it, or the disk of a log may be full.
            let mut lost = match sink.write_all(&text) {
                Ok(()) => self.lost_before(),
                Err(_) => lines(kind, &piece),
            };
            if lost > 0 && sink.write_all((self.lost)(lost).as_bytes()).is_ok() {
                lost = 0;
            }
            let mut state = self.state.lock();
            state.lost += lost;
            state.done += 1;
            state.stalls = false;
            self.changed.notify_all();
        }
    }

    /// Takes how many lines were lost after the last piece, if that is the last one that waited.
    fn lost_before(&self) -> u64 {
        let mut state = self.state.lock();
        if state.pieces.is_empty() { std::mem::take(&mut state.lost) } else { 0 }
    }
}

fn lines(kind: Kind, piece: &[u8]) -> u64 {
    match kind {
        Kind::Lines => piece.split_inclusive(|byte| *byte == b'\n').count() as u64,
        Kind::Live => 0,
    }
}

/// Writes a piece to the queue of this process.
pub(crate) fn write(queue: &LazyLock<Option<Arc<Queue>>>, kind: Kind, piece: &[u8]) {
    match &**queue {
        Some(queue) => queue.add(kind, piece),
        None => drop(io::stderr().write_all(piece)),
    }
}

/// Waits a moment until all is written.
pub(crate) fn flush(queue: &LazyLock<Option<Arc<Queue>>>) {
    if let Some(queue) = &**queue {
        queue.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader who takes nothing while it is paused.
    #[derive(Clone, Default)]
    struct Reader(Arc<(Mutex<(bool, String)>, Condvar)>);

    impl Reader {
        fn pause(&self, paused: bool) {
            self.0.0.lock().0 = paused;
            self.0.1.notify_all();
        }

        fn has(&self) -> String {
            self.0.0.lock().1.clone()
        }
    }

    impl Write for Reader {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut state = self.0.0.lock();
            self.0.1.wait_while(&mut state, |(paused, _)| *paused);
            state.1.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Arc<Queue>, Reader) {
        let queue = Arc::new(Queue::new(|lost| format!("{lost} lost\n")));
        let (of_thread, reader) = (Arc::clone(&queue), Reader::default());
        let sink = reader.clone();
        std::thread::spawn(move || of_thread.write_to(sink));
        (queue, reader)
    }

    fn settle(queue: &Queue) {
        let mut state = queue.state.lock();
        queue.changed.wait_while(&mut state, |state| state.done < state.added);
    }

    #[test]
    fn lines_are_written_in_order_and_a_live_line_is_taken_away() {
        let (queue, reader) = queue();
        queue.add(Kind::Lines, b"a\n");
        queue.add(Kind::Live, b"1 record");
        queue.add(Kind::Lines, b"b\n");
        queue.add(Kind::Lines, b"");
        queue.add(Kind::Lines, b"c\n");
        settle(&queue);
        assert_eq!(reader.has(), format!("a\n1 record{CLEAR}b\nc\n"));
    }

    #[test]
    fn reader_who_takes_nothing_holds_nobody_up_and_learns_what_was_lost() {
        let (queue, reader) = queue();
        reader.pause(true);
        let said = PIECES_MAX + 50;
        for number in 0..said {
            queue.add(Kind::Lines, format!("{number}\n").as_bytes());
        }
        queue.flush();
        assert_eq!(reader.has(), "");
        let written = said - queue.state.lock().lost as usize;
        // The one that is being written no longer waits.
        assert!((PIECES_MAX..=PIECES_MAX + 1).contains(&written), "{written} are written");
        reader.pause(false);
        settle(&queue);
        let mut expected: String = (0..written).map(|number| format!("{number}\n")).collect();
        expected.push_str(&format!("{} lost\n", said - written));
        assert_eq!(reader.has(), expected);
        queue.add(Kind::Lines, b"later\n");
        settle(&queue);
        assert_eq!(reader.has(), expected + "later\n");
    }
}
