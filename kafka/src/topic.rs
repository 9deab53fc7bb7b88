//! A topic as everything that reads it shares it.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::chain::Links;
use crate::client::Partition;
use crate::cluster::Cluster;
use crate::error::TopicError;
use crate::identity::Identity;
use crate::settings::KafkaSettings;

/// A topic that is being read.
pub(crate) struct Topic {
    pub(crate) cluster: Cluster,
    pub(crate) identity: Identity,
    /// What is to be confirmed before the next commit, and has not been yet.
    pending: Mutex<Vec<(i32, Arc<Partition>, Links)>>,
    /// Why nothing more of it can be read.
    ended: OnceLock<TopicError>,
}

impl Topic {
    /// The topic of `settings`; connects when it is first asked.
    pub(crate) fn new(settings: KafkaSettings) -> Self {
        let cluster = Cluster::new(settings);
        let (identity, pending) = (Identity::default(), Mutex::default());
        Self { cluster, identity, pending, ended: OnceLock::new() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.cluster.settings.topic
    }

    /// Whether all that had been read at the first call is of this topic: false if that must be
    /// asked again. What is read meanwhile is left for the next commit, so that a busy topic is
    /// confirmed as well.
    pub(crate) fn confirm_all(&self) -> Result<bool, TopicError> {
        let mut pending = self.pending.lock();
        if pending.is_empty() {
            let partitions = self.cluster.shared.partitions.lock().clone();
            pending.extend(partitions.into_iter().filter_map(|(number, partition)| {
                let links = partition.chain.unconfirmed()?;
                Some((number, partition, links))
            }));
        }
        self.confirm(&mut pending)
    }

    /// Looks up the known records of these partitions, so that what was read after them becomes
    /// known, and removes those that were there. False if some are left, to be tried again.
    pub(crate) fn confirm(
        &self,
        partitions: &mut Vec<(i32, Arc<Partition>, Links)>,
    ) -> Result<bool, TopicError> {
        self.check()?;
        match self.identity.confirm(&self.cluster, partitions) {
            Err(error) if !matches!(error, TopicError::Recreated { .. }) => {
                self.cluster.shared.trouble(&error.to_string());
                Ok(false)
            }
            confirmed => confirmed.map(|()| partitions.is_empty()),
        }
    }

    /// Ends all reading.
    pub(crate) fn end(&self, error: TopicError) {
        // The first reason is kept.
        let _ = self.ended.set(error);
    }

    /// Fails if reading has ended.
    pub(crate) fn check(&self) -> Result<(), TopicError> {
        self.ended.get().map_or(Ok(()), |error| Err(error.clone()))
    }
}
