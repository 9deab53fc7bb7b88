//! The JSON answers. Each says what it counts and as of when.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use sinks::store::{AsOf, Board, Tag};

/// The counts of a tag, as `GET /tags/{name}` and `tagflow query tag --json` print them.
#[derive(Clone, Debug, Serialize)]
pub struct TagAnswer {
    /// The key.
    name: String,
    /// The spelling to display.
    display: String,
    /// The scope; `""` is the whole stream.
    scope: String,
    /// Posts over all time.
    total: i64,
    /// Posts in each window, by its name.
    #[serde(serialize_with = "as_map")]
    windows: Vec<(String, i64)>,
    /// The earliest event time, in milliseconds.
    first_seen: i64,
    /// The latest event time.
    last_seen: i64,
    #[serde(flatten)]
    origin: Origin,
}

/// The boards of a scope, as `tagflow query top --json` prints them.
#[derive(Clone, Debug, Serialize)]
pub struct BoardsAnswer {
    scope: String,
    boards: Vec<BoardAnswer>,
    #[serde(flatten)]
    origin: Origin,
}

#[derive(Clone, Debug, Serialize)]
struct BoardAnswer {
    window: String,
    tags: Vec<schemas::rows::BoardEntry>,
}

/// The commit that an answer comes from.
#[derive(Clone, Debug, Serialize)]
struct Origin {
    /// The stream time at which windows are evaluated, in milliseconds.
    as_of: Option<i64>,
    commit: u64,
    version: i64,
    /// How far stream time lay behind the wall clock when the commit was made.
    lag_ms: Option<i64>,
}

impl From<&AsOf> for Origin {
    fn from(at: &AsOf) -> Self {
        Self {
            as_of: at.as_of_ms,
            commit: at.commit,
            version: at.version,
            lag_ms: at.as_of_ms.map(|as_of| (at.wall_ms - as_of).max(0)),
        }
    }
}

impl TagAnswer {
    /// The answer for `tag`, read at `at`.
    pub fn new(tag: Tag, at: &AsOf) -> Self {
        Self {
            name: tag.name,
            display: tag.display,
            scope: tag.scope,
            total: tag.total,
            windows: tag.windows,
            first_seen: tag.first_seen_ms,
            last_seen: tag.last_seen_ms,
            origin: Origin::from(at),
        }
    }
}

impl BoardsAnswer {
    /// The answer for the boards of `scope`, read at `at`.
    pub fn new(scope: String, boards: Vec<Board>, at: &AsOf) -> Self {
        let answer = |b: Board| BoardAnswer { window: b.window, tags: b.entries };
        Self { scope, boards: boards.into_iter().map(answer).collect(), origin: Origin::from(at) }
    }
}

fn as_map<S: Serializer>(pairs: &[(String, i64)], out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}
