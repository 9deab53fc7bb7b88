//! The store that the API reads, in any form: commits on disk, a database, memory.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use schemas::hash::Hasher;
use schemas::manifest::Manifest;
use schemas::rows::{BoardEntry, TagRow};
use schemas::tags::TagRules;
use schemas::windows::{Buckets, Windows};
use thiserror::Error;

use crate::commits::{CommitError, Follower, Snapshot};

/// Why a store did not answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No commit is visible yet.
    #[error("no commit is visible yet")]
    Empty,
    /// The state is damaged or cannot be read.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The database does not answer, cannot do it now, or its answer makes no sense, which the text
    /// says.
    #[error("{0}")]
    Unavailable(String),
    /// The state folder cannot be followed, for a reason that is logged.
    #[error(
        "the state folder is gone, replaced or unreadable; the last commit read from it is served"
    )]
    NotFollowed,
    /// A row is damaged.
    #[error("the row of {0:?} is damaged")]
    Row(String),
    /// Nothing is counted in this scope.
    #[error(transparent)]
    Scope(#[from] UnknownScope),
}

/// Scopes that a message lists at most.
const LISTED_MAX: usize = 20;

/// A scope that is not counted, and those that are.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("there is no scope {:?}; {}", shortened(asked), listed(known))]
pub struct UnknownScope {
    /// The scope that was asked for.
    pub asked: String,
    /// The scopes besides the whole stream.
    pub known: Vec<String>,
}

impl UnknownScope {
    /// Checks that `asked` is the whole stream or one of the `known` scopes, which are sorted. They
    /// are `None` where an older build wrote the commit; any scope is accepted then.
    pub fn check(asked: &str, known: Option<&[String]>) -> Result<(), Self> {
        let Some(known) = known.filter(|_| !asked.is_empty()) else { return Ok(()) };
        debug_assert!(known.is_sorted(), "scopes are written sorted");
        if known.binary_search_by(|scope| scope.as_str().cmp(asked)).is_ok() {
            return Ok(());
        }
        Err(Self { asked: asked.to_owned(), known: known.to_vec() })
    }
}

/// The beginning of what a client sent.
fn shortened(text: &str) -> String {
    let mut shown: String = text.chars().take(100).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn listed(known: &[String]) -> String {
    match known {
        [] => "only the whole stream is counted".to_owned(),
        [one] => format!("the only scope is {one:?}"),
        [most @ .., last] if known.len() <= LISTED_MAX => {
            let most: Vec<String> = most.iter().map(|scope| format!("{scope:?}")).collect();
            format!("the scopes are {} and {last:?}", most.join(", "))
        }
        _ => {
            let first = known.iter().take(LISTED_MAX).map(|scope| format!("{scope:?}"));
            let first: Vec<String> = first.collect();
            let more = known.len() - LISTED_MAX;
            format!("the scopes are {} and {more} more", first.join(", "))
        }
    }
}

/// The commit of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// The commit.
    pub commit: u64,
    /// Its version.
    pub version: i64,
    /// The stream time at which windows are evaluated; `None` before the first event.
    pub as_of_ms: Option<i64>,
    /// The wall clock of the job when it made the commit.
    pub wall_ms: i64,
}

/// A tag's counts, all from one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The key.
    pub name: String,
    /// The display form.
    pub display: String,
    /// The scope the counts are for.
    pub scope: String,
    /// The number of posts.
    pub total: i64,
    /// Each window's name and count.
    pub windows: Vec<(String, i64)>,
    /// The least event time.
    pub first_seen_ms: i64,
    /// The greatest event time.
    pub last_seen_ms: i64,
}

/// A board: the top tags of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// The window's name, or `all`.
    pub window: String,
    /// The tags, by count descending, then key bytes ascending.
    pub entries: Vec<BoardEntry>,
}

