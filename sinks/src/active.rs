//! Which keyspace readers see: a pointer says so, which promotions change and readers follow.
//!
//! Knows no database; what it needs of one it asks for, so that simulations run it as it is.
//! Invariants: of two promotions the later one counts, whatever replica is asked; no keyspace is
//! promoted that has nothing to show; what is shown changes in one moment, once the job's row of
//! the other keyspace is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::planted::{Bug, planted};

use crate::publish::JobRow;

/// What readers are to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The keyspace.
    pub keyspace: String,
    /// When that was said, in microseconds.
    pub written_us: i64,
}

/// A promotion that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The keyspace that readers were shown before.
    pub before: String,
    /// What they are shown now.
    pub active: JobRow,
}

/// What a promotion needs of a database.
pub trait Promoter {
    /// Why it cannot be had.
    type Error;
    /// Fails where a keyspace lacks a table.
    fn verify(&self, keyspace: &str) -> impl Future<Output = Result<(), Self::Error>>;
    /// The row of a keyspace's job.
    fn job(&self, keyspace: &str) -> impl Future<Output = Result<Option<JobRow>, Self::Error>>;
    /// The pointer in the keyspace that readers were given.
    fn pointer(&self, given: &str) -> impl Future<Output = Result<Option<Pointer>, Self::Error>>;
    /// Writes it, at its time.
    fn point(&self, given: &str, to: &Pointer) -> impl Future<Output = Result<(), Self::Error>>;
    /// An error that is no passing one.
    fn refusal(what: String) -> Self::Error;
}

/// Shows `keyspace` to all readers that were given keyspace `given`. `wall_ms` is the host's clock.
pub async fn promote<P: Promoter>(
    database: &P,
    given: &str,
    keyspace: &str,
    wall_ms: i64,
) -> Result<Promoted, P::Error> {
    database.verify(given).await?;
    database.verify(keyspace).await?;
    let Some(active) = database.job(keyspace).await? else {
        return Err(P::refusal(format!(
            "keyspace {keyspace:?} has no published commit, so readers would see nothing: let a \
             job or `tagflow store rebuild` fill it first"
        )));
    };
    let before = database.pointer(given).await?;
    // A clock that goes behind another's must not lose against it.
    let after = before.as_ref().map_or(i64::MIN, |before| before.written_us + 1);
    let after = if planted(Bug::PromotedByClock) { i64::MIN } else { after };
    let written_us = after.max(wall_ms * 1000);
    database.point(given, &Pointer { keyspace: keyspace.to_owned(), written_us }).await?;
    Ok(Promoted { before: before.map_or_else(|| given.to_owned(), |b| b.keyspace), active })
}

/// What a reader needs of a database.
pub trait Keyspaces: Send + Sync {
    /// Connections to a keyspace.
    type Connection: Send + Sync;
    /// Why it cannot be had.
    type Error: Send;
    /// The keyspace that readers were given.
    fn given(&self) -> &str;
    /// Connects to a keyspace.
    fn connect(
        &self,
        keyspace: &str,
    ) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;
    /// The pointer in the given keyspace, over whichever connection.
    fn pointer(
        &self,
        connection: &Self::Connection,
    ) -> impl Future<Output = Result<Option<Pointer>, Self::Error>> + Send;
    /// The job's row; its name once that is known.
    fn job(
        &self,
        connection: &Self::Connection,
        name: Option<&str>,
    ) -> impl Future<Output = Result<Option<JobRow>, Self::Error>> + Send;
    /// An error that passes.
    fn trouble(what: String) -> Self::Error;
}

/// A keyspace and the connections to it.
pub struct Keyspace<C> {
    /// Its name.
    pub name: String,
    /// The connections.
    pub connection: C,
}

struct Known<C> {
    /// What is shown: it has a row below, or has never had one.
    active: Option<Arc<Keyspace<C>>>,
    /// The newest row of the job in each keyspace that was ever shown.
    rows: BTreeMap<String, Arc<JobRow>>,
    /// The last word on which keyspace is to be shown.
    pointer: Option<Pointer>,
}

/// What a reader shows.
pub struct ActiveKeyspace<C>(Mutex<Known<C>>);

