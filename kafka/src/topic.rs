//! A topic as everything that reads it shares it.

use std::sync::{Arc, OnceLock};

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
    /// Why nothing more of it can be read.
    ended: OnceLock<TopicError>,
}

impl Topic {
    /// The topic of `settings`; connects when it is first asked.
    pub(crate) fn new(settings: KafkaSettings) -> Self {
        let cluster = Cluster::new(settings);
        Self { cluster, identity: Identity::default(), ended: OnceLock::new() }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.cluster.settings.topic
    }

    /// Looks up the known records of these partitions, so that what was read after them becomes
    /// known. False if that must be tried again.
    pub(crate) fn confirm(
        &self,
        partitions: &[(i32, Arc<Partition>, Links)],
    ) -> Result<bool, TopicError> {
        self.check()?;
        match self.identity.confirm(&self.cluster, partitions) {
            Err(error) if !matches!(error, TopicError::Recreated { .. }) => {
                self.cluster.shared.trouble(&error.to_string());
                Ok(false)
            }
            confirmed => confirmed,
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
