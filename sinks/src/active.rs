//! The active keyspace: the one that readers show. A pointer names it; promotions write the
//! pointer, and readers follow it.
//!
//! Knows no database, only traits, so that simulations run this very code. Invariants: of two
//! promotions the later one wins, whichever replica answers; no keyspace is promoted that has
//! nothing to show; a reader switches in one moment, once it has the job's row of the new keyspace.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use schemas::planted::{Bug, planted};

use crate::publish::JobRow;

/// Which keyspace readers should show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The keyspace.
    pub keyspace: String,
    /// When it was written, in microseconds.
    pub written_us: i64,
}

/// A promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The keyspace that was active before.
    pub before: String,
    /// The row of the job in the keyspace that is active now.
    pub active: JobRow,
}

/// What a promotion needs of a database.
pub trait Promoter {
    /// Why the database failed.
    type Error;
    /// Fails if a keyspace lacks a table.
    fn verify(&self, keyspace: &str) -> impl Future<Output = Result<(), Self::Error>>;
    /// The job's row in a keyspace.
    fn job(&self, keyspace: &str) -> impl Future<Output = Result<Option<JobRow>, Self::Error>>;
    /// The pointer in the keyspace that readers were given.
    fn pointer(&self, given: &str) -> impl Future<Output = Result<Option<Pointer>, Self::Error>>;
    /// Writes the pointer, at its time.
    fn point(&self, given: &str, to: &Pointer) -> impl Future<Output = Result<(), Self::Error>>;
    /// A permanent error.
    fn permanent(what: String) -> Self::Error;
}

/// Makes `keyspace` active for all readers that were given keyspace `given`. `wall_ms` is this
/// host's clock.
pub async fn promote<P: Promoter>(
    database: &P,
    given: &str,
    keyspace: &str,
    wall_ms: i64,
) -> Result<Promoted, P::Error> {
    database.verify(given).await?;
    database.verify(keyspace).await?;
    let Some(active) = database.job(keyspace).await? else {
        return Err(P::permanent(format!(
            "keyspace {keyspace:?} has no published commit, so readers would see nothing; fill it \
             first, with a job or with `tagflow store rebuild`"
        )));
    };
    let before = database.pointer(given).await?;
    // Win even if another host's clock, which wrote the last pointer, is ahead.
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
    /// Why the database failed.
    type Error: Send;
    /// The keyspace that readers were given.
    fn given(&self) -> &str;
    /// Connects to a keyspace.
    fn connect(
        &self,
        keyspace: &str,
    ) -> impl Future<Output = Result<Self::Connection, Self::Error>> + Send;
    /// The pointer in the given keyspace, read over any connection.
    fn pointer(
        &self,
        connection: &Self::Connection,
    ) -> impl Future<Output = Result<Option<Pointer>, Self::Error>> + Send;
    /// The job's row; by its name, if that is known.
    fn job(
        &self,
        connection: &Self::Connection,
        name: Option<&str>,
    ) -> impl Future<Output = Result<Option<JobRow>, Self::Error>> + Send;
    /// A temporary error.
    fn temporary(what: String) -> Self::Error;
}

/// A keyspace and the connections to it.
pub struct Keyspace<C> {
    /// Its name.
    pub name: String,
    /// The connections.
    pub connection: C,
}

struct ActiveState<C> {
    /// The active keyspace: it has a row below, or has never had one.
    active: Option<Arc<Keyspace<C>>>,
    /// The newest row of the job in each keyspace that was ever active.
    rows: BTreeMap<String, Arc<JobRow>>,
    /// The latest pointer seen.
    pointer: Option<Pointer>,
}

/// The keyspace that a reader shows.
pub struct ActiveKeyspace<C>(Mutex<ActiveState<C>>);

impl<C> Default for ActiveKeyspace<C> {
    fn default() -> Self {
        Self(Mutex::new(ActiveState { active: None, rows: BTreeMap::new(), pointer: None }))
    }
}

impl<C: Send + Sync> ActiveKeyspace<C> {
    /// The active keyspace, once there is one, and the newest row of its job.
    pub fn current(&self) -> Option<(Arc<Keyspace<C>>, Option<Arc<JobRow>>)> {
        let state = self.0.lock();
        let active = state.active.clone()?;
        let row = state.rows.get(&active.name).cloned();
        Some((active, row))
    }

    /// Connects if there is no connection, or to `reconnect`; follows a promotion; reads the job's
    /// row. Returns whether the row of the active keyspace was read, and what went wrong.
    pub async fn step<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        reconnect: bool,
    ) -> (bool, Result<(), K::Error>) {
        let active = self.0.lock().active.clone().filter(|_| !reconnect);
        let active = match active {
            Some(active) => active,
            None => match connect(keyspaces, self.wanted(keyspaces)).await {
                Ok(active) => active,
                Err(error) => return (false, Err(error)),
            },
        };
        let moved = match self.follow(keyspaces, &active).await {
            Ok(Some(promoted)) => self.activate(keyspaces, promoted).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        // The active keyspace stays active if another one cannot replace it.
        let stays = moved.as_ref().map_or(self.0.lock().active.is_some(), |moved| !moved);
        if stays && let Err(error) = self.activate(keyspaces, active).await {
            return (false, Err(error));
        }
        (stays || moved.is_ok(), moved.map(drop))
    }

    /// The keyspace that should be active, by the latest pointer seen.
    fn wanted<K: Keyspaces>(&self, keyspaces: &K) -> String {
        let state = self.0.lock();
        state.pointer.as_ref().map_or(keyspaces.given(), |to| &to.keyspace).to_owned()
    }

    /// Connects to the keyspace that was promoted to replace `active`, if any.
    async fn follow<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        active: &Keyspace<C>,
    ) -> Result<Option<Arc<Keyspace<C>>>, K::Error> {
        let found = keyspaces.pointer(&active.connection).await?;
        {
            let mut state = self.0.lock();
            // A replica that lags may answer with an older pointer.
            let written_us = state.pointer.as_ref().map(|pointer| pointer.written_us);
            if found.as_ref().map(|found| found.written_us) > written_us {
                state.pointer = found;
            }
        }
        let wanted = self.wanted(keyspaces);
        if wanted == active.name {
            return Ok(None);
        }
        let promoted = connect(keyspaces, wanted).await?;
        if planted(Bug::ShownTooEarly) {
            self.0.lock().active = Some(Arc::clone(&promoted));
        }
        Ok(Some(promoted))
    }

    /// Reads the job's row in a keyspace, and makes that the active one.
    async fn activate<K: Keyspaces<Connection = C>>(
        &self,
        keyspaces: &K,
        next: Arc<Keyspace<C>>,
    ) -> Result<(), K::Error> {
        let Keyspace { name: keyspace, connection } = &*next;
        let name = self.0.lock().rows.get(keyspace).map(|row| row.name.clone());
        let row = match keyspaces.job(connection, name.as_deref()).await? {
            // Another job may have replaced this one there.
            None if name.is_some() => keyspaces.job(connection, None).await?,
            row => row,
        };
        let mut state = self.0.lock();
        if row.is_none() {
            state.rows.remove(keyspace);
        }
        let is_newer =
            |row: &JobRow| state.rows.get(keyspace).is_none_or(|old| row.version > old.version);
        if let Some(row) = row.filter(is_newer) {
            state.rows.insert(keyspace.clone(), Arc::new(row));
        }
        if *keyspace != keyspaces.given() && !state.rows.contains_key(keyspace) {
            let what = format!("keyspace {keyspace:?} was promoted, but has no published commit");
            return Err(K::temporary(what));
        }
        state.active = Some(next);
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