impl<C> Default for ActiveKeyspace<C> {
    fn default() -> Self {
        Self(Mutex::new(Known { active: None, rows: BTreeMap::new(), pointer: None }))
    }
}

impl<C: Send + Sync> ActiveKeyspace<C> {
    fn known(&self) -> MutexGuard<'_, Known<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keyspace that is shown, once there is one, and the newest row of its job.
    pub fn current(&self) -> Option<(Arc<Keyspace<C>>, Option<Arc<JobRow>>)> {
        let known = self.known();
        let active = known.active.clone()?;
        let row = known.rows.get(&active.name).cloned();
        Some((active, row))
    }

    /// Connects where that is to be done or is to be done `anew`, follows a promotion, and reads
    /// the job's row: whether the row of what is shown was read, and what went wrong.
    pub async fn step<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        anew: bool,
    ) -> (bool, Result<(), K::Error>) {
        let active = self.known().active.clone().filter(|_| !anew);
        let active = match active {
            Some(active) => active,
            None => match connect(keyspaces, self.wanted(keyspaces)).await {
                Ok(active) => active,
                Err(error) => return (false, Err(error)),
            },
        };
        let moved = match self.follow(keyspaces, &active).await {
            Ok(Some(promoted)) => self.look(keyspaces, promoted).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        // What is shown goes on being shown where another cannot be.
        let stays = moved.as_ref().map_or(self.known().active.is_some(), |moved| !moved);
        if stays && let Err(error) = self.look(keyspaces, active).await {
            return (false, Err(error));
        }
        (stays || moved.is_ok(), moved.map(drop))
    }

    /// The keyspace that is to be shown, as far as that is known.
    fn wanted<K: Keyspaces>(&self, keyspaces: &K) -> String {
        let known = self.known();
        known.pointer.as_ref().map_or(keyspaces.given(), |to| &to.keyspace).to_owned()
    }

    /// The keyspace that was promoted in place of `shown`, if one was.
    async fn follow<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        active: &Keyspace<C>,
    ) -> Result<Option<Arc<Keyspace<C>>>, K::Error> {
        let found = keyspaces.pointer(&active.connection).await?;
        {
            let mut known = self.known();
            // A replica that lags behind may show an older one.
            let written_us = known.pointer.as_ref().map(|pointer| pointer.written_us);
            if found.as_ref().map(|found| found.written_us) > written_us {
                known.pointer = found;
            }
        }
        let wanted = self.wanted(keyspaces);
        if wanted == active.name {
            return Ok(None);
        }
        let promoted = connect(keyspaces, wanted).await?;
        if planted(Bug::ShownTooEarly) {
            self.known().active = Some(Arc::clone(&promoted));
        }
        Ok(Some(promoted))
    }

    /// Reads the job's row, and shows its keyspace from then on.
    async fn look<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        looked: Arc<Keyspace<C>>,
    ) -> Result<(), K::Error> {
        let Keyspace { name: keyspace, connection } = &*looked;
        let name = self.known().rows.get(keyspace).map(|row| row.name.clone());
        let row = match keyspaces.job(connection, name.as_deref()).await? {
            // Another job may have been published there meanwhile.
            None if name.is_some() => keyspaces.job(connection, None).await?,
            row => row,
        };
        let mut known = self.known();
        if row.is_none() {
            known.rows.remove(keyspace);
        }
        let is_newer =
            |row: &JobRow| known.rows.get(keyspace).is_none_or(|old| row.version > old.version);
        if let Some(row) = row.filter(is_newer) {
            known.rows.insert(keyspace.clone(), Arc::new(row));
        }
        if *keyspace != keyspaces.given() && !known.rows.contains_key(keyspace) {
            let what = format!("keyspace {keyspace:?} was promoted, and shows no commit");
            return Err(K::trouble(what));
        }
        known.active = Some(looked);
        Ok(())
    }
}

async fn connect<K: Keyspaces>(
    keyspaces: &K,
    name: String,
) -> Result<Arc<Keyspace<K::Connection>>, K::Error> {
    let connection = keyspaces.connect(&name).await?;
    Ok(Arc::new(Keyspace { name, connection }))
}

#[cfg(test)]
mod tests;
