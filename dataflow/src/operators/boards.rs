//! Boards: merges the rankings of all workers into one document per (scope, window); worker 0 only.
//!
//! Invariant: a board's row changes only when its document does.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::rows::{BoardEntry, BoardRow, Boards, board_hash};
use schemas::segment::Rows;
use schemas::windows::Window;

use super::ack::Acker;
use super::commit_operator::PerCommit;
use crate::context::Context;
use crate::error::RunError;
use crate::records::{Close, Ranked};

/// The documents of all boards.
pub(crate) struct BoardDocs {
    places: usize,
    scopes: Arc<[String]>,
    windows: Vec<String>,
    docs: BTreeMap<(u16, u16), String>,
    /// The rankings of the commit under way.
    ranked: Vec<Ranked>,
}

impl BoardDocs {
    /// Continues from the boards of a commit.
    pub(crate) fn new(context: &Context) -> Self {
        let (settings, from) = (&context.settings, context.latest.current());
        let (places, scopes) = (settings.top_k, settings.scope_names());
        let windows = settings.windows.iter().map(Window::name);
        let windows: Vec<String> = windows.chain(["all".to_owned()]).collect();
        let mut docs = BTreeMap::new();
        for (s, scope) in scopes.iter().enumerate() {
            for (w, window) in windows.iter().enumerate() {
                // A board without a row is new.
                let doc = from.board(scope, window).map_or("", |row| row.doc);
                docs.insert((s as u16, w as u16), doc.to_owned());
            }
        }
        Self { places, scopes, windows, docs, ranked: Vec::new() }
    }

    /// The rows that change at the end of a commit.
    fn rows(&mut self, close: Close) -> Rows<Boards> {
        let mut boards: BTreeMap<(u16, u16), Vec<BoardEntry>> = BTreeMap::new();
        for Ranked { scope, window, count, tag, display } in self.ranked.drain(..) {
            let entries = boards.entry((scope, window)).or_default();
            entries.push(BoardEntry { tag, display, count });
        }
        let mut rows = Rows::default();
        for (key, doc) in &mut self.docs {
            let mut entries = boards.remove(key).unwrap_or_default();
            entries.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tag.cmp(&b.tag)));
            entries.truncate(self.places);
            let Ok(new) = serde_json::to_string(&entries) else {
                unreachable!("texts and numbers always have a JSON form");
            };
            if *doc == new {
                continue;
            }
            *doc = new;
            let (scope, window) =
                (&self.scopes[usize::from(key.0)], &self.windows[usize::from(key.1)]);
            // Before the first event there are no entries.
            let as_of = close.as_of_ms.unwrap_or(0);
            let row = BoardRow { scope, window, doc, as_of, commit: close.commit };
            rows.push(board_hash(scope, window), &row);
        }
        assert!(boards.is_empty(), "a ranking of a scope or window that has no board");
        rows
    }
}

impl PerCommit for BoardDocs {
    type Record = Ranked;
    type End = Close;
    type Emitted = ();
    type Closed = ();

    const NAME: &'static str = "boards";
    const RECORDS_AT_END: bool = true;

    fn worker_of(_: &Ranked) -> u64 {
        0
    }

    fn apply(&mut self, mut batch: Vec<Ranked>) -> Result<Vec<()>, RunError> {
        self.ranked.append(&mut batch);
        Ok(Vec::new())
    }

    fn close(&mut self, close: Close, acker: &mut Acker) -> Vec<()> {
        acker.write(self.rows(close));
        Vec::new()
    }
}
