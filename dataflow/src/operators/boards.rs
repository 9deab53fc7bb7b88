//! Boards: merges the workers' rankings into one document per (scope, window); worker 0 only.
//!
//! Invariant: a board's row changes only when its document does.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemas::manifest::Counters;
use schemas::rows::{BoardEntry, BoardRow, Boards, board_hash};
use schemas::segment::Rows;
use schemas::windows::Window;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::ack::Acker;
use crate::context::Context;
use crate::epoch::{Epoch, close_of};
use crate::records::{Ack, Close, Ranked};

/// The documents of all boards.
pub(crate) struct BoardDocs {
    places: usize,
    scopes: Arc<[String]>,
    windows: Vec<String>,
    docs: BTreeMap<(u16, u16), String>,
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
                let doc = from.board(scope, window).map(|row| row.doc.to_owned());
                docs.insert((s as u16, w as u16), doc.unwrap_or_default());
            }
        }
        Self { places, scopes, windows, docs }
    }

    /// The rows that change when a commit ends with these rankings.
    fn close(&mut self, close: Close, ranked: Vec<Ranked>) -> Rows<Boards> {
        let mut boards: BTreeMap<(u16, u16), Vec<BoardEntry>> = BTreeMap::new();
        for Ranked { scope, window, count, tag, display, .. } in ranked {
            let entries = boards.entry((scope, window)).or_default();
            entries.push(BoardEntry { tag, display, count });
        }
        let mut rows = Rows::default();
        for (key, doc) in &mut self.docs {
            let mut entries = boards.remove(key).unwrap_or_default();
            entries.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.tag.cmp(&b.tag)));
            entries.truncate(self.places);
            // Texts and numbers always have a JSON form.
            let new = serde_json::to_string(&entries).unwrap_or_default();
            if *doc == new {
                continue;
            }
            *doc = new;
            let (scope, window) =
                (&self.scopes[usize::from(key.0)], &self.windows[usize::from(key.1)]);
            let as_of = close.as_of_ms.unwrap_or_default();
            let row = BoardRow { scope, window, doc, as_of, commit: close.commit };
            rows.push(board_hash(scope, window), &row);
        }
        rows
    }
}

/// Merges rankings at the end of each commit.
pub(crate) fn boards<'s>(
    ranked: StreamVec<'s, Epoch, Ranked>,
    closes: StreamVec<'s, Epoch, Close>,
    mut docs: BoardDocs,
    context: &Context,
) -> StreamVec<'s, Epoch, Ack> {
    let scope = ranked.scope();
    let index = scope.index();
    let mut builder = OperatorBuilder::new("boards".into(), scope);
    let mut ranked = builder.new_input(ranked, Exchange::new(|_: &Ranked| 0));
    let mut closes = builder.new_input(closes, Exchange::new(|close: &Close| close.worker));
    let (acks_out, acks) = builder.new_output::<Vec<Ack>>();
    let wake = scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let context = context.clone();
    builder.build(move |mut capabilities| {
        let mine = capabilities.pop().filter(|_| index == 0);
        let mut acker = mine.map(|c| Acker::new(&context, c, 'b', 0, wake));
        let mut acks_out = OutputBuilder::from(acks_out);
        let mut commit = context.start.header.commit + 1;
        let (mut waiting, mut ending) = (Vec::<Ranked>::new(), Vec::<Close>::new());
        move |frontiers| {
            ranked.for_each(|_, batch| waiting.append(batch));
            closes.for_each(|_, batch| ending.append(batch));
            let Some(acker) = acker.as_mut() else { return ending.clear() };
            while !frontiers[0].less_equal(&close_of(commit))
                && let Some(at) = ending.iter().position(|close| close.commit == commit)
            {
                let close = ending.swap_remove(at);
                let now = waiting.extract_if(.., |r| r.commit == commit).collect();
                acker.begin(commit, close.last, Counters::default());
                acker.write(docs.close(close, now));
                commit += 1;
            }
            if let Some((capability, acks)) = acker.poll() {
                acks_out.activate().session(&capability).give_iterator(acks.into_iter());
            }
        }
    });
    acks
}