/// A row of table `tag` as it is read, of which any column may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedTag {
    /// Primary key, first part.
    pub scope: String,
    /// Primary key, second part.
    pub tag: String,
    /// The display form.
    pub display: Option<String>,
    /// The number of posts.
    pub total: Option<i64>,
    /// The bucket list.
    pub recent: Option<Vec<u8>>,
    /// The least event time, in milliseconds.
    pub first_seen: Option<i64>,
    /// The greatest event time.
    pub last_seen: Option<i64>,
    /// The stream time at which the buckets were folded.
    pub as_of: Option<i64>,
    /// The version of the manifest that it comes from.
    pub version: Option<i64>,
}

impl ServedTag {
    /// The row as in a commit; a missing column is empty.
    pub fn row(&self) -> TagRow<'_> {
        TagRow {
            scope: &self.scope,
            tag: &self.tag,
            display: self.display.as_deref().unwrap_or(""),
            total: self.total.unwrap_or(0),
            recent: self.recent.as_deref().unwrap_or(&[]),
            first_seen: self.first_seen.unwrap_or(0),
            last_seen: self.last_seen.unwrap_or(0),
            as_of: self.as_of.unwrap_or(0),
            commit: 0,
        }
    }
}

/// A row of table `board`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedBoard {
    /// Primary key, first part.
    pub scope: String,
    /// Primary key, second part.
    pub window: String,
    /// The entries as JSON.
    pub doc: Option<Vec<u8>>,
    /// The stream time at which it was evaluated.
    pub as_of: Option<i64>,
    /// The version of the manifest that it comes from.
    pub version: Option<i64>,
}

/// A boxed future, which keeps [`Store`] object-safe.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What the API reads from a store.
pub trait Store: Send + Sync {
    /// A tag of a scope; `None` if the store does not have it, or has no posts of it.
    fn tag<'a>(&'a self, scope: &'a str, key: &'a str) -> Answer<'a, (AsOf, Option<Tag>)>;
    /// All boards of a scope, from one commit.
    fn boards<'a>(&'a self, scope: &'a str) -> Answer<'a, (AsOf, Vec<Board>)>;
    /// The rules by which names of tags are read.
    fn rules(&self) -> TagRules;
    /// The commit that is shown.
    fn as_of(&self) -> Answer<'_, AsOf>;
    /// The same, or an error if commits to come would not be shown.
    fn ready(&self) -> Answer<'_, AsOf> {
        self.as_of()
    }
}

impl From<&Manifest> for AsOf {
    fn from(manifest: &Manifest) -> Self {
        Self {
            commit: manifest.header.commit,
            version: manifest.header.version,
            as_of_ms: manifest.body.as_of_ms,
            wall_ms: manifest.header.wall_ms,
        }
    }
}

/// Evaluates a row at the later of its own and the store's `as_of`, so that windows expire without
/// a write.
pub fn evaluate(
    row: &TagRow<'_>,
    windows: &Windows,
    as_of_ms: Option<i64>,
) -> Result<Tag, StoreError> {
    let tiers = windows.tiers();
    let buckets = Buckets::decode(tiers.slot(row.as_of), row.recent)
        .map_err(|_| StoreError::Row(row.tag.to_owned()))?;
    let at = tiers.slot(row.as_of.max(as_of_ms.unwrap_or(row.as_of)));
    debug_assert!(at >= tiers.slot(row.as_of), "windows evaluated before the row's own time");
    let sums = windows.iter().enumerate().map(|(i, w)| (w.name(), buckets.sum(&tiers, i, at)));
    Ok(Tag {
        name: row.tag.to_owned(),
        display: row.display.to_owned(),
        scope: row.scope.to_owned(),
        total: row.total,
        windows: sums.collect(),
        first_seen_ms: row.first_seen,
        last_seen_ms: row.last_seen,
    })
}

/// One commit as a store.
pub struct CommitView {
    snapshot: Arc<Snapshot>,
    hasher: Hasher,
}

impl CommitView {
    /// A view of `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>) -> Self {
        let hasher = snapshot.manifest.body.hash_key.hasher();
        Self { snapshot, hasher }
    }

    /// The commit.
    pub fn as_of(&self) -> AsOf {
        AsOf::from(&self.snapshot.manifest)
    }

    /// The rules by which names of its tags are read.
    pub fn rules(&self) -> TagRules {
        TagRules::for_names(self.snapshot.manifest.body.rules)
    }

    fn check_scope(&self, scope: &str) -> Result<(), UnknownScope> {
        UnknownScope::check(scope, self.snapshot.manifest.body.scopes.as_deref())
    }

    /// A tag of a scope.
    pub fn tag(&self, scope: &str, key: &str) -> Result<Option<Tag>, StoreError> {
        self.check_scope(scope)?;
        let hash = self.hasher.scoped(scope, self.hasher.tag(key));
        let row = self.snapshot.tag(hash);
        let row = row.filter(|row| row.scope == scope && row.tag == key && row.total != 0);
        let body = &self.snapshot.manifest.body;
        row.map(|row| evaluate(&row, &body.windows, body.as_of_ms)).transpose()
    }

    /// All boards of a scope: those of the windows, then that of all time.
    pub fn boards(&self, scope: &str) -> Result<Vec<Board>, StoreError> {
        self.check_scope(scope)?;
        let windows =
            self.snapshot.manifest.body.windows.iter().map(schemas::windows::Window::name);
        let names = windows.chain(["all".to_owned()]);
        let boards = names.filter_map(|window| {
            let row = self.snapshot.board(scope, &window)?;
            let damaged = |_| StoreError::Row(format!("board {window}"));
            Some(
                serde_json::from_str(row.doc)
                    .map_err(damaged)
                    .map(|entries| Board { window: window.clone(), entries }),
            )
        });
        boards.collect()
    }
}

/// The newest visible commit of a followed state.
impl Store for Follower {
    fn tag<'a>(&'a self, scope: &'a str, key: &'a str) -> Answer<'a, (AsOf, Option<Tag>)> {
        Box::pin(async move {
            let view = CommitView::new(self.current().ok_or(StoreError::Empty)?);
            Ok((view.as_of(), view.tag(scope, key)?))
        })
    }

    fn boards<'a>(&'a self, scope: &'a str) -> Answer<'a, (AsOf, Vec<Board>)> {
        Box::pin(async move {
            let view = CommitView::new(self.current().ok_or(StoreError::Empty)?);
            Ok((view.as_of(), view.boards(scope)?))
        })
    }

    fn rules(&self) -> TagRules {
        let rules = self.current().map(|snapshot| snapshot.manifest.body.rules);
        rules.map_or(TagRules::NEWEST, TagRules::for_names)
    }

    fn as_of(&self) -> Answer<'_, AsOf> {
        Box::pin(async move {
            let snapshot = self.current().ok_or(StoreError::Empty)?;
            Ok(AsOf::from(&snapshot.manifest))
        })
    }

    fn ready(&self) -> Answer<'_, AsOf> {
        Box::pin(async move {
            match self.trouble() {
                Some(_) => Err(StoreError::NotFollowed),
                None => self.as_of().await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scope_is_an_error_that_lists_the_known_ones() {
        let known = ["region=eu".to_owned(), "region=us".to_owned()];
        assert_eq!(UnknownScope::check("", Some(&known)), Ok(()));
        assert_eq!(UnknownScope::check("region=us", Some(&known)), Ok(()));
        assert_eq!(UnknownScope::check("region=mars", None), Ok(()));
        let said = |asked: &str, known: &[String]| {
            UnknownScope::check(asked, Some(known)).unwrap_err().to_string()
        };
        assert_eq!(
            said("region=mars", &known),
            "there is no scope \"region=mars\"; the scopes are \"region=eu\" and \"region=us\""
        );
        assert_eq!(
            said("\n", &known[..1]),
            "there is no scope \"\\n\"; the only scope is \"region=eu\""
        );
        assert!(said(&"x".repeat(1000), &[]).len() < 200);
        let many: Vec<String> = (100..200).map(|i| format!("a={i}")).collect();
        let many = said("b=1", &many);
        assert!(many.ends_with("\"a=119\" and 80 more"), "{many}");
    }
}
